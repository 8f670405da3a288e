"""Several explanations of several photos side by side, in the manner of Montavon et al. 2019, figure 10.4."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from relprop.errors import InputError

from .heatmap import RGB, Array, heatmap, overlay, pixels, rgb
from .heatmap import scale as scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Panel:
    """One explanation of a photo: what made it, the map as for `heatmap`, and the score that it explains.

    >>> import numpy as np
    >>> panel = Panel("epsilon", np.array([[2.0, 1.0]]), score=4.0)
    >>> panel.total, panel.absorbed
    (3.0, 0.25)
    """

    name: str
    relevance: Array
    score: float | None = None

    @property
    def total(self) -> float:
        """Σ R over all pixels and channels."""
        return float(pixels(self.relevance).sum())

    @property
    def absorbed(self) -> float:
        """1 - Σ R / score: the share that biases and stabilizers took; NaN if the score is 0 or not known."""
        return 1 - self.total / self.score if self.score else math.nan


@dataclass(frozen=True)
class Row:
    """One photo, as for `overlay`, and its explanations; the title stands under the photo."""

    photo: Array
    panels: Sequence[Panel]
    title: str = ""


def figure(
    rows: Sequence[Row],
    *,
    scale: Literal["row", "panel"] = "panel",
    percentile: float | None = None,
    palette: str = "red-blue",
    over_photo: bool = False,
    width: float = 1.9,
) -> Figure:
    """One row a photo, the photo first; under each map its name, Σ R, score and absorbed share, 1 - Σ R / score.

    `scale`: "panel" gives each map its own scale, because the largest |R| of two rules easily differ tenfold, and one
    map would fade; "row" draws all maps of a photo on one, so that equal colours are equal relevance. The value in
    full colour is printed under each map. `percentile`, `palette`: as for `heatmap`. `over_photo`: draw `overlay` in
    place of `heatmap`. `width`: inches a panel.
    Raises `InputError`: no rows, no panels, an unknown scale, and as `heatmap` and `overlay`.

    >>> import numpy as np
    >>> row = Row(np.zeros((4, 4, 3), np.uint8), [Panel("epsilon", np.eye(4), score=4.0)], "frog")
    >>> len(figure([row]).axes)
    2
    """
    if not rows or not all(row.panels for row in rows):
        raise InputError("rows is empty, or a row has no panels; give at least one photo with one explanation")
    if scale not in ("row", "panel"):
        raise InputError(f"scale is {scale!r}; give 'row' or 'panel'")
    columns = 1 + max(len(row.panels) for row in rows)
    picture, grid = canvas(len(rows), columns, width)
    for axes, row in zip(grid, rows, strict=True):
        limits = [scale_of(panel.relevance, percentile) for panel in row.panels]
        if scale == "row":
            limits = [max(limits)] * len(limits)
        draw(axes[0], rgb(row.photo), row.title)
        for ax, panel, limit in zip(axes[1:], row.panels, limits, strict=False):
            draw(ax, drawn(row.photo, panel, limit, palette, over_photo), caption(panel, limit))
        for ax in axes[1 + len(row.panels) :]:
            ax.remove()
    return picture


def plot(
    maps: Array | Sequence[Array],
    *,
    scores: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    percentile: float | None = None,
    palette: str = "red-blue",
    columns: int = 6,
    width: float = 1.9,
) -> Figure:
    """One map, or several in lines of `columns`, each on a scale of its own and with its sums as in `figure`.

    `maps`: as for `heatmap`. `scores`, `names`: one a map. Raises `InputError`.

    >>> import numpy as np
    >>> len(plot([np.eye(2), -np.eye(2)], scores=[2.0, -2.0]).axes)
    2
    """
    listed: list[Array] = list(maps) if isinstance(maps, (list, tuple)) else [cast(Array, maps)]
    texts = list(names or [""] * len(listed))
    values: list[float | None] = list(scores) if scores else [None] * len(listed)
    if not listed or len(texts) != len(listed) or len(values) != len(listed):
        raise InputError(f"{len(listed)} maps, {len(values)} scores, {len(texts)} names; give one of each a map")
    picture, grid = canvas(-(-len(listed) // columns), min(columns, len(listed)), width)
    for ax, relevance, name, score in zip(grid.flat, listed, texts, values, strict=False):
        limit = scale_of(relevance, percentile)
        draw(ax, heatmap(relevance, limit=limit, palette=palette), caption(Panel(name, relevance, score), limit))
    for ax in grid.flat[len(listed) :]:
        ax.remove()
    return picture


def canvas(rows: int, columns: int, width: float) -> tuple[Figure, Any]:
    """An empty figure and its grid of axes. Not of pyplot: no window system, no list of figures left to be closed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = Figure(figsize=(width * columns, (width + 0.65) * rows), layout="constrained")
    FigureCanvasAgg(picture)
    return picture, picture.subplots(rows, columns, squeeze=False)


def drawn(photo: Array, panel: Panel, limit: float, palette: str, over_photo: bool) -> RGB:
    """The picture of one panel."""
    if over_photo:
        return overlay(photo, panel.relevance, limit=limit, palette=palette)
    return heatmap(panel.relevance, limit=limit, palette=palette)


def caption(panel: Panel, limit: float) -> str:
    """The lines under a map."""
    values = pixels(panel.relevance)
    lines = [panel.name, f"ΣR {panel.total:.4g}"]
    if panel.score is not None:
        absorbed = "undefined" if math.isnan(panel.absorbed) else f"{panel.absorbed:.1%}"
        lines = [panel.name, f"{lines[1]}   score {panel.score:.4g}", f"absorbed {absorbed}"]
    lines.append(f"R {values.min():.2g} … {values.max():.2g}, scale ±{limit:.2g}")
    return "\n".join(line for line in lines if line)


def draw(ax: Axes, image: RGB, text: str) -> None:
    """An image in a thin frame, without interpolation or ticks, the text under it."""
    ax.imshow(image, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel(text, fontsize=7, linespacing=1.3)
    for spine in ax.spines.values():
        spine.set(linewidth=0.5, color="0.6")
