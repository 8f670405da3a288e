"""The explanations that Binder et al. 2016 compare: five parameters, each with treatments of local normalization."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from relprop import composites, rules
from relprop.composites import Composite, Pattern

PARAMETERS = ("ε=1", "ε=0.01", "ε=100", "β=1", "β=0")
# beyond the paper, to see how things depend on the parameter
EPSILONS = (1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0, 100.0)
BETAS = (0.0, 0.25, 0.5, 1.0, 2.0)
SWEEP = {f"ε={v:g}": {"epsilon": v} for v in EPSILONS} | {f"β={v:g}": {"beta": v} for v in BETAS}
IDENTITY, TAYLOR, SECOND = "identity", "Taylor", "Taylor order 2"
TREATMENTS: dict[str, dict[str, Any]] = {
    IDENTITY: {"lrn": "identity"},
    TAYLOR: {"lrn": "taylor"},
    SECOND: {"lrn": "taylor", "lrn_order": 2},
}


@dataclass(frozen=True)
class Method:
    """One explanation: parameter, treatment, and with `layer` the only normalization that gets it (else all).

    `layer`: the name of its value in the rule table.

    >>> Method("ε=0.01", "Taylor").name
    'ε=0.01, Taylor'
    """

    parameter: str
    treatment: str
    layer: str = ""

    @property
    def name(self) -> str:
        return f"{self.parameter}, {self.treatment}" + (f" in {self.layer}" if self.layer else "")

    @property
    def composite(self) -> Composite:
        """The recipe `binder2016` with these options."""
        options = SWEEP[self.parameter]
        if not self.layer:
            return composites.get("binder2016", **options, **TREATMENTS[self.treatment])
        order = TREATMENTS[self.treatment].get("lrn_order", 1)
        here = Composite([(node(self.layer), partial(rules.lrn_taylor, order=order))])
        return here + composites.get("binder2016", **options, lrn="identity")


def node(name: str) -> Pattern:
    """The value of this name."""
    return Pattern(f"node({name!r})", lambda n, reading: n.name == name)


def compared() -> tuple[Method, ...]:
    """The ten methods of the paper's tables."""
    return tuple(Method(p, t) for p in PARAMETERS for t in (IDENTITY, TAYLOR))


def variants(layers: tuple[str, ...]) -> tuple[Method, ...]:
    """Beyond the paper: the second order, and the expansion in one normalization alone."""
    single = tuple(Method(p, TAYLOR, layer) for p in PARAMETERS for layer in layers) if len(layers) > 1 else ()
    return tuple(Method(p, SECOND) for p in PARAMETERS) + single
