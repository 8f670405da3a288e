"""The layers neuralized estimators share: distances to points, and pools over them.

Features x are (samples, d); points u_k are (K, d). Constants are buffers.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, final

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..pooling import centred, contrasts, shifted, smallest, soft_min, squared_distances
from .affine import fitted


def constant(values: Any) -> Tensor:
    """Numbers as a tensor of their own: a tensor's in its type, others in float64."""
    return values.detach().clone() if isinstance(values, Tensor) else fitted(values)


@final
class Differences(nn.Module):
    """x − u_k for every point u_k: (samples, d) -> (samples, K, d).

    >>> Differences(torch.tensor([[0.0, 1.0], [2.0, 2.0]]))(torch.tensor([[1.0, 1.0]]))
    tensor([[[ 1.,  0.],
             [-1., -1.]]])
    """

    def __init__(self, points: Any) -> None:
        super().__init__()
        self.register_buffer("points", constant(points))

    points: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Differences; the points take no relevance."""
        return centred(x.unsqueeze(1), self.points)


@final
class SquaredDistances(nn.Module):
    """h_k = ‖x − u_k‖² to every point u_k: (samples, d) -> (samples, K), without the differences feature by feature.

    >>> SquaredDistances(torch.tensor([[0.0, 1.0], [2.0, 2.0]]))(torch.tensor([[1.0, 1.0]]))
    tensor([[1., 2.]])
    """

    def __init__(self, points: Any) -> None:
        super().__init__()
        self.register_buffer("points", constant(points))

    points: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The distances; the points take no relevance."""
        return squared_distances(x, self.points)


@final
class Scaled(nn.Module):
    """Times a constant that broadcasts: scales of features, of points, or of both."""

    def __init__(self, scale: Any) -> None:
        super().__init__()
        self.register_buffer("scale", constant(scale))

    scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        return x * self.scale


@final
class Rotated(nn.Module):
    """y_k = a_k L_k for a (samples, K, d) and factors L (K, d, r), or one L (d, r) for all."""

    def __init__(self, factors: Any) -> None:
        super().__init__()
        self.register_buffer("factors", constant(factors))

    factors: Tensor

    def forward(self, a: Tensor) -> Tensor:
        """The product, without a copy of L for each sample."""
        if self.factors.dim() == 2:
            return a @ self.factors
        return (a.transpose(0, 1) @ self.factors).transpose(0, 1)


@final
class Squared(nn.Module):
    """t = a² entry by entry."""

    def forward(self, a: Tensor) -> Tensor:
        """The squares."""
        return a.square()


@final
class Magnitudes(nn.Module):
    """t = |a| entry by entry."""

    def forward(self, a: Tensor) -> Tensor:
        """The absolute values."""
        return a.abs()


@final
class Roots(nn.Module):
    """√h entry by entry: distances from their squares."""

    def forward(self, h: Tensor) -> Tensor:
        """The roots."""
        return h.sqrt()


@final
class Centred(nn.Module):
    """t − c with a constant that takes no relevance: a feature's own constant stays with the feature."""

    def __init__(self, reference: Any) -> None:
        super().__init__()
        self.register_buffer("reference", constant(reference))

    reference: Tensor

    def forward(self, t: Tensor) -> Tensor:
        """The differences."""
        return centred(t, self.reference)


@final
class Total(nn.Module):
    """h_k = Σ_i t_ki: the sum over the last dimension."""

    def forward(self, t: Tensor) -> Tensor:
        """The sums."""
        return t.sum(-1)


@final
class Shifted(nn.Module):
    """y = h + b, the constant b being a bias, which the ledger books."""

    def __init__(self, bias: Any) -> None:
        super().__init__()
        self.register_buffer("bias", constant(bias))

    bias: Tensor

    def forward(self, h: Tensor) -> Tensor:
        """The sum."""
        return shifted(h, self.bias)


@final
class Readout(nn.Module):
    """y_m = Σ_k w_mk a_k + b_m, with constants for weights."""

    def __init__(self, weight: Any, bias: Any) -> None:
        super().__init__()
        self.register_buffer("weight", constant(weight))
        self.register_buffer("bias", constant(bias))

    weight: Tensor
    bias: Tensor

    def forward(self, a: Tensor) -> Tensor:
        """The weighted sums."""
        return nn.functional.linear(a, self.weight, self.bias)


