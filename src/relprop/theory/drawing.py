"""Root points at neurons with two inputs, as a picture (Montavon et al. 2019, figure 10.3 d)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError
from .roots import root

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# both positive, mixed sign, mixed sign with a data point nearer to the hinge
NEURONS = ((1.0, 0.5), (1.0, -0.6), (-0.9, 1.0))
# rule, marker, colour (told apart with any colour vision), name
SHOWN = (
    ("zero", "s", "#d55e00", "LRP-0"),
    ("epsilon", "^", "#0072b2", "LRP-ε"),
    ("gamma", "D", "#009e73", "LRP-γ"),
)


def root_points(
    neurons: Sequence[Sequence[float]] = NEURONS,
    a: Sequence[float] = (1.0, 1.2),
    *,
    b: float = 0.0,
    epsilon: float = 0.5,
    gamma: float = 1.0,
) -> Figure:
    """One panel a neuron: its activation over the plane of its two inputs, its hinge, a, and three root points.

    `neurons`: weights (w_1, w_2), one pair a panel. `a`: the data point, both >= 0. `b`: the bias of all neurons, part
    of the expansion. Under each panel stands ‖ã − a‖ of LRP-0, LRP-ε with this absolute ε, and LRP-γ. A neuron that is
    not active at a is refused: it has nothing to explain. Source: Montavon et al. 2019, figure 10.3 (d).
    Raises `InputError`, also where matplotlib is not installed.

    >>> len(root_points(((1.0, 0.5), (1.0, -0.5)), (1.0, 1.0)).axes)
    2
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "root_points() draws with matplotlib, which is not installed; pip install relprop[show]"
        ) from error
    at = torch.tensor([list(a)], dtype=torch.float64)
    weights = [torch.tensor(list(w), dtype=torch.float64)[:, None] for w in neurons]
    if at.shape != (1, 2) or not weights or any(w.shape != (2, 1) for w in weights) or bool((at < 0).any()):
        raise InputError("neurons are pairs of weights (w_1, w_2), and a is a pair of activations >= 0")
    bias = torch.tensor([b], dtype=torch.float64)
    for w in weights:
        if float(at @ w + bias) <= 0:
            raise InputError(f"the neuron with weights {tuple(w[:, 0].tolist())} is not active at a = {tuple(a)}")
    # not of pyplot: no window system, no list of figures left to be closed
    picture = Figure(figsize=(2.9 * len(weights), 3.5), layout="constrained")
    FigureCanvasAgg(picture)
    parameters: dict[str, dict[str, Any]] = {"epsilon": {"epsilon": epsilon}, "gamma": {"gamma": gamma}}
    axes = picture.subplots(1, len(weights), squeeze=False)[0]
    reach = 1.5 * float(at.max())
    for ax, w in zip(axes, weights, strict=True):
        _panel(ax, at, w, bias, parameters, reach)
    axes[0].set_ylabel("$a_2$")
    handles, labels = axes[0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8, frameon=False)
    return picture


def _panel(ax: Axes, a: Tensor, w: Tensor, b: Tensor, parameters: dict[str, dict[str, Any]], reach: float) -> None:
    side = torch.linspace(-0.3 * reach, reach, 201, dtype=torch.float64)
    x, y = torch.meshgrid(side, side, indexing="xy")
    z = (w[0] * x + w[1] * y + b).numpy()
    shade, line = "Greys", "0.35"
    levels = [z.max() * i / 8 for i in range(9)]
    ax.contourf(x.numpy(), y.numpy(), z.clip(min=0), levels=levels, cmap=shade, alpha=0.55)
    ax.contour(x.numpy(), y.numpy(), z, levels=[0.0], colors=line, linewidths=1.4, linestyles="--")
    ax.plot([], [], color=line, linewidth=1.4, linestyle="--", label="hinge")
    ax.axhline(0, color="0.6", linewidth=0.6)
    ax.axvline(0, color="0.6", linewidth=0.6)
    distances = []
    for rule, marker, colour, name in SHOWN:
        found = root(rule, a, w, b, **parameters.get(rule, {}))
        p, q = found.point[0, :, 0].tolist()
        ax.plot([a[0, 0], p], [a[0, 1], q], color=colour, linewidth=1.2)
        # one may lie on another: each is larger than the next and open
        size = {"s": 10.0, "^": 8.0, "D": 5.0}[marker]
        ax.plot(p, q, marker, color=colour, markersize=size, markerfacecolor="none", markeredgewidth=1.6, label=name)
        distances.append(f"{name} {float(found.distance(a)):.2f}")
    ax.plot(a[0, 0], a[0, 1], "o", color="black", markersize=6, label="data point a")
    ax.set_aspect("equal")
    ax.set_xlabel("$a_1$\n‖ã − a‖:   " + "   ".join(distances), fontsize=7.5)
    ax.set_title(f"w = ({w[0, 0]:g}, {w[1, 0]:g})", fontsize=9)
    ax.tick_params(labelsize=7)
