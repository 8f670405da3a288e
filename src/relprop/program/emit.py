"""Graph and rules to program: one fx graph that computes output and relevance, one rule call a value.

The value `conv1` has relevance `R_conv1`. Where several ops read a value, its relevance is the sum of theirs. The
program takes the inputs and the target; it knows no formula and no kind of model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from .. import ops, rules, targets
from ..canonize.regions import body, value_at_zero
from ..captured import Captured
from ..composites import Assigned, Assignment
from ..graph import Reading, value
from ..ops import Family

# Ops that are zero for every negative input.
RECTIFIERS = ("relu", "relu6", "hardtanh", "threshold")
# Rules that give an input in proportion to it, nothing where it is 0 (but for a bias shared out).
PROPORTIONAL = ("zero", "epsilon", "gamma", "alpha_beta", "z_plus", "power", "magnitude", "held", "first_order")
# Rules that hand relevance on from a value that is 0 where the input is (an activation only if f(0) = 0).
PASSING = ("activation", "pass_", "move", "winner", "signal", "half")


@dataclass
class Program:
    """`forward` computes the output and what the way back needs, `backward` the relevance, `whole` both.

    `whole(*inputs, target)` returns (output, score, resolved target, relevance of the explained inputs, relevance of
    recorded values, ledger rows); `backward(initial relevance, *saved)` the last three.
    """

    whole: fx.GraphModule
    forward: fx.GraphModule
    backward: fx.GraphModule
    ledger_nodes: list[str]
    record: tuple[str, ...]


class _Emitter:
    def __init__(self, captured: Captured, reading: Reading, assignment: Assignment, ledger: bool) -> None:
        self.captured, self.reading, self.assignment, self.ledger = captured, reading, assignment, ledger
        self.graph = fx.Graph()
        self.copied: dict[fx.Node, fx.Node] = {}
        self.relevance: dict[fx.Node, list[fx.Node]] = {}
        self.ledgers: list[tuple[str, fx.Node]] = []
        # the rule calls that send relevance to each value
        self.readers: dict[fx.Node, list[Assigned]] = {}
        for a in assignment:
            for n in self.live(a).values():
                self.readers.setdefault(n, []).append(a)
        self.silences: dict[fx.Node, bool] = {}

    def copy(self, node: fx.Node) -> fx.Node:
        return self.copied[node]

    def load(self, tree: Any) -> Any:
        return torch.fx.map_arg(tree, self.copy)

    def forward(self) -> None:
        for node in self.captured.module.graph.nodes:
            if node.op != "output":
                self.copied[node] = self.graph.node_copy(node, self.copy)
                self.copied[node].name = node.name

    def add(self, name: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> fx.Node:
        return self.graph.create_node("call_function", target, args, kwargs or {}, name=name)

    def collect(self, node: fx.Node) -> fx.Node | None:
        """`R_node`: the sum of what its readers sent, None if none did."""
        parts = self.relevance.get(node, [])
        if not parts:
            return None
        total = parts[0]
        for i, part in enumerate(parts[1:], 2):
            last = i == len(parts)
            total = self.add(
                f"R_{node.name}" if last else f"R_{node.name}_{i}of{len(parts)}", ops.aten.add.Tensor, (total, part)
            )
        self.relevance[node] = [total]
        return total

    def nothing(self, node: fx.Node) -> fx.Node:
        """Relevance 0 for a value no relevance reaches."""
        return self.add(f"R_{node.name}", _zeros, (self.copied[node], self.copied[self.reading.output]))

    def constant(self, name: str, tensor: Tensor) -> fx.Node:
        """A tensor parameter of a rule, kept among the program's weights under its name."""
        module = self.captured.module
        while hasattr(module, name) and getattr(module, name) is not tensor:
            name += "_"
        if not hasattr(module, name):
            module.register_buffer(name, tensor)
        return self.graph.get_attr(name)

    def parameter(self, name: str, value: Any) -> Any:
        """A parameter of a rule as an argument of its call: numbers and texts as they are, tensors as constants."""
        if isinstance(value, (tuple, list)):
            return tuple(self.parameter(f"{name}_{i}", v) for i, v in enumerate(value))
        return self.constant(name, value) if isinstance(value, Tensor) else value

    def live(self, a: Assigned) -> dict[Any, fx.Node]:
        """Operands of a node that get relevance, by position: for a gated product the signal alone."""
        return dict(self.reading.fed(a.node, a.rule.feeds))

    def step(self, a: Assigned) -> None:
        """Relevance of a node to its live operands, by its rule."""
        R = self.collect(a.node)
        if R is None:
            return
        live = self.live(a)
        call = self.call(a, live)
        parameters = {k: self.parameter(k, v) for k, v in a.parameters.items()}
        names = []
        for i, n in enumerate(live.values()):
            several = len(self.readers[n]) > 1
            names.append(
                f"R_{n.name}_from_{a.node.name}{'' if not several or len(live) == 1 else f'_{i}'}"
                if several
                else f"R_{n.name}"
            )
        if len(live) == 1:
            sent = [self.add(names[0], a.rule.function, (R, call), parameters)]
        else:
            both = self.add(f"Rs_{a.node.name}", a.rule.function, (R, call), parameters)
            sent = [self.add(n, _item, (both, i)) for i, n in enumerate(names)]
        if self.ledger:
            self.ledgers.append((a.node.name, self.add(f"L_{a.node.name}", rules.kept, (R, call, *sent))))
        for n, r in zip(live.values(), sent, strict=True):
            self.relevance.setdefault(n, []).append(self.narrowed(r, n, a.node))

    def narrowed(self, R: fx.Node, operand: fx.Node, node: fx.Node) -> fx.Node:
        """Relevance in the precision of the operand it goes to, where the op computes in a wider one."""
        wide = [promoted(n) for n in (operand, node)]
        if None in wide or wide[0] is wide[1]:
            return R
        return self.add(f"{R.name}_narrow", rules.narrowed, (R, wide[0]))

    def call(self, a: Assigned, live: dict[Any, fx.Node]) -> fx.Node:
        """The `Call` object of a node: its op, arguments and what is known of them."""
        node, reading = a.node, self.reading
        role = reading.role(node)
        assert role is not None
        kwargs: dict[str, Any] = {}
        args: tuple[Any, ...] = tuple(node.args)
        target: Any = node.target
        if "relprop_root" in node.meta:
            target, args = ops.region, (node.meta["relprop_root"],)
        if tuple(live) != (0,):
            kwargs["live"] = tuple(live)
        if role.family is not ops.TABLE[target].family:
            kwargs["family"] = role.family.value
        if role.family in (Family.AFFINE, Family.AVERAGE, Family.BATCH_NORM):
            if all(n in reading.nonneg for n in live.values()):
                kwargs["nonneg"] = True
            if self.rectified(node):
                kwargs["rectified"] = True
        if role.family is Family.ACTIVATION:
            zero = self.at_zero(node)
            if zero is not None:
                kwargs["zero"] = zero
        chosen = {**a.rule.parameters, **a.parameters}
        scaled = chosen.get("epsilon") and chosen.get("epsilon_mode") != "absolute"
        if (self.ledger or scaled) and reading.batch(node) != 0:
            kwargs["batch"] = reading.batch(node)
        if self.ledger:
            kwargs["ledger"] = True
            batches = tuple(reading.batch(n) for n in live.values())
            if any(b != reading.batch(node) for b in batches):
                kwargs["batches"] = batches
        own = (self.load(dict(node.kwargs)),) if node.kwargs and target is node.target else ()
        target = ops.name(target) if ops.name(target) in ops.FUNCTIONS else target  # fx prints ATen ops and strings
        return self.add(f"f_{node.name}", rules.Call, (target, self.load(args), self.copied[node], *own), kwargs)

    def rectified(self, node: fx.Node) -> bool:
        """Whether relevance reaches the node only where its value is positive: rectifiers read it, and stay silent."""
        readers = self.readers.get(node, [])
        return bool(readers) and all(
            ops.name(a.node.target) in RECTIFIERS and a.node in self.reading.nonneg and self.silent(a.node)
            for a in readers
        )

    def silent(self, node: fx.Node) -> bool:
        """Whether the node's relevance is 0 wherever its value is 0, by the rules of all that read it."""
        if node not in self.silences:
            readers = self.readers.get(node, [])  # none: the output, whose relevance the user may choose
            self.silences[node] = bool(readers) and all(self._silences(a) for a in readers)
        return self.silences[node]

    def _silences(self, a: Assigned) -> bool:
        if a.rule.name in PROPORTIONAL:
            return a.parameters.get("bias") != "share"
        vanishes = a.rule.name != "activation" or self.zero_number(a.node) == 0
        return a.rule.name in PASSING and vanishes and self.silent(a.node)

    def zero_number(self, node: fx.Node) -> float:
        """f(0) of an activation where it is a number, NaN otherwise."""
        zero = self.at_zero(node, write=False)
        return 0.0 if zero is None else (zero if isinstance(zero, float) else math.nan)

    def at_zero(self, node: fx.Node, *, write: bool = True) -> Any:
        """f(0) of an activation, None if it is 0: a number where it does not depend on tensors, else computed.

        Without `write`, NaN stands for what would be computed.
        """
        if "relprop_root" not in node.meta:
            if ops.TABLE[node.target].zero and ops.TABLE[node.target].family is Family.ACTIVATION:
                return None
            inside, root = [node], self.reading.role(node).nodes[0]  # type: ignore[union-attr]
        else:
            inside, root = body(node), node.meta["relprop_root"]
        outside = {n for m in inside for n in m.all_input_nodes} - set(inside) - {root}
        if not outside:
            number = value_at_zero(inside, root)
            return None if number == 0 else number
        if not write:
            return math.nan
        made: dict[fx.Node, fx.Node] = {root: self.add(f"{root.name}_at_0", torch.zeros_like, (self.copied[root],))}
        for n in inside:
            made[n] = self.graph.node_copy(n, lambda x: made[x] if x in made else self.copied[x])
            made[n].name = f"{n.name}_at_0"
        return made[node]


