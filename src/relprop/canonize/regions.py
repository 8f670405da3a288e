"""An elementwise function spelled out in several ops is one activation.

x · sigmoid(x), x − tanh(x), where(|x| > λ, x − λ sign(x), 0 x), ...: treating the steps one by one would share
relevance among copies of the same value, which cancel. The last step is marked with the value the whole is a
function of; relevance goes there directly. So is a chain of steps of which one does not vanish at 0, such as
log(1 + exp(x)) or 2 sigmoid(2 x) - 1: only the whole says what of its value is a constant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from .. import ops
from ..captured import Captured
from ..gates import Strength
from ..graph import Reading, operands, value
from ..ops import Family

ELEMENTWISE = (Family.ACTIVATION, Family.SCALE, Family.SUM)
# What values of these functions can be.
RANGES = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0), "sin": (-1.0, 1.0), "cos": (-1.0, 1.0), "erf": (-1.0, 1.0)}
MIXED = ("where", "maximum", "minimum", "masked_fill")


def mark(captured: Captured) -> list[str]:
    """Mark the last node of each elementwise region with its root (`relprop_root`)."""
    graph = captured.module.graph
    reading = Reading(graph, captured.explained, captured.output)
    order = {n: i for i, n in enumerate(graph.nodes)}
    found = 0
    for node in graph.nodes:
        if node not in reading.live or not _elementwise(node):
            continue
        several = len(_live(node, reading)) > 1
        root = _root(node, reading, order) if several else _chain_root(node, reading)
        if root is not None:
            node.meta["relprop_root"] = root
            node.meta["relprop_strength"] = _strength(node)
            found += 1
    return [f"{found} elementwise function(s) read as one activation"] if found else []


def _elementwise(node: fx.Node) -> bool:
    row = ops.lookup(node.target) if node.op == "call_function" else None
    short = ops.name(node.target)
    return (
        short in MIXED or short in ("sign", "le", "lt", "ge", "gt") or (row is not None and row.family in ELEMENTWISE)
    )


def _live(node: fx.Node, reading: Reading) -> list[fx.Node]:
    """Operands that depend on an explained input, comparisons and signs included."""
    return [n for _, n in operands(node) if _depends(n, reading)]


def _depends(node: fx.Node, reading: Reading) -> bool:
    if node in reading.live:
        return True
    short = ops.name(node.target) if node.op == "call_function" else ""
    return short in ("sign", "le", "lt", "ge", "gt") and any(_depends(n, reading) for _, n in operands(node))


def _root(node: fx.Node, reading: Reading, order: dict[fx.Node, int]) -> fx.Node | None:
    """The one value the node is an elementwise function of, by widening back until the frontier is one node."""
    frontier = set(_live(node, reading))
    while len(frontier) > 1:
        last = max(frontier, key=order.__getitem__)
        if not _elementwise(last) or last.op != "call_function":
            return None
        frontier.remove(last)
        frontier |= {last.meta["relprop_root"]} if "relprop_root" in last.meta else set(_live(last, reading))
    root = frontier.pop()
    same_shape = value(root).shape == value(node).shape
    return root if root in reading.live and same_shape else None


def _chain_root(node: fx.Node, reading: Reading) -> fx.Node | None:
    """Where the chain of elementwise steps that ends here begins; None if each step vanishes at 0 by itself."""
    if not _step(node, reading) or any(_step(u, reading) for u in node.users if len(node.users) == 1):
        return None
    chain = [node]
    source = _live(node, reading)[0]
    while _step(source, reading) and len(source.users) == 1:
        chain.insert(0, source)
        source = _live(source, reading)[0]
    if all(_vanishes(n, reading) for n in chain if reading.family(n) is Family.ACTIVATION):
        return None
    while chain and _vanishes(chain[0], reading):  # these pass relevance by themselves
        del chain[0]
    while len(chain) > 1 and not math.isfinite(value_at_zero(chain, chain[0].all_input_nodes[0])):
        del chain[0]
    return chain[0].all_input_nodes[0] if len(chain) > 1 else None


def _vanishes(node: fx.Node, reading: Reading) -> bool:
    """Whether a step is 0 at 0 (a shift is not, whatever its constant)."""
    return reading.family(node) is not Family.SUM and value_at_zero([node], node.all_input_nodes[0]) == 0


def _step(node: fx.Node, reading: Reading) -> bool:
    """An elementwise op of one live value and numbers."""
    plain = node.op == "call_function" and "relprop_root" not in node.meta and node in reading.live
    return plain and _elementwise(node) and len(node.all_input_nodes) == 1 and len(_live(node, reading)) == 1


def value_at_zero(inside: Sequence[fx.Node], root: fx.Node) -> float:
    """f(0) of elementwise steps whose other arguments are numbers."""
    known: dict[fx.Node, Any] = {root: torch.zeros((1,) * max(1, value(root).dim()), dtype=torch.float64)}
    for n in inside:
        args = torch.fx.map_arg(n.args, known.__getitem__)
        known[n] = n.target(*args, **n.kwargs)  # type: ignore[operator]
    return float(known[inside[-1]].flatten()[0])


def _strength(node: fx.Node) -> Strength:
    """What an elementwise function is as a factor: a gate if bounded like a sigmoid, a statistic if it falls like 1/x.

    By its values: it has no other arguments than numbers.
    """
    root, inside = node.meta["relprop_root"], body(node)
    if {n for m in inside for n in m.all_input_nodes} - set(inside) - {root}:
        return Strength.ACTIVATED  # it depends on tensors
    ends = RANGES.get(ops.name(root.target) if root.op == "call_function" else "", (-1e3, 1e3))
    known: dict[fx.Node, Any] = {root: torch.tensor([-1.0, -0.03, -1e-3, 0, 1e-3, 0.03, 1.0], dtype=torch.float64)}
    low, high = ends
    known[root] = torch.where(known[root] < 0, -low, high) * known[root]
    for n in inside:
        known[n] = n.target(*torch.fx.map_arg(n.args, known.__getitem__), **n.kwargs)  # type: ignore[operator]
    y = known[node]
    real = y[~y.isnan()]  # √(1 − a²) is defined for some values alone
    tame = [bool(end.isnan() or end <= 2 * near + 1e-9) for end, near in ((y[0], y[1]), (y[6], y[5]))]
    bounded = len(real) > 2 and bool((real >= -1e-12).all()) and all(tame) and bool(real.isfinite().all())
    if y[4] > y[5] > y[6] > 0 and not (bounded and len(real) == len(y)):
        return Strength.STATISTIC
    if bounded:
        return Strength.BOUNDED
    return Strength.RATE if bool((y[:6] > -1e-12).all() and y[3] > 1e-12) else Strength.ACTIVATED


def body(node: fx.Node) -> list[fx.Node]:
    """The nodes between the root (left out) and the marked node (included), in order."""
    root = node.meta["relprop_root"]
    inside: set[fx.Node] = set()
    stack = [node]
    while stack:
        current = stack.pop()
        if current is not root and current not in inside and current.op == "call_function":
            inside.add(current)
            stack += current.all_input_nodes
    below, found = {root}, []
    for n in node.graph.nodes:
        if n in inside and any(m in below for m in n.all_input_nodes):
            below.add(n)
            found.append(n)
    return found
