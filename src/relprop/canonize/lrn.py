"""Local response normalization as one op again, however it was written.

x_k / (k + b Σ_j x_j²)^c is recognized by what it computes. Every way from the quotient's base back to x must pass one
square and otherwise linear ops, which may be spelled as anything (pooling, convolution, shifted sums, a banded
matrix). What they compute is read off by evaluating them: at 0 it gives k, on the squares of one channel b and the ends
of the window. On random squares it must then equal a sum over such a window, to float64 precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from .. import ops
from ..captured import Captured
from ..graph import is_float, value
from ..ops import Family
from .edit import absorb, calls, constant, replace

LINEAR = (Family.AFFINE, Family.AVERAGE, Family.SUM, Family.SHAPE, Family.SCALE, Family.BATCH_NORM)
NOT_LINEAR = ("maximum", "minimum")  # of the family of ops that move entries, but they choose by value
CASTS = ("to", "_to_copy")
SHAPE_ONLY = ("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full")


def recognize(captured: Captured) -> list[str]:
    """Each quotient that is a local response normalization of its numerator becomes one call."""
    found = 0
    for node in calls(captured.module.graph, "div", "mul"):
        match = next(filter(None, (_match(captured, x, base, c) for x, base, c in _quotients(node))), None)
        if match is not None:
            new = replace(node, ops.local_response_norm, match)
            absorb(new, node)
            found += 1
    return [f"{found} local response normalization(s) recognized"] if found else []


def _quotients(node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node, float]]:
    """The readings of a node as x / base^c."""
    pair = node.args[:2]
    if node.kwargs or not all(isinstance(n, fx.Node) and is_float(n) for n in pair):
        return
    if ops.name(node.target) == "div":
        x, below = pair
        yield x, *_power(below)  # type: ignore[misc, arg-type]
        return
    for x, factor in (pair, pair[::-1]):
        base, c = _power(factor)  # type: ignore[arg-type]
        if c < 0:
            yield x, base, -c  # type: ignore[misc]


def _power(node: fx.Node) -> tuple[fx.Node, float]:
    """(base, c) of a node read as base^c."""
    short = ops.name(node.target) if node.op == "call_function" else ""
    inner = node.args[0] if node.args else None
    exponent = {"sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0}.get(short)
    if short == "pow" and isinstance(node.args[1], (int, float)):
        exponent = float(node.args[1])
    if exponent is None or not isinstance(inner, fx.Node):
        return node, 1.0
    base, c = _power(inner)
    return base, c * exponent


def _match(captured: Captured, x: fx.Node, base: fx.Node, c: float) -> tuple[Any, ...] | None:
    """The arguments of the call, if `base` is a constant and a sum over a window of channels of x²."""
    inside = _sum_of_squares(captured.module, x, base)
    shape = tuple(_number(n) for n in value(x).shape)
    if inside is None or len(shape) < 3 or c <= 0:
        return None

    def evaluate(squares: Tensor) -> Tensor:
        return _evaluate(captured.module, inside, base, x, squares.sqrt()).broadcast_to(shape)

    try:
        none = evaluate(torch.zeros(shape, dtype=torch.float64))
        ends = [evaluate(_one_channel(shape, channel)) - none for channel in (0, shape[1] - 1)]
    except (RuntimeError, TypeError):  # it has another shape, or one of its ops wants another type
        return None
    k, b = (float(f"{t.flatten()[0]:.12g}") for t in (none, ends[0].amax()))
    # the first channel is the last of the window of channel `before`; the last the first of that of C − 1 − after
    before, after = (int((e.abs() > 1e-9 * abs(b)).flatten(2).any(2)[0].sum()) - 1 for e in ends)
    if not (b > 0 and k >= 0 and before >= 0 and after >= 0):
        return None
    generator = torch.Generator().manual_seed(0)
    for scale in (1.0, 1e3):
        squares = scale * torch.rand(shape, generator=generator, dtype=torch.float64)
        window = k + b * ops.channel_window(squares, before, after)
        if not torch.allclose(evaluate(squares), window, rtol=1e-9, atol=0):
            return None
    return x, before, after, b, c, k


def _one_channel(shape: tuple[int, ...], channel: int) -> Tensor:
    squares = torch.zeros(shape, dtype=torch.float64)
    squares[:, channel] = 1
    return squares


def _sum_of_squares(module: fx.GraphModule, x: fx.Node, base: fx.Node) -> list[fx.Node] | None:
    """The nodes between x and the base, in order, if x enters by squares alone and all after them is linear."""
    inside: set[fx.Node] = set()
    stack = [(base, False)]
    while stack:
        node, squared = stack.pop()
        if node is x:
            if not squared:
                return None
            continue
        if node in inside or constant(module, node) is not None or _is_size(node):
            continue
        if node.op != "call_function" or not is_float(node):  # a mask, an index: it may depend on the input
            return None
        if _eps(node) > _eps(x):
            return None  # rounded on the way: another function
        inside.add(node)
        square, shape_only = _is_square(node), ops.name(node.target) in SHAPE_ONLY
        if not (square and not squared) and not (_linear(node) and not (squared and not _moves(node))):
            return None
        stack += [(n, squared or square or shape_only) for n in node.all_input_nodes]
    order = [n for n in module.graph.nodes if n in inside]
    return order if any(_is_square(n) for n in order) else None


def _eps(node: fx.Node) -> float:
    return torch.finfo(value(node).dtype).eps


def _is_size(node: fx.Node) -> bool:
    """Whether a value is a number, such as a dimension, that only shapes depend on."""
    return not isinstance(value(node), Tensor) and all(_shape_alone(user) for user in node.users)


def _shape_alone(node: fx.Node) -> bool:
    row = ops.lookup(node.target)
    return not isinstance(value(node), Tensor) or not is_float(node) or row is None or row.family is Family.SHAPE


def _is_square(node: fx.Node) -> bool:
    short, args = ops.name(node.target), node.args
    return bool(short == "square" or (short == "pow" and args[1] == 2) or (short == "mul" and args[0] is args[1]))


def _linear(node: fx.Node) -> bool:
    row, short = ops.lookup(node.target), ops.name(node.target)
    known = row is not None and row.family in LINEAR and short not in NOT_LINEAR
    return known or ops.name(node.target) in SHAPE_ONLY or not node.all_input_nodes


def _moves(node: fx.Node) -> bool:
    """Whether an op in front of the square only moves entries."""
    row = ops.lookup(node.target)
    return ops.name(node.target) in SHAPE_ONLY or (row is not None and row.family is Family.SHAPE)


def _evaluate(module: fx.GraphModule, inside: list[fx.Node], base: fx.Node, x: fx.Node, at: Tensor) -> Tensor:
    """The base for a value of x, in float64 on the CPU."""
    known: dict[fx.Node, Any] = {x: at}

    def lookup(node: fx.Node) -> Any:
        if node not in known:
            held = constant(module, node)
            known[node] = _number(value(node)) if held is None else held.detach().cpu()
            if held is not None and held.is_floating_point():
                known[node] = known[node].double()
        return known[node]

    for node in inside:
        if ops.name(node.target) in CASTS:
            known[node] = lookup(node.args[0])  # type: ignore[arg-type]
            continue
        kwargs = {k: torch.device("cpu") if k == "device" else v for k, v in node.kwargs.items()}
        known[node] = node.target(*fx.map_arg(node.args, lookup), **fx.map_arg(kwargs, lookup))  # type: ignore[operator]
    result: Tensor = known[base]
    return result


def _number(size: Any) -> Any:
    """A size, or the one it had at capture where it was left open."""
    return size.node.hint if isinstance(size, torch.SymInt) else size
