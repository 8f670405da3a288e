"""z + e: what relevance is divided by, with e of the sign of z so that the sum keeps away from 0.

Written without masks: comparisons and `torch.where` cost many times what arithmetic costs, on CPUs most of all.
"""

from __future__ import annotations

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..samples import Batch
from ..values import concrete, owned
from .call import HALF, by_sample

# Norms of so many values are taken in float64 by one call; of more, that costs more than a second pass in float32.
FEW = 4096


def quotient(R: Tensor, d: Tensor) -> Tensor:
    """R / d with 0 where d = 0."""
    return R / without_zeros(d)


def without_zeros(d: Tensor, *, sign: int = 0, spare: bool = False) -> Tensor:
    """d with ∞ for 0. `sign`: 1 for d >= 0, -1 for d <= 0; what rounding made of the other sign counts as 0.

    `spare`: d is not needed any more.
    """
    if sign > 0:
        return F.threshold(d, 0.0, math.inf, inplace=spare and owned(d))
    size = d.abs() if not sign else d.neg_() if spare and owned(d) else -d
    mine = owned(size)
    size = F.threshold(size, 0.0, math.inf, inplace=mine)
    if sign:
        return size.neg_() if mine else -size
    return size.copysign_(d) if mine else torch.copysign(size, d)


def scale(z: Tensor, mode: str, batch: Batch = 0) -> Tensor:
    """What ε is relative to: the rms or std of z over one sample's layer output; for `by_sample(z)` to broadcast with.

    z in half precision is measured in float32.
    """
    z = z.float() if z.dtype in HALF else z
    samples, dims = by_sample(z, batch)
    if not dims:
        return torch.zeros_like(z) if mode == "std" else samples.abs()
    if mode == "std":  # torch.std costs many times as much
        samples = samples - samples.mean(dims, keepdim=True)
    count = math.prod([samples.shape[d] for d in dims]) or 1
    if samples.dtype is torch.float32 and count <= FEW:  # squares of any float32 are float64 numbers
        wide: Tensor = torch.linalg.vector_norm(samples, dim=dims, keepdim=True, dtype=torch.float64)
        return (wide / math.sqrt(count)).float()
    norm: Tensor = torch.linalg.vector_norm(samples, dim=dims, keepdim=True)
    # between the largest |z| and √n times that; squares may leave the range of numbers
    most = torch.maximum(samples.amax(dims, keepdim=True), -samples.amin(dims, keepdim=True))
    return norm.clamp(most, most * math.sqrt(count)) / math.sqrt(count)


@final
class Denominator:
    """z + e for every neuron, and ∞ where that is 0: what is divided by it becomes 0.

    e_k = ε · scale · sign(z_k), with the sign bit of z_k where that is 0, and `scale` 1 for `mode` "absolute".
    `of`: what to take the scale of instead of z, where z holds a constant that says nothing of scale.
    `relative_to`: the scale itself, where it is known. `sign`: 1 where z is never negative, -1 where it is never
    positive. `spare`: z is not needed any more.
    """

    def __init__(
        self, z: Tensor, epsilon: float = 0.0, mode: str = "rms", batch: Batch = 0, *,
        of: Tensor | None = None, relative_to: Tensor | None = None, sign: int = 0, spare: bool = False,
    ) -> None:  # fmt: skip
        self._e: Tensor | None = None
        self._z, self._batch = None if sign > 0 or not epsilon else z, batch
        if not epsilon:
            self.value = without_zeros(z, sign=sign, spare=spare)
            return
        view, _ = by_sample(z, batch)
        if mode == "absolute":
            e = apart = z.new_full((), epsilon)
        else:
            e = epsilon * (scale(z if of is None else of, mode, batch) if relative_to is None else relative_to)
            # an rms vanishes where all of z does, and with it all of z + e
            apart = without_zeros(e, sign=1) if mode == "rms" and of is None else e
        if sign > 0:
            total = view + apart
        else:
            signed = torch.copysign(apart.expand(view.shape), view)
            total = signed.add_(view) if owned(signed) else signed + view
        total = total.reshape(z.shape)
        self._e = e
        self.value = without_zeros(total) if apart is e and mode != "absolute" else total

    def under(self, R: Tensor, *, last: bool = False) -> Tensor:
        """R / (z + e); with `last`, the denominator is not needed any more."""
        if last and owned(R) and owned(self.value) and R.dtype is self.value.dtype and R.shape == self.value.shape:
            return torch.div(R, self.value, out=self.value)
        return R / self.value

    def amounts(self, R: Tensor, s: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What e took of the relevance R, given s = R / (z + e), and what was lost where that is 0; None: nothing."""
        taken = None
        if self._e is not None:
            view, _ = by_sample(s if self._z is None else self._z, self._batch)
            e = self._e.expand(view.shape)
            e = (e if self._z is None else torch.copysign(e, view)).reshape(s.shape)
            taken = s * e
        if concrete(self.value) and bool(self.value.abs().amax() < math.inf):
            return taken, None
        return taken, torch.where(self.value.isinf(), R, 0.0)
