"""Scores while units are replaced, and the measures made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from relprop.errors import InputError

from .drawing import plot
from .estimate import Estimate, estimate
from .files import read, write
from .printed import columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

Measure = Literal["auc", "aopc", "abpc", "srg"]
MEASURES = ("auc", "aopc", "abpc", "srg")
RANDOM = "random"


@dataclass(frozen=True, eq=False, repr=False)
class Curves:
    """The score f(x_k) of N samples after counts[k] of their units were replaced, by method and order.

    `values[method, order]`: (N, K + 1), float64; the random order, common to all methods, is ("random", "random").
    `counts`: units replaced, (K + 1,), from 0. `fraction`: counts / units, the x axis. `target`: the classes judged,
    (N,), -1 where the model has none. `index`: the number of each sample in the whole data set, (N,). `constant`:
    where a method's map is the same everywhere, (N,), so that its order is the raster order and means nothing.
    `unit`: "pixel", "region", "token" or "feature"; `units`: how many a sample has. `settings`: how it was done.

    Measures take a method and return one number a sample, (N,); the method "random" means the random order.

    >>> from relprop.evaluate import feature_deletion
    >>> x = torch.tensor([[3.0, 1.0]])
    >>> c = feature_deletion(lambda x: x.sum(1), x, x, replace="zero")
    >>> c.of("relevance", "highest").tolist(), c.of("relevance", "lowest").tolist()
    ([[4.0, 1.0, 0.0]], [[4.0, 3.0, 0.0]])
    >>> [c.measured(name, "relevance").tolist() for name in ("auc", "srg")]
    [[1.5], [1.0]]
    """

    methods: tuple[str, ...]
    orders: tuple[str, ...]
    counts: Tensor
    fraction: Tensor
    values: dict[tuple[str, str], Tensor]
    target: Tensor
    index: Tensor
    constant: dict[str, Tensor]
    unit: str
    units: int
    score: str
    settings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.target)

    def __repr__(self) -> str:
        return (
            f"Curves({len(self)} samples, {len(self.counts)} points, unit {self.unit!r}, methods {list(self.methods)}, "
            f"orders {list(self.orders)})"
        )

    def __str__(self) -> str:
        return self.table()

    @property
    def notes(self) -> tuple[str, ...]:
        """How it was done, and how many maps of each method are constant."""
        return self.settings + self.doubts

    @property
    def doubts(self) -> tuple[str, ...]:
        """How many maps of each method are constant, if any."""
        counted = [(name, int(flags.sum())) for name, flags in self.constant.items()]
        return tuple(
            f"{name}: {n} of {len(self)} maps are constant; their {self.unit}s went in raster order, which says nothing"
            for name, n in counted
            if n
        )

    @property
    def score_at_0(self) -> Tensor:
        """f(x) of every sample, (N,)."""
        return next(iter(self.values.values()))[:, 0]

    def of(self, method: str, order: str = "highest") -> Tensor:
        """The curves of a method, (N, K + 1). Raises `InputError` if it was not run."""
        key = (RANDOM, RANDOM) if method == RANDOM else (method, order)
        if key not in self.values:
            listed = ", ".join(f"({m!r}, {o!r})" for m, o in self.values)
            raise InputError(f"there is no curve of method {key[0]!r} in order {key[1]!r}; there are {listed}")
        return self.values[key]

    def first(self, share: float) -> Curves:
        """The curves until this share of the units was replaced: measures of the part in which the score falls.

        Raises `InputError` if fewer than two points are left.
        """
        points = int((self.fraction <= share + 1e-9).sum())
        if points < 2:
            raise InputError(f"share is {share!r}; the first point after 0 is at {float(self.fraction[1]):.3g}")
        values = {key: curve[:, :points] for key, curve in self.values.items()}
        cut = f"until {float(self.fraction[points - 1]):.4g} of the {self.unit}s are replaced"
        return replace(
            self, counts=self.counts[:points], fraction=self.fraction[:points], values=values,
            settings=(*self.settings, cut),
        )  # fmt: skip

    def auc(self, method: str, order: str = "highest") -> Tensor:
        """The area under the curve by the trapezoid rule over `fraction`, divided by its range: a mean score, (N,)."""
        return torch.trapezoid(self.of(method, order), self.fraction) / (self.fraction[-1] - self.fraction[0])

    def aopc(self, method: str, order: str = "highest") -> Tensor:
        """1/(K + 1) Σ_k f(x_0) - f(x_k), area over the perturbation curve [Samek et al. 2017], (N,)."""
        curve = self.of(method, order)
        return (curve[:, :1] - curve).mean(1)

    def abpc(self, method: str) -> Tensor:
        """1/(K + 1) Σ_k (lowest first)_k - (highest first)_k, area between perturbation curves, (N,)."""
        return (self.of(method, "lowest") - self.of(method, "highest")).mean(1)

    def srg(self, method: str) -> Tensor:
        """AUC lowest first - AUC highest first, symmetric relevance gain [Blücher et al. 2024], (N,)."""
        return self.auc(method, "lowest") - self.auc(method, "highest")

    def measured(self, measure: Measure, method: str, order: str = "highest") -> Tensor:
        """One of the measures by its name, (N,); `order` matters to "auc" and "aopc" alone. Raises `InputError`."""
        if measure not in MEASURES:
            raise InputError(f"measure is {measure!r}; give one of {', '.join(map(repr, MEASURES))}")
        if measure == "auc":
            return self.auc(method, order)
        if measure == "aopc":
            return self.aopc(method, order)
        return self.abpc(method) if measure == "abpc" else self.srg(method)

    def mean(self, measure: Measure, method: str, order: str = "highest") -> Estimate:
        """The mean of a measure over the samples, with its standard error."""
        return estimate(self.measured(measure, method, order))

    def difference(self, a: str, b: str, measure: Measure = "auc", order: str = "highest") -> Estimate:
        """The mean of measure of a - measure of b, sample by sample, with the standard error of that difference."""
        return estimate(self.measured(measure, a, order) - self.measured(measure, b, order))

    def table(self) -> str:
        """One line a method: AUC highest and lowest first, AOPC, ABPC, SRG, mean ± standard error; "-": not run."""
        header = ["method", "AUC highest", "AUC lowest", "AOPC", "ABPC", "SRG"]
        cells: list[tuple[Measure, str]] = [
            ("auc", "highest"), ("auc", "lowest"), ("aopc", "highest"), ("abpc", ""), ("srg", ""),
        ]  # fmt: skip
        rows = [[method, *(self.cell(measure, method, order) for measure, order in cells)] for method in self.methods]
        if (RANDOM, RANDOM) in self.values:
            rows.append([RANDOM, str(self.mean("auc", RANDOM)), "", str(self.mean("aopc", RANDOM)), "", ""])
        return "\n".join(
            [columns([header, *rows]), f"{len(self)} samples, {self.score}, mean ± standard error", *self.doubts]
        )

    def cell(self, measure: Measure, method: str, order: str) -> str:
        """An entry of the table."""
        needed = (order,) if order else ("highest", "lowest")
        return str(self.mean(measure, method, order)) if all((method, o) in self.values for o in needed) else "-"

    def to_frame(self) -> DataFrame:
        """A pandas table, one row a point: method, order, image (its `index`), count, fraction, value.

        Raises `InputError` if pandas is missing.
        """
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise InputError(
                "to_frame() makes a pandas table, but pandas is not installed; pip install pandas"
            ) from error
        n, points = len(self), len(self.counts)
        parts = [
            pandas.DataFrame(
                {
                    "method": method,
                    "order": order,
                    "image": self.index.repeat_interleave(points).numpy(),
                    "count": self.counts.repeat(n).numpy(),
                    "fraction": self.fraction.repeat(n).numpy(),
                    "value": curve.reshape(-1).numpy(),
                }
            )
            for (method, order), curve in self.values.items()
        ]
        return pandas.concat(parts, ignore_index=True)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Mean curves with bands of ± one standard error: highest first solid, lowest first dashed, random dotted grey.

        `path`: also written there. Raises `OutputError` if that fails, `InputError` if matplotlib is missing.
        """
        return plot(self.fraction, self.values, self.unit, self.score, path)

    def save(self, path: str | Path) -> Path:
        """Write everything to a .npz file, whole or not at all. Returns the path.

        Raises `InputError`: another suffix; `OutputError`: no folder, no permission, a full disk.
        """
        keys = list(self.values)
        texts = {"methods": self.methods, "orders": self.orders, "settings": self.settings}
        texts |= {"unit": (self.unit,), "score": (self.score,), "constant_of": tuple(self.constant)}
        texts |= {"curve_methods": tuple(m for m, _ in keys), "curve_orders": tuple(o for _, o in keys)}
        tensors = {"counts": self.counts, "fraction": self.fraction, "target": self.target, "index": self.index}
        tensors |= {"units": torch.tensor(self.units), "values": torch.stack([self.values[key] for key in keys])}
        tensors["constant"] = (
            torch.stack([*self.constant.values()]) if self.constant else torch.zeros(0, len(self)).bool()
        )
        return write(path, texts, tensors)

    @staticmethod
    def load(path: str | Path) -> Curves:
        """What `save` wrote; nothing in the file is run. Raises `InputError`: missing, or no such file."""
        texts, tensors = read(path, TEXTS, TENSORS)
        keys = zip(texts["curve_methods"], texts["curve_orders"], strict=True)
        return Curves(
            methods=texts["methods"],
            orders=texts["orders"],
            counts=tensors["counts"],
            fraction=tensors["fraction"],
            values=dict(zip(keys, tensors["values"], strict=True)),
            target=tensors["target"],
            index=tensors["index"],
            constant=dict(zip(texts["constant_of"], tensors["constant"], strict=True)),
            unit=texts["unit"][0],
            units=int(tensors["units"]),
            score=texts["score"][0],
            settings=texts["settings"],
        )


