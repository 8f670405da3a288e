"""Mean curves with their standard errors as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from relprop.errors import InputError, OutputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = {"highest": "-", "lowest": "--", "random": ":"}
# told apart with any colour vision (Okabe and Ito 2008), without the yellow that is too pale for a line
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")


def plot(
    fraction: Tensor, curves: Mapping[tuple[str, str], Tensor], unit: str, score: str, path: str | Path | None = None
) -> Figure:
    """One line a (method, order): the mean over samples, in a band of ± one standard error; one colour a method."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("plot() draws with matplotlib, which is not installed; pip install matplotlib") from error
    # not of pyplot: no window system, no list of figures left to be closed
    picture = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.subplots()
    methods = list(dict.fromkeys(method for method, order in curves if order != "random"))
    share = (100 * fraction).numpy()
    for (method, order), values in curves.items():
        colour = "0.5" if order == "random" else COLOURS[methods.index(method) % len(COLOURS)]
        mean = values.mean(0).numpy()
        label = "random order" if order == "random" else f"{method}, {order} first"
        axes.plot(share, mean, LINES[order], color=colour, label=label, linewidth=1.6)
        if len(values) > 1:
            band = (values.std(0) / math.sqrt(len(values))).numpy()
            axes.fill_between(share, mean - band, mean + band, color=colour, alpha=0.18, linewidth=0)
    axes.set_xlabel(f"{unit}s replaced (%)")
    axes.set_ylabel(f"{score} (mean ± standard error, {len(next(iter(curves.values())))} samples)")
    axes.set_xlim(float(share[0]), float(share[-1]))
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    if path is not None:
        written(picture, path)
    return picture


def written(picture: Figure, path: str | Path) -> None:
    """Write the picture in the format of its suffix. Raises `OutputError`."""
    try:
        picture.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write '{path}': {error}") from error
