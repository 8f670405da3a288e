"""Affine maps: how they follow one another, which point of the features they call zero, and as layers.

A linear model says how much each feature adds *compared with a reference point*: w·x + b = w·(x − x₀) + f(x₀), and
the features' relevance is w ⊙ (x − x₀). Scalers and PCA move that point: behind them, 0 is (say) the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..pooling import centred


def fitted(values: Any) -> Tensor:
    """A fitted attribute of an estimator as a tensor of its own, in float64; sparse ones are filled in.

    Raises TypeError or ValueError for what holds no numbers.
    """
    if isinstance(values, Tensor):
        return values.detach().cpu().double().clone()
    if isinstance(values, (list, tuple, int, float)):
        return torch.tensor(values, dtype=torch.float64)  # torch alone will do
    import numpy as np

    dense = values.toarray() if hasattr(values, "toarray") else values
    return torch.from_numpy(np.array(dense, dtype=np.float64, order="C"))


def given_point(reference: Any, features: int, mean: Tensor | None, name: str) -> Tensor | None:
    """The option `reference`: None, "mean" (where the estimator keeps it), or one number a feature.

    Raises InputError for other texts, a mean that is not known, another number of values, and values not finite.
    """
    if reference is None:
        return None
    if isinstance(reference, str):
        if reference != "mean":
            raise InputError(f'reference={reference!r}: give None, "mean", or an array with one value a feature')
        if mean is None:
            raise InputError(
                f'reference="mean": {name} does not keep the mean of its training data; give it: reference=X.mean(0)'
            )
        return mean
    try:
        point = fitted(reference)
    except (TypeError, ValueError):
        raise InputError(f"reference is a {type(reference).__name__} that holds no numbers") from None
    if point.shape != (features,):
        raise InputError(f"reference has shape {tuple(point.shape)}; {name} has {features} features: ({features},)")
    if not bool(point.isfinite().all()):
        raise InputError("reference holds NaN or infinity")
    return point


@final
@dataclass(frozen=True)
class Affine:
    """z = A x + c for x of d and z of m features; `near`: a point about which the data lie, if one is known.

    >>> half = Affine(0.5 * torch.eye(2).double(), torch.tensor([-1.0, 2.0]).double())
    >>> half.zero().tolist(), half.then(half).bias.tolist()
    ([2.0, -4.0], [-1.5, 3.0])
    """

    weight: Tensor
    bias: Tensor
    near: Tensor | None = None

    @staticmethod
    def elementwise(scale: Tensor, at: Tensor, near: Tensor | None = None) -> Affine:
        """z = scale ⊙ (x − at)."""
        return Affine(torch.diag(scale), -scale * at, near)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def then(self, after: Affine) -> Affine:
        """The map that does this one and then another; of what only the other knows a mean, it is carried back."""
        return Affine(after.weight @ self.weight, after.weight @ self.bias + after.bias, self._near(after.near))

    def _near(self, behind: Tensor | None) -> Tensor | None:
        """`near`, corrected where the map behind knows another point `behind` about which this one's outputs lie."""
        if behind is None:
            return self.near
        if self.near is not None:
            size = self.weight.abs() @ self.near.abs() + self.bias.abs() + behind.abs()
            if bool(((self(self.near) - behind).abs() <= 1e-9 * size).all()):
                return self.near  # the same point, without the rounding
        return self.lift(behind[None])[0]

    def single(self) -> Tensor | None:
        """Of a map whose outputs each read one feature, that feature's index; None for others."""
        used = self.weight != 0
        return used.int().argmax(1) if bool((used.sum(1) == 1).all()) else None

    def zero(self) -> Tensor:
        """The point that is mapped to 0: of several the one closest to `near`, if there is none the best one."""
        return self.lift(torch.zeros_like(self.bias)[None])[0]

    def lift(self, points: Tensor) -> Tensor:
        """For each point u (k, m) a point r (k, d) with A r + c = u, closest to `near`; or as nearly u as can be."""
        start = torch.zeros(self.weight.shape[1], dtype=self.weight.dtype) if self.near is None else self.near
        index = self.single()
        if index is not None and alone(index):  # entry by entry
            own = self.weight.gather(1, index[:, None])[:, 0]
            return start.expand(len(points), -1).index_copy(1, index, (points - self.bias) / own)
        wanted = points - self(start)
        steps: Tensor = torch.linalg.lstsq(self.weight, wanted.T, driver="gelsd").solution.T
        return start + steps

    def reaches(self, points: Tensor, lifted: Tensor) -> bool:
        """Whether `lifted` are mapped to `points`, up to rounding."""
        return torch.allclose(self(lifted), points, rtol=1e-10, atol=1e-10 * float(points.abs().max()))

    def build(self, at: Tensor | None = None) -> nn.Module:
        """The map as a layer that takes `at` (the point that becomes 0, if none is given) for its reference."""
        at = self.zero() if at is None else at
        index = self.single()
        if index is None:
            return Projected(self.weight, at, self(at))
        return Rescaled(self.weight.gather(1, index[:, None])[:, 0], index, at, self(at))


