"""The folder of results: tables.json, a row an image as Parquet, figures, and a report as Markdown and HTML."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from relprop import show
from relprop.errors import InputError, OutputError

from . import figures, figures_inside
from .binder2016 import Measured
from .images import ImageSet
from .pages import markdown
from .subject import Subject
from .tables import all_tables, per_image

SHOWN = 6  # photos in figures 1 and 3
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #ccc;padding:.2rem .6rem;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}code{background:#f4f4f4}"
)


def check_packages() -> None:
    """Raise `InputError` before the work starts if something the report needs is not installed."""
    for module in ("matplotlib", "pyarrow.parquet", "markdown_it"):
        try:
            import_module(module)
        except ImportError as error:
            raise InputError(
                f"the report needs {module.split('.')[0]}, which is not installed: pip install 'relprop[reproduce]'"
            ) from error


def write(measured: Measured, subject: Subject, images: ImageSet, folder: Path) -> Path:
    """All results into the folder; returns the path of report.html. Raises `OutputError` if they cannot be written."""
    tables = all_tables(measured)
    try:
        (folder / "tables.json").write_text(json.dumps(tables, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        parquet(per_image(measured), folder / "auc.parquet")
        draw(measured, subject, images, folder)
        text = markdown(tables)
        (folder / "report.md").write_text(text, encoding="utf-8")
        (folder / "report.html").write_text(html(text, folder), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"-o {folder}: cannot be written ({error}); choose another folder") from error
    return folder / "report.html"


def parquet(columns: dict[str, list[Any]], path: Path) -> None:
    """Columns as a Parquet file, real numbers in float32."""
    pa, pq = import_module("pyarrow"), import_module("pyarrow.parquet")
    table = pa.table(columns)
    narrow = [pa.field(f.name, pa.float32() if pa.types.is_floating(f.type) else f.type) for f in table.schema]
    pq.write_table(table.cast(pa.schema(narrow)), path, compression="zstd")


def draw(measured: Measured, subject: Subject, images: ImageSet, folder: Path) -> None:
    """Every figure as a PNG in the folder."""
    photos, names = chosen(measured, subject, images)
    early = measured.first(1 / 8)
    made: dict[str, Callable[[], Any]] = {
        "figure1": lambda: figures.figure1(subject, photos[:3], names[:3]),
        "figure2": lambda: figures.figure2(measured.main, measured.lowest),
        "figure3": lambda: figures.figure3(subject, photos, names),
        "order": lambda: figures.order(measured.main),
        "order_eighth": lambda: figures.order(early.main),
        "differences": lambda: figures.differences(measured.main, measured.variants),
        "differences_eighth": lambda: figures.differences(early.main, early.variants),
        "inside_layers": lambda: figures_inside.inside_layers(measured.inside, measured.layers, measured.layers),
        "inside_maps": lambda: figures_inside.inside_maps(measured.inside),
        "explained": lambda: figures_inside.explained(early.main, measured.inside),
    }
    for name, make in made.items():
        show.save_figure(make(), folder / f"{name}.png")


def chosen(measured: Measured, subject: Subject, images: ImageSet) -> tuple[Any, list[str]]:
    """Inputs and names of the first images whose label was predicted (else the first of all)."""
    right = [i for i, (y, k) in enumerate(zip(measured.labels, measured.main.target, strict=True)) if y == k]
    wanted = [measured.names[i] for i in (right if len(right) >= SHOWN else range(len(measured.names)))[:SHOWN]]
    where = {name: i for i, name in enumerate(images.names)}
    photos = [images.read(where[name], where[name] + 1).images[0] for name in wanted]
    return subject.batch(photos), wanted


def html(text: str, folder: Path) -> str:
    """The report as one file that needs no other: pictures inside."""
    body = import_module("markdown_it").MarkdownIt("commonmark").enable("table").render(text)

    def inline(match: re.Match[str]) -> str:
        return f'src="data:image/png;base64,{base64.b64encode((folder / match[1]).read_bytes()).decode()}"'

    body = re.sub(r'src="([\w.]+\.png)"', inline, body)
    return f'<!doctype html><meta charset="utf-8"><title>Binder et al. 2016</title><style>{STYLE}</style>\n{body}'
