"""Whether the samples of a batch influence each other in a captured graph, and where first."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from .captured import Captured, noise_of, run
from .graph import where
from .ops import REASONS
from .ops import name as op_name
from .values import difference, same


def mixes(captured: Captured, tensors: list[Tensor], got: Tensor) -> bool:
    """Whether the first or the last sample gives another output alone, or among copies of itself, than in the batch."""
    if captured.single:
        return False  # compared with the model's own batch
    for sample in (0, len(got) - 1):
        expected = got[sample : sample + 1]
        alone = run(captured, _alone(captured, tensors, sample))
        alone = alone if captured.dynamic else alone[sample : sample + 1]
        if alone.numel() != expected.numel():
            return True  # every sample is scored against all of them
        if alone.shape != expected.shape or same(alone, expected):  # squeeze() shapes a batch of one in its own way
            continue
        if difference(alone, expected) > 10 * noise_of(captured, tensors, got):
            return True
    return False


def _alone(captured: Captured, tensors: list[Tensor], sample: int) -> list[Tensor]:
    """A sample alone, or, where the graph is for one batch size, the same sample for all."""
    if captured.dynamic:
        pairs = zip(tensors, captured.moving, strict=True)
        return [t[sample : sample + 1].clone() if moves else t.clone() for t, moves in pairs]
    dims = [next((d for d, n in enumerate(t.shape) if n == captured.batch), None) for t in tensors]
    along = zip(tensors, dims, strict=True)
    return [(t if d is None else t.narrow(d, sample, 1).expand(t.shape)).clone() for t, d in along]


class _Values(fx.Interpreter):
    """Runs a graph and keeps every node's value."""

    def values(self, *tensors: Tensor) -> dict[fx.Node, Any]:
        self.kept: dict[fx.Node, Any] = {}
        self.run(*tensors)
        return self.kept

    def run_node(self, n: fx.Node) -> Any:
        self.kept[n] = super().run_node(n)
        return self.kept[n]


def first_mixing(captured: Captured, tensors: list[Tensor]) -> str:
    """The op whose value for a sample first depends on the others, and what is known of it."""
    many = _Values(captured.module).values(*[t.clone() for t in tensors])
    for sample in (0, captured.batch - 1):
        one = _Values(captured.module).values(*_alone(captured, tensors, sample))
        for node, value in many.items():
            rows = isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0
            if not rows or len(value) != captured.batch:
                continue
            row = slice(0, 1) if captured.dynamic else slice(sample, sample + 1)
            expected, alone = value[sample : sample + 1], one[node][row]
            if alone.shape == expected.shape and not same(alone, expected):
                source = node.args[0] if op_name(node.target) == "getitem" else node
                reason = REASONS.get(op_name(source.target))  # type: ignore[union-attr]
                return where(source) + (f" ({reason})" if reason else "")  # type: ignore[arg-type]
    return "an op that relprop could not single out"
