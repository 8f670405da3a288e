"""Where the samples of a batch lie in each value of a graph.

A dimension of size outer · B · inner holds B samples: entry i belongs to sample (i // inner) mod B. A batch that is the
first dimension has outer = inner = 1; heads merged behind it make inner > 1; time steps merged in front, outer > 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from . import adjoints, ops

# A dimension, alone where samples are blocks of it, or with outer and inner; None: all of the value is one sample's.
Batch = int | tuple[int, int, int] | None


def symbolic(size: Any) -> bool:
    """Whether a dimension's size was left open at capture."""
    return isinstance(size, torch.SymInt) and bool(size.node.expr.free_symbols)


def batch_dim(node: fx.Node) -> int | None:
    """The first dimension whose size was left open."""
    v = node.meta.get("val")
    return next((d for d, n in enumerate(v.shape) if symbolic(n)), None) if isinstance(v, Tensor) else None


class Samples:
    """The layout of the batch in every value of a graph captured for any batch size."""

    def __init__(self, graph: fx.Graph) -> None:
        self._outer: dict[fx.Node, int] = {}
        self.torn: list[fx.Node] = []  # reshapes after which samples cannot be told apart
        self._one = next((n.meta["val"].shape[0] for n in graph.find_nodes(op="placeholder") if batch_dim(n) == 0), 1)
        for node in graph.nodes:
            if batch_dim(node) is not None:
                self._outer[node] = self._blocks(node)

    def of(self, node: fx.Node) -> Batch:
        """Where the samples are in the node's value."""
        outer = self._outer.get(node, 1)
        return batch_dim(node) if outer == 1 else (int(batch_dim(node) or 0), outer, self._rows(node) // outer)

    def _rows(self, node: fx.Node) -> int:
        """How many entries of the batch dimension a sample has."""
        return hint(node.meta["val"].shape[batch_dim(node)]) // hint(self._one)

    def _blocks(self, node: fx.Node) -> int:
        """`outer` of a value: that of what it is computed from, changed by reshapes alone."""
        row = ops.lookup(node.target) if node.op == "call_function" else None
        if row is None or row.adjoint is not adjoints.reshape:
            return max((self._outer.get(n, 1) for n in node.all_input_nodes if _same_rows(n, node)), default=1)
        source: Any = node.args[0]
        if batch_dim(source) is None:
            return 1
        blocks, torn = divmod(self._outer.get(source, 1) * _leading(source), _leading(node))
        if torn or not blocks or self._rows(node) % blocks:
            self.torn.append(node)
            return 1
        return blocks


def _leading(node: fx.Node) -> int:
    """The number of entries of the dimensions in front of the batch."""
    return math.prod(hint(n) for n in node.meta["val"].shape[: batch_dim(node)])


def _same_rows(source: fx.Node, node: fx.Node) -> bool:
    """Whether both have a batch dimension of the same size."""
    i, j = batch_dim(source), batch_dim(node)
    return i is not None and j is not None and bool(source.meta["val"].shape[i] == node.meta["val"].shape[j])


def hint(size: Any) -> int:
    """A size, or the one it had at capture where it was left open."""
    return int(size.node.hint if isinstance(size, torch.SymInt) else size)  # type: ignore[arg-type]
