"""Reading fx graphs: what is live, which family a node belongs to, where in the user's model it stands."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from . import gates, ops
from .errors import RuleError
from .gates import Strength
from .ops import Family, Sign
from .samples import Batch, Samples

Path = int | tuple[int, int]

# Where frames of a traceback are not the user's.
NOT_THE_USERS = (str(pathlib.Path(torch.__file__).parent), str(pathlib.Path(__file__).parent), "<")

# Layers with weights: what stands before and after them is counted by depth, first and last.
WEIGHTED = (Family.AFFINE, Family.RECURRENT)

# Which live operands of a node a rule feeds: argument positions, the signal of a product, or (None) all.
Feeds = tuple[int, ...] | str | None


def value(node: fx.Node) -> Any:
    """The (fake) value a node had at capture: shape and dtype."""
    return node.meta.get("val")


def is_float(node: fx.Node) -> bool:
    """Whether the node is a floating point tensor."""
    v = value(node)
    return isinstance(v, Tensor) and v.dtype.is_floating_point


def is_random(node: fx.Node) -> bool:
    """Whether a node draws random numbers, so that running it changes the generator."""
    if ops.name(node.target) == "scaled_dot_product_attention" and not any(node.args[4:5]):
        return False  # without dropout
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def module_path(node: fx.Node) -> str:
    """Path of the innermost module the node was recorded in, as in `named_modules()`: `layer1.0.conv1`."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return re.sub(r"^(L__self___|model)\.?", "", str(path))


def module_paths(node: fx.Node) -> tuple[str, ...]:
    """The node's own module path and those of the nodes that were folded into it."""
    return (module_path(node), *node.meta.get("relprop_absorbed", ()))


def module_class(node: fx.Node) -> str:
    """Qualified class name of the innermost module, `torch.nn.modules.conv.Conv2d`."""
    stack = node.meta.get("nn_module_stack") or {}
    kind = next(reversed(stack.values()))[1] if stack else ""
    return kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def source_line(node: fx.Node) -> str:
    """The user's own line that made the node: `file.py:12: x = self.f(x)`; the last frame outside torch."""
    return line_of(node.meta.get("stack_trace") or "")


def line_of(trace: str) -> str:
    """The last frame outside torch of a printed traceback, in one line."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in [^\n]*\n\s*([^\n]*)', trace)
    own = [f for f in frames if not f[0].startswith(NOT_THE_USERS)] or frames
    return "{}:{}: {}".format(*own[-1]) if own else "(source unknown)"


def where(node: fx.Node) -> str:
    """Op, module path and source line, for error messages."""
    return f"{ops.name(node.target)} in module {module_path(node) or '(model)'!r}, {source_line(node)}"


def _sign(node: fx.Node, sign: Sign) -> Sign:
    """The sign an op's row states, corrected for the numbers among its arguments."""
    short, rest = ops.name(node.target), [x for x in node.args[1:] if not isinstance(x, fx.Node)]
    if short in ("hardtanh", "clamp", "clamp_min", "threshold"):
        low = rest[0] if rest else (-1.0 if short == "hardtanh" else None)
        bounded = _positive(low) and (short != "threshold" or _positive(rest[1]))
        return Sign.ALWAYS if bounded else Sign.UNKNOWN
    if short == "mul":
        return Sign.KEPT if all(_positive(x) for x in rest) else Sign.UNKNOWN
    if short == "add":
        return Sign.KEPT if all(_positive(x) for x in (*rest, node.kwargs.get("alpha", 1))) else Sign.UNKNOWN
    if short in ("pad", "constant_pad_nd"):
        return Sign.UNKNOWN if any(isinstance(x, (int, float)) and x < 0 for x in rest) else sign
    if short == "pow":
        return Sign.ALWAYS if rest and rest[0] in (2, 4) else Sign.KEPT
    return sign


def _positive(x: Any) -> bool:
    return isinstance(x, (int, float)) and x >= 0


