"""A composite is an ordered list of (pattern, rule) pairs: the first match wins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import torch
from torch import fx

from .. import rules
from ..errors import CompositeError, RuleError
from ..graph import Feeds, Reading, module_path, value, where
from ..ops import REASONS, lookup
from ..ops import name as op_name
from ..rules.parameters import check_parameters, plain
from ..rules.registry import RuleFunction
from .pattern import Pattern, as_pattern, centred, family, gated, normalizing, units, weighted


@final
@dataclass(frozen=True)
class Pair:
    """One line of a composite. A pair that is not `required` may match nothing (recipes fit many networks)."""

    pattern: Pattern
    rule: rules.Rule
    parameters: dict[str, Any]
    required: bool = True
    origin: str = ""

    @property
    def why(self) -> str:
        """What the rule table says: the recipe, if any, and the pattern."""
        return f"{self.origin}: {self.pattern}" if self.origin else self.pattern.name


@final
class Composite:
    """Ordered (pattern, rule) pairs; `a + b` joins two, and the first match wins.

    A rule is a function of `relprop.rules`, a `functools.partial` of one that binds parameters, or its name. What
    no pair matches gets the default of its family (activations pass, sums and averages ε, ...); weighted layers
    have no default.

    >>> from functools import partial
    >>> from relprop import rules
    >>> Composite([("features.0", rules.flat), (family("affine"), partial(rules.gamma, gamma=0.5))])
    Composite([(path('features.0'), flat), (family('affine'), gamma(gamma=0.5))])
    """

    def __init__(
        self, pairs: Iterable[tuple[Pattern | str, RuleFunction | str]], *, required: bool = True, origin: str = ""
    ) -> None:
        built = []
        for pair in pairs:
            if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
                raise CompositeError(f"{pair!r} is no (pattern, rule) pair")
            rule, bound = rules.get(pair[1])
            parameters = {name: plain(value) for name, value in bound.items()}
            check_parameters(rule, parameters)
            built.append(Pair(as_pattern(pair[0]), rule, parameters, required, origin))
        self.pairs: tuple[Pair, ...] = tuple(built)

    def __add__(self, other: Composite | list[tuple[Pattern | str, RuleFunction | str]]) -> Composite:
        joined = Composite([])
        joined.pairs = self.pairs + (other if isinstance(other, Composite) else Composite(other)).pairs
        return joined

    def __radd__(self, other: list[tuple[Pattern | str, RuleFunction | str]]) -> Composite:
        return Composite(other) + self

    def __repr__(self) -> str:
        pairs = ", ".join(f"({p.pattern}, {call_text(p.rule.name, p.parameters)})" for p in self.pairs)
        return f"Composite([{pairs}])"


def call_text(name: str, parameters: dict[str, Any]) -> str:
    """`gamma(gamma=0.25)`; tensors by their shape."""
    return f"{name}({arguments(parameters)})" if parameters else name


def arguments(parameters: dict[str, Any]) -> str:
    """`gamma=0.25, epsilon=1e-06`."""
    return ", ".join(f"{k}={_short(v)}" for k, v in parameters.items())


def _short(v: Any) -> str:
    if isinstance(v, tuple):
        return f"({', '.join(map(_short, v))})"
    shape = getattr(v, "shape", None)
    return repr(v) if shape is None or len(shape) == 0 else f"tensor{tuple(shape)}"


DEFAULTS = Composite(
    [
        (units, rules.pass_),
        (normalizing | weighted | gated, rules.signal),
        (centred, rules.epsilon),
        (family("product"), rules.half),
        (family("activation"), rules.activation),
        (family("shape"), rules.move),
        (family("scale"), rules.pass_),
        (family("embedding"), rules.tokens),
        (family("average"), rules.epsilon),
        (family("batch_norm"), rules.epsilon),
        (family("sum"), rules.epsilon),
        (family("max_pool"), rules.winner),
        (family("distance"), rules.distance),
        (family("min_pool"), rules.take_most),
        (family("contrast"), rules.contrast),
        (family("lrn"), rules.pass_),
        (family("normalize"), rules.held),
        (family("attention"), rules.attention_values),
        (family("recurrent"), rules.recurrent),
        (family("softmax"), rules.first_order),
    ],
    required=False,
    origin="default",
)


@dataclass
class Assigned:
    """The rule of one node, with why."""

    node: fx.Node
    rule: rules.Rule
    parameters: dict[str, Any]
    why: str

    def row(self) -> dict[str, str]:
        """Columns of the rule table."""
        return {
            "node": self.node.name,
            "module": module_path(self.node),
            "op": op_name(self.node.target),
            "rule": self.rule.name,
            "parameters": arguments(self.parameters),
            "why": self.why,
        }


@dataclass
class Assignment:
    """Rules for every node relevance passes, in the order of the forward pass; nodes without one; idle patterns."""

    assigned: dict[fx.Node, Assigned] = field(default_factory=dict)
    missing: list[fx.Node] = field(default_factory=list)
    unmatched: list[Pair] = field(default_factory=list)

    def __iter__(self) -> Iterator[Assigned]:
        return iter(self.assigned.values())

    def check(self, reading: Reading) -> None:
        """Raise for an op without a rule, and for a required pattern that matched nothing."""
        idle = "\n".join(self.idle(reading))
        if self.missing:
            lines = list(dict.fromkeys(missing_message(n, reading) for n in self.missing))[:5]
            raise RuleError("\n".join([*lines, idle] if idle else lines))
        if idle:
            raise CompositeError(idle)

    def idle(self, reading: Reading) -> list[str]:
        """What to say of each required pair that applies to nothing."""
        nodes = [n for n in reading.graph.nodes if n in reading.reached and reading.family(n) is not None]
        paths = sorted({module_path(n) for n in nodes if module_path(n)})
        said = []
        for pair in self.unmatched:
            hits = [n for n in nodes if pair.pattern(n, reading)]
            if hits:
                ops = ", ".join(sorted({f"{op_name(n.target)} ({reading.family(n)})" for n in hits}))
                families = ", ".join(sorted(pair.rule.families))
                said.append(f"{pair.pattern} matches only {ops}, and the rule {pair.rule.name} is for {families}")
            else:
                there = ", ".join(paths) or "(none)"
                said.append(f"{pair.pattern} matches nothing that relevance passes. Module paths there are: {there}")
        return said


def assign(composite: Composite, reading: Reading) -> Assignment:
    """The first pair that matches each node; the default of its family where none does.

    Relevance goes where the rules send it, so the way to the inputs is followed first, by the rules chosen.
    """
    reading.route(lambda node: _feeds(composite, node, reading))
    out = Assignment()
    used: set[int] = set()
    for node in reading.graph.nodes:
        if node not in reading.reached or node.op != "call_function":
            continue
        pair, fitting = _choose(composite, node, reading)
        used.update(fitting)
        if pair is None:
            out.missing.append(node)
        else:
            out.assigned[node] = Assigned(node, pair.rule, pair.parameters, pair.why)
    out.unmatched = [p for i, p in enumerate(composite.pairs) if p.required and i not in used]
    return out


def _choose(composite: Composite, node: fx.Node, reading: Reading) -> tuple[Pair | None, list[int]]:
    """The pair that decides on a node, and the indices of all that could."""
    fam = reading.family(node)
    if fam is None:
        return None, []
    fitting = [i for i, p in enumerate(composite.pairs) if p.pattern(node, reading) and fam in p.rule.families]
    if fitting:
        return composite.pairs[fitting[0]], fitting
    return next((p for p in DEFAULTS.pairs if p.pattern(node, reading)), None), []


def _feeds(composite: Composite, node: fx.Node, reading: Reading) -> Feeds:
    pair, _ = _choose(composite, node, reading)
    return pair.rule.feeds if pair else None


HOLD = "Where the value only weighs others, hold it, and it gets no relevance: put .detach() behind it"


def missing_message(node: fx.Node, reading: Reading) -> str:
    """What is missing for a node, and the line to write."""
    fam, short = reading.family(node), op_name(node.target)
    source = node.args[0] if short == "getitem" and isinstance(node.args[0], fx.Node) else node
    reason = REASONS.get(op_name(source.target))
    if fam is None and (reason or lookup(node.target)):
        reason = reason or "it depends on the input in an argument for which relprop has no rule"
        return f"no rule for {where(source)}: {reason}. {HOLD}"
    if fam is None and not _pointwise(source):
        return f"no rule for {where(source)}: write the line with ops that relprop knows (relprop.ops.TABLE). {HOLD}"
    if fam is None:
        return (
            f"no rule for {where(source)}. If it is elementwise, declare what the op is: "
            f"`relprop.ops.TABLE[{_target(source)}] = relprop.ops.Op(relprop.ops.Family.ACTIVATION)` (zero=False if "
            "f(0) is not 0), or write the line with other ops"
        )
    fitting = sorted((n for n in rules.names() if fam in rules.get(n)[0].families), key=lambda n: n != "epsilon")
    return (
        f"the composite has no rule for {where(node)}. Add a pair such as "
        f"(relprop.composites.op({short!r}), relprop.rules.{fitting[0] if fitting else '...'}); rules for its family "
        f"{fam.value!r}: {', '.join(fitting) or 'none'}"
    )


def _pointwise(node: fx.Node) -> bool:
    """Whether an op could be elementwise: one tensor in, a tensor of the same shape out."""
    v = value(node)
    sources = [value(n) for n in node.all_input_nodes]
    shapes = [s.shape for s in sources if hasattr(s, "shape")]
    schema = getattr(node.target, "_schema", None)
    if schema is not None and any(argument.name in ("dim", "dims") for argument in schema.arguments):
        return False  # it runs along a dimension: a cumulative product, a sort
    return hasattr(v, "shape") and v.is_floating_point() and len(shapes) == 1 and tuple(shapes[0]) == tuple(v.shape)


def _target(node: fx.Node) -> str:
    return f"torch.ops.{node.target!s}" if isinstance(node.target, torch._ops.OpOverload) else str(node.target)


def bind(rule: RuleFunction, **parameters: Any) -> RuleFunction:
    """`functools.partial` without parameters that are None."""
    return partial(rule, **{k: v for k, v in parameters.items() if v is not None})
