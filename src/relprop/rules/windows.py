"""Pooling windows: for each part of the input, the outputs whose window it stands in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..adjoints import argument, per_dim

Index = tuple[Any, ...]


class Windows:
    """The windows of a max-pooling call as pairs of indices (part of the padded input, outputs).

    Regular windows have one pair for each place in the window: a strided view of the input, and all outputs. Adaptive
    ones, whose sizes differ, have one pair for each output. A part either has the shape of its outputs or broadcasts
    with them.
    """

    def __init__(self, op: str, args: Sequence[Any], kwargs: dict[str, Any], a: Tensor, y: Tensor) -> None:
        self.shape, self.out = a.shape, y.shape
        self.pads: list[int] = []
        self.parts: list[tuple[Index, Index]] = []
        self.kernel: list[int] = []
        self.geometry: list[Any] = []  # kernel, stride, padding, dilation and ceil mode
        self.dilated = False
        self.tile = False  # whether the windows lie side by side and leave nothing out
        if op == "adaptive_max_pool":
            self._adaptive(len(args[1]))
        elif op in ("amax", "max"):
            raise NotImplementedError
        else:
            self._regular(int(op[len("max_pool")]), args, kwargs)

    def _adaptive(self, dims: int) -> None:
        size, out = self.shape[-dims:], self.out[-dims:]
        for cell in product(*map(range, out)):
            window = [slice(i * n // o, -(-(i + 1) * n // o)) for i, n, o in zip(cell, size, out, strict=True)]
            self.parts.append(((..., *window), (..., *(slice(i, i + 1) for i in cell))))

    def _regular(self, dims: int, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        given = tuple(args)
        kernel = per_dim(argument(given, kwargs, 1, "kernel_size", None), dims)
        stride = argument(given, kwargs, 2, "stride", [])
        stride = per_dim(stride, dims) if stride not in (None, []) else kernel
        padding = per_dim(argument(given, kwargs, 3, "padding", 0), dims)
        dilation = per_dim(argument(given, kwargs, 4, "dilation", 1), dims)
        size, out = self.shape[-dims:], self.out[-dims:]
        reach = [(o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(out, stride, dilation, kernel, strict=True)]
        self.kernel = kernel
        self.geometry = [kernel, stride, padding, dilation, argument(given, kwargs, 5, "ceil_mode", False)]
        self.dilated = set(dilation) != {1}
        whole = all(n == o * k for n, o, k in zip(size, out, kernel, strict=True))
        self.tile = whole and kernel == stride and not self.dilated and not any(padding)
        for n, p, r in reversed(list(zip(size, padding, reach, strict=True))):
            self.pads += [p, max(0, r - n - p)]
        for place in product(*map(range, kernel)):
            starts = [i * d for i, d in zip(place, dilation, strict=True)]
            view = [slice(i, i + (o - 1) * s + 1, s) for i, o, s in zip(starts, out, stride, strict=True)]
            self.parts.append(((..., *view), (...,)))

    def pad(self, a: Tensor, fill: float) -> Tensor:
        """The input with a border of `fill` wherever a window reaches over the edge."""
        return F.pad(a, self.pads, value=fill) if self.pads else a

    def total(self, padded: Tensor) -> Tensor:
        """Σ over each window."""
        z = padded.new_zeros(self.out)
        for part, outputs in self.parts:
            z[outputs] += padded[part].sum_to_size(z[outputs].shape)
        return z

    def tiled(self, y: Tensor) -> Tensor:
        """Of windows side by side, each one's value in all its places."""
        lead, places = list(y.shape[: -len(self.kernel)]), list(self.out[-len(self.kernel) :])
        apart = [n for o in places for n in (o, 1)]
        filled = [n for o, k in zip(places, self.kernel, strict=True) for n in (o, k)]
        return y.reshape(*lead, *apart).expand(*lead, *filled).reshape(*lead, *self.shape[-len(places) :])

    def fold(self, parts: Iterator[Tensor]) -> Tensor:
        """Sum contributions, one for each pair, back to the input they came from, without the border."""
        border = [0] * (2 * len(self.shape) - len(self.pads)) + self.pads[::-1]
        whole = [n + border[2 * i] + border[2 * i + 1] for i, n in enumerate(self.shape)]
        total: Tensor | None = None
        for (place, _), part in zip(self.parts, parts, strict=True):
            if total is None:
                total = part.new_zeros(whole)  # of the part, which may be mapped over targets (vmap)
            total[place] += part
        assert total is not None
        # reversed pads hold (far side, near side) of each dimension
        inner = tuple(slice(border[2 * i + 1], border[2 * i + 1] + n) for i, n in enumerate(self.shape))
        return total[inner]

    def spread(self, s: Tensor) -> Tensor:
        """The transpose of `total`: s to every entry of its window."""
        return self.fold(s[outputs].expand(self._size(place)) for place, outputs in self.parts)

    def _size(self, place: Index) -> torch.Size:
        """Shape of the part of the padded input at this place."""
        spatial = [len(range(0, max(0, p.stop - p.start), p.step or 1)) for p in place[1:]]
        return torch.Size([*self.shape[: len(self.shape) - len(spatial)], *spatial])
