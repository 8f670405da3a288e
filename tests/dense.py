"""The oracle of the exactness tests: every rule as the explicit double sum of the papers.

Nothing here imports the package under test. An affine operation (a module, or any callable) is turned into a dense
matrix, each rule is written as fractions m[b, k, j] of the relevance R[b, k] that go to input j, and the relevance of
the inputs is their sum over k. Slow and large on purpose: no adjoint, no convolution of relevances, no trick.

Notation: a_j inputs, w_kj weights, b_k biases, z_k = sum_j a_j w_kj + b_k outputs, x^+ = max(0, x), x^- = min(0, x).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dense:
    """One sample's affine map z = W a + b, its inputs and outputs flattened."""

    weight: Tensor  # [K, J]
    bias: Tensor  # [K]
    shape: torch.Size  # of one sample's input

    @property
    def connected(self) -> Tensor:
        """1 where the operation connects j to k; a weight that is zero would be missed: use random weights."""
        return (self.weight != 0).to(self.weight.dtype)

    def contributions(self, a: Tensor, bias: str) -> tuple[Tensor, Tensor]:
        """a_j w_kj [B, K, J] and what counts as the bias [B, K]."""
        flat = a.reshape(len(a), 1, -1)
        counted = torch.zeros_like(self.bias) if bias == "ignore" else self.bias
        return flat * self.weight, counted.expand(len(a), -1)

    def collect(self, R: Tensor, inputs: Tensor, neuron: Tensor, bias: str) -> Tensor:
        """Sum over k of the fractions `inputs` [B, K, J]; with "share" also of the bias neuron's fractions [B, K]."""
        fractions = inputs
        if bias == "share":
            fractions = fractions + neuron[:, :, None] * divide(self.connected, self.connected.sum(1, keepdim=True))
        return (fractions * R.reshape(len(R), -1, 1)).sum(1).reshape(len(R), *self.shape)


