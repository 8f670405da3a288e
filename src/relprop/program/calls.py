"""What a rule is told of each op: its `Call`, with what is known of it, and what can be computed once and for all."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from .. import ops, rules
from ..canonize.edit import constant
from ..captured import Captured
from ..composites import Assigned, Assignment
from ..errors import RuleError
from ..graph import Reading, value
from ..ops import Family
from ..samples import hint
from .silence import Silence, number_at_zero, written

# Families whose calls may say that relevance arrives only where y > 0.
SUMS = (Family.AFFINE, Family.AVERAGE, Family.BATCH_NORM, Family.SUM)
# Families that carry the arithmetic: with `half`, they stay in half precision on the way back.
HEAVY = (Family.AFFINE, Family.PRODUCT, Family.ATTENTION)


class Calls:
    """Writes the calls of a program into its graph.

    `copied`: the program's node for each of the model's. `readers`: the rule calls that send relevance to each value.
    `half`: heavy ops in half precision are not repeated in float32. `compiled`: no rule may choose its way by values.
    """

    def __init__(
        self,
        captured: Captured,
        reading: Reading,
        assignment: Assignment,
        *,
        half: bool = False,
        compiled: bool = False,
    ) -> None:
        self.captured, self.reading, self.assignment, self.half = captured, reading, assignment, half
        self.compiled = compiled
        self.graph = fx.Graph()
        self.copied: dict[fx.Node, fx.Node] = {}
        self.saved: dict[fx.Node, fx.Node] = {}
        self.readers: dict[fx.Node, list[Assigned]] = {}
        for a in assignment:
            for n in self.live(a).values():
                self.readers.setdefault(n, []).append(a)
        self.silence = Silence(reading, self.readers)
        self._scales: dict[fx.Node, fx.Node] = {}
        self._constants: dict[str, fx.Node] = {}
        self._tried: dict[Any, rules.Call | None] = captured.module.meta.setdefault("relprop_tried", {})

    def live(self, a: Assigned) -> dict[Any, fx.Node]:
        """Operands of a node that get relevance, by position: for a gated product the signal alone."""
        return dict(self.reading.fed(a.node, a.rule.feeds))

    def load(self, tree: Any) -> Any:
        """Arguments of the model's node as the program's."""
        return torch.fx.map_arg(tree, self.copied.__getitem__)

    def parameter(self, name: str, value: Any) -> Any:
        """A parameter of a rule as an argument of its call: numbers and texts as they are, tensors as constants."""
        if isinstance(value, (tuple, list)):
            return tuple(self.parameter(f"{name}_{i}", v) for i, v in enumerate(value))
        return self.keep(name, value) if isinstance(value, Tensor) else value

    def keep(self, name: str, tensor: Tensor) -> fx.Node:
        """A tensor kept among the program's weights under its name."""
        module = self.captured.module
        while hasattr(module, name) and getattr(module, name) is not tensor:
            name += "_"
        if not hasattr(module, name):
            module.register_buffer(name, tensor)
        if name not in self._constants:
            self._constants[name] = self.graph.get_attr(name)
        return self._constants[name]

    # the calls

    def forward(self, a: Assigned) -> fx.Node:
        """The call before its value is known, for the rule's own `forward`."""
        target, args, own = self._op(a.node)
        return self._call(f"forward_f_{a.node.name}", target, args, None, own, self._known(a) | self._prepared(a))

    def backward(self, a: Assigned, *, ledger: bool) -> fx.Node:
        """The call with its value."""
        node = a.node
        known = self._known(a) | self._prepared(a)
        y = self.copied[node]
        relu = self.silence.relu(node) if known.get("rectified") or self._quiet(a) else None
        if relu is not None and self._spares(a):
            y = self.copied[relu]  # the model keeps that anyway
            if self._scaled(a) and a.rule.rectified:
                known["scale"] = self._scale(a)
        if node in self.saved:
            known["saved"] = self.saved[node]
        if ledger:
            known["ledger"] = True
            batches = tuple(self.reading.batch(n) for n in self.live(a).values())
            known |= self._batch(node)
            if any(b != self.reading.batch(node) for b in batches):
                known["batches"] = batches
        target, args, own = self._op(node)
        if ops.name(target) == "relu" and a.rule.name == "activation":
            args = (node,)  # max(0, y) = y: relevance passes, and nothing needs the value below
        return self._call(f"f_{node.name}", target, args, y, own, known)

    def _call(
        self, name: str, target: Any, args: Any, y: fx.Node | None, own: dict[str, Any], known: dict[str, Any]
    ) -> fx.Node:
        every = (target, self.load(args), y, *((self.load(own),) if own else ()))
        return self.graph.create_node("call_function", rules.Call, every, known, name=name)

    def _op(self, node: fx.Node) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Op, arguments and keyword arguments; fx prints ATen ops and strings, so that functions go by name."""
        if "relprop_root" in node.meta:
            return ops.name(ops.region), (node.meta["relprop_root"],), {}
        short = ops.name(node.target)
        return (short if short in ops.FUNCTIONS else node.target), tuple(node.args), dict(node.kwargs)

    def _known(self, a: Assigned) -> dict[str, Any]:
        """What the graph knows of a call."""
        node, live, role = a.node, self.live(a), self.reading.role(a.node)
        assert role is not None
        known: dict[str, Any] = {}
        if tuple(live) != (0,):
            known["live"] = tuple(live)
        target = ops.region if "relprop_root" in node.meta else node.target
        if role.family is not ops.TABLE[target].family:
            known["family"] = role.family.value
        if role.family in SUMS and role.family is not Family.SUM:
            if all(n in self.reading.nonneg for n in live.values()):
                known["nonneg"] = True
            if self.silence.rectified(node):
                known["rectified"] = True
        if role.family is Family.ACTIVATION:
            zero = self._at_zero(node)
            if zero is not None:
                known["zero"] = zero
        if self._scaled(a):
            known |= self._batch(node)
        if self.half and role.family in HEAVY:
            known["wide"] = False
        if self.compiled and role.family in SUMS:
            known["choice"] = False
        return known

    def _batch(self, node: fx.Node) -> dict[str, Any]:
        batch = self.reading.batch(node)
        return {} if batch == 0 else {"batch": batch}

    def _scaled(self, a: Assigned) -> bool:
        """Whether the rule's ε is relative to the values of a sample."""
        chosen = {**a.rule.parameters, **a.parameters}
        return bool(chosen.get("epsilon")) and chosen.get("epsilon_mode") != "absolute"

    def _quiet(self, a: Assigned) -> bool:
        return self.reading.family(a.node) is Family.SUM and self.silence.rectified(a.node)

    def _spares(self, a: Assigned) -> bool:
        """Whether max(0, y) will do for y: the rule is content with it, or never looks at y."""
        if a.rule.rectified and a.parameters.get("bias") != "ignore":
            return True
        tried = self._try(a)
        return tried is not None and not tried.reads_value

    def _scale(self, a: Assigned) -> fx.Node:
        """What ε is relative to, taken while y is at hand."""
        node = a.node
        if node not in self._scales:
            mode = {**a.rule.parameters, **a.parameters}["epsilon_mode"]
            args = (self.copied[node], mode, *self._batch(node).values())
            with self.graph.inserting_after(self.copied[node]):
                scale = self.graph.create_node("call_function", rules.scale, args, name=f"scale_{node.name}")
            scale.meta["relprop_op"] = node.name
            self._scales[node] = scale
        return self._scales[node]

    def _at_zero(self, node: fx.Node) -> Any:
        """f(0) of an activation, None if it is 0: a number where it does not depend on tensors, else computed."""
        number = number_at_zero(self.reading, node)
        if not math.isnan(number):
            return number or None
        inside, root, _ = written(self.reading, node)
        zero = self.graph.create_node("call_function", torch.zeros_like, (self.copied[root],), name=f"{root.name}_at_0")
        made: dict[fx.Node, fx.Node] = {root: zero}
        for n in inside:
            made[n] = self.graph.node_copy(n, lambda x: made[x] if x in made else self.copied[x])
            made[n].name = f"{n.name}_at_0"
        return made[node]

    # what is computed once

    def _prepared(self, a: Assigned) -> dict[str, Any]:
        """The transformed weights the rule asks for, computed now and kept among the program's weights."""
        tried = self._try(a)
        if tried is None or not tried.transformed:
            return {}
        assert tried.weight is not None
        weight = a.node.args[tried.weight]
        held = constant(self.captured.module, weight)
        if held is None:
            return {}
        wide = held.float() if tried.wide and held.dtype in rules.HALF else held
        meta = self.captured.module.meta
        kept: dict[tuple[str, str], tuple[Tensor, rules.Transform, Tensor]] = meta.setdefault("relprop_prepared", {})
        prepared = {}
        with torch.inference_mode(False), torch.no_grad():
            for transform in tried.transformed:
                key = str(weight), transform.key
                if key not in kept:
                    kept[key] = wide, transform, transform(wide.detach())
                if kept[key][1] != transform:
                    raise RuleError(f"two transforms of weights are called {transform.key!r}; rename one of them")
                name = re.sub(r"\W", "_", "_".join(key))
                prepared[transform.key] = self.keep(name, kept[key][2])
        return {"prepared": prepared}

    def _try(self, a: Assigned) -> rules.Call | None:
        """The call after its rule ran on empty tensors of the same shapes: what it asked for.

        None where it cannot run so; then nothing is prepared, and everything is computed when it is needed. Calls that
        differ in nothing but their values are tried once.
        """
        if self.reading.family(a.node) not in SUMS:
            return None
        known = {k: v for k, v in self._known(a).items() if not isinstance(v, fx.Node)}
        target, args, own = self._op(a.node)
        shapes: Callable[[fx.Node], Any] = lambda n: _Empty.of(value(n))  # noqa: E731
        given = fx.map_arg((args, own, a.node), shapes)
        chosen = [(k, id(v) if isinstance(v, Tensor) else v) for k, v in a.parameters.items()]
        key = repr((str(target), given, known, a.rule.name, id(a.rule.function), chosen))
        if key not in self._tried:
            self._tried[key] = _tried(a, target, *given, known)
        return self._tried[key]


@dataclass(frozen=True)
class _Empty:
    """A tensor's type and sizes at capture."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @staticmethod
    def of(v: Any) -> Any:
        return _Empty(tuple(map(hint, v.shape)), v.dtype) if isinstance(v, Tensor) else v


def _tried(a: Assigned, target: Any, args: Any, own: Any, y: Any, known: dict[str, Any]) -> rules.Call | None:
    def empty(v: Any) -> Any:
        return torch.empty(v.shape, dtype=v.dtype, device="meta") if isinstance(v, _Empty) else v

    args, own, y = torch.utils._pytree.tree_map(empty, (args, own, y))
    try:
        call = rules.Call(target, args, y, own, ledger=True, **known)
        R = torch.empty_like(y, dtype=torch.promote_types(y.dtype, torch.float32))
        a.rule.function(R, call, **a.parameters)
    except Exception:  # a rule may look at values, or be anyone's
        return None
    return call
