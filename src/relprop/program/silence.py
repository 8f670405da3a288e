"""Where no relevance arrives: values that are 0 under rectifiers."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from .. import ops
from ..canonize.regions import body, value_at_zero
from ..composites import Assigned
from ..graph import Reading
from ..ops import Family

# Ops that are zero for every negative input.
RECTIFIERS = ("relu", "relu6", "hardtanh", "threshold")
# Rules that give an input in proportion to it, nothing where it is 0 (but for a bias shared out).
PROPORTIONAL = ("zero", "epsilon", "gamma", "alpha_beta", "z_plus", "power", "magnitude", "held", "first_order")
# Rules that hand relevance on as it is: from a value that is 0 where the input is, if the op has that property.
PASSING = ("activation", "pass_", "move", "winner", "signal", "half")


class Silence:
    """What the rules of its readers say of a value's relevance; `readers`: the rule calls that send it any."""

    def __init__(self, reading: Reading, readers: dict[fx.Node, list[Assigned]]) -> None:
        self.reading, self.readers = reading, readers
        self._silences: dict[fx.Node, bool] = {}

    def rectified(self, node: fx.Node) -> bool:
        """Whether relevance reaches the node only where its value is positive: rectifiers read it, and stay silent."""
        readers = self.readers.get(node, [])
        return bool(readers) and all(
            ops.name(a.node.target) in RECTIFIERS and a.node in self.reading.nonneg and self.silent(a.node)
            for a in readers
        )

    def relu(self, node: fx.Node) -> fx.Node | None:
        """Of a value that is `rectified`, a node that holds max(0, y)."""
        return next((a.node for a in self.readers.get(node, []) if ops.name(a.node.target) == "relu"), None)

    def silent(self, node: fx.Node) -> bool:
        """Whether the node's relevance is 0 wherever its value is 0, by the rules of all that read it."""
        if node not in self._silences:
            readers = self.readers.get(node, [])  # none: the output, whose relevance the user may choose
            self._silences[node] = bool(readers) and all(self._silences_by(a) for a in readers)
        return self._silences[node]

    def _silences_by(self, a: Assigned) -> bool:
        if a.rule.name in PROPORTIONAL:
            return a.parameters.get("bias") != "share"
        return a.rule.name in PASSING and self._vanishes(a) and self.silent(a.node)

    def _vanishes(self, a: Assigned) -> bool:
        """Whether the node is 0 wherever the input that gets its relevance is."""
        family = self.reading.family(a.node)
        if family is Family.ACTIVATION:
            return number_at_zero(self.reading, a.node) == 0
        if a.rule.name == "pass_":  # other maps have constants, or take a place's value from others
            return family in (Family.SCALE, Family.LRN)
        return ops.TABLE[a.node.target].zero


def number_at_zero(reading: Reading, node: fx.Node) -> float:
    """f(0) of an activation where it is a number, NaN where it depends on tensors."""
    if "relprop_root" not in node.meta:
        row = ops.TABLE[node.target]
        if row.zero and row.family is Family.ACTIVATION:
            return 0.0
    inside, root, outside = written(reading, node)
    return math.nan if outside else float(value_at_zero(inside, root))


def written(reading: Reading, node: fx.Node) -> tuple[list[fx.Node], fx.Node, set[Any]]:
    """The nodes an activation is written in, its input, and what else they read."""
    if "relprop_root" in node.meta:
        inside, root = body(node), node.meta["relprop_root"]
    else:
        inside, root = [node], reading.role(node).nodes[0]  # type: ignore[union-attr]
    return inside, root, {n for m in inside for n in m.all_input_nodes} - set(inside) - {root}
