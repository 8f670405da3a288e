"""The oracle of local response normalization: one neuron at one place, its neighbours one by one, from the paper's text."""

from __future__ import annotations

import torch
from torch import Tensor


def messages(x: list[float], k: int, window: range, b: float, c: float, kappa: float, order: int) -> dict[int, float]:
    """z_jk of equation 15 for neuron k (κ = 1 in the paper); order 2 adds −½ dᵀ H d, its cross terms halved."""
    S = kappa + b * sum(x[i] ** 2 for i in window)
    z = {k: x[k] / (kappa + b * x[k] ** 2) ** c}
    others = [j for j in window if j != k]
    for j in others:
        z[j] = -2 * b * c * x[k] * x[j] ** 2 / S ** (c + 1)
    if order == 2:
        for i in others:
            for j in others:
                H = -2 * b * c * x[k] * ((i == j) / S ** (c + 1) - 2 * b * (c + 1) * x[i] * x[j] / S ** (c + 2))
                for taker in (i, j):  # a pair's term belongs to both
                    z[taker] += -0.5 * x[i] * H * x[j] / 2
    return z


def by_double_sums(x: Tensor, R: Tensor, before: int, after: int, b: float, c: float, k: float, order: int) -> Tensor:
    """R_j = Σ_k z_jk / Σ_i z_ik · R_k, over places, neurons and neighbours, one by one."""
    out = torch.zeros_like(x)
    C = x.shape[1]
    flat, Rs, outs = (t.reshape(x.shape[0], C, -1) for t in (x, R, out))
    for n in range(x.shape[0]):
        for place in range(flat.shape[2]):
            column = flat[n, :, place].tolist()
            for neuron in range(C):
                window = range(max(0, neuron - before), min(C, neuron + after + 1))
                z = messages(column, neuron, window, b, c, k, order)
                for j, message in z.items():
                    outs[n, j, place] += message / sum(z.values()) * Rs[n, neuron, place]
    return outs.reshape(x.shape)
