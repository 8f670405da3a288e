"""A progress bar: how much is done, the rate, the remaining time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from relprop.errors import InputError

Progress = bool | Callable[[int], object]


@contextmanager
def shown(progress: Progress, total: int) -> Iterator[Callable[[int], object]]:
    """What is to be called with the number of samples of every forward: a bar on the error stream, or a given function.

    `total`: samples of all forwards together. Raises `InputError` if rich is missing.
    """
    if callable(progress):
        yield progress
        return
    if not progress:
        yield lambda samples: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
        from rich.text import Text
    except ImportError as error:
        raise InputError("progress=True draws with rich, which is not installed; pip install rich") from error

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or task.finished_speed or 0:,.0f} samples/s")

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), Rate())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        line = bar.add_task("flipping", total=total)
        yield lambda samples: bar.advance(line, samples)
