"""The report in Markdown, from the tables alone; it states what was measured and says where the paper's signs hold."""

from __future__ import annotations

import math
from typing import Any

from relprop.evaluate import Estimate

from .methods import IDENTITY, PARAMETERS, TAYLOR, Method
from .neighbours import PER_LAYER, PER_MAP
from .tables import ALL, EIGHTH, SURE

Table = dict[str, Any]


def cell(value: Table) -> str:
    """mean ± error."""
    return str(Estimate(value["mean"], math.nan if value["error"] is None else value["error"], value["n"]))


def rows(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""
    texts = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in texts)


def beside(values: dict[str, Table]) -> str:
    """Differences with the paper's on each data set, and the verdicts."""
    sets = list(next(iter(values.values()))["paper"])
    lines = [[name, cell(v), *(f"{v['paper'][s]:+.2f}: {v['verdict'][s]}" for s in sets)] for name, v in values.items()]
    return rows(["difference of AUC", "measured", *(f"paper, {s}" for s in sets)], lines)


def order(found: Table) -> str:
    """Both orders, and how sure each step is."""
    lines = []
    for treatment, o in found.items():
        steps = ", ".join(f"{s['from']} → {s['to']}: {cell(s)}" for s in o["steps"])
        same = "the paper's order" if o["same"] else f"the paper's is {' < '.join(o['paper'])}"
        lines.append(f"- {treatment}: {' < '.join(o['measured'])}; {same}. Steps, paired: {steps}.")
    return "\n".join(lines)


def symmetric(found: Table) -> str:
    """SRG by parameter and treatment, and what Taylor changes."""
    srg, gain = found["SRG"], found["Taylor − identity"]
    lines = [
        [p, cell(srg[Method(p, IDENTITY).name]), cell(srg[Method(p, TAYLOR).name]), cell(gain[p])] for p in PARAMETERS
    ]
    return rows(["", "SRG, identity", "SRG, Taylor", "Taylor − identity"], lines)


def beyond(found: dict[str, Table]) -> str:
    """Differences to the identity: treatments as columns."""
    kinds = list(next(iter(found.values())))
    return rows(["AUC − AUC(identity)", *kinds], [[p, *(cell(v) for v in row.values())] for p, row in found.items()])


def inside_layers(found: Table) -> str:
    """Per parameter and normalization."""
    first = next(iter(found.values()))["layers"]
    names = list(next(iter(first.values())))
    lines = [
        [p, layer, *(f"{v['mean']:.4f}" for v in values.values())]
        for p, parts in found.items()
        for layer, values in parts["layers"].items()
    ]
    return rows(["", "normalization", *(n.replace("_", " ") for n in names)], lines)


def inside_maps(found: Table) -> str:
    """Per parameter: how far the two maps are apart."""
    names = list(next(iter(found.values()))["maps"])
    lines = []
    for p, parts in found.items():
        lines.append([p, *(f"{v['mean']:.4f}" for v in parts["maps"].values())])
    return rows(["", *names], lines)


def agreement(t: Table) -> str:
    """Whether images whose map changes more are those whose AUC changes more."""
    lines = [
        [
            p,
            *(
                f"{t[length]['ΔAUC and distance'][p][k]:+.2f}"
                for length in (ALL, EIGHTH)
                for k in ("signed", "absolute")
            ),
        ]
        for p in PARAMETERS
    ]
    kinds = [f"distance and {change}, {length}" for length in (ALL, EIGHTH) for change in ("ΔAUC", "its size")]
    return rows(["Spearman's ρ of", *kinds], lines)


def by_length(found: dict[str, Table]) -> str:
    """AUC(Taylor) − AUC(identity), one line a share of flipped pixels."""
    lines = [[f"{float(share):.1%}", *(cell(v) for v in values.values())] for share, values in found.items()]
    return rows(["flipped", *PARAMETERS], lines)


