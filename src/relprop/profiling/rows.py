"""What an op costs, and sums of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

# By what rows are sorted, the largest first: seconds over the limit, over the op's gradient, or in all.
ORDERS: dict[str, Callable[[Row], float]] = {
    "lost": lambda row: row.lost,
    "excess": lambda row: row.excess,
    "time": lambda row: row.seconds,
}


@dataclass(frozen=True)
class Cost:
    """What an op costs in one direction.

    `seconds`; `flops`; bytes `moved` by its ATen ops one by one, and `needed` if all were one kernel; `limit`: seconds
    that the arithmetic or the needed bytes take at the machine's peak, whichever is longer.
    """

    seconds: float = 0.0
    flops: int = 0
    moved: int = 0
    needed: int = 0
    limit: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds,
            self.flops + other.flops,
            self.moved + other.moved,
            self.needed + other.needed,
            self.limit + other.limit,
        )


@dataclass(frozen=True)
class Row:
    """One op of the model: its `forward`, the `backward` step of its rule, and the `gradient` of the op itself, which
    is what the step would cost at best. `count` is more than 1 in sums."""

    node: str
    module: str = ""
    op: str = ""
    rule: str = ""
    forward: Cost = Cost()
    backward: Cost = Cost()
    gradient: Cost = Cost()
    count: int = 1

    @property
    def both(self) -> Cost:
        """Forward and backward."""
        return self.forward + self.backward

    @property
    def seconds(self) -> float:
        """Of both directions."""
        return self.both.seconds

    @property
    def flops(self) -> int:
        """Of both directions."""
        return self.both.flops

    @property
    def moved(self) -> int:
        """Bytes, of both directions."""
        return self.both.moved

    @property
    def limit(self) -> float:
        """Seconds that both directions need at least."""
        return self.both.limit

    @property
    def share(self) -> float:
        """limit / seconds: 1 where the machine does all it can (more where data comes from a cache), 0 for no work."""
        return self.limit / self.seconds if self.seconds else 0.0

    @property
    def lost(self) -> float:
        """Seconds over the limit."""
        return self.seconds - self.limit

    @property
    def excess(self) -> float:
        """Seconds that the rule's step takes over the gradient of the op."""
        return self.backward.seconds - self.gradient.seconds

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the fields, and what follows from them."""
        return asdict(self) | {"seconds": self.seconds, "limit": self.limit, "share": self.share, "lost": self.lost,
                               "excess": self.excess}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A whole run, measured apart from its ops: `seconds`, `flops`, bytes `moved`, and `memory`, the most bytes of new
    tensors alive at once (without inputs, weights and scratch memory inside kernels)."""

    seconds: float
    flops: int
    moved: int
    memory: int


def summed(rows: Iterable[Row], name: str) -> Row:
    """One row with the sums."""
    rows = list(rows)
    return Row(
        name,
        forward=sum((r.forward for r in rows), Cost()),
        backward=sum((r.backward for r in rows), Cost()),
        gradient=sum((r.gradient for r in rows), Cost()),
        count=sum(r.count for r in rows),
    )