def promoted(node: fx.Node) -> torch.dtype | None:
    """The type relevance of a value has: at least float32; None for values that are no real numbers."""
    v = value(node)
    real = isinstance(v, Tensor) and v.is_floating_point()
    return torch.promote_types(v.dtype, torch.float32) if real else None


def _item(values: Sequence[Tensor], index: int) -> Tensor:
    return values[index]


def _zeros(value: Tensor, output: Tensor) -> Tensor:
    wide = torch.promote_types(output.dtype, torch.float32)
    return torch.zeros(value.shape, dtype=wide, device=value.device)


def emit(
    captured: Captured,
    reading: Reading,
    assignment: Assignment,
    explained: fx.Node,
    *,
    ledger: bool = False,
    record: dict[str, fx.Node] | None = None,
) -> Program:
    """Write the program of a captured model under an assignment of rules.

    `record` names inner nodes whose relevance is returned as well.
    """
    record = record or {}
    e = _Emitter(captured, reading, assignment, ledger)
    e.forward()
    middle = e.graph.find_nodes(op="placeholder")[-1]
    with e.graph.inserting_after(middle):
        target = e.graph.placeholder("target", default_value=None)
    start = e.add("start", targets.initial, (e.copied[explained], target))
    R, score, resolved = (
        e.add(n, _item, (start, i)) for i, n in enumerate((f"R_{explained.name}", "score", "resolved"))
    )
    e.relevance[explained] = [R]
    for node in reversed(captured.module.graph.nodes):
        if node in assignment.assigned:
            e.step(assignment.assigned[node])
    inputs = tuple(e.collect(n) or e.nothing(n) for n in captured.explained)
    recorded = tuple(e.collect(n) or e.nothing(n) for n in record.values())
    rows = tuple(n for _, n in e.ledgers)
    e.graph.output((e.copied[captured.output], score, resolved, inputs, recorded, rows))
    e.graph.lint()
    whole = fx.GraphModule(captured.module, e.graph, "RelevanceProgram")
    forward, backward = _split(captured.module, e.graph, start, R)
    return Program(whole, forward, backward, [n for n, _ in e.ledgers], tuple(record))


