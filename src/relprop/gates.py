"""Which factor of a product weighs, and which is weighed: read from the graph, no tensor is looked at.

A gate is a bounded or positive weight that another value is multiplied with: a sigmoid, attention weights, an inverse
standard deviation, the decay of a state space. Its product with a signal is a weighting of the signal.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from torch import fx

from . import ops
from .ops import Family

Test = Callable[[fx.Node], bool]


class Strength(IntEnum):
    """How clearly a factor is a weight: of two factors the stronger is the gate, the weaker the signal."""

    NONE = 0
    ACTIVATED = 1  # silu(g) of a gated linear unit
    CLIPPED = 2  # relu6(x): bounded
    RATE = 3  # exp, softplus: a positive step or decay
    BOUNDED = 4  # sigmoid
    WEIGHTS = 5  # softmax: weights that sum to 1
    STATISTIC = 6  # an inverse norm or deviation


SOFTMAX = ("softmax", "_softmax")
KINDS = {
    Strength.ACTIVATED: ("silu", "gelu", "relu", "mish", "leaky_relu", "elu", "hardswish", "tanh"),
    Strength.CLIPPED: ("relu6",),
    Strength.RATE: ("exp", "exp2", "softplus", "log_sigmoid"),
    Strength.BOUNDED: ("sigmoid", "hardsigmoid"),
    Strength.WEIGHTS: SOFTMAX,
    Strength.STATISTIC: ("rsqrt", "reciprocal", "linalg_vector_norm", "norm", "var", "std"),
}
STRENGTH = {name: strength for strength, names in KINDS.items() for name in names}
# What a gate may pass on its way to the product and stay one.
KEEPS = (Family.SHAPE, Family.SCALE, Family.SUM)
# Attention weights may also be mixed by a weighted layer (talking heads).
MIXES = (Family.AFFINE, Family.BATCH_NORM, Family.AVERAGE)


def strength(node: fx.Node, live: Test) -> Strength:
    """How clearly a factor is a gate; `live` tells which values depend on the explained inputs."""
    mixed = False
    while node.op == "call_function":
        short = ops.name(node.target)
        found = _own(node, short, live)
        if found:
            return found if not mixed or found is Strength.WEIGHTS else Strength.NONE
        row = ops.lookup(node.target)
        sources = [n for n in node.all_input_nodes if live(n)]
        if row is None or not sources:
            break
        if short == "div" and len(sources) == 2 and node.args[0] is sources[0]:
            node = sources[0]  # weights divided by their own sum, a norm by the mean of norms
        elif short == "mul" and len(sources) == 2:
            rates = {strength(n, live) for n in sources}
            return Strength.RATE if Strength.RATE in rates and len(rates) == 2 else Strength.NONE
        elif len(sources) == 1 and row.family in (*KEEPS, *MIXES):
            mixed |= row.family in MIXES
            node = sources[0]
        else:
            break
    return Strength.NONE


def _own(node: fx.Node, short: str, live: Test) -> Strength:
    """The strength an op gives by itself."""
    if "relprop_root" in node.meta:  # an elementwise function in several steps
        return Strength(node.meta["relprop_strength"])
    numbers = [x for x in node.args[1:] if isinstance(x, (int, float))]
    if short in ("hardtanh", "clamp") and len(numbers) == 2 and numbers[0] >= 0:
        return Strength.BOUNDED
    if short == "pow" and numbers and numbers[0] < 0:
        return Strength.STATISTIC
    if short == "div" and _is_normalized(node):
        return Strength.WEIGHTS
    if short == "div" and not live(node.args[0]) and live(node.args[1]):  # type: ignore[arg-type]
        return Strength.STATISTIC  # 1 / x
    return STRENGTH.get(short, Strength.NONE)


def _is_normalized(node: fx.Node) -> bool:
    """Whether a quotient is a / Σ a of a value that is never negative: written-out softmax, normalized weights."""
    above, below = node.args[:2]
    if not (isinstance(above, fx.Node) and isinstance(below, fx.Node)):
        return False
    while ops.name(below.target) in ("add", "clamp", "clamp_min", "expand") and isinstance(below.args[0], fx.Node):
        below = below.args[0]
    row = ops.lookup(above.target)
    positive = row is not None and row.sign is ops.Sign.ALWAYS
    return positive and ops.name(below.target) == "sum" and below.args[0] is above


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