def carries(node: fx.Node) -> bool:
    """Whether the node's value can carry relevance: real or complex numbers, or several tensors."""
    v = value(node)
    return isinstance(v, (tuple, list)) or (isinstance(v, Tensor) and (v.is_floating_point() or v.is_complex()))


def operands(node: fx.Node) -> list[tuple[Path, fx.Node]]:
    """All node arguments with their positions; a node in a list argument is at (argument, index)."""
    found: list[tuple[Path, fx.Node]] = []
    for i, arg in enumerate(node.args):
        if isinstance(arg, fx.Node):
            found.append((i, arg))
        elif isinstance(arg, (list, tuple)):
            found += [((i, j), x) for j, x in enumerate(arg) if isinstance(x, fx.Node)]
    return found


@dataclass(frozen=True)
class Role:
    """What a node is to the rules: its family, and the operands that carry relevance."""

    family: Family
    live: tuple[tuple[Path, fx.Node], ...]

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        """The live operands."""
        return tuple(n for _, n in self.live)


class Reading:
    """A graph read once: roles, signs and the order of weighted layers.

    A value is live if it is a floating point tensor that depends on an explained input through other than
    comparisons and piecewise constant ops.
    """

    def __init__(
        self, graph: fx.Graph, explained: Iterable[fx.Node], output: fx.Node, samples: int | None = None
    ) -> None:
        self.graph, self.output, self.samples = graph, output, samples
        self._layout = Samples(graph)
        self._roles: dict[fx.Node, Role | None] = {}
        self.explained = tuple(explained)
        self.tokens = self._tokens()
        self.moved = self._moved()
        self.live = self._live()
        self.nonneg = self._nonneg()
        self.route(self._usual)

    def _live(self) -> set[fx.Node]:
        live = set(self.explained)
        for node in self.graph.nodes:
            if node.op not in ("call_function", "call_method", "call_module") or node.target in ops.DEAD:
                continue
            row = ops.lookup(node.target)
            if row is not None and row.family is Family.EMBEDDING:
                if node.args[1] in self.tokens:
                    live.add(node)
            elif node in self.moved or (carries(node) and any(n in live for n in node.all_input_nodes)):
                live.add(node)
        return live

    def _moved(self) -> set[fx.Node]:
        """Explained integers, reshaped or sliced at most: what relevance of tokens can flow back through."""
        moved = {n for n in self.explained if not is_float(n)}
        for node in self.graph.nodes:
            row = ops.lookup(node.target) if node in self.tokens else None
            if row and row.family is Family.SHAPE and all(n in moved for n in node.all_input_nodes if n in self.tokens):
                moved.add(node)
        return moved

    def _tokens(self) -> set[fx.Node]:
        """Explained integer inputs and the integers computed from them (not by comparisons)."""
        tokens = {n for n in self.explained if not is_float(n)}
        for node in self.graph.nodes:
            v = value(node)
            whole = isinstance(v, Tensor) and not v.dtype.is_floating_point and v.dtype is not torch.bool
            if node.op == "call_function" and whole and any(n in tokens for n in node.all_input_nodes):
                tokens.add(node)
        return tokens

    def role(self, node: fx.Node) -> Role | None:
        """Family and live operands; None for an op without a row, or one that is live in a place it may not be."""
        if node not in self._roles:
            self._roles[node] = self._role(node)
        return self._roles[node]

    def _role(self, node: fx.Node) -> Role | None:
        if "relprop_root" in node.meta:
            return Role(Family.ACTIVATION, ((0, node.meta["relprop_root"]),))
        row = ops.lookup(node.target)
        if row is None:
            return None
        live = tuple((p, n) for p, n in operands(node) if n in self.live)
        if row.family is Family.EMBEDDING and node.args[1] in self.tokens and node.args[1] not in self.moved:
            return None  # an index computed from the tokens
        if not live:
            return Role(row.family, ())
        places = {p if isinstance(p, int) else p[0] for p, _ in live}
        if not places <= set(row.live):
            return None
        family = row.family
        short = ops.name(node.target)
        if family is Family.SCALE and len(row.live) == 2:
            if len(live) == 2:
                family = Family.PRODUCT
            elif short == "div" and live[0][0] == 1:
                family = Family.ACTIVATION  # c / x
        elif family is Family.AFFINE and len(live) == 2:
            family = Family.PRODUCT  # of two live matrices
        return Role(family, live)

    def family(self, node: fx.Node) -> Family | None:
        """The family of a node, None for inputs, parameters and ops without a row."""
        role = self.role(node) if node.op == "call_function" else None
        return role.family if role else None

    def weighing(self, node: fx.Node) -> tuple[Strength, int | None]:
        """For a product: how clearly it is the weighting of a signal by a gate, and which operand is the signal."""
        if ops.name(node.target) == "div":
            return Strength.STATISTIC, 0
        pair, live = self.role(node).nodes, self.live.__contains__  # type: ignore[union-attr]
        first, second = (gates.is_state(n, live) for n in pair)
        if first != second:
            return Strength.RATE, int(second)
        a, b = (gates.strength(n, live) for n in pair)
        if max(a, b) <= Strength.ACTIVATED:
            strength, which = self._step(*pair)
            if which is not None:
                return strength, which
        return (max(a, b), int(a > b)) if a != b else (Strength.NONE, None)

    def _step(self, a: fx.Node, b: fx.Node) -> tuple[Strength, int | None]:
        """Of Δ u · B and Δ B · u, with a rate Δ, the value u that the parameter B is computed from is the signal."""
        live = self.live.__contains__
        u, v = (gates.stepped(n, live) for n in (a, b))
        if (u is None) == (v is None):
            return Strength.NONE, None
        if gates.comes_from(b, u or a, live):
            return Strength.RATE, 0
        return (Strength.RATE, 1) if gates.comes_from(a, v or b, live) else (Strength.NONE, None)

    def is_centred(self, node: fx.Node) -> bool:
        """Whether the node is x − mean(x): linear in one value, although it has two summands."""
        pair = self.role(node).nodes  # type: ignore[union-attr]
        if len(pair) != 2 or ops.name(node.target) != "sub":
            return False
        x, mean = pair
        return ops.name(mean.target) == "mean" and mean.args[0] is x

    def fed(self, node: fx.Node, feeds: Feeds) -> tuple[tuple[Path, fx.Node], ...]:
        """The live operands that get relevance from a rule that feeds these."""
        live = self.role(node).live  # type: ignore[union-attr]
        if feeds is None:
            return live
        if feeds == "signal":
            which = self.weighing(node)[1]
            if which is None:
                raise RuleError(
                    f"the signal rule does not know which factor is the gate at {where(node)}; use relprop.rules.half"
                )
            return (live[which],)
        found = tuple((p, n) for p, n in live if p in feeds)
        if not found:
            raise RuleError(
                f"nothing of {where(node)} that depends on the input gets relevance by this rule; use another, such as "
                'attention="attnlrp"'
            )
        return found

    def _nonneg(self) -> set[fx.Node]:
        known: set[fx.Node] = set()
        for node in self.graph.nodes:
            row = ops.lookup(node.target) if node.op == "call_function" else None
            if row is None or node not in self.live:
                continue
            sign = _sign(node, row.sign)
            kept = sign is Sign.KEPT and all(n in known for _, n in operands(node) if is_float(n))
            if sign is Sign.ALWAYS or kept:
                known.add(node)
        return known

    def route(self, feeds: Callable[[fx.Node], Feeds]) -> None:
        """Follow relevance from the output to the inputs, by what the rule of each node feeds."""
        self._fed: dict[fx.Node, tuple[fx.Node, ...]] = {}
        self.reached = {self.output}
        for node in reversed(self.graph.nodes):
            if node in self.reached and node.op == "call_function":
                self._fed[node] = self._onward(node, feeds)
                self.reached.update(self._fed[node])
        self.layers = [n for n in self.graph.nodes if n in self.reached and self.family(n) is Family.AFFINE]
        self._above, self._below = self._order()

    def _onward(self, node: fx.Node, feeds: Callable[[fx.Node], Feeds]) -> tuple[fx.Node, ...]:
        if self.role(node) is None:
            return tuple(n for _, n in operands(node) if n in self.live)
        return tuple(n for _, n in self.fed(node, feeds(node)))

    def _usual(self, node: fx.Node) -> Feeds:
        """What is fed as long as no composite has been asked: the signals."""
        product = self.family(node) is Family.PRODUCT
        return "signal" if product and self.weighing(node)[0] > Strength.ACTIVATED else None

    def _order(self) -> tuple[dict[fx.Node, int], dict[fx.Node, int]]:
        """How many weighted layers lie, at most, between each node and the output, and the inputs."""
        above: dict[fx.Node, int] = {}
        below: dict[fx.Node, int] = {}
        for node in self.graph.nodes:
            if node in self.reached:
                sources = self._fed.get(node, ())
                below[node] = int(self.family(node) in WEIGHTED) + max((below.get(n, 0) for n in sources), default=0)
        for node in reversed(self.graph.nodes):
            if node in self.reached:
                above.setdefault(node, 0)
                above[node] += int(self.family(node) in WEIGHTED)
                for n in self._fed.get(node, ()):
                    above[n] = max(above.get(n, 0), above[node])
        return above, below

    def is_first(self, node: fx.Node) -> bool:
        """A weighted layer with no other weighted layer between it and the explained inputs."""
        return node in self.layers and self._below[node] == 1

    def is_last(self, node: fx.Node) -> bool:
        """A weighted layer with no other weighted layer between it and the output."""
        return node in self.layers and self._above[node] == 1

    def changes_units(self, node: fx.Node) -> bool:
        """Whether the node shifts the input by a constant in front of every layer, as (x - mean) / std in a model."""
        step, placed = node, self._above.get(node, 0) > 0
        while placed and step.op == "call_function":
            role = self.role(step)
            if role is None or len(role.live) != 1 or role.family not in (Family.SUM, Family.SCALE, Family.SHAPE):
                return False
            step = role.nodes[0]
        return placed and self.family(node) is Family.SUM and self._shift_is_a_unit(node)

    def _shift_is_a_unit(self, node: fx.Node) -> bool:
        """Whether the constant of a sum is one number, or one a channel: no table of positions."""
        held = [value(n) for n in node.all_input_nodes if n not in self.live]
        return all(sum(size != 1 for size in v.shape) <= 1 for v in held if isinstance(v, Tensor))

    def depth(self, node: fx.Node) -> float | None:
        """Place among the weighted layers from 0 (first) to 1 (last); None for other nodes."""
        if node not in self.layers:
            return None
        below, above = self._below[node] - 1, self._above[node] - 1
        return below / (below + above) if below + above else 1.0

    def batch(self, node: fx.Node) -> Batch:
        """Where the node's value holds the samples.

        In a graph for one batch size: None for a single sample (all of the value is its), else the first dimension of
        that size. Raises RuleError where there is none.
        """
        found = self._layout.of(node)
        if found is not None or self.samples == 1:
            return found
        sizes = list(value(node).shape)
        if self.samples is None or self.samples not in sizes:
            if node in self.explained:
                return 0  # an input all samples share
            raise RuleError(
                f"samples cannot be told apart at {where(node)}, a value of shape {tuple(sizes)}: explain one sample "
                "at a time, or write forward so that the batch stays the first dimension of every value"
            )
        return sizes.index(self.samples)

    def interleaved(self) -> list[fx.Node]:
        """Reshapes after which samples cannot be told apart."""
        return [n for n in self._layout.torn if n in self.reached]
