"""Joint relevance of pairs of features: arcs between two images, and a matrix of tokens, as picture, HTML or text.

Red positive, blue negative, on a symmetric scale; of arcs, width and opacity grow with |R| (Eberle et al. 2020).
"""

from __future__ import annotations

import html as markup
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from relprop.errors import InputError

from .files import check_path, document, write
from .heatmap import PALETTES, Array, as_array, heatmap, rgb
from .text import colours, padded, width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = 0.5  # between the images, in heights of an image
NAMED = 48  # rows and columns of a matrix that still get their names
Pair = tuple[int, int, int, int, float]  # row and column of a cell, those of the other image's, R


def arcs(
    photo: Array,
    photo2: Array,
    relevance: Array,
    *,
    score: float | None = None,
    top: int = 24,
    limit: float | None = None,
    palette: str = "red-blue",
    inches: float = 6.4,
) -> Figure:
    """Two images beside each other with arcs between the cells of the `top` pairs with the largest |R|.

    `photo`, `photo2`: as for `overlay`. `relevance`: (H, W, H', W'), cells of the first and of the second image.
    `limit`: the |R| of full width and opacity, by default the largest. Under it: sums, score, what is drawn.
    Raises `InputError`: other shapes, NaN or infinity, top < 1.

    >>> R = np.zeros((2, 2, 2, 2))
    >>> R[0, 0, 1, 1], R[1, 0, 0, 1] = 2.0, -1.0
    >>> photo = np.zeros((4, 4, 3), np.uint8)
    >>> len(arcs(photo, photo, R).axes)
    1
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    values = _finite(relevance, 4, "(H, W, H', W'), the cells of two images")
    limit = _limit(values, limit)
    _palette(palette)
    chosen = strongest(values, top)
    images = [rgb(photo), rgb(photo2)]
    sides = [image.shape[1] / image.shape[0] for image in images]
    cells = _Cells(values.shape, sides)
    across, top_edge = sides[0] + GAP + sides[1], min([0.0, *(cells.curve(pair)[1] for pair in chosen)]) - 0.03
    picture = Figure(figsize=(inches, inches * (1 - top_edge) / across + 0.4), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.subplots()
    for left, image, side in zip((0.0, sides[0] + GAP), images, sides, strict=True):
        axes.imshow(image, extent=(left, left + side, 1, 0), interpolation="nearest", zorder=0)
    axes.set(xlim=(0, across), ylim=(1, top_edge), aspect="equal", xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    for pair in reversed(chosen):  # the strongest on top
        _arc(axes, cells, pair, abs(pair[4]) / limit if limit else 0.0, PALETTES[palette][2 if pair[4] > 0 else 0])
    axes.set_xlabel(_caption(values, score, limit, len(chosen)), fontsize=8, linespacing=1.3)
    return picture


def strongest(values: NDArray[np.float64], top: int) -> list[Pair]:
    """The pairs with the largest |R|, none of them 0; the largest first."""
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise InputError(f"top={top!r}: give the number of arcs to draw, 1 or more")
    flat = values.ravel()
    order = np.argsort(-np.abs(flat), kind="stable")[:top]
    places = np.stack(np.unravel_index(order, values.shape), axis=1).tolist()
    return [(*p, float(flat[i])) for p, i in zip(places, order, strict=True) if flat[i] != 0]


class _Cells:
    """Where the cells of the two images are in the picture, whose unit is the height of an image."""

    def __init__(self, shape: Sequence[int], sides: Sequence[float]) -> None:
        (self.h, self.w, self.h2, self.w2), self.sides = shape, sides

    def box(self, which: int, row: int, column: int) -> tuple[float, float, float, float]:
        """Left, top, width, height."""
        rows, columns = (self.h2, self.w2) if which else (self.h, self.w)
        wide, high = self.sides[which] / columns, 1 / rows
        return (self.sides[0] + GAP) * which + column * wide, row * high, wide, high

    def curve(self, pair: Pair) -> tuple[list[tuple[float, float]], float]:
        """From the middle of one cell to that of the other, bent upwards: start, bend and end, and the highest y."""
        boxes = [self.box(0, *pair[:2]), self.box(1, *pair[2:4])]
        (x0, y0), (x1, y1) = ((x + wide / 2, y + high / 2) for x, y, wide, high in boxes)
        bend = min(y0, y1) - 0.3 * (x1 - x0) - 0.1
        # where the derivative of (1 − t)² y0 + 2 t (1 − t) bend + t² y1 is 0
        return [(x0, y0), ((x0 + x1) / 2, bend), (x1, y1)], y0 - (y0 - bend) ** 2 / (y0 - 2 * bend + y1)


def _arc(axes: Axes, cells: _Cells, pair: Pair, share: float, colour: str) -> None:
    """The curve of a pair, and the outlines of its cells."""
    from matplotlib.patches import PathPatch, Rectangle
    from matplotlib.path import Path as Curve

    share = min(1.0, share)
    for which, place in enumerate((pair[:2], pair[2:4])):
        x, y, wide, high = cells.box(which, *place)
        axes.add_patch(
            Rectangle((x, y), wide, high, fill=False, edgecolor=colour, linewidth=0.8, alpha=0.2 + 0.8 * share)
        )
    curve = Curve(cells.curve(pair)[0], [Curve.MOVETO, Curve.CURVE3, Curve.CURVE3])
    axes.add_patch(PathPatch(curve, fill=False, edgecolor=colour, linewidth=0.4 + 3.2 * share, alpha=0.2 + 0.7 * share))


def matrix(
    relevance: Array,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    score: float | None = None,
    limit: float | None = None,
    palette: str = "red-blue",
    inches: float = 4.8,
) -> Figure:
    """A matrix of joint relevance with the names of its rows (first input) and columns (second), sums under it.

    `relevance`: (N, N'). Names are written where there are at most 48. `inches`: the longer side at
    most, without names. Raises `InputError`.

    >>> len(matrix(np.eye(2), ["good", "film"], ["fine", "movie"]).axes)
    1
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    values, limit = _named(relevance, rows, columns, limit)
    tall, wide = (max(1.2, n * min(0.45, inches / max(values.shape))) for n in values.shape)
    picture = Figure(figsize=(max(2.2, wide) + 1.0, tall + 1.2), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.subplots()
    axes.imshow(heatmap(values, limit=limit, palette=palette), interpolation="nearest", aspect="auto")
    axes.xaxis.tick_top()
    for axis, names, turned in ((axes.xaxis, columns, 60), (axes.yaxis, rows, 0)):
        if len(names) <= NAMED:
            shown = [n.replace("$", r"\$") for n in names]
            axis.set_ticks(range(len(names)), shown, fontsize=8, rotation=turned)
        axis.set_tick_params(length=0)
    for label in axes.xaxis.get_ticklabels():
        label.set_horizontalalignment("left")
        label.set_rotation_mode("anchor")
    axes.set_xlabel(_caption(values, score, limit), fontsize=8, linespacing=1.3)
    return picture


def html(
    relevance: Array,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    score: float | None = None,
    limit: float | None = None,
    palette: str = "red-blue",
) -> str:
    """The matrix as a coloured table that needs nothing else; a value shows where the pointer rests.

    >>> "a&lt;b" in html(np.eye(1), ["a<b"], ["c"])
    True
    """
    values, limit = _named(relevance, rows, columns, limit)
    head = "".join(f'<th style="writing-mode:vertical-rl;font-weight:normal">{markup.escape(n)}</th>' for n in columns)
    body = "\n".join(
        f'<tr><td style="text-align:right">{markup.escape(name)}</td>'
        + "".join(_field(float(v), name, other, limit, palette) for v, other in zip(line, columns, strict=True))
        + "</tr>"
        for name, line in zip(rows, values, strict=True)
    )
    said = markup.escape(_caption(values, score, limit)).replace("\n", "<br>")
    return (
        '<div style="font-family:sans-serif;color:#000000;background:#ffffff;padding:8px">\n'
        f'<table style="border-collapse:collapse">\n<tr><th></th>{head}</tr>\n{body}\n</table>\n'
        f'<div style="font-size:80%;color:#555555">{said}</div>\n</div>'
    )


def _field(value: float, row: str, column: str, limit: float, palette: str) -> str:
    paper, _ = colours(value, limit, palette)
    told = markup.escape(f"{row} × {column}: {value:.6g}")
    return f'<td title="{told}" style="background:{paper};min-width:1.6em;height:1.6em"></td>'


def lines(
    relevance: Array, rows: Sequence[str], columns: Sequence[str], *, score: float | None = None, top: int = 24
) -> str:
    """The pairs with the largest |R|, one a line, then the sums.

    >>> print(lines(np.array([[1.0, -2.0]]), ["good"], ["fine", "bad"], score=-1.0))
    good  bad           -2
    good  fine          +1
    R -2 … 1   ΣR -1   score -1
    """
    values, _ = _named(relevance, rows, columns, None)
    found = [(rows[i], columns[j], R) for i, _, j, _, R in strongest(values[:, None, :, None], top)]
    wide = [max((width(name) for name in names), default=0) for names in ([f[0] for f in found], [f[1] for f in found])]
    said = [f"{padded(a, wide[0])}  {padded(b, wide[1])}  {R:>+10.4g}" for a, b, R in found]
    return "\n".join([*said, _sums(values, score)])


def save_pairs(
    path: str | Path,
    relevance: Array,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    score: float | None = None,
    limit: float | None = None,
    palette: str = "red-blue",
    top: int = 24,
) -> Path:
    """Write `html` as a document (.html) or `lines` (.txt). Returns the path. Raises `InputError`, `OutputError`."""
    target = check_path(path, (".html", ".txt"))
    if target.suffix.lower() == ".txt":
        return write(target, lines(relevance, rows, columns, score=score, top=top) + "\n")
    table = html(relevance, rows, columns, score=score, limit=limit, palette=palette)
    return write(target, document("joint relevance", table))


def _caption(values: NDArray[np.float64], score: float | None, limit: float, drawn: int | None = None) -> str:
    return "\n".join([_sums(values, score), *_drawn(values, limit, drawn)])


def _sums(values: NDArray[np.float64], score: float | None) -> str:
    said = f"R {values.min():.3g} … {values.max():.3g}   ΣR {values.sum():.4g}"
    return said if score is None else f"{said}   score {score:.4g}"


def _drawn(values: NDArray[np.float64], limit: float, drawn: int | None) -> Iterator[str]:
    """What is seen of it: the value in full colour, and of how many pairs these are the strongest."""
    if drawn is None:
        yield f"full colour at ±{limit:.3g}"
    else:
        yield f"the {drawn} strongest of {values.size} pairs, full width at ±{limit:.3g}"


def _finite(relevance: Array, dims: int, form: str) -> NDArray[np.float64]:
    values = as_array(relevance).astype(np.float64)
    if values.ndim != dims or values.size == 0:
        raise InputError(f"relevance has shape {tuple(values.shape)}; give {form}, of one pair")
    if not np.isfinite(values).all():
        raise InputError(f"relevance holds {int((~np.isfinite(values)).sum())} values that are NaN or infinite")
    return values


def _named(
    relevance: Array, rows: Sequence[str], columns: Sequence[str], limit: float | None
) -> tuple[NDArray[np.float64], float]:
    values = _finite(relevance, 2, "(N, N'), rows of one input and columns of the other")
    if values.shape != (len(rows), len(columns)):
        raise InputError(f"relevance is {values.shape[0]} x {values.shape[1]}, names {len(rows)} x {len(columns)}")
    return values, _limit(values, limit)


def _limit(values: NDArray[np.float64], limit: float | None) -> float:
    if limit is not None and not 0 < limit < float("inf"):
        raise InputError(f"limit is {limit}; give a finite number > 0")
    return limit or float(np.abs(values).max())


def _palette(palette: str) -> None:
    if palette not in PALETTES:
        raise InputError(f"palette {palette!r} is unknown; there are {', '.join(PALETTES)}")
