"""Graph and rules to program: one fx graph that computes output and relevance, one rule call a value.

The program takes the inputs and the target; it knows no formula and no kind of model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from .. import ops, rules, targets
from ..captured import Captured
from ..composites import Assignment
from ..graph import Reading
from .calls import Calls
from .segments import Segments, segments
from .writer import Writer, item

# Ops whose value is always a tensor of their own.
FRESH = {"linear", "addmm", "conv1d", "conv2d", "conv3d", "batch_norm", "add", "sub"}


@dataclass
class Program:
    """`forward` computes the output and what the way back needs, `backward` the relevance, `whole` both.

    `whole(*inputs, target)` returns (output, score, resolved target, relevance of the explained inputs, relevance of
    recorded values, ledger rows); `backward(initial relevance, *saved)` the last three.
    `run_forward` and `run_backward` are these two, compiled if asked for.
    """

    whole: fx.GraphModule
    forward: fx.GraphModule
    backward: fx.GraphModule
    ledger_nodes: list[str]
    record: tuple[str, ...]
    compiled: bool = False

    def __post_init__(self) -> None:
        parts: list[Callable[..., Any]] = [self.forward, self.backward]
        self.run_forward, self.run_backward = (
            torch.compile(part, fullgraph=True) if self.compiled else part for part in parts
        )


def emit(
    captured: Captured,
    reading: Reading,
    assignment: Assignment,
    explained: fx.Node,
    *,
    ledger: bool = False,
    record: dict[str, fx.Node] | None = None,
    half: bool = False,
    checkpoint: bool = False,
    compiled: bool = False,
) -> Program:
    """Write the program of a captured model under an assignment of rules.

    `record` names inner nodes whose relevance is returned as well. `half`: heavy ops in half precision stay in it on
    the way back. `checkpoint`: the way back computes the model's values again, segment by segment.
    """
    record = record or {}
    w = Writer(captured, Calls(captured, reading, assignment, half=half, compiled=compiled), ledger=ledger)
    w.forward()
    middle = w.graph.find_nodes(op="placeholder")[-1]
    with w.graph.inserting_after(middle):
        target = w.graph.placeholder("target", default_value=None)
    output = w.copied[captured.output]
    start = w.add("start", targets.initial, (w.copied[explained], target))
    R, score, resolved = (
        w.add(n, item, (start, i)) for i, n in enumerate((f"R_{explained.name}", "score", "resolved"))
    )
    w.relevance[explained] = [R]
    again = Segments(w, segments(captured.module.graph)) if checkpoint else None
    for node in reversed(captured.module.graph.nodes):
        if again is not None:
            again.enter(node)
        if node in assignment.assigned:
            w.step(assignment.assigned[node])
    inputs = tuple(w.collect(n) or w.nothing(n, reading.output) for n in captured.explained)
    recorded = tuple(w.collect(n) or w.nothing(n, reading.output) for n in record.values())
    rows = tuple(n for _, n in w.rows)
    w.graph.output((output, score, resolved, inputs, recorded, rows))
    _in_place(w.graph)
    w.graph.lint()
    whole = fx.GraphModule(captured.module, w.graph, "RelevanceProgram")
    forward, backward = _split(captured.module, w.graph, start, R)
    return Program(whole, forward, backward, [n for n, _ in w.rows], tuple(record), compiled)


def _in_place(graph: fx.Graph) -> None:
    """Rectify a layer's value where it stands, if nothing reads it afterwards: no new memory to fetch."""
    for relu in [n for n in graph.nodes if n.op == "call_function" and ops.name(n.target) == "relu"]:
        z = relu.args[0]
        only = all(u is relu or (u.target is rules.scale and u < relu) for u in z.users)
        if only and ops.name(z.target) in FRESH:
            relu.target = rules.rectify


def _split(root: fx.GraphModule, whole: fx.Graph, start: fx.Node, R: fx.Node) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The program cut at the target: values of the first part that the second reads are handed over."""
    nodes = list(whole.nodes)
    cut = nodes.index(start)
    first, second = nodes[:cut], [n for n in nodes[cut:] if n is not start and n not in start.users]
    early, late = set(first), set(second)
    saved = [n for n in first if n.op != "get_attr" and any(u in late and u.op != "output" for u in n.users)]
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
