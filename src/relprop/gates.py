"""Which factor of a product weighs, and which is weighed: read from the graph, no tensor is looked at.

A gate is a bounded or positive weight that another value is multiplied with: a sigmoid, attention weights, an inverse
standard deviation, the decay of a state space. Its product with a signal is a weighting of the signal.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from torch import fx

from . import ops
from .ops import Family

Test = Callable[[fx.Node], bool]


class Strength(IntEnum):
    """How clearly a factor is a weight: of two factors the stronger is the gate, the weaker the signal."""

    NONE = 0
    ACTIVATED = 1  # silu(g) of a gated linear unit
    RATE = 2  # exp, softplus: a positive step or decay
    BOUNDED = 3  # sigmoid
    WEIGHTS = 4  # softmax: weights that sum to 1
    STATISTIC = 5  # an inverse norm or deviation


KINDS = {
    Strength.ACTIVATED: ("silu", "gelu", "relu", "mish", "leaky_relu", "elu", "hardswish", "tanh"),
    Strength.RATE: ("exp", "exp2", "softplus"),
    Strength.BOUNDED: ("sigmoid", "hardsigmoid"),
    Strength.WEIGHTS: ("softmax", "_softmax"),
    Strength.STATISTIC: ("rsqrt", "reciprocal", "linalg_vector_norm", "norm", "var", "std"),
}
STRENGTH = {name: strength for strength, names in KINDS.items() for name in names}
# What a gate may pass on its way to the product and stay one: moves, scales, shifts, means, and functions of it.
KEEPS = (Family.SHAPE, Family.SCALE, Family.SUM, Family.AVERAGE, Family.MAX_POOL)
PRODUCTS = ("mul", "matmul", "bmm", "mm")


def strength(node: fx.Node, live: Test) -> Strength:
    """How clearly a factor is a gate; `live` tells which values depend on the explained inputs."""
    if node.op != "call_function":
        return Strength.NONE
    own = _own(node, live)
    sources = [n for n in node.all_input_nodes if live(n)]
    row = ops.lookup(node.target)
    if own or row is None or not sources:
        return own
    short = ops.name(node.target)
    if short == "div" and len(sources) == 2:
        return strength(node.args[0], live)  # type: ignore[arg-type]  # weights divided by their own sum
    if row.family in KEEPS or short in PRODUCTS:
        if len(sources) == 1 and short in PRODUCTS[1:]:
            return _mixed(node, sources[0], live)
        if len(sources) == 1 and row.family in (Family.SHAPE, Family.SCALE, Family.SUM):
            return strength(sources[0], live)
        return _weakest(sources, live)
    if row.family is Family.ACTIVATION:
        return _weakest(sources, live)  # 1 − a², √a of a decay a
    return _mixed(node, sources[0], live) if row.family is Family.AFFINE else Strength.NONE


def _weakest(sources: list[fx.Node], live: Test) -> Strength:
    """A sum, product or joining of gates is a gate; of a gate and something else it is none."""
    weakest = Strength.STATISTIC
    for source in sources:
        weakest = min(weakest, strength(source, live))
        if weakest < Strength.RATE:  # most values are features: look no further
            return Strength.NONE
    return weakest


def _mixed(node: fx.Node, source: fx.Node, live: Test) -> Strength:
    """Attention weights mixed over their heads stay weights; summed over what they weigh, they are features."""
    short = ops.name(node.target)
    rank = len(source.meta["val"].shape)
    dim = 1 if short.startswith("conv") else rank - 2 if node.args[0] is not source else rank - 1
    while source.op == "call_function" and ops.name(source.target) not in KINDS[Strength.WEIGHTS]:
        moved = _before_move(source, dim)
        if moved is None:
            return Strength.NONE
        source, dim = moved
    if source.op != "call_function":
        return Strength.NONE
    own: int = source.args[1]  # type: ignore[assignment]
    return Strength.WEIGHTS if own % len(source.meta["val"].shape) != dim else Strength.NONE


def _before_move(node: fx.Node, dim: int) -> tuple[fx.Node, int] | None:
    """What a permutation or an elementwise step was made of, and where its dimension was; None for other ops."""
    short, source = ops.name(node.target), node.args[0]
    row = ops.lookup(node.target)
    if row is None or not isinstance(source, fx.Node):
        return None
    rank = len(node.meta["val"].shape)
    rest: Any = node.args[1:]
    if short == "permute":
        return source, int(rest[0][dim]) % rank
    if short == "transpose":
        i, j = (int(d) % rank for d in rest[:2])
        return source, {i: j, j: i}.get(dim, dim)
    same = row.family in (Family.SCALE, Family.SUM, Family.BATCH_NORM) or short in ("to", "_to_copy", "clone")
    return (source, dim) if same and len(source.meta["val"].shape) == rank else None


def _own(node: fx.Node, live: Test) -> Strength:
    """The strength an op gives by itself."""
    short = ops.name(node.target)
    if "relprop_root" in node.meta:  # an elementwise function in several steps
        root = strength(node.meta["relprop_root"], live)
        return root if root >= Strength.RATE else Strength(node.meta["relprop_strength"])
    numbers = [x for x in node.args[1:] if isinstance(x, (int, float))]
    if short in ("hardtanh", "clamp") and len(numbers) == 2 and numbers[0] >= 0:
        return Strength.BOUNDED if numbers[1] <= 1 or _is_shifted(node, live) else Strength.NONE
    if short == "relu6":
        return Strength.BOUNDED if _is_shifted(node, live) else Strength.NONE
    if short == "add" and ops.name(_only(node, live).target) == "tanh":
        return Strength.BOUNDED  # 1 + tanh(x)
    if short == "pow" and numbers and numbers[0] < 0:
        return Strength.STATISTIC
    if short == "div" and _is_normalized(node):
        return Strength.WEIGHTS
    if short == "div" and not live(node.args[0]) and live(node.args[1]):  # type: ignore[arg-type]
        return Strength.STATISTIC  # 1 / x
    return STRENGTH.get(short, Strength.NONE)


def _only(node: fx.Node, live: Test) -> fx.Node:
    """The one live operand of a node; the node itself where there are several."""
    sources = [n for n in node.all_input_nodes if live(n)]
    return sources[0] if len(sources) == 1 else node


def _is_shifted(node: fx.Node, live: Test) -> bool:
    """Whether a clipped value was shifted, as the hard sigmoid relu6(x + 3) / 6 is: else it is a feature, ReLU6."""
    source = _only(node, live)
    return ops.name(source.target) == "add" and _only(source, live) is not source


def _is_normalized(node: fx.Node) -> bool:
    """Whether a quotient is a / Σ a of a value that is never negative: normalized weights."""
    above, below = node.args[:2]
    if not (isinstance(above, fx.Node) and isinstance(below, fx.Node)):
        return False
    while ops.name(below.target) in ("add", "clamp", "clamp_min", "expand") and isinstance(below.args[0], fx.Node):
        below = below.args[0]
    row = ops.lookup(above.target)
    positive = row is not None and row.sign is ops.Sign.ALWAYS
    return positive and ops.name(below.target) == "sum" and below.args[0] is above


def stepped(node: fx.Node, live: Test) -> fx.Node | None:
    """x of a product Δ x with a rate Δ, as the step of a state space; None for other values."""
    while node.op == "call_function":
        sources = [n for n in node.all_input_nodes if live(n)]
        row = ops.lookup(node.target)
        if ops.name(node.target) == "mul" and len(sources) == 2:
            a, b = (strength(n, live) for n in sources)
            if Strength.RATE in (a, b) and Strength.NONE in (a, b):
                return sources[0] if a is Strength.NONE else sources[1]
            return None
        if row is None or row.family not in (Family.SHAPE, Family.SCALE) or len(sources) != 1:
            return None
        node = sources[0]
    return None


def comes_from(node: fx.Node, ancestor: fx.Node, live: Test) -> bool:
    """Whether a value is computed from another, moved at most (the same value in another shape counts)."""
    while ancestor.op == "call_function":  # of a moved value, what was moved
        row = ops.lookup(ancestor.target)
        sources = [n for n in ancestor.all_input_nodes if live(n)]
        if row is None or row.family is not Family.SHAPE or len(sources) != 1 or ops.name(ancestor.target) == "slice":
            break
        ancestor = sources[0]
    seen, stack = set(), [node]
    while stack:
        current = stack.pop()
        if current is ancestor:
            return True
        if current not in seen:
            seen.add(current)
            stack += [n for n in current.all_input_nodes if live(n)]
    return False


def is_state(node: fx.Node, live: Test) -> bool:
    """Whether a value is a recurrent state, or made of states: a sum of which one summand is decayed by a rate."""
    while node.op == "call_function":
        row = ops.lookup(node.target)
        sources = [n for n in node.all_input_nodes if live(n)]
        if row is None or not sources:
            return False
        if row.family is Family.SUM and len(sources) == 2:
            return any(_is_decayed(n, live) for n in sources)
        if row.family is not Family.SHAPE:
            return False
        node = sources[-1]
    return False


def _is_decayed(node: fx.Node, live: Test) -> bool:
    """Whether a summand is a product of one factor with a rate such as exp(Δ A)."""
    if node.op != "call_function" or ops.name(node.target) != "mul":
        return False
    return any(isinstance(n, fx.Node) and live(n) and _exponential(n) for n in node.args)


def _exponential(node: fx.Node) -> bool:
    """Whether a value is exp(...), moved at most."""
    while node.op == "call_function":
        if ops.name(node.target) == "exp":
            return True
        row = ops.lookup(node.target)
        if row is None or row.family is not Family.SHAPE or not node.all_input_nodes:
            return False
        node = node.all_input_nodes[0]
    return False
