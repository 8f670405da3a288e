"""Relevance of a series: channel × time, under the signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from relprop.errors import InputError

from .heatmap import Array, as_array, heatmap
from .heatmap import scale as scale_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# told apart with any colour vision (Okabe and Ito 2008)
LINES = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")


def series(
    signal: Array,
    relevance: Array,
    *,
    names: Sequence[str] | None = None,
    future: Array | None = None,
    forecast: Array | None = None,
    score: float | None = None,
    percentile: float | None = None,
    palette: str = "red-blue",
    title: str = "",
    unit: str = "step",
) -> Figure:
    """The channels of a series as lines over one heat map, a row a channel, on the same time axis.

    `signal`, `relevance`: (time, channels) or (time,) of one sample. `names`: one a channel. `future`, `forecast`: what
    came after the series and what the model expects, (steps, channels) or (steps,), NaN where there is none; drawn
    behind the series, dashed and dotted. `score`, `percentile`, `palette`: as for `plot`. Under the map stand Σ R of
    each channel, the sum of all, the score and the scale. `unit`: of the time axis. Raises `InputError`.

    >>> picture = series(np.array([1.0, 2.0, 3.0]), np.array([0.0, -1.0, 2.0]), score=1.0)
    >>> [ax.get_xlabel().split(chr(10))[0] for ax in picture.axes]
    ['', 'step']
    """
    x, R = columns("signal", signal), columns("relevance", relevance)
    if x.shape != R.shape:
        raise InputError(f"the signal is {x.shape}, the relevance {R.shape}, as (time, channels); they have one shape")
    steps, channels = x.shape
    labels = list(names) if names is not None else [f"channel {i}" for i in range(channels)]
    if len(labels) != channels:
        raise InputError(f"{len(labels)} names for {channels} channels")
    after = [None if v is None else columns(n, v, holes=True) for n, v in (("future", future), ("forecast", forecast))]
    for name, v in zip(("future", "forecast"), after, strict=True):
        if v is not None and v.shape[1] != channels:
            raise InputError(f"{name} has {v.shape[1]} channels, the signal {channels}; NaN where there is none")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("series() draws with matplotlib, which is not installed; pip install relprop[show]") from error
    # not of pyplot: no window system, no list of figures left to be closed
    picture = Figure(figsize=(8.0, 2.6 + 0.35 * channels), layout="constrained")
    FigureCanvasAgg(picture)
    above, below = picture.subplots(2, 1, sharex=True, height_ratios=[2.0, 0.35 * channels + 0.2])
    for i, label in enumerate(labels):
        colour = LINES[i % len(LINES)]
        above.plot(np.arange(steps), x[:, i], color=colour, linewidth=1.2, label=label)
        for v, style in zip(after, ("--", ":"), strict=True):
            if v is not None:
                above.plot(steps + np.arange(len(v)), v[:, i], style, color=colour, linewidth=1.4)
    if any(v is not None for v in after):
        above.axvline(steps - 0.5, color="0.6", linewidth=0.8)
    if channels > 1 or names is not None:
        above.legend(fontsize=7, frameon=False, ncols=min(channels, 5), loc="lower left", bbox_to_anchor=(0, 1.0))
    above.spines[["top", "right"]].set_visible(False)
    above.tick_params(labelsize=7, labelbottom=False)
    if title:
        above.set_title(title, fontsize=8, loc="right")
    limit = scale_of(R.T, percentile)
    colours = heatmap(R.T, limit=limit, palette=palette)
    below.imshow(colours, aspect="auto", interpolation="nearest", extent=(-0.5, steps - 0.5, channels - 0.5, -0.5))
    # an image narrows the axis it shares with the lines to itself
    below.set_xlim(-0.5, steps + max((len(v) for v in after if v is not None), default=0) - 0.5)
    below.set_yticks(range(channels), labels, fontsize=7)
    below.tick_params(axis="x", labelsize=7)
    below.set_xlabel(f"{unit}\n{caption(R, labels, score, limit)}", fontsize=7, linespacing=1.4)
    return picture


def caption(R: NDArray[np.float64], labels: Sequence[str], score: float | None, limit: float) -> str:
    """The sums under the map."""
    each = "   ".join(f"{n} {v:.4g}" for n, v in zip(labels, R.sum(0), strict=True))
    known = "" if score is None else f"   score {score:.4g}"
    return f"ΣR: {each}\nall {R.sum():.4g}{known}   scale ±{limit:.2g}: red for, blue against"


def columns(name: str, values: Array, *, holes: bool = False) -> NDArray[np.float64]:
    """(time, channels) in float64; with `holes`, NaN is allowed."""
    v = as_array(values).astype(np.float64)
    v = v[:, None] if v.ndim == 1 else v
    if v.ndim != 2 or v.size == 0:
        raise InputError(f"{name} is {v.shape}; give (time, channels) or (time,) of one sample: {name}[i] of a batch")
    if not (np.isfinite(v) | (np.isnan(v) & holes)).all():
        raise InputError(f"{name} holds NaN or infinity")
    return v
