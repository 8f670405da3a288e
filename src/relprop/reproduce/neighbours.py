"""What the Taylor rule changes: relevance handed to neighbouring channels, flipped signs, and the map of the pixels.

The rule of the normalizations is wrapped in one that also measures, so nothing is computed in a second way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from relprop import rules
from relprop.api import Explainer
from relprop.composites import Composite
from relprop.ops import Family
from relprop.rules import Call, rule
from relprop.rules.lrn import suppression

from .methods import IDENTITY, SECOND, SWEEP, TAYLOR, Method, node
from .subject import Subject

# One number an image and normalization. R arrives at its outputs, R' leaves at its inputs, k and j are channels at a
# place, v_jk the shares of equation 7.
PER_LAYER = {
    "gross": "Σ_k |R_k| Σ_{j≠k} |v_jk| / Σ_k |R_k|: what is handed to neighbours, before anything cancels",
    "net": "Σ_k |R'_k − R_k| / Σ_k |R_k|: what has changed in the end",
    "between": "as net, of relevance summed over channels at each place (0: nothing moves between places)",
    "flips": "the share of |R| at channels where R' has the other sign",
    "negative_before": "the share of |R| that is negative",
    "negative_after": "the share of |R'| that is negative",
    "coherence": "Σ_places |Σ_k R_k| / Σ |R|: 1 where all channels at a place agree in sign",
}
# One number an image.
PER_MAP = {
    "distance": "‖R_Taylor − R_identity‖ / ‖R_identity‖, of maps of the pixels",
    "cosine": "the cosine between the two maps",
    "rank": "Spearman's correlation between the orders of the pixels",
    "absorbed": "|what ε took| / (|what reached the pixels| + |what biases took| + |what ε took|), under Taylor",
    "second": "‖R_order 2 − R_identity‖ / ‖R_identity‖",
}


# What the last run of a program with the rule below found, by normalization, each (N, values of `PER_LAYER`). A program
# is a file of its own, whose rules can take numbers, texts and tensors only: hence not a parameter.
FOUND: dict[str, Tensor] = {}


def lrn_taylor_measured(R: Tensor, f: Call, *, layer: str) -> Tensor:
    """R_j as by lrn_taylor, measured"""
    onward = rules.lrn_taylor(R, f)
    FOUND[layer] = torch.stack(tuple(of_layer(R, onward, f).values()), 1)
    return onward


def of_layer(R: Tensor, onward: Tensor, f: Call) -> dict[str, Tensor]:
    """The values of `PER_LAYER`, each (N,)."""

    def total(t: Tensor) -> Tensor:
        return t.flatten(1).sum(1)

    arrived, left = total(R.abs()).clamp(min=1e-30), total(onward.abs()).clamp(min=1e-30)
    return {
        "gross": total(R.abs() * handed(f)) / arrived,
        "net": total((onward - R).abs()) / arrived,
        "between": total((onward.sum(1) - R.sum(1)).abs()) / arrived,
        "flips": total(R.abs() * (onward * R < 0)) / arrived,
        "negative_before": total(R.clamp(max=0).abs()) / arrived,
        "negative_after": total(onward.clamp(max=0).abs()) / left,
        "coherence": total(R.sum(1).abs()) / arrived,
    }


def handed(f: Call) -> Tensor:
    """Σ_{j≠k} |v_jk| for every neuron k: all messages to neighbours have the sign opposite to its own."""
    _, z = suppression(f)
    return z / (1 - z)


@dataclass
class Explainers:
    """What is run on every chunk: every parameter with every treatment."""

    subject: Subject
    layers: tuple[str, ...]
    _made: dict[tuple[str, str], Explainer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # declared where it is used, so that it is not listed among the rules of the package
        rule(Family.LRN, source="Binder et al. 2016, equations 7 and 13-15; measured")(lrn_taylor_measured)

    def get(self, parameter: str, treatment: str, x: Tensor) -> Explainer:
        key = parameter, treatment
        if key not in self._made:
            composite = Method(parameter, treatment).composite
            if treatment == TAYLOR:
                measured = [(node(n), partial(lrn_taylor_measured, layer=n)) for n in self.layers]
                composite = Composite(measured) + composite
            self._made[key] = Explainer(self.subject.model, x[:2], composite)
        return self._made[key]

    def measure(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        """(N, SWEEP, layers, PER_LAYER) as "layers" and (N, SWEEP, PER_MAP) as "maps"."""
        layers, maps = [], []
        for parameter in SWEEP:
            plain = self.get(parameter, IDENTITY, x)(x, target=target).relevance.sum(1)
            e = self.get(parameter, TAYLOR, x)(x, target=target, ledger=True)
            second = self.get(parameter, SECOND, x)(x, target=target).relevance.sum(1)
            layers.append(torch.stack([FOUND[n] for n in self.layers], 1))
            taken = torch.stack([e.ledger.epsilon, e.ledger.input, e.ledger.bias]).abs()
            maps.append(of_maps(plain, e.relevance.sum(1), second, taken[0] / taken.sum(0).clamp(min=1e-30)))
        return {"layers": torch.stack(layers, 1).cpu(), "maps": torch.stack(maps, 1).cpu()}


def of_maps(plain: Tensor, taylor: Tensor, second: Tensor, absorbed: Tensor) -> Tensor:
    """The values of `PER_MAP` for maps (N, H, W), as (N, PER_MAP)."""
    a, b, c = (t.flatten(1).double() for t in (plain, taylor, second))
    norm = a.norm(dim=1).clamp(min=1e-300)
    values = {
        "distance": (b - a).norm(dim=1) / norm,
        "cosine": (a * b).sum(1) / norm / b.norm(dim=1).clamp(min=1e-300),
        "rank": spearman(a, b),
        "absorbed": absorbed.double(),
        "second": (c - a).norm(dim=1) / norm,
    }
    return torch.stack(tuple(values.values()), 1)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """The correlation of ranks, row by row, (N,); equal values share their mean rank, a constant row gives 0.

    >>> spearman(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[0.1, 0.2, 0.3]])).round(decimals=9).tolist()
    [1.0]
    """
    first, second = (torch.stack([ranks(row) for row in t]) for t in (a, b))
    return torch.nn.functional.cosine_similarity(first, second, dim=1)


def ranks(row: Tensor) -> Tensor:
    """Ranks around 0; equal values get the mean of theirs.

    >>> ranks(torch.tensor([5.0, 1.0, 5.0])).tolist()
    [0.5, -1.0, 0.5]
    """
    _, group, count = torch.unique(row, return_inverse=True, return_counts=True)
    last = count.cumsum(0)
    found: Tensor = (last - (count + 1) / 2).double()[group] - (len(row) - 1) / 2
    return found
