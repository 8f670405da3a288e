"""The picture: time in gradients, a panel a model, a group a recipe, a bar a library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .results import Row
from .subjects import KINDS

COLOURS = {"relprop": "#0072b2", "zennit": "#e69f00", "captum": "#009e73", "lxt": "#cc79a7", "autolrp": "#999999"}
PANELS = 2  # in a row
WIDTH = 0.2  # of a bar; groups are 1 apart
THIN = {"linewidth": 0.8}


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
    """Bars of a group stand side by side around its place; the line across them is relprop's FLOPs."""
    ours_first = sorted(rows, key=lambda r: (r.library != "relprop", r.variant != ""))
    groups = list(dict.fromkeys((r.recipe, r.variant) for r in ours_first))
    for at, group in enumerate(groups):
        mine = [r for library in COLOURS for r in rows if (r.library, r.recipe, r.variant) == (library, *group)]
        for place, row in enumerate(mine):
            low, middle, high = row.time_ratio or (0.0, 0.0, 0.0)
            x = at + WIDTH * (place - (len(mine) - 1) / 2)
            error = [[middle - low], [high - middle]]
            ax.bar(x, middle, WIDTH, yerr=error, color=COLOURS[row.library], label=row.library, error_kw=THIN)
            if row.library == "relprop" and row.flop_ratio:
                ax.hlines(row.flop_ratio, at - 0.45, at + 0.45, color="black", linewidth=1.2, label="relprop's FLOPs")
    ax.axhline(1, color="black", linewidth=0.6, linestyle=":")
    ax.set_xticks(range(len(groups)), [_label(*group) for group in groups], fontsize=7)
    ax.set_xlim(-0.6, len(groups) - 0.4)
    ax.set_ylabel("time × gradient", fontsize=8)
    ax.tick_params(axis="y", labelsize=8)


def _label(recipe: str, variant: str) -> str:
    """In lines short enough to stand beside each other."""
    words = recipe.split("_") if len(recipe) > 10 else [recipe]
    return "\n".join(filter(None, (*words, variant)))
