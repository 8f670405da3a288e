"""The command `relprop reproduce`: experiments of the papers, from data to a report."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from . import _loading
from .evaluate.progress import shown
from .reproduce import binder2016 as experiment
from .reproduce import report
from .reproduce.images import open_images
from .reproduce.subject import Subject

app = typer.Typer(help="Repeat an experiment of a paper: data in, a folder with tables, figures and a report out.")
out = Console(emoji=False)

SIZE = (256, 256)  # of the black and white photos that tell the range of the inputs


@app.callback()
def reproduce() -> None:
    """Keeps the experiment's name a part of the command, also while there is only one."""


@app.command()
def binder2016(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Images: ROOT/CLASS/*.jpg or ROOT/test/CLASS/*.jpg as a folder, .tar.gz or .zip, or torchvision's "
            "CIFAR-10 root. By default CIFAR-10, fetched into the cache folder.",
        ),
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="How many, the same number of each class.")] = 10_000,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results; an interrupted run in it is continued.")
    ] = Path("binder2016"),
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="torchvision:NAME, timm:NAME or FILE.py:FUNCTION, with local response normalization; by default the "
            "CIFAR-10 network of the package.",
        ),
    ] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="Weights: .safetensors or .pt.")] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="Do without trained weights.")] = False,
    split: Annotated[str, typer.Option("--split", help="Which part of a data set that has several.")] = "test",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out files that are no readable images, and count them.")
    ] = False,
) -> None:
    """Binder et al. 2016: local renormalization layers by Taylor expansion or as the identity, by pixel flipping."""
    report.check_packages()
    found = open_images(data, split=split, skip_bad=skip_bad)
    loaded = _loading.load(model, weights, random_weights)
    low, high = (t.flatten() for t in _loading.bounds(loaded, SIZE))
    subject = Subject(loaded.name, loaded.model, partial(_loading.batch, loaded), low, high, loaded.classes)
    own = list(loaded.classes) == list(found.classes)
    with ExitStack() as stack:
        measured = experiment.measure(
            subject, found, output, images, labels=own, begin=lambda total: stack.enter_context(shown(True, total))
        )
    if images > len(found):
        out.print(f"{found.origin} holds {len(found)} images: all of them were used", soft_wrap=True)
    page = report.write(measured, subject, found, output)
    out.print(str(measured.main), highlight=False)
    if measured.bad:
        out.print(f"{len(measured.bad)} file(s) left out, listed in the report")
    out.print(f"report: {page}", soft_wrap=True, highlight=False)
