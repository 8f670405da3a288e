"""Writes a program node by node: the model's values, then one rule call a value, from the output to the inputs.

The value `conv1` has relevance `R_conv1`. Where several ops read a value, its relevance is the sum of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from .. import ops, rules
from ..captured import Captured
from ..composites import Assigned
from ..graph import value
from .calls import Calls


class Writer:
    """The program under way. Every node's `meta["relprop_op"]` names the op of the model it works for."""

    def __init__(self, captured: Captured, calls: Calls, *, ledger: bool) -> None:
        self.captured, self.calls, self.ledger = captured, calls, ledger
        self.graph = calls.graph
        self.copied = calls.copied
        self.relevance: dict[fx.Node, list[fx.Node]] = {}
        self.rows: list[tuple[str, fx.Node]] = []

    def forward(self) -> None:
        """The model's values: each op as it is, or as its rule computes it."""
        for node in self.captured.module.graph.nodes:
            if node.op != "output":
                self.write(node)
                self.copied[node].name = node.name

    def write(self, node: fx.Node) -> None:
        """One value of the model."""
        a = self.calls.assignment.assigned.get(node)
        forward = None if a is None else a.rule.forward
        before = len(self.graph.nodes)
        if a is None or forward is None:
            self.copied[node] = self.graph.node_copy(node, self.copied.__getitem__)
        else:
            both = self.add(f"forward_{node.name}", forward, (self.calls.forward(a),))
            y = self.add(f"{node.name}_value", item, (both, 0))
            saved = self.add(f"saved_{node.name}", item, (both, 1))
            if promoted(node) is not value(node).dtype:
                y = self.add(f"{node.name}_value_narrow", rules.narrowed, (y, value(node).dtype))
            y.meta.update(node.meta)
            self.copied[node], self.calls.saved[node] = y, saved
        self.mark(node, before)

    def mark(self, node: fx.Node, before: int) -> None:
        """Note that the nodes added since work for this one."""
        added = len(self.graph.nodes) - before
        for n, _ in zip(reversed(self.graph.nodes), range(added), strict=False):
            n.meta.setdefault("relprop_op", node.name)

    def add(self, name: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> fx.Node:
        """A further call."""
        return self.graph.create_node("call_function", target, args, kwargs or {}, name=name)

    def collect(self, node: fx.Node) -> fx.Node | None:
        """`R_node`: the sum of what its readers sent, None if none did."""
        sent = self.relevance.get(node, [])
        if not sent:
            return None
        total = sent[0]
        for i, part in enumerate(sent[1:], 2):
            name = f"R_{node.name}" if i == len(sent) else f"R_{node.name}_{i}of{len(sent)}"
            total = self.add(name, ops.aten.add.Tensor, (total, part))
        self.relevance[node] = [total]
        return total

    def nothing(self, node: fx.Node, output: fx.Node) -> fx.Node:
        """Relevance 0 for a value no relevance reaches."""
        return self.add(f"R_{node.name}", zeros, (self.copied[node], self.copied[output]))

    def step(self, a: Assigned) -> None:
        """Relevance of a node to its live operands, by its rule."""
        before = len(self.graph.nodes)
        R = self.collect(a.node)
        if R is None:
            return
        live = self.calls.live(a)
        call = self.calls.backward(a, ledger=self.ledger)
        sent = self.sent(a, R, call, list(live.values()))
        if self.ledger:
            self.rows.append((a.node.name, self.add(f"L_{a.node.name}", rules.kept, (R, call, *sent))))
        for n, r in zip(live.values(), sent, strict=True):
            self.relevance.setdefault(n, []).append(self.narrowed(r, n, a.node))
        self.mark(a.node, before)

    def sent(self, a: Assigned, R: fx.Node, call: fx.Node, operands: list[fx.Node]) -> list[fx.Node]:
        """The call of the rule, and what it sends to each operand."""
        names = []
        for i, n in enumerate(operands):
            several = len(self.calls.readers[n]) > 1
            which = f"_{i}" if several and len(operands) > 1 else ""
            names.append(f"R_{n.name}_from_{a.node.name}{which}" if several else f"R_{n.name}")
        parameters = {k: self.calls.parameter(k, v) for k, v in a.parameters.items()}
        if len(operands) == 1:
            return [self.add(names[0], a.rule.function, (R, call), parameters)]
        both = self.add(f"Rs_{a.node.name}", a.rule.function, (R, call), parameters)
        return [self.add(n, item, (both, i)) for i, n in enumerate(names)]

    def narrowed(self, R: fx.Node, operand: fx.Node, node: fx.Node) -> fx.Node:
        """Relevance in the precision of the operand it goes to, where the op computes in a wider one."""
        wide = [promoted(n) for n in (operand, node)]
        if None in wide or wide[0] is wide[1]:
            return R
        return self.add(f"{R.name}_narrow", rules.narrowed, (R, wide[0]))


def promoted(node: fx.Node) -> torch.dtype | None:
    """The type relevance of a value has: at least float32; None for values that are no real numbers."""
    v = value(node)
    real = isinstance(v, Tensor) and v.is_floating_point()
    return torch.promote_types(v.dtype, torch.float32) if real else None


def item(values: Sequence[Any], index: int) -> Any:
    """One of several results."""
    return values[index]


def zeros(value: Tensor, output: Tensor) -> Tensor:
    """Zeros in the shape of a value, and in the precision of relevance."""
    wide = torch.promote_types(output.dtype, torch.float32)
    return torch.zeros(value.shape, dtype=wide, device=value.device)
