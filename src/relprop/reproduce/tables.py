"""Tables 1 to 3 of Binder et al. 2016 beside what was measured, and the tables of what happens inside."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch

from relprop.evaluate import Curves, Estimate, estimate

from .binder2016 import Measured
from .methods import IDENTITY, PARAMETERS, SWEEP, TAYLOR, Method
from .neighbours import PER_LAYER, PER_MAP, spearman

# The paper's figures. AUC in a unit it does not state: signs and orders can be compared, sizes cannot.
TABLE_1 = {("ε=0.01", IDENTITY): 37.10, ("ε=0.01", TAYLOR): 35.47, ("β=1", IDENTITY): 56.13, ("β=1", TAYLOR): 53.82}
PAIRS_2 = (("ε=1", "ε=0.01"), ("ε=0.01", "ε=100"), ("ε=1", "β=1"), ("β=1", "β=0"))
TABLE_2 = {
    IDENTITY: {"ImageNet": (-21.29, 2.75, -42.61, -49.07), "MIT Places": (-20.19, 12.91, -14.55, -49.37)},
    TAYLOR: {"ImageNet": (-12.29, -41.75, -34.44, -50.76), "MIT Places": (-11.65, -22.55, -8.82, -48.7)},
}
TABLE_3 = {"ImageNet": (-35.84, -26.84, 8.47, 0.29, 1.98), "MIT Places": (-33.13, -24.59, 5.34, -0.39, -1.06)}
ORDER = {
    IDENTITY: ("ε=1", "ε=100", "ε=0.01", "β=1", "β=0"),
    TAYLOR: ("ε=1", "ε=0.01", "ε=100", "β=1", "β=0"),
}
LENGTHS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
ALL, EIGHTH = "all pixels", "first eighth"
SURE = 2.0  # standard errors from 0


def number(e: Estimate) -> dict[str, Any]:
    """For JSON, which knows no NaN: the error of a single image is None."""
    return {"mean": e.mean, "error": None if math.isnan(e.error) else e.error, "n": e.n}


def verdict(e: Estimate, paper: float) -> str:
    """How a difference compares with the paper's, by its sign.

    >>> verdict(Estimate(-0.5, 0.1, 9), -20.0), verdict(Estimate(0.1, 0.1, 9), -20.0)
    ('same sign', 'not distinguishable from 0')
    """
    if not abs(e.mean) > SURE * e.error:
        return "not distinguishable from 0"
    return "same sign" if (e.mean < 0) == (paper < 0) else "other sign"


def compared(e: Estimate, paper: dict[str, float]) -> dict[str, Any]:
    """A measured difference beside the paper's on each data set."""
    return number(e) | {"paper": paper, "verdict": {name: verdict(e, value) for name, value in paper.items()}}


def table_1(main: Curves) -> dict[str, Any]:
    """AUC of four methods, and Taylor − identity, paired."""
    aucs = {Method(*key).name: number(main.mean("auc", Method(*key).name)) | {"paper": v} for key, v in TABLE_1.items()}
    gains = {
        p: compared(taylor_minus_identity(main, p), {"CIFAR-10": TABLE_1[p, TAYLOR] - TABLE_1[p, IDENTITY]})
        for p in ("ε=0.01", "β=1")
    }
    return {"auc": aucs, "Taylor − identity": gains}


def table_2(main: Curves) -> dict[str, Any]:
    """AUC(a) − AUC(b) between parameters, for each treatment."""
    return {
        treatment: {
            f"{a} − {b}": compared(
                main.difference(Method(a, treatment).name, Method(b, treatment).name),
                {name: values[i] for name, values in paper.items()},
            )
            for i, (a, b) in enumerate(PAIRS_2)
        }
        for treatment, paper in TABLE_2.items()
    }


def table_3(main: Curves) -> dict[str, Any]:
    """AUC(Taylor) − AUC(identity) for each parameter."""
    return {
        p: compared(taylor_minus_identity(main, p), {name: values[i] for name, values in TABLE_3.items()})
        for i, p in enumerate(PARAMETERS)
    }


def taylor_minus_identity(main: Curves, parameter: str) -> Estimate:
    return main.difference(Method(parameter, TAYLOR).name, Method(parameter, IDENTITY).name)


def orders(main: Curves) -> dict[str, Any]:
    """Parameters from the lowest AUC up, beside the paper's order, and the step to the next, paired."""
    found = {}
    for treatment, paper in ORDER.items():
        names = {p: Method(p, treatment).name for p in PARAMETERS}
        ranked = sorted(PARAMETERS, key=lambda p: main.mean("auc", names[p]).mean)
        steps = [{"from": a, "to": b} | number(main.difference(names[b], names[a])) for a, b in pairwise(ranked)]
        found[treatment] = {"measured": ranked, "paper": list(paper), "same": tuple(ranked) == paper, "steps": steps}
    return found


