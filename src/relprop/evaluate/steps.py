"""How many units are replaced at each point of a curve."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable

import torch
from torch import Tensor

from relprop.errors import InputError


def counts(steps: int | Iterable[int], units: int) -> Tensor:
    """Cumulative numbers of replaced units, from 0: (K + 1,), int64.

    An integer asks for that many equal steps to all units, round(k · units / steps) with halves up, one unit a step if
    there are fewer units than steps. A sequence is taken as it is, with 0 in front if it is missing.
    Raises `InputError`: not increasing, more than there are units, nothing to replace.

    >>> counts(3, 10).tolist(), counts(99, 2).tolist(), counts(range(2, 7, 2), 10).tolist()
    ([0, 3, 7, 10], [0, 1, 2], [0, 2, 4, 6])
    """
    if isinstance(steps, int) and not isinstance(steps, bool):
        if steps < 1:
            raise InputError(f"steps is {steps}; give at least 1, or the counts of replaced units")
        parts = min(steps, units)
        return torch.tensor([(2 * k * units + parts) // (2 * parts) for k in range(parts + 1)])
    listed = listed_counts(steps)
    if listed[0] != 0:
        listed = [0, *listed]
    if len(listed) < 2 or any(b <= a for a, b in itertools.pairwise(listed)):
        raise InputError(f"steps is {shortened(listed)}; give increasing counts of replaced units, the last above 0")
    if listed[-1] > units:
        raise InputError(f"steps ends at {listed[-1]} replaced units, but a sample has {units}; end at {units}")
    return torch.tensor(listed)


def listed_counts(steps: object) -> list[int]:
    """The counts as Python integers >= 0. Raises `InputError`."""
    try:
        listed = [operator.index(step) for step in steps]  # type: ignore[attr-defined]
    except TypeError:
        raise InputError(f"steps is {steps!r}; give a number of steps, or counts of replaced units") from None
    if not listed or min(listed) < 0:
        raise InputError(f"steps is {shortened(listed)}; give increasing counts of replaced units, the last above 0")
    return listed


def shortened(listed: list[int]) -> str:
    """A list for a message, its middle left out if it is long."""
    return str(listed) if len(listed) <= 8 else f"[{', '.join(map(str, listed[:6]))}, …, {listed[-1]}]"


def own_counts(count: int, units: int, own: Tensor) -> Tensor:
    """The same share of each sample's own number of units, round(count / units · own), halves up.

    >>> own_counts(5, 10, torch.tensor([10, 4, 3])).tolist()
    [5, 2, 2]
    """
    return (2 * count * own + units) // (2 * units)
