"""Pooling windows by explicit loops: the winner-take-all rule, and a max-pool seen as the sum of its window."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from dense import Dense


def starts(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> list[int]:
    """First positions of all windows along one dimension; padding counts as negative positions."""
    span = dilation * (kernel - 1) + 1
    steps = (size + 2 * padding - span) / stride
    count = (math.ceil(steps) if ceil_mode else math.floor(steps)) + 1
    if ceil_mode and (count - 1) * stride >= size + padding:  # a window must start inside the input or its left padding
        count -= 1
    return [i * stride - padding for i in range(count)]


def windows(
    sizes: tuple[int, ...], kernel: int, stride: int, padding: int = 0, dilation: int = 1, ceil_mode: bool = False
) -> list[list[int]]:
    """For each output position the flat indices of its inputs, padding excluded."""
    axes = [
        [
            [start + dilation * i for i in range(kernel) if 0 <= start + dilation * i < size]
            for start in starts(size, kernel, stride, padding, dilation, ceil_mode)
        ]
        for size in sizes
    ]
    return [[flat_index(at, sizes) for at in itertools.product(*window)] for window in itertools.product(*axes)]


def flat_index(at: tuple[int, ...], sizes: tuple[int, ...]) -> int:
    """Row-major index of a position."""
    index = 0
    for position, size in zip(at, sizes, strict=True):
        index = index * size + position
    return index


def winner(a: Tensor, R: Tensor, places: list[list[int]]) -> Tensor:
    """Each output's relevance goes to the largest input of its window, in equal parts to all that are as large."""
    values, incoming = a.reshape(-1, a[0, 0].numel()), R.reshape(-1, len(places))
    result = torch.zeros_like(values)
    for row, (value, relevance) in enumerate(zip(values, incoming, strict=True)):
        for place, r in zip(places, relevance.tolist(), strict=True):
            largest = max(value[j].item() for j in place)
            tied = [j for j in place if value[j].item() == largest]
            for j in tied:
                result[row, j] += r / len(tied)
    return result.reshape(a.shape)


def total(channels: int, sizes: tuple[int, ...], places: list[list[int]]) -> Dense:
    """The dense map of one sample [channels, *sizes]: every output the sum of its window."""
    one = torch.zeros(len(places), math.prod(sizes), dtype=torch.float64)
    for k, place in enumerate(places):
        one[k, place] = 1.0
    weight = torch.block_diag(*[one] * channels)
    return Dense(weight, torch.zeros(len(weight), dtype=torch.float64), torch.Size((channels, *sizes)))
