"""The picture: time in gradients, a panel a model, a group a recipe, a bar a library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .results import Row
from .subjects import KINDS

COLOURS = {"relprop": "#0072b2", "zennit": "#e69f00", "captum": "#009e73", "lxt": "#cc79a7", "autolrp": "#999999"}
PANELS = 2  # in a row


def draw(rows: list[Row], file: Path) -> None:
    """A PNG; nothing, and no file of an earlier run, where no time was measured."""
    from matplotlib.figure import Figure

    timed = [r for r in rows if r.time_ratio and r.library in COLOURS]
    panels = list(dict.fromkeys((r.device, r.subject) for r in timed))
    if not panels:
        file.unlink(missing_ok=True)
        return
    lines = -(-len(panels) // PANELS)
    figure = Figure(figsize=(11, 2.6 * lines + 0.6), layout="constrained")
    axes = figure.subplots(lines, PANELS, squeeze=False).flatten()
    for ax, (device, subject) in zip(axes, panels, strict=False):
        _panel(ax, [r for r in timed if (r.device, r.subject) == (device, subject)])
        ax.set_title(f"{KINDS[subject].title}, {device.upper()}", fontsize=10)
    for ax in axes[len(panels) :]:
        ax.axis("off")
    handles = {label: h for ax in axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, metadata={"Software": None})


def _panel(ax: Any, rows: list[Row]) -> None:
    groups = list(dict.fromkeys((r.recipe, r.variant) for r in sorted(rows, key=lambda r: r.library != "relprop")))
    width = 0.8 / len(COLOURS)
    for place, (library, colour) in enumerate(COLOURS.items()):
        mine = [r for r in rows if r.library == library]
        if not mine:
            continue
        low, middle, high = zip(*(r.time_ratio for r in mine if r.time_ratio), strict=True)
        x = [groups.index((r.recipe, r.variant)) + width * (place - (len(COLOURS) - 1) / 2) for r in mine]
        errors = [[m - a for a, m in zip(low, middle, strict=True)], [b - m for b, m in zip(high, middle, strict=True)]]
        ax.bar(x, middle, width, yerr=errors, color=colour, label=library, error_kw={"linewidth": 0.8})
    flops = {(r.recipe, r.variant): r.flop_ratio for r in rows if r.library == "relprop" and r.flop_ratio}
    for at, group in enumerate(groups):
        if group in flops:
            ax.hlines(flops[group], at - 0.45, at + 0.45, color="black", linewidth=1.2, label="relprop's FLOPs")
    ax.axhline(1, color="black", linewidth=0.6, linestyle=":")
    names = ["\n".join(filter(None, group)).replace("_", "\n_", 1) for group in groups]
    ax.set_xticks(range(len(groups)), names, fontsize=7)
    ax.set_ylabel("time × gradient", fontsize=8)
    ax.tick_params(axis="y", labelsize=8)
