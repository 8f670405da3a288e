"""A last softmax, log-softmax or sigmoid is explained at its logits."""

from __future__ import annotations

from torch import fx

from .. import ops
from ..captured import Captured

OUTPUTS = ("softmax", "_softmax", "log_softmax", "_log_softmax", "sigmoid", "log_sigmoid")


def logits(captured: Captured) -> tuple[fx.Node, list[str]]:
    """The node in front of the final probability, and a note; the output itself where there is none."""
    node, passed = captured.output, []
    while node.op == "call_function" and isinstance(node.args[0], fx.Node):
        short = ops.name(node.target)
        if short not in OUTPUTS and not (short == "log" and _probability(node.args[0])):
            break
        passed.append(node)
        node = node.args[0]
    for p in passed:
        p.meta["relprop_final"] = True
    names = ", ".join(ops.name(p.target) for p in passed)
    return node, [f"the final {names} is explained at its logits"] if passed else []


def _probability(node: fx.Node) -> bool:
    return node.op == "call_function" and ops.name(node.target) in OUTPUTS
