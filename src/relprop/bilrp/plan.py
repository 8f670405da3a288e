"""How the joint relevance is computed: unit by unit, or cell by cell, whichever takes fewer passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..errors import InputError

Way = Literal["auto", "tokens", "units"]


@dataclass(frozen=True)
class Cost:
    """What a call cost, in passes of one batch through a relevance program, each about a gradient's way back.

    `way`: what was done, `why` it was. `units`: passes of the way unit by unit, E for each of the two inputs. `tokens`:
    passes of the way cell by cell, one that is recorded, T transposed ones, and T of the other input, where T is the
    smaller number of cells. Both have the same two forward passes, and two passes more for the marginals.

    >>> print(Cost("tokens", units=2 * 2048, tokens=2 * 16 + 1, why="fewer passes"))
    tokens: 33 passes (units: 4096; fewer passes)
    """

    way: str
    units: int
    tokens: int
    why: str

    @property
    def passes(self) -> int:
        """Passes of the way that was taken."""
        return self.units if self.way == "units" else self.tokens

    def __str__(self) -> str:
        other = "tokens" if self.way == "units" else "units"
        return f"{self.way}: {self.passes} passes ({other}: {getattr(self, other)}; {self.why})"


def plan(way: Way, width: int, cells: tuple[int, int]) -> Cost:
    """The way to take for embeddings of `width` units and two inputs of so many cells."""
    units, tokens = 2 * width, 2 * min(cells) + 1
    if way == "auto":
        return Cost("tokens" if tokens < units else "units", units, tokens, "fewer passes")
    return Cost(way, units, tokens, "asked for")


def check_options(similarity: Any, way: Any) -> None:
    """Refuse what is no similarity and no way."""
    if similarity not in ("dot", "cosine"):
        raise InputError(f"similarity={similarity!r}: give 'dot' or 'cosine'")
    if way not in ("auto", "tokens", "units"):
        raise InputError(f"way={way!r}: give 'auto', 'tokens' (cell by cell) or 'units' (of the embedding)")
