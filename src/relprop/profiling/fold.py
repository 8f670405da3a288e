"""From nodes of the program to ops of the model: what was measured of each node, added up in one row an op."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from torch import fx

from ..graph import module_path
from ..ops import name as op_name
from ..prepared import Prepared
from .counter import Counted
from .machine import Machine
from .rows import ORDERS, Cost, Row, Run

CALLS = ("call_function", "call_method", "call_module")
OTHER = "(other)"  # the row of what the program does for no op: the target's relevance, sums for the inputs


@dataclass
class Nodes:
    """What was measured of each node of a program: its work, and its seconds in each run."""

    work: dict[str, Counted] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def cost(self, name: str, machine: Machine) -> Cost:
        """Of one node: its work, the median of its seconds, and its limit."""
        work = self.work.get(name, Counted())
        seconds = statistics.median(self.seconds.get(name) or [0.0])
        return Cost(seconds, sum(work.flops.values()), work.moved, work.needed, machine.limit(work))


@dataclass
class Measured:
    """All that was measured: nodes of the program, each op's own gradient, the call, the program, the gradient."""

    machine: Machine
    program: fx.GraphModule
    nodes: Nodes
    gradients: Nodes
    call: Run
    whole: Run
    gradient: Run

    def rows(self, state: Prepared) -> tuple[Row, ...]:
        """One row an op of the model, and one for what is done for inputs and for the target, by time lost."""
        known = {n.name: n for n in state.captured.module.graph.nodes if n.op != "output"}
        ahead, back = _owned(self.program, set(known))
        ops = [name for name, node in known.items() if node.op == "call_function"]
        names = dict.fromkeys([*ops, *ahead, *back])  # also inputs and (other), where something is done for them
        rows = [self._row(name, known.get(name), ahead.get(name, []), back.get(name, []), state) for name in names]
        return tuple(sorted(rows, key=ORDERS["lost"], reverse=True))

    def _sum(self, nodes: list[str]) -> Cost:
        return sum((self.nodes.cost(n, self.machine) for n in nodes), Cost())

    def _row(self, name: str, node: fx.Node | None, ahead: list[str], back: list[str], state: Prepared) -> Row:
        forward, backward = self._sum(ahead), self._sum(back)
        if node is None or node.op != "call_function":
            return Row(name, op="input" if node is not None else OTHER, forward=forward, backward=backward)
        assigned = state.assignment.assigned.get(node)
        rule = assigned.rule.name if assigned else ""
        own = self.gradients.cost(name, self.machine)
        return Row(name, module_path(node), op_name(node.target), rule, forward, backward, own)


def _owned(program: fx.GraphModule, known: set[str]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """For each op of the model the nodes of the program that work for it: in the forward pass, and on the way back.

    The way back begins where the target is first used.
    """
    forward: dict[str, list[str]] = {}
    backward: dict[str, list[str]] = {}
    side = forward
    for node in program.graph.nodes:
        if any(m.op == "placeholder" and m.target == "target" for m in node.all_input_nodes):
            side = backward
        if node.op in CALLS:
            noted = node.meta.get("relprop_op")
            side.setdefault(noted if noted in known else OTHER, []).append(node.name)
    return forward, backward