def _split(root: fx.GraphModule, whole: fx.Graph, start: fx.Node, R: fx.Node) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The program cut at the target: values of the first part that the second reads are handed over."""
    nodes = list(whole.nodes)
    cut = nodes.index(start)
    first, second = nodes[:cut], [n for n in nodes[cut:] if n is not start and n not in start.users]
    early = set(first)
    saved = [n for n in first if n.op != "get_attr" and any(u in second and u.op != "output" for u in n.users)]
    result = whole.output_node().args[0]

    forward: fx.Graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for n in first:
        if n.name != "target":
            made[n] = forward.node_copy(n, made.__getitem__)
    forward.output((made[result[0]], made[start.args[0]], tuple(made[n] for n in saved)))  # type: ignore[index]
    forward.eliminate_dead_code()

    backward: fx.Graph = fx.Graph()
    made = {R: backward.placeholder(R.name)}
    for n in saved:
        made[n] = backward.placeholder(n.name)
    for n in second[:-1]:  # without the output
        for source in n.all_input_nodes:
            if source in early and source not in made:  # parameters
                made[source] = backward.node_copy(source)
        made[n] = backward.node_copy(n, made.__getitem__)
    backward.output(torch.fx.map_arg(result[3:], made.__getitem__))  # type: ignore[index]
    return fx.GraphModule(root, forward, "Forward"), fx.GraphModule(root, backward, "Backward")
