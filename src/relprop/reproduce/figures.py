"""The figures of `relprop reproduce binder2016`, one function a figure; what happens inside is in `figures_inside`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from relprop import show
from relprop.errors import InputError
from relprop.evaluate import Curves
from relprop.evaluate.estimate import Estimate, estimate
from relprop.show.heatmap import RGB, rgb

from .figures_inside import COLOURS, MARKS, SIZE, SMALL, judged, legend, mean_error, sheet, tidy
from .methods import IDENTITY, PARAMETERS, SECOND, TAYLOR, Method
from .subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["differences", "figure1", "figure2", "figure3", "order"]

MOST = 8  # photos side by side that can still be seen
MOST_LETTERS = 14  # of a line over or under a photo
# the paper's red, blue and green, in shades that are told apart with any colour vision, and a line of its own for each
ORDERS = {
    "highest": ("#cc3311", "-", "highest first"),
    "random": ("#0077bb", ":", "random order"),
    "lowest": ("#009e73", "--", "lowest first"),
}
SHOWN = Method("ε=0.01", TAYLOR)
DRAWN = Method("ε=0.01", IDENTITY).name  # the method of the paper's Fig. 2


def figure1(subject: Subject, photos: Tensor, names: Sequence[str], *, method: Method = SHOWN) -> Figure:
    """Photos over their maps, as the paper's Fig. 1: predicted class and its score above, the map's scale below.

    `photos`: 1 to 8 inputs of the model, (N, 3, H, W); `names`: one each. Red speaks for the class, blue against it;
    each map has its own scale. Raises `InputError`: no photos, too many, or another number of names.
    """
    checked(photos, names)
    target = subject.predicted(photos)
    e = subject.explainer(method, photos)(photos, target=target)
    picture, axes = grid(2, len(photos), 0.2, 1.35)
    picture.suptitle(f"Pixel-wise decomposition, {method.name}", fontsize=SIZE + 1)
    for i, column in enumerate(axes.T):
        frame(column[0], rgb(subject.visible(photos[i])))
        column[0].set_title(f"{class_name(subject, int(target[i]))}\nlogit {float(e.score[i]):.3g}", fontsize=SIZE)
        column[0].set_xlabel(short(names[i]), fontsize=SMALL)
        frame(column[1], show.heatmap(e.relevance[i]))
        column[1].set_xlabel(f"±{show.scale(e.relevance[i]):.2g}", fontsize=SMALL)
    picture.supxlabel(
        "red: for the class, blue: against it, white: 0\n"
        "each map on its own scale: full colour at the relevance below it, in units of the logit", fontsize=SMALL,
    )  # fmt: skip
    return picture


def figure3(subject: Subject, photos: Tensor, names: Sequence[str]) -> Figure:
    """The paper's Fig. 3: photos in the top row, under each its maps by the ten methods, each on its own scale.

    `photos`: 1 to 8 inputs of the model, (N, 3, H, W); `names`: one each. Raises `InputError` as `figure1`.
    """
    checked(photos, names)
    target = subject.predicted(photos)
    methods = [Method(p, t) for p in PARAMETERS for t in (IDENTITY, TAYLOR)]
    picture, axes = grid(1 + len(methods), len(photos), 1.05, 0.8)
    for i, ax in enumerate(axes[0]):
        frame(ax, rgb(subject.visible(photos[i])))
        ax.set_title(f"{short(names[i])}\n{class_name(subject, int(target[i]))}", fontsize=SMALL)
    for row, method in zip(axes[1:], methods, strict=True):
        relevance = subject.explainer(method, photos)(photos, target=target).relevance
        for ax, r in zip(row, relevance, strict=True):
            frame(ax, show.heatmap(r))
        row[0].set_ylabel(method.name, fontsize=SIZE, rotation=0, ha="right", va="center")
    picture.supxlabel(
        "red: for the predicted class (last line above a photo), blue: against it, white: 0\n"
        "each map on its own scale, full colour at its largest |R|", fontsize=SMALL,
    )  # fmt: skip
    return picture


def figure2(main: Curves, lowest: Curves) -> Figure:
    """Mean score against flipped pixels, as the paper's Fig. 2, for the method "ε=0.01, identity".

    Red: highest relevance first, blue: random order, green: lowest first; bands of ± one standard error. Over the
    images of `lowest`, which must be the first of `main`. Raises `InputError`: they are not, or lack a curve.
    """
    n = firsts(main, lowest, "lowest")
    curves = {"highest": main.of(DRAWN, "highest"), "random": main.of("random"), "lowest": lowest.of(DRAWN, "lowest")}
    picture = sheet(6, 3.8)
    ax = picture.subplots()
    share = (100 * main.fraction).tolist()
    for name, values in curves.items():
        colour, style, label = ORDERS[name]
        mean, error = mean_error(values[:n])
        ax.plot(share, mean, style, color=colour, label=label, linewidth=1.6)
        low, high = ([m + sign * e for m, e in zip(mean, error, strict=True)] for sign in (-1, 1))
        ax.fill_between(share, low, high, color=colour, alpha=0.2, linewidth=0)
    ax.set_title(f"{DRAWN}; n = {n} images, bands ± standard error", fontsize=SIZE + 1)
    ax.set_xlabel(f"flipped {main.unit}s (%)", fontsize=SIZE)
    ax.set_ylabel(f"mean {main.score} of the predicted class", fontsize=SIZE)
    ax.set_xlim(0, 100)
    ax.legend(fontsize=SIZE, frameon=False)
    tidy(ax)
    return picture


def order(main: Curves) -> Figure:
    """Mean AUC of every method, best first; identity hollow, Taylor filled, the random order a dotted line.

    Bars: ± the standard error of the difference to the best method, image by image, which is what tells two methods
    apart; the spread between images is far larger and common to all. Raises `InputError`: no random order.
    """
    means = {m: main.mean("auc", m).mean for m in main.methods}
    ranked = sorted(means, key=lambda m: means[m])
    picture = sheet(6.4, 1.3 + 0.24 * len(ranked))
    ax = picture.subplots()
    for i, m in enumerate(ranked):
        error = main.difference(m, ranked[0]).error if i and len(main) > 1 else 0.0
        colour = COLOURS[0] if m.startswith("ε") else COLOURS[1]
        fill = "white" if m.endswith(f", {IDENTITY}") else colour
        ax.errorbar(
            means[m], i, xerr=error, color=colour, marker="o", markersize=5.5, markerfacecolor=fill, capsize=2.5,
            linestyle="none", linewidth=1,
        )  # fmt: skip
    random = main.mean("auc", "random").mean
    ax.axvline(random, color="0.3", linestyle=":", linewidth=1.2)
    ax.annotate("random order", (random, 1), (3, 2), ("data", "axes fraction"), "offset points", fontsize=SMALL)
    ax.set_yticks(range(len(ranked)), ranked)
    ax.invert_yaxis()
    tidy(ax)
    ax.set_title(f"{len(main)} images; hollow: identity, filled: Taylor", fontsize=SIZE + 1, pad=14)
    ax.set_xlabel(
        f"mean AUC ({judged(main)}), highest first: lower is better\n"
        "bars: ± standard error of the paired difference to the best", fontsize=SIZE,
    )  # fmt: skip
    return picture


def differences(main: Curves, variants: Curves | None, labels: Sequence[str] = ()) -> Figure:
    """AUC(Taylor) − AUC(identity) by parameter, mean ± standard error over images; negative: Taylor is better.

    Left: first order in all normalizations, all images. Right, on the images of `variants`, which must be the first of
    `main`: the same again, the second order, and Taylor in one normalization alone; None: no right panel. `labels`:
    what the single normalizations are called, in their order. Raises `InputError`: `variants` or `labels` do not fit.
    """
    everywhere = {p: main.difference(Method(p, TAYLOR).name, Method(p, IDENTITY).name) for p in PARAMETERS}
    columns = 1 if variants is None else 2
    picture = sheet(*(4.6, 2.8) if columns == 1 else (7.4, 4.4))
    axes = picture.subplots(1, columns, sharex=True, sharey=True, squeeze=False)[0]
    draw_changes(axes[0], {"order 1 in all": everywhere})
    axes[0].set_title(f"Taylor in all normalizations, {len(main)} images", fontsize=SIZE)
    if variants is not None:
        n = firsts(main, variants, "variants")
        draw_changes(axes[1], {"order 1 in all": paired(main, main, n, TAYLOR)} | single(main, variants, n, labels))
        axes[1].set_title(f"order and place of Taylor, the first {n} images", fontsize=SIZE)
        legend(picture, 3)
    axes[0].set_yticks(range(len(PARAMETERS)), PARAMETERS)
    axes[0].set_ylim(len(PARAMETERS) - 0.5, -0.5)
    for ax in axes:
        ax.axvline(0, color="0.4", linewidth=0.8)
        ax.locator_params(axis="x", nbins=6)
        tidy(ax)
    picture.supxlabel(
        f"AUC(Taylor) − AUC(identity), {judged(main)}\nmean ± standard error over images; left of 0: Taylor better",
        fontsize=SIZE,
    )
    return picture


def single(main: Curves, variants: Curves, n: int, labels: Sequence[str]) -> dict[str, dict[str, Estimate]]:
    """What was tried beyond the paper: the second order, and each normalization alone."""
    head = Method(PARAMETERS[0], TAYLOR, "-").name[:-1]
    layers = [m.removeprefix(head) for m in variants.methods if m.startswith(head)]
    if labels and len(labels) < len(layers):
        raise InputError(f"labels has {len(labels)} texts for {len(layers)} normalizations; give one each")
    series = {"order 2 in all": paired(main, variants, n, SECOND)}
    for layer, label in zip(layers, labels or layers, strict=False):
        series[f"order 1 in {label} alone"] = paired(main, variants, n, TAYLOR, layer)
    return series


def paired(main: Curves, other: Curves, n: int, treatment: str, layer: str = "") -> dict[str, Estimate]:
    """AUC of a treatment in `other` − AUC of the identity in `main`, over the first n images, by parameter."""
    return {
        p: estimate(other.auc(Method(p, treatment, layer).name)[:n] - main.auc(Method(p, IDENTITY).name)[:n])
        for p in PARAMETERS
    }


def draw_changes(ax: Axes, series: dict[str, dict[str, Estimate]]) -> None:
    """One marker a series and parameter; the parameters are rows, the series lie side by side within a row."""
    step = min(0.15, 0.8 / len(series))
    for i, (label, found) in enumerate(series.items()):
        rows = [k + step * (i - (len(series) - 1) / 2) for k in range(len(found))]
        errors = [e.error if e.n > 1 else 0.0 for e in found.values()]
        ax.errorbar(
            [e.mean for e in found.values()], rows, xerr=errors, linestyle="none", linewidth=1, capsize=2, label=label,
            color=COLOURS[i % len(COLOURS)], marker=MARKS[i % len(MARKS)], markersize=4,
        )  # fmt: skip


def firsts(main: Curves, other: Curves, name: str) -> int:
    """How many images `other` has, which are the first of `main` and were flipped alike. Raises `InputError`."""
    n = len(other)
    if not torch.equal(main.index[:n], other.index) or not torch.equal(main.counts, other.counts):
        raise InputError(f"{name} is not of the first images of main, flipped at the same steps; run both on one set")
    return n


def checked(photos: Tensor, names: Sequence[str]) -> None:
    """Raises `InputError` unless there are 1 to MOST photos, each with a name."""
    if photos.dim() != 4 or not 1 <= len(photos) <= MOST:
        raise InputError(f"photos has shape {tuple(photos.shape)}; give 1 to {MOST} inputs, (N, 3, H, W)")
    if len(names) != len(photos):
        raise InputError(f"names has {len(names)} texts for {len(photos)} photos; give one each")


def grid(rows: int, columns: int, beside: float, around: float) -> tuple[Figure, Any]:
    """A sheet of small pictures and its grid of axes, with inches for the texts beside, and above and below them."""
    side = min(1.3 if rows == 2 else 0.85, 6.4 / columns)
    picture = sheet(max(4.4, (side + 0.04) * columns + beside), (side + 0.06) * rows + around, "compressed")
    return picture, picture.subplots(rows, columns, squeeze=False)


def frame(ax: Axes, image: RGB) -> None:
    """An image in a thin frame, without interpolation or ticks."""
    ax.imshow(image, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(linewidth=0.5, color="0.6")


def class_name(subject: Subject, k: int) -> str:
    """What the model calls class k, or the beginning of it."""
    text = subject.classes[k] if k < len(subject.classes) else f"class {k}"
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 1] + "…"


def short(name: str) -> str:
    """The end of an image's name, folder over file, each as long as fits over a photo.

    >>> short("test/frog/0001.jpg").splitlines(), short("ILSVRC2012_val_00000293.JPEG")
    (['frog/', '0001.jpg'], '…00000293.JPEG')
    """
    *folders, file = name.split("/")
    lines = [*(f"{folder}/" for folder in folders[-1:]), file]
    return "\n".join(t if len(t) <= MOST_LETTERS else "…" + t[1 - MOST_LETTERS :] for t in lines)
