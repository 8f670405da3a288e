"""Checkpoints: values that the way back computes again instead of keeping them (Chen et al. 2016)."""

from __future__ import annotations

import math

from torch import Tensor, fx

from ..graph import is_random, value
from ..samples import hint
from .writer import Writer


def segments(graph: fx.Graph) -> dict[fx.Node, int]:
    """The segment of each op, from 0: about √n segments of n values, with about as many bytes each."""
    nodes = [n for n in graph.nodes if n.op == "call_function"]
    sizes = [_bytes(n) for n in nodes]
    count = max(2, round(math.sqrt(len(nodes))))
    each, done = max(1, sum(sizes)) / count, 0
    found: dict[fx.Node, int] = {}
    for node, size in zip(nodes, sizes, strict=True):
        found[node] = min(count - 1, int(done / each))
        done += size
    return found


def _bytes(node: fx.Node) -> int:
    v = value(node)
    return math.prod(hint(n) for n in v.shape) * v.element_size() if isinstance(v, Tensor) else 0


class Segments:
    """Writes the values of a segment once more where the way back enters it.

    Values that a later segment reads are kept: they are what a segment starts from. So are random ones.
    """

    def __init__(self, writer: Writer, segment: dict[fx.Node, int]) -> None:
        self.writer, self.segment = writer, segment
        self.inside: dict[int, list[fx.Node]] = {}
        for node, i in segment.items():
            self.inside.setdefault(i, []).append(node)
        self.entered = {max(self.inside)}

    def enter(self, node: fx.Node) -> None:
        """Before the step of a node: if its segment is new, its values again."""
        i = self.segment.get(node)
        if i is None or i in self.entered:
            return
        self.entered.add(i)
        for n in self.inside[i]:
            if not self._kept(n, i):
                name = self.writer.copied[n].name
                self.writer.write(n)
                self.writer.copied[n].name = f"{name}_again"

    def _kept(self, node: fx.Node, i: int) -> bool:
        return is_random(node) or any(self.segment.get(u, i + 1) > i for u in node.users)