def bad_images(about: Table) -> str:
    found = about["bad images"]
    if not found:
        return "Every image could be read."
    listed = "\n".join(f"- `{name}`: {reason}" for name, reason in found[:20])
    more = f"\n- and {len(found) - 20} more" if len(found) > 20 else ""
    return f"{len(found)} file(s) that are no readable images were skipped:\n\n{listed}{more}"


def tables_of(t: Table, figures: str) -> str:
    """Tables 1 to 3, the order and all methods, of curves of one length."""
    table_1 = rows(
        ["rule for basic layers", "normalization", "AUC measured", "AUC in the paper"],
        [[*name.split(", "), cell(v), f"{v['paper']:.2f}"] for name, v in t["table 1"]["auc"].items()],
    )
    return f"""### Table 1

{table_1}

Taylor − identity:

{beside(t["table 1"]["Taylor − identity"])}

### Table 2

With local normalization as the identity:

{beside(t["table 2"][IDENTITY])}

With the Taylor expansion:

{beside(t["table 2"][TAYLOR])}

Parameters from the lowest (best) AUC up:

{order(t["order"])}

![AUC of all methods](order{figures}.png)

### Table 3

AUC(Taylor) − AUC(identity):

{beside(t["table 3"])}

![differences](differences{figures}.png)

All methods:

{rows(["method", "AUC"], [[name, cell(v)] for name, v in t["AUC"].items()])}

### Beyond the paper

Symmetric relevance gain, AUC lowest first − AUC highest first (higher is better), on the first images:

{symmetric(t["symmetric relevance gain"])}

Change of AUC against the identity on these images, by the expansion in all normalizations, of the second order, and in
one normalization alone:

{beyond(t["beyond"])}"""


def markdown(t: Table) -> str:
    """The whole report."""
    about = t["about"]
    right = "" if about["accuracy"] is None else f" It predicts the label of {about['accuracy']:.2%} of them."
    legend = "\n".join(f"- **{n.replace('_', ' ')}**: {text}" for n, text in (PER_LAYER | PER_MAP).items())
    return f"""# Binder et al. 2016: local renormalization layers, by pixel flipping

Network `{about["model"]}` (weights {about["weights"]}), {about["images"]} images.{right} {bad_images(about)}

Whole pixels are replaced by random colours, highest relevance first; the score is the predicted class's logit, on
average {cell(about["mean score"])} for the unchanged images. AUC is the mean score over the share of replaced pixels
({about["points"]} points from 0 to 1, denser at the beginning), so it is in units of the logit; lower is better.
The paper states neither the unit of its AUC nor how many pixels it flips: signs and orders can be compared, sizes
cannot. The tables are therefore given twice, for all pixels, and for the first eighth of them, in which the score
falls. Mean ± standard error over images; differences are paired. What is within {SURE:g} standard errors of 0 is
called not distinguishable from 0; of so many comparisons, one in twenty would pass by chance alone. Beyond the paper:
the first {about["images of the smaller studies"]} images.

AUC(Taylor) − AUC(identity) by the share of flipped pixels:

{by_length(t["by length"])}

How it was done: {"; ".join(about["settings"])}; relprop {about["relprop"]}, torch {about["torch"]}. Every image has one
draw of colours and one random order: standard errors are those over images.

## Figures 1 to 3

![figure 1](figure1.png)

![figure 2](figure2.png)

![figure 3](figure3.png)

## The first eighth of the pixels

{tables_of(t[EIGHTH], "_eighth")}

## All pixels

{tables_of(t[ALL], "")}

## What happens at the normalizations

First {about["images inside"]} images; R arrives at the outputs of a normalization, R' leaves at its inputs.

{legend}

{inside_layers(t["inside"])}

![at the normalizations](inside_layers.png)

{inside_maps(t["inside"])}

![the maps](inside_maps.png)

{agreement(t)}

![change of AUC and of the map](explained.png)
"""
