"""The page: how the models were tried, how many pass, one line a model, and why the rest do not pass."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby

from .measure import Row

HEAD = """# Which models can be explained

Written by `relprop coverage`. Every model is captured, gets a rule for every operation and is explained with the
composites {recipes}, with these packages: {versions}.

**A model passes** if it is captured, every operation has a rule, and with each composite the relevance is finite, not
zero, and adds up: |score − ledger total| is at most 1e-3 of the largest amount of relevance that passed any operation,
for each of two samples and at every operation. `error` is that quotient, the larger of the two samples; `max abs R`
is the largest relevance of an input over |score|, which shows where a composite lets maps of untrained weights explode.
A model that fails by its rounding errors in float32 is tried once more in float64, and marked so; a model whose samples
cannot be told apart (its code mixes the batch with other dimensions, or all samples share an input) with one sample.

**Weights** are random, with seed 0, by each model's own initialization. Parameters that are constant and at most 0.01
would hide what lies behind them, so they are drawn anew: scales of normalizations uniform in [0.5, 1], biases
N(0, 0.02²), weights N(0, 1 / fan-in), others (LayerScale, class tokens, positions) N(0, 0.1²). BatchNorm takes its
statistics from a random batch of four inputs, so that activations stay finite with depth; two of the four are
explained. Models of transformers are tiny: two or so layers of 32 channels, configured by hand, initializer range 0.1.

**Inputs** are random: images of 64 pixels, or the next size a model takes (128, its own size), for transformers 32 or
64; videos of 8 or 16 frames; 10 tokens of a vocabulary of 99; waveforms of 1,600 samples; spectrograms.

**The explained score** is the largest logit of a classifier; of a sequence (tokens, frames) the largest number at its
last position; of a map (segmentation) the mean over the map of the class with the largest mean.

**The models** of torchvision are all of classification, segmentation and video (detection returns lists of boxes,
optical flow takes two images and returns no score, quantized models compute with integers); of timm the model with the
fewest parameters of every architecture module; of transformers the configurations in
`relprop/coverage/transformers_zoo`.

"""


def written(rows: Iterable[Row]) -> str:
    """The page for these rows, in Markdown."""
    ordered = sorted(rows, key=lambda row: (row.zoo, row.model))
    zoos = [(name, list(group)) for name, group in groupby(ordered, key=lambda row: row.zoo)]
    recipes = list(dict.fromkeys(recipe for row in ordered for recipe in row.recipes))
    return (
        HEAD.format(recipes=_listed(f"`{r}`" for r in recipes), versions=_versions(ordered))
        + _summary(zoos)
        + "".join(_table(name, group, recipes) for name, group in zoos)
    )


def _summary(zoos: list[tuple[str, list[Row]]]) -> str:
    lines = ["| zoo | models | pass | share |", "|---|---|---|---|"]
    for name, rows in zoos:
        passed = sum(row.passes for row in rows)
        lines.append(f"| {name} | {len(rows)} | {passed} | {passed / len(rows):.1%} |")
    return "\n".join(lines) + "\n"


def _table(name: str, rows: list[Row], recipes: list[str]) -> str:
    columns = ["model", "parameters", "inputs", "captured s", "ops", "without a rule"]
    columns += [f"{what}, {recipe}" for recipe in recipes for what in ("error", "max abs R")] + ["result"]
    lines = ["", f"## {name}", "", _row(columns), "|" + "---|" * len(columns)]
    lines += [_row(_cells(row, recipes)) for row in rows]
    failed = [f"- **{row.model}**: {_plain(row.reason)}" for row in rows if not row.passes]
    if failed:
        lines += ["", f"{len(failed)} of {len(rows)} do not pass:", "", *failed]
    return "\n".join(lines) + "\n"


def _cells(row: Row, recipes: list[str]) -> list[str]:
    numbers = []
    for recipe in recipes:
        tried = row.tried.get(recipe)
        numbers += [_number(tried.error, ".0e"), _number(tried.peak, ".2g")] if tried else ["", ""]
    captured = [f"{row.seconds:.1f}", str(row.ops)] if row.ops else ["", ""]
    result = ("pass" if row.dtype != "float64" else "pass in float64") if row.passes else "no"
    return [row.model, _count(row.parameters), row.shapes, *captured, ", ".join(row.missing), *numbers, result]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(x: float, form: str) -> str:
    return f"{x:{form}}" if math.isfinite(x) else "not finite"


def _count(n: int) -> str:
    return f"{n / 1e6:.1f} M" if n >= 1e5 else f"{n / 1e3:.0f} k" if n else ""


def _plain(reason: str, longest: int = 400) -> str:
    """In one line, without what Markdown would take for a command."""
    text = " ".join(reason.split())
    for mark in "\\`*_<>|[]":
        text = text.replace(mark, "\\" + mark)
    return text if len(text) <= longest else text[:longest].rstrip("\\") + " …"


def _versions(rows: list[Row]) -> str:
    parts = dict.fromkeys(part for row in rows for part in row.versions.split(", ") if part)
    return _listed(sorted(parts)) or "none"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)