def dense(operation: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Dense:
    """The matrix and the bias of an affine `operation` on samples of this shape, in float64."""
    origin = torch.zeros(1, *shape, dtype=torch.float64)
    with torch.no_grad():
        bias = operation(origin).reshape(-1)
    jacobian = torch.autograd.functional.jacobian(operation, origin)
    return Dense(jacobian.reshape(len(bias), origin.numel()), bias, torch.Size(shape))


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """x / 0 = 0: what has no denominator is dropped."""
    empty = denominator == 0
    return torch.where(empty, 0.0, numerator / torch.where(empty, 1.0, denominator))


def stabilizer(z: Tensor, epsilon: float, mode: str) -> Tensor:
    """epsilon * scale * sign(z) for z [B, K], sign(0) = 1, the scale taken over one sample's outputs."""
    scale = {
        "absolute": lambda: torch.ones(len(z), 1, dtype=z.dtype),
        "rms": lambda: z.square().mean(1, keepdim=True).sqrt(),
        "std": lambda: z.var(1, keepdim=True, correction=0).sqrt(),
    }[mode]()
    return epsilon * scale * torch.where(z >= 0, 1.0, -1.0)


def zero(layer: Dense, a: Tensor, R: Tensor, bias: str = "absorb") -> Tensor:
    """R_j = sum_k a_j w_kj / sum_{0,j} a_j w_kj R_k"""
    aw, b = layer.contributions(a, bias)
    z = aw.sum(2) + b
    return layer.collect(R, divide(aw, z[:, :, None]), divide(b, z), bias)


def epsilon(
    layer: Dense, a: Tensor, R: Tensor, epsilon: float = 1e-6, epsilon_mode: str = "rms", bias: str = "absorb"
) -> Tensor:
    """R_j = sum_k a_j w_kj / (sum_{0,j} a_j w_kj + e_k) R_k"""
    aw, b = layer.contributions(a, bias)
    z = aw.sum(2) + b
    z = z + stabilizer(z, epsilon, epsilon_mode)
    return layer.collect(R, divide(aw, z[:, :, None]), divide(b, z), bias)


def gamma(
    layer: Dense,
    a: Tensor,
    R: Tensor,
    gamma: float = 0.25,
    epsilon: float = 1e-6,
    epsilon_mode: str = "rms",
    bias: str = "absorb",
) -> Tensor:
    """R_j = sum_k (a_j w_kj + gamma (a_j w_kj)^s) / (sum_{0,j} (a_j w_kj + gamma (a_j w_kj)^s) + e_k) R_k

    s is the sign of z_k. Both denominators are stabilized as a layer of their own: the scale of e is that of the
    denominator over all of a sample's outputs, also over those where the other one is used.
    """
    aw, b = layer.contributions(a, bias)
    z = aw.sum(2) + b
    up = _favour(layer, R * (z >= 0).reshape(R.shape), aw, b, 0.0, torch.inf, gamma, (epsilon, epsilon_mode), bias)
    down = _favour(layer, R * (z < 0).reshape(R.shape), aw, b, -torch.inf, 0.0, gamma, (epsilon, epsilon_mode), bias)
    return up + down


def _favour(
    layer: Dense,
    R: Tensor,
    aw: Tensor,
    b: Tensor,
    low: float,
    high: float,
    gamma: float,
    e: tuple[float, str],
    bias: str,
) -> Tensor:
    aw, b = aw + gamma * aw.clamp(low, high), b + gamma * b.clamp(low, high)
    total = aw.sum(2) + b
    total = total + stabilizer(total, *e)
    return layer.collect(R, divide(aw, total[:, :, None]), divide(b, total), bias)


def chapter_gamma(layer: Dense, a: Tensor, R: Tensor, gamma: float = 0.25, bias: str = "absorb") -> Tensor:
    """R_j = sum_k a_j (w_kj + gamma w_kj^+) / sum_{0,j} a_j (w_kj + gamma w_kj^+) R_k, for a >= 0 and epsilon = 0."""
    w, b = layer.weight + gamma * layer.weight.clamp(min=0), layer.bias + gamma * layer.bias.clamp(min=0)
    return zero(Dense(w, b, layer.shape), a, R, bias)


def alpha_beta(
    layer: Dense, a: Tensor, R: Tensor, alpha: float | None = None, beta: float = 1.0, bias: str = "absorb"
) -> Tensor:
    """R_j = sum_k (alpha (a_j w_kj)^+ / sum_{0,j} (a_j w_kj)^+ - beta (a_j w_kj)^- / sum_{0,j} (a_j w_kj)^-) R_k"""
    alpha = 1 + beta if alpha is None else alpha
    aw, b = layer.contributions(a, bias)
    above, below, b_above, b_below = aw.clamp(min=0), aw.clamp(max=0), b.clamp(min=0), b.clamp(max=0)
    positive, negative = above.sum(2) + b_above, below.sum(2) + b_below
    fractions = alpha * divide(above, positive[:, :, None]) - beta * divide(below, negative[:, :, None])
    neuron = alpha * divide(b_above, positive) - beta * divide(b_below, negative)
    return layer.collect(R, fractions, neuron, bias)


def z_plus(layer: Dense, a: Tensor, R: Tensor, bias: str = "absorb") -> Tensor:
    """R_j = sum_k (a_j w_kj)^+ / sum_{0,j} (a_j w_kj)^+ R_k"""
    return alpha_beta(layer, a, R, alpha=1.0, beta=0.0, bias=bias)


def power(
    layer: Dense,
    a: Tensor,
    R: Tensor,
    power: int = 2,
    epsilon: float = 1e-6,
    epsilon_mode: str = "rms",
    bias: str = "absorb",
) -> Tensor:
    """R_j = sum_k (a_j w_kj)^p / (sum_{0,j} (a_j w_kj)^p + e_k) R_k"""
    aw, b = layer.contributions(a, bias)
    aw, b = aw**power, b**power
    z = aw.sum(2) + b
    z = z + stabilizer(z, epsilon, epsilon_mode)
    return layer.collect(R, divide(aw, z[:, :, None]), divide(b, z), bias)


def flat(layer: Dense, a: Tensor, R: Tensor) -> Tensor:
    """R_j = sum_k 1 / sum_j 1 R_k over the connected (j, k)"""
    ones = layer.connected.expand(len(a), -1, -1)
    return layer.collect(R, divide(ones, ones.sum(2, keepdim=True)), layer.bias, "ignore")


def w_square(layer: Dense, a: Tensor, R: Tensor, bias: str = "ignore") -> Tensor:
    """R_j = sum_k w_kj^2 / sum_j w_kj^2 R_k; with bias="absorb" or "share" the sum runs over (0, j)."""
    squares = layer.weight.square().expand(len(a), -1, -1)
    b = layer.bias.square().expand(len(a), -1) * (bias != "ignore")
    total = squares.sum(2) + b
    return layer.collect(R, divide(squares, total[:, :, None]), divide(b, total), bias)


def z_box(layer: Dense, a: Tensor, R: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """R_j = sum_k (x_j w_kj - l_j w_kj^+ - h_j w_kj^-) / sum_j (x_j w_kj - l_j w_kj^+ - h_j w_kj^-) R_k"""
    lows, highs = (torch.as_tensor(bound, dtype=a.dtype).expand_as(a).reshape(len(a), 1, -1) for bound in (low, high))
    x, w = a.reshape(len(a), 1, -1), layer.weight
    terms = x * w - lows * w.clamp(min=0) - highs * w.clamp(max=0)
    return layer.collect(R, divide(terms, terms.sum(2, keepdim=True)), layer.bias, "ignore")


RULES: dict[str, Callable[..., Tensor]] = {
    "zero": zero,
    "epsilon": epsilon,
    "gamma": gamma,
    "alpha_beta": alpha_beta,
    "z_plus": z_plus,
    "power": power,
    "flat": flat,
    "w_square": w_square,
    "z_box": z_box,
}
