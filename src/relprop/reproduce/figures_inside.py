"""Pictures of what happens at and behind the normalizations, and the empty sheet that every picture starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from relprop.errors import InputError
from relprop.evaluate import Curves

from .methods import BETAS, EPSILONS, IDENTITY, PARAMETERS, SWEEP, TAYLOR, Method
from .neighbours import PER_LAYER, PER_MAP, spearman

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# told apart with any colour vision (Okabe and Ito 2008), without the yellow that is too pale for a line
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKS = "osD^vPX"
SMALL, SIZE = 7, 8  # points
# the panels of `inside_layers`: a title and the values of `PER_LAYER` in it, each with its line
AT_LAYERS: dict[str, dict[str, str]] = {
    "gross: handed to neighbouring channels / |R|": {"gross": "-"},
    "net: |change of R| / |R|": {"net": "-"},
    "share of |R| whose sign flips": {"flips": "-"},
    "negative share of |R|, before (dashed) and after": {"negative_before": "--", "negative_after": "-"},
}
# the same for `inside_maps` and `PER_MAP`; each line is the order of an expansion
OF_MAPS: dict[str, dict[str, int]] = {
    "relative distance to the identity's map": {"distance": 1, "second": 2},
    "rank correlation with the identity's map": {"rank": 1},
    "share of the score absorbed by ε": {"absorbed": 1},
}


def inside_layers(inside: dict[str, Tensor], layers: Sequence[str], labels: Sequence[str] = ()) -> Figure:
    """What the Taylor rule does at each normalization, against ε (log axis) and β: mean ± standard error over images.

    Four pairs of panels: gross, net, flips, and the negative share before and after, as in `neighbours.PER_LAYER`.
    `inside["layers"]`: (N, SWEEP, layers, PER_LAYER). `labels`: what each of `layers` is called in the picture, if not
    by its own name.
    Raises `InputError`: another shape, no image, or another number of labels.

    >>> inside = {"layers": torch.rand(3, len(SWEEP), 2, len(PER_LAYER))}
    >>> len(inside_layers(inside, ("norm1", "norm2"), ("first", "second")).axes)
    8
    """
    values = checked(inside, "layers", (len(SWEEP), len(layers), len(PER_LAYER)))
    labels = labels or layers
    if len(labels) != len(layers):
        raise InputError(f"labels has {len(labels)} texts for {len(layers)} layers; give one a layer")
    picture = sheet(7.6, 5.2)
    for part, (title, lines) in zip(parts(picture, 2, 2), AT_LAYERS.items(), strict=True):
        axes = pair(part, title)
        for i, label in enumerate(labels):
            for name, style in lines.items():
                sweep(axes, values[:, :, i, list(PER_LAYER).index(name)], i, style, label)
        axes[0].set_ylim(bottom=0)
    legend(picture, 4, f"mean ± standard error over {len(values)} images")
    return picture


def parts(picture: Figure, rows: int, columns: int) -> list[Any]:
    """Its subfigures, row by row."""
    made: Any = picture.subfigures(rows, columns, squeeze=False)
    return list(made.flat)


def pair(part: Any, title: str) -> tuple[Axes, Axes]:
    """Two panels side by side with a common y axis, for ε and for β."""
    part.suptitle(title, fontsize=SIZE)
    left, right = part.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
    left.set_xscale("log")
    left.set_xlabel("ε", fontsize=SIZE)
    right.set_xlabel("β", fontsize=SIZE)
    right.set_xticks([b for b in BETAS if b == int(b)])
    for ax in (left, right):
        tidy(ax)
    return left, right


def sweep(axes: tuple[Axes, Axes], values: Tensor, i: int, style: str, label: str) -> None:
    """One line over all parameters: values (N, SWEEP)."""
    mean, error = mean_error(values)
    n = len(EPSILONS)
    look: dict[str, Any] = {
        "color": COLOURS[i % len(COLOURS)],
        "linestyle": style,
        "marker": MARKS[i % len(MARKS)],
        "label": label,
    }
    if style == "--":
        look["markerfacecolor"] = "white"
    for ax, x, part in zip(axes, (EPSILONS, BETAS), (slice(None, n), slice(n, None)), strict=True):
        ax.errorbar(x, mean[part], error[part], markersize=3.5, linewidth=1, capsize=2, **look)


def inside_maps(inside: dict[str, Tensor]) -> Figure:
    """How far Taylor moves the map of the pixels, against ε (log axis) and β: mean ± standard error over images.

    Three pairs of panels: the relative distance to the identity's map, of expansions of order 1 and 2; the rank
    correlation; the share of the score that ε absorbed. `inside["maps"]`: (N, SWEEP, PER_MAP).
    Raises `InputError`: another shape or no image.

    >>> len(inside_maps({"maps": torch.rand(3, len(SWEEP), len(PER_MAP))}).axes)
    6
    """
    values = checked(inside, "maps", (len(SWEEP), len(PER_MAP)))
    picture = sheet(7.6, 2.9)
    for part, (title, lines) in zip(parts(picture, 1, 3), OF_MAPS.items(), strict=True):
        axes = pair(part, title)
        for name, order in lines.items():
            drawn = values[:, :, list(PER_MAP).index(name)]
            sweep(axes, drawn, order - 1, "-", f"Taylor of order {order} in all normalizations")
        if "distance" in lines:
            axes[0].set_ylim(bottom=0)
    legend(picture, 4, f"mean ± standard error over {len(values)} images")
    return picture


def legend(picture: Figure, columns: int, title: str | None = None) -> None:
    """One for all panels, each text once, above them."""
    found: dict[str, Any] = {}
    for ax in picture.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    picture.legend(
        list(found.values()), list(found), loc="outside upper center", ncols=min(len(found), columns),
        fontsize=SMALL, frameon=False, title=title, title_fontsize=SMALL,
    )  # fmt: skip


def explained(main: Curves, inside: dict[str, Tensor]) -> Figure:
    """AUC(Taylor) − AUC(identity) of each image against the relative distance of its two maps, a panel a parameter.

    Each panel names Spearman's ρ between the two, and between the distance and the size of the difference. The last
    one shows the means of the parameters ± standard errors. `inside["maps"]`: (N, SWEEP, PER_MAP), of the first N
    images of `main`. Raises `InputError`: another shape, no image, or more than `main` has.

    >>> from relprop.evaluate import feature_deletion
    >>> x = torch.rand(4, 3)
    >>> maps = {Method(p, t).name: torch.rand(4, 3) for p in PARAMETERS for t in (IDENTITY, TAYLOR)}
    >>> curves = feature_deletion(lambda x: x.sum(1), x, maps, replace="zero")
    >>> len(explained(curves, {"maps": torch.rand(4, len(SWEEP), len(PER_MAP))}).axes)
    6
    """
    values = checked(inside, "maps", (len(SWEEP), len(PER_MAP)))
    if len(values) > len(main):
        raise InputError(f"inside has {len(values)} images, main only the first {len(main)} of them; run main on more")
    picture = sheet(7.6, 4.8)
    axes = picture.subplots(2, 3).flat
    points = {}
    for parameter in PARAMETERS:
        distance = values[:, list(SWEEP).index(parameter), list(PER_MAP).index("distance")].double()
        points[parameter] = distance, change(main, parameter, len(values))
    for ax, (parameter, (distance, difference)) in zip(axes, points.items(), strict=False):
        ax.scatter(distance, difference, s=6, alpha=0.5, linewidths=0, color=COLOURS[0])
        ax.set_title(f"{parameter}\n{correlations(distance, difference)}", fontsize=SIZE)
    means(axes[len(points)], points)
    for ax in axes:
        ax.axhline(0, color="0.4", linewidth=0.8)
        ax.locator_params(nbins=5)
        tidy(ax)
    picture.supxlabel(
        "relative distance of the two maps, ‖R(Taylor) − R(identity)‖ / ‖R(identity)‖\n"
        f"Δ: the difference of AUC; ρ of unrelated numbers is about ±{max(1, len(values) - 1) ** -0.5:.2f}",
        fontsize=SIZE,
    )
    picture.supylabel(f"AUC(Taylor) − AUC(identity), {judged(main)}; below 0: Taylor better", fontsize=SIZE)
    return picture


def judged(main: Curves) -> str:
    """The score, and how far the curves go unless to the end."""
    share = float(main.fraction[-1])
    return main.score if share == 1 else f"{main.score}, first {share:.1%} of the {main.unit}s"


def change(main: Curves, parameter: str, n: int) -> Tensor:
    """AUC(Taylor) − AUC(identity) of the first n images, (n,)."""
    taylor, identity = (main.auc(Method(parameter, t).name) for t in (TAYLOR, IDENTITY))
    return (taylor - identity)[:n].double()


def correlations(distance: Tensor, difference: Tensor) -> str:
    """Spearman's ρ of the distance with the difference, Δ, and with its size."""
    signed, size = (float(spearman(distance[None], t[None])) for t in (difference, difference.abs()))
    return f"ρ = {signed:.2f} with Δ, {size:.2f} with |Δ|".replace("-", "−")


