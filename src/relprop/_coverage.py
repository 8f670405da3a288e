"""The command `relprop coverage`: which models of a zoo can be explained."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import composites
from .coverage import page, zoos
from .coverage.measure import Row
from .coverage.runner import Options, Results, run
from .errors import CompositeError, InputError, OutputError

out = Console(emoji=False)
err = Console(stderr=True, emoji=False)

Zoos = Annotated[
    list[str],
    typer.Option("--zoo", help="torchvision, timm, transformers, or a Python file with MODELS. Repeat for several."),
]


def coverage(
    zoo: Zoos,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Page to write; results are kept beside it, as .jsonl.")
    ] = Path("coverage.md"),
    only: Annotated[str, typer.Option("--only", help="Models whose name fits this, such as 'vit*'.")] = "*",
    recipes: Annotated[str, typer.Option("--composites", help="Composites to explain with.")] = "epsilon,auto",
    limit_seconds: Annotated[float, typer.Option("--limit-seconds", min=1, help="Time limit of one model.")] = 300,
    limit_gigabytes: Annotated[float, typer.Option("--limit-gigabytes", min=1, help="Its memory limit.")] = 12,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Models tried at the same time.")] = 1,
    retry: Annotated[bool, typer.Option("--retry", help="Try those again that did not pass.")] = False,
) -> None:
    """Try every model of a zoo: captured, a rule for every operation, and a ledger that closes.

    One process a model. Models whose result is in the file beside the page are not tried again.
    """
    options = Options(checked(recipes), limit_seconds, limit_gigabytes, jobs)
    if not output.parent.is_dir():
        raise OutputError(f"--output {output}: there is no folder '{output.parent}'; make it first")
    keys = [(name, model) for name in zoo for model in zoos.zoo(name).names() if fnmatch.fnmatch(model, only)]
    if not keys:
        raise InputError(f"--only {only}: no model of {', '.join(zoo)} has such a name")
    results = Results(output.with_suffix(".jsonl"))
    pending = results.pending(keys, options.recipes, retry=retry)
    try:
        with bar(len(keys), len(keys) - len(pending)) as done:
            run(pending, results, options, done)
    finally:
        output.write_text(page.written(results.rows.values()), encoding="utf-8")
    rows = [results.rows[key] for key in keys]
    passed = sum(row.passes for row in rows)
    out.print(f"{passed} of {len(rows)} pass; page: {output}", soft_wrap=True, highlight=False)


def checked(recipes: str) -> tuple[str, ...]:
    """The composites named, which must exist."""
    names = tuple(part.strip() for part in recipes.split(",") if part.strip())
    unknown = [name for name in names if name not in composites.names()]
    if unknown or not names:
        raise CompositeError(f"--composites {recipes}: give some of {', '.join(composites.names())}")
    return names


@contextmanager
def bar(total: int, done: int) -> Iterator[Callable[[Row], object]]:
    """A progress bar on the error stream, and a line for every model that does not pass."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err) as progress:
        task = progress.add_task("models", total=total, completed=done)

        def show(row: Row) -> None:
            if not row.passes:
                reason = " ".join(row.reason.split())[:160]
                progress.console.print(f"{row.zoo} {row.model}: {reason}", markup=False, highlight=False)
            progress.advance(task)

        yield show
