"""Rows of measurements, one JSON object a line, kept as they come."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

Key = tuple[str, str, str, str, str]
Quartiles = tuple[float, float, float]


@dataclass
class Row:
    """One way to explain one subject on one device, measured beside the plain gradient; or why it could not be.

    `seconds[i]` and `gradient_seconds[i]` are of the same round, of one call. FLOPs are of one sample, as torch counts
    them. Bytes: `peak` is the largest growth during a call, `kept` what was prepared and stays. `sums` and `scores`
    are the relevance of each sample and the logit it explains; `cosine` compares the map with relprop's.
    """

    subject: str
    library: str
    recipe: str = ""
    variant: str = ""
    device: str = "cpu"
    setting: str = ""
    seconds: list[float] = field(default_factory=list)
    gradient_seconds: list[float] = field(default_factory=list)
    flops: int = 0
    gradient_flops: int = 0
    peak: int = 0
    gradient_peak: int = 0
    kept: int = 0
    sums: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    cosine: float | None = None
    error: str = ""
    machine: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return self.subject, self.library, self.recipe, self.variant, self.device

    @property
    def time_ratio(self) -> Quartiles | None:
        """Seconds over the gradient's, round by round: first quartile, median, third quartile."""
        pairs = zip(self.seconds, self.gradient_seconds, strict=True) if self.gradient_seconds else ()
        return quartiles([a / b for a, b in pairs])

    @property
    def flop_ratio(self) -> float | None:
        return self.flops / self.gradient_flops if self.flops and self.gradient_flops else None

    @property
    def peak_ratio(self) -> float | None:
        return self.peak / self.gradient_peak if self.peak and self.gradient_peak else None

    @property
    def sum_ratio(self) -> float | None:
        """Relevance over score: the median over samples."""
        found = [a / b for a, b in zip(self.sums, self.scores, strict=True)]
        return statistics.median(found) if found and all(map(math.isfinite, found)) else None

    def line(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)


def first_line(text: str) -> str:
    """Of an error's text, its first line, with files by their names alone: folders are this machine's affair."""
    lines = text.strip().splitlines() or [""]
    return re.sub(r"(?<![\w.…])/(?:[^\s/'\"()]+/)+", "…/", lines[0].strip())


def quartiles(values: list[float]) -> Quartiles | None:
    """By linear interpolation between the ordered values."""
    if not values:
        return None
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def read(file: Path) -> dict[Key, Row]:
    """The rows of a file; of several of one key the last counts; a line cut off by an interruption is left out."""
    rows: dict[Key, Row] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            data: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue
        row = Row(**{f.name: data[f.name] for f in fields(Row) if f.name in data})
        rows[row.key] = row
    return rows


def append(file: Path, row: Row) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(row.line() + "\n")


def write(file: Path, rows: Iterable[Row]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(row.line() + "\n" for row in rows), encoding="utf-8")