def means(ax: Axes, points: dict[str, tuple[Tensor, Tensor]]) -> None:
    """The mean of both axes of each scatter."""
    for i, (parameter, both) in enumerate(points.items()):
        (x, x_error), (y, y_error) = ((m[0], e[0]) for m, e in (mean_error(t[:, None]) for t in both))
        ax.errorbar(
            x, y, y_error, x_error, color=COLOURS[i], marker=MARKS[i], label=parameter, markersize=4, linestyle="none",
            linewidth=1, capsize=2,
        )  # fmt: skip
    n = len(next(iter(points.values()))[0])
    ax.set_title(f"means of {n} images\n± standard error", fontsize=SIZE)
    ax.legend(fontsize=SMALL, frameon=False)


def checked(inside: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """One of the arrays, (N, *shape). Raises `InputError`."""
    values = inside.get(name)
    if values is None or tuple(values.shape[1:]) != shape or len(values) == 0:
        found = "missing" if values is None else f"of shape {tuple(values.shape)}"
        raise InputError(
            f"inside[{name!r}] is {found}; give (images, {', '.join(map(str, shape))}), at least one image"
        )
    return values


def mean_error(values: Tensor) -> tuple[list[float], list[float]]:
    """Means over the first dimension of (N, K) with their standard errors, 0 for a single sample."""
    exact, n = values.double(), len(values)
    error = exact.std(0) / n**0.5 if n > 1 else torch.zeros_like(exact[0])
    return exact.mean(0).tolist(), error.tolist()


def sheet(width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained") -> Figure:
    """An empty figure of this many inches. Not of pyplot: no window system, no list of figures left to be closed.

    Raises `InputError` if matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "figures are drawn with matplotlib, which is not installed: pip install 'relprop[show]'"
        ) from error
    picture = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(picture)
    return picture


def tidy(ax: Axes) -> None:
    """Small ticks, a pale grid, no box."""
    ax.tick_params(labelsize=SMALL, length=2.5)
    ax.grid(color="0.92", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
