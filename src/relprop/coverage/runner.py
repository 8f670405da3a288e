"""Trying many models, one process each: a time limit, a memory limit, results kept as they come, none tried twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutputError
from .measure import Row
from .worker import MARK

Key = tuple[str, str]  # zoo, model


@dataclass(frozen=True)
class Options:
    """How each model is tried. `recipes`: composites by name; `seconds`, `gigabytes`: limits; `jobs`: at a time."""

    recipes: tuple[str, ...] = ("epsilon", "auto")
    seconds: float = 300.0
    gigabytes: float = 12.0
    jobs: int = 1


class Results:
    """Rows in a file, one JSON object a line; of several rows of one model the last counts."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: dict[Key, Row] = {(row.zoo, row.model): row for row in _read(file)}

    def add(self, row: Row) -> None:
        """Keep a row, at once. Raises OutputError."""
        self.rows[row.zoo, row.model] = row
        try:
            with self.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row.as_dict()) + "\n")
        except OSError as error:
            raise OutputError(f"cannot write '{self.file}': {error}") from error

    def pending(self, keys: Iterable[Key], recipes: tuple[str, ...], *, retry: bool) -> list[Key]:
        """The models without a row for these composites; with `retry` also those that did not pass."""
        return [key for key in keys if not self._done(key, recipes, retry)]

    def _done(self, key: Key, recipes: tuple[str, ...], retry: bool) -> bool:
        row = self.rows.get(key)
        if row is None or (retry and not row.passes):
            return False
        return row.recipes == list(recipes)


def _environment() -> dict[str, str]:
    """That of this process, with this very package found first."""
    own = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [own, os.environ.get("PYTHONPATH")]))}


def _read(file: Path) -> Iterator[Row]:
    if not file.exists():
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            data = json.loads(line)
        except json.JSONDecodeError:  # an interrupted write
            continue
        yield Row.of(data)


def run(keys: list[Key], results: Results, options: Options, done: Callable[[Row], object]) -> None:
    """Try every model and keep its row; `done` is called with each row as it comes."""
    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = [pool.submit(tried, *key, options) for key in keys]
        try:
            for finished in as_completed(waiting):
                results.add(finished.result())
                done(finished.result())
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def tried(zoo: str, model: str, options: Options) -> Row:
    """One model in a process of its own. What ends the process is the reason in the row."""
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    request = {
        "zoo": zoo, "model": model, "recipes": options.recipes, "gigabytes": options.gigabytes, "threads": threads,
    }  # fmt: skip
    command = [sys.executable, "-P", "-m", "relprop.coverage.worker", json.dumps(request)]
    row = Row(zoo, model, recipes=list(options.recipes))
    try:
        ended = subprocess.run(
            command, env=_environment(), timeout=options.seconds, capture_output=True, text=True, errors="replace"
        )
    except subprocess.TimeoutExpired:
        row.reason = f"not done after {options.seconds:g} s"
        return row
    line = next((x for x in reversed(ended.stdout.splitlines()) if x.startswith(MARK)), None)
    if line is not None:
        return Row.of(json.loads(line.removeprefix(MARK)))
    last = (ended.stderr.strip().splitlines() or ["nothing on its error stream"])[-1]
    row.reason = f"the process ended with code {ended.returncode}: {last}"
    return row