@final
class Linear(nn.Module):
    """y = W (x − x₀) + (W x₀ + b): (samples, features) to (samples, outputs), with the relevance W ⊙ (x − x₀).

    Without a reference x₀ is 0. What the reference itself scores is the layer's bias.
    """

    weight: Tensor
    bias: Tensor
    reference: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor, reference: Tensor | None = None) -> None:
        super().__init__()
        if reference is not None and not bool(reference.any()):
            reference = None
        self.register_buffer("weight", weight.clone())
        self.register_buffer("bias", bias.clone() if reference is None else bias + weight @ reference)
        self.register_buffer("reference", reference)

    @property
    def map(self) -> Affine:
        """The map W x + b, whatever the reference."""
        at_zero = self.bias if self.reference is None else self.bias - self.weight @ self.reference
        return Affine(self.weight, at_zero)

    def forward(self, x: Tensor) -> Tensor:
        """(samples, features) to (samples, outputs)."""
        return F.linear(x if self.reference is None else centred(x, self.reference), self.weight, self.bias)


@final
class Rescaled(nn.Module):
    """z_k = s_k (x_i(k) − r_i(k)) + c_k: relevance passes from z_k to its feature i(k), whatever the values."""

    scale: Tensor
    index: Tensor | None
    at: Tensor
    shift: Tensor | None

    def __init__(self, scale: Tensor, index: Tensor, at: Tensor, shift: Tensor) -> None:
        super().__init__()
        own = torch.equal(index, torch.arange(len(at)))
        self.register_buffer("scale", scale.clone())
        self.register_buffer("index", None if own else index.clone())
        self.register_buffer("at", at[index].clone())
        self.register_buffer("shift", _unless_zero(shift, scale * at[index]))

    def forward(self, x: Tensor) -> Tensor:
        """(samples, features) to (samples, outputs)."""
        if self.index is not None:
            x = x.index_select(1, self.index)
        y = centred(x, self.at) * self.scale
        return y if self.shift is None else centred(y, -self.shift)


@final
class Projected(nn.Module):
    """z = A (x − r) + c, such as PCA: R_i = Σ_k A_ki (x_i − r_i) / Σ_i A_ki (x_i − r_i) · R_k."""

    weight: Tensor
    at: Tensor
    shift: Tensor | None

    def __init__(self, weight: Tensor, at: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.clone())
        self.register_buffer("at", at.clone())
        self.register_buffer("shift", _unless_zero(shift, weight.abs() @ at.abs()))

    def forward(self, x: Tensor) -> Tensor:
        """(samples, features) to (samples, outputs)."""
        y = F.linear(centred(x, self.at), self.weight)
        return y if self.shift is None else centred(y, -self.shift)


def alone(index: Tensor) -> bool:
    """Whether each of these indices occurs once."""
    return len(set(index.tolist())) == len(index)


def _unless_zero(shift: Tensor, scale: Tensor) -> Tensor | None:
    """None where nothing but rounding is left of terms of this size."""
    return None if bool((shift.abs() <= 1e-13 * scale.abs()).all()) else shift.clone()
