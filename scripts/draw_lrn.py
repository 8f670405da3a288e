"""The figures of docs/lrn.md: how near the expansions of local response normalization come, and what neighbours get.

    python scripts/draw_lrn.py [-o docs/figures]

Values, shares and orders are those of the library: y by `ops.local_response_norm`, shares by `rules.lrn_taylor`, and
the sum of messages as Σ_j z_jk = y_k(z₂) / v_kk. Writes lrn_expansion.png and lrn_shares.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from relprop import ops, rules
from relprop.rules import Call

B, KAPPA = 0.5, 1.0
EXACT, FIRST, SECOND = "#000000", "#d95f02", "#4b1d8f"
STYLES = {1: (FIRST, "first order"), 2: (SECOND, "second order")}


def own_share(x: Tensor, c: float, order: int) -> Tensor:
    """v_11 for every row of x, (rows, channels), all channels in one window."""
    args = (x.shape[1], x.shape[1], B, c, KAPPA)
    R = torch.zeros_like(x).index_fill(1, torch.tensor(0), 1.0)
    f = Call("local_response_norm", (x, *args), ops.local_response_norm(x, *args))
    return rules.lrn_taylor(R, f, order=order)[:, 0]


def first_output(x: Tensor, c: float) -> Tensor:
    """y_1 for every row of x."""
    return ops.local_response_norm(x, x.shape[1], x.shape[1], B, c, KAPPA)[:, 0]


def neighbour_share(x: Tensor) -> Tensor:
    """u = T / S of neuron 1 for every row of x."""
    T = B * x[:, 1:].square().sum(1)
    return T / (KAPPA + B * x[:, 0].square() + T)


def expansion(c: float = 0.75) -> Figure:
    """y_1 of x = (1, 2t, −t), and the sums of messages that stand for it."""
    t = torch.linspace(0, 4, 401, dtype=torch.float64)
    x = torch.stack([torch.ones_like(t), 2 * t, -t], 1)
    alone = first_output(x * torch.tensor([1.0, 0.0, 0.0]), c)
    curves = [(alone, "0.5", "neuron 1 alone, $y_1(z_2)$"), (first_output(x, c), EXACT, "exact, $y_1(x)$")]
    curves += [
        (alone / own_share(x, c, order), colour, f"$\\Sigma_j z_{{j1}}$, {label}")
        for order, (colour, label) in STYLES.items()
    ]
    figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    for y, colour, label in curves:
        axes.plot(t, y, color=colour, lw=2.2 if colour == EXACT else 1.5, ls=":" if colour == "0.5" else "-")
        axes.annotate(label, (4, float(y[-1])), xytext=(5, -3), textcoords="offset points", color=colour, fontsize=9)
    axes.axvline(1, color="0.8", lw=1, zorder=0)
    axes.annotate("x = (1, 2, −1)", (1, 0.02), xytext=(4, 0), textcoords="offset points", fontsize=8, color="0.4")
    axes.set(xlabel="strength t of the neighbours, x = (1, 2t, −t)", ylabel="output of neuron 1")
    axes.set(xlim=(0, 4), ylim=(0, 0.8))
    axes.spines["right"].set_visible(False)
    above(axes, [0.5, 1, 2, 3, 4])
    return figure


def above(axes: Axes, ticks: list[float]) -> None:
    """The values of u that belong to these t, on an axis of their own."""
    top = axes.secondary_xaxis("top", functions=(lambda v: v, lambda v: v))
    at = neighbour_share(torch.tensor([[1.0, 2 * t, -t] for t in ticks]))
    top.set_xticks(ticks, [f"{float(u):.2f}" for u in at])
    top.set_xlabel("u = T / S, their part of the denominator", fontsize=9)


def shares(exponents: tuple[float, ...] = (0.5, 0.75, 1.0)) -> Figure:
    """What the neighbours get together, −Σ_{j≠k} v_jk = v_kk − 1, over u."""
    u = torch.linspace(0, 0.9999, 2000, dtype=torch.float64)
    x = torch.stack([torch.ones_like(u), (u / (1 - u) * (KAPPA + B) / B).sqrt()], 1)  # so that T / S = u
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    for order, (colour, label) in STYLES.items():
        for c, style in zip(exponents, (":", "-", "--"), strict=True):
            taken = own_share(x, c, order) - 1
            peak = int(taken.argmax())
            axes.plot(u, taken, color=colour, ls=style, label=f"{label}, c = {c}")
            axes.plot(u[peak], taken[peak], "o", color=colour, ms=4)
    axes.set(xlabel="u = T / S", ylabel="−(shares of all neighbours)", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the figures of docs/lrn.md.")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent.parent / "docs" / "figures")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in (("expansion", expansion()), ("shares", shares())):
        path = folder / f"lrn_{name}.png"
        figure.savefig(path, dpi=130, metadata={"Software": None})
        print(path)


if __name__ == "__main__":
    main()