def means(main: Curves) -> dict[str, Any]:
    """AUC of all methods and of the random order."""
    return {name: number(main.mean("auc", name)) for name in (*main.methods, "random")}


def symmetric(m: Measured) -> dict[str, Any]:
    """SRG = AUC(lowest first) − AUC(highest first) on the first images, and its change by Taylor."""
    n = len(m.lowest)
    srg = {name: m.lowest.auc(name, "lowest") - m.main.auc(name)[:n] for name in m.lowest.methods}
    gain = {p: srg[Method(p, TAYLOR).name] - srg[Method(p, IDENTITY).name] for p in PARAMETERS}
    return {
        "SRG": {name: number(estimate(values)) for name, values in srg.items()},
        "Taylor − identity": {p: number(estimate(values)) for p, values in gain.items()},
    }


def beyond(m: Measured) -> dict[str, Any]:
    """AUC minus that of the identity on the first images: all normalizations, one alone, the second order."""
    n = len(m.variants)
    rows: dict[str, Any] = {}
    for p in PARAMETERS:
        plain = m.main.auc(Method(p, IDENTITY).name)[:n]
        own = {name: m.variants.auc(name) for name in m.variants.methods if name.startswith(f"{p}, ")}
        own = {Method(p, TAYLOR).name: m.main.auc(Method(p, TAYLOR).name)[:n]} | own
        rows[p] = {name.removeprefix(f"{p}, "): number(estimate(values - plain)) for name, values in own.items()}
    return rows


def inside(m: Measured) -> dict[str, Any]:
    """Means over images of what happens at each normalization, and to the map, for each parameter."""
    layers, maps = m.inside["layers"].double(), m.inside["maps"].double()
    found: dict[str, Any] = {}
    for i, p in enumerate(SWEEP):
        found[p] = {
            "maps": {name: number(estimate(maps[:, i, k])) for k, name in enumerate(PER_MAP)},
            "layers": {
                layer: {name: number(estimate(layers[:, i, j, k])) for k, name in enumerate(PER_LAYER)}
                for j, layer in enumerate(m.layers)
            },
        }
    return found


def agreement(m: Measured) -> dict[str, Any]:
    """Spearman's correlations over images of the distance of the two maps with ΔAUC by Taylor, and with |ΔAUC|."""
    found = {}
    for p in PARAMETERS:
        distance = m.inside["maps"][:, list(SWEEP).index(p), list(PER_MAP).index("distance")][None]
        change = m.main.auc(Method(p, TAYLOR).name) - m.main.auc(Method(p, IDENTITY).name)
        change = change[None, : distance.shape[1]]
        found[p] = {"signed": float(spearman(change, distance)), "absolute": float(spearman(change.abs(), distance))}
    return found


def by_length(main: Curves) -> dict[str, Any]:
    """AUC(Taylor) − AUC(identity) until a share of the pixels is flipped."""
    cut = {f"{share:g}": main.first(share) for share in LENGTHS if main.fraction[1] <= share}
    return {share: {p: number(taylor_minus_identity(c, p)) for p in PARAMETERS} for share, c in cut.items()}


def part(m: Measured) -> dict[str, Any]:
    """All that is made of AUCs."""
    return {
        "table 1": table_1(m.main),
        "table 2": table_2(m.main),
        "table 3": table_3(m.main),
        "order": orders(m.main),
        "AUC": means(m.main),
        "symmetric relevance gain": symmetric(m),
        "beyond": beyond(m),
        "ΔAUC and distance": agreement(m),
    }


def all_tables(m: Measured) -> dict[str, Any]:
    """Everything `tables.json` holds."""
    return {
        "about": m.about | {
            "images": len(m.main), "accuracy": m.accuracy, "bad images": [[b.name, b.reason] for b in m.bad],
            "mean score": number(estimate(m.main.score_at_0)), "settings": list(m.main.notes),
            "torch": torch.__version__, "points": len(m.main.counts), "images of the smaller studies": len(m.lowest),
            "images inside": len(m.inside["maps"]),
        },
        ALL: part(m),
        EIGHTH: part(m.first(1 / 8)),
        "by length": by_length(m.main),
        "inside": inside(m),
    }  # fmt: skip


def per_image(m: Measured) -> dict[str, list[Any]]:
    """Columns of one row an image: name, label, predicted class, score, AUC of every method where it was measured."""
    n = len(m.main)
    columns: dict[str, list[Any]] = {
        "image": list(m.names), "label": m.labels.tolist(), "predicted": m.main.target.tolist(),
        "score": m.main.score_at_0.tolist(),
    }  # fmt: skip
    for curves, order in ((m.main, "highest"), (m.lowest, "lowest"), (m.variants, "highest")):
        for name in curves.methods:
            values = curves.auc(name, order).tolist()
            columns[f"{name}, {order} first"] = values + [None] * (n - len(values))
    columns["random order"] = m.main.auc("random", "random").tolist()
    return columns