@final
class Column(nn.Module):
    """One of the outputs: (samples, K) -> (samples, 1)."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, y: Tensor) -> Tensor:
        """The column."""
        return y[:, self.index : self.index + 1]


@final
class Kernel(nn.Module):
    """k − 1 = exp(−γ h) − 1 of squared distances h: what distance takes away from the radial basis function at 0."""

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = float(gamma)

    def forward(self, h: Tensor) -> Tensor:
        """The kernel's values less 1, which no feature causes: written so, relevance passes also where k is 0."""
        return torch.expm1(-self.gamma * h)


@final
class SoftMin(nn.Module):
    """o = −(1/β) log Σ_k w_k exp(−β h_k) over the K points: (samples, K) -> (samples, 1); β None: the minimum.

    >>> SoftMin()(torch.tensor([[3.0, 2.0]]))
    tensor([[2.]])
    """

    def __init__(self, beta: float | None = None, log_weights: Any = None) -> None:
        super().__init__()
        self.beta = check_beta(beta)
        self.register_buffer("log_weights", None if log_weights is None else constant(log_weights))

    log_weights: Tensor | None

    def forward(self, h: Tensor) -> Tensor:
        """The soft minimum."""
        return soft_min(h, self.log_weights, self.beta).unsqueeze(-1)


@final
class Neighbour(nn.Module):
    """The k-th smallest of K distances, or with `mean` the mean of the k smallest: (samples, K) -> (samples, 1)."""

    def __init__(self, k: int, *, mean: bool = False) -> None:
        super().__init__()
        self.k, self.mean = k, mean

    def forward(self, h: Tensor) -> Tensor:
        """The distance."""
        near = smallest(h, self.k)
        return near.mean(-1, keepdim=True) if self.mean else near[:, self.k - 1 :]


@final
class Evidence(nn.Module):
    """f_c = smin_k≠c (e_k − e_c + b_ck) of energies e_k = Σ_i t_ki: (samples, K, D) -> (samples, K).

    What speaks for c against its nearest rival (β None) or against all rivals (β; for β = 1 and e_k = −log P_k it is
    the log-odds log P_c / (1 − P_c)). The largest f_c is that of the smallest energy (Kauffmann et al. 2022).

    >>> Evidence(2)(torch.tensor([[[1.0, 2.0], [5.0, 0.0]]]))
    tensor([[ 2., -2.]])
    """

    def __init__(self, groups: int, beta: float | None = None, bias: Any = None) -> None:
        super().__init__()
        self.beta = check_beta(beta)
        self.register_buffer("rivals", rivals(groups))
        self.register_buffer("bias", None if bias is None else constant(bias))

    rivals: Tensor
    bias: Tensor | None

    def forward(self, t: Tensor) -> Tensor:
        """The evidence for each group."""
        return soft_min(contrasts(t, self.bias), self.rivals, self.beta, signed=True)


@final
class Discriminants(nn.Module):
    """f_c = smin_k≠c (w_ck · (x − m_ck) + b_ck): (samples, d) -> (samples, K), with w and m (K, K, d), b (K, K).

    The contributions to a discriminant are w_i (x_i − m_i), of a Taylor expansion at the midpoint m, where it is 0.
    """

    def __init__(self, weight: Any, midpoints: Any, bias: Any, beta: float | None = None) -> None:
        super().__init__()
        self.beta = check_beta(beta)
        for name, values in (("weight", weight), ("midpoints", midpoints), ("bias", bias)):
            self.register_buffer(name, constant(values))
        self.register_buffer("rivals", rivals(len(self.weight)))

    weight: Tensor
    midpoints: Tensor
    bias: Tensor
    rivals: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The evidence for each group."""
        z = (centred(x[:, None, None], self.midpoints) * self.weight).sum(-1)
        return soft_min(shifted(z, self.bias), self.rivals, self.beta, signed=True)


def rivals(groups: int) -> Tensor:
    """log w_ck of pools over all groups but the own: 0, and −∞ for k = c."""
    if groups < 2:
        raise InputError("there is one group alone, and no rival to compare it with; explain output='outlierness'")
    return torch.zeros(groups, groups, dtype=torch.float64).fill_diagonal_(-math.inf)


def check_beta(beta: Any) -> float:
    """The stiffness of a pool, ∞ for None; InputError where it is not positive."""
    if beta is None:
        return math.inf
    if isinstance(beta, bool) or not isinstance(beta, Real) or not float(beta) > 0:
        raise InputError(
            f"beta={beta!r}: the stiffness of a soft minimum is a positive number, or None for the minimum"
        )
    return float(beta)


def log_ratios(log_weights: Tensor) -> Tensor:
    """b_ck = log w_c − log w_k.

    >>> log_ratios(torch.tensor([0.0, 1.0]))
    tensor([[ 0., -1.],
            [ 1.,  0.]])
    """
    return log_weights[:, None] - log_weights