TEXTS = ("methods", "orders", "settings", "unit", "score", "constant_of", "curve_methods", "curve_orders")
TENSORS = ("counts", "fraction", "target", "index", "units", "values", "constant")


def join(parts: Sequence[Curves]) -> Curves:
    """The chunks of a data set as one result, in the order given.

    Raises `InputError`: no parts, other curves, counts, units or scores, other settings (seed, replacement, its
    bounds), or the same sample in two parts.
    """
    if not parts:
        raise InputError("parts is empty; give at least one")
    head = parts[0]
    for i, part in enumerate(parts[1:], 1):
        for name in ("methods", "orders", "unit", "units", "score", "settings"):
            if getattr(part, name) != getattr(head, name):
                raise InputError(
                    f"part {i} has {name} {getattr(part, name)!r}, part 0 {getattr(head, name)!r}; run them alike"
                )
        if not torch.equal(part.counts, head.counts):
            raise InputError(
                f"part {i} has other counts of replaced {head.unit}s than part 0; run them with the same steps"
            )
    index = torch.cat([part.index for part in parts])
    if len(set(index.tolist())) != len(index):
        raise InputError("parts hold the same sample twice; run each with first= the number of its first sample")
    return Curves(
        methods=head.methods,
        orders=head.orders,
        counts=head.counts,
        fraction=head.fraction,
        values={key: torch.cat([part.values[key] for part in parts]) for key in head.values},
        target=torch.cat([part.target for part in parts]),
        index=index,
        constant={name: torch.cat([part.constant[name] for part in parts]) for name in head.constant},
        unit=head.unit,
        units=head.units,
        score=head.score,
        settings=head.settings,
    )
