"""Operations of neuralized models that torch has no single op for, each one op in a captured graph.

centred             x − reference: differences from a point that takes no relevance
squared_distances   ‖x − u_k‖² to many points
contrasts           what one group of terms sums to beyond another, for every pair of groups
shifted             x + constant
soft_min            −(1/β) log Σ_k w_k exp(−β h_k), and the minimum
smallest            the k smallest values
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_op = torch.library.custom_op


@_op("relprop::centred", mutates_args=(), schema="(Tensor x, Tensor reference) -> Tensor")
def _centred(x: Tensor, reference: Tensor) -> Tensor:
    return x - reference


def centred(x: Tensor, reference: Tensor) -> Tensor:
    """x − reference, broadcast; all relevance goes to x, none to the reference (a root point of a Taylor expansion).

    >>> centred(torch.tensor([[3.0, 5.0]]), torch.tensor([1.0, 1.0]))
    tensor([[2., 4.]])
    """
    y: Tensor = _centred(x, reference)
    return y


# Numbers of differences that are held at a time, for each sample.
PART = 1 << 16


def _parts(points: Tensor) -> Iterator[slice]:
    step = max(1, PART // max(1, points.shape[1]))
    return (slice(i, i + step) for i in range(0, len(points), step))


@_op("relprop::squared_distances", mutates_args=(), schema="(Tensor x, Tensor points) -> Tensor")
def _squared_distances(x: Tensor, points: Tensor) -> Tensor:
    return torch.cat([(x.unsqueeze(1) - points[part]).square().sum(-1) for part in _parts(points)], 1)


def squared_distances(x: Tensor, points: Tensor) -> Tensor:
    """h_k = Σ_i (x_i − u_ki)² of samples x (B, d) to points u (K, d): (B, K), without the (B, K, d) differences.

    Summed from differences, not from products, so that distances of near points keep their digits.

    >>> squared_distances(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 1.0], [4.0, 5.0]]))
    tensor([[ 1., 25.]])
    """
    h: Tensor = _squared_distances(x, points)
    return h


def spread_squares(s: Tensor, x: Tensor, points: Tensor) -> Tensor:
    """Σ_k s_k (x_i − u_ki)² for each feature: s (B, K), result (B, d).

    >>> spread_squares(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    tensor([[ 1., 18.]])
    """
    parts = ((s[:, p].unsqueeze(1) @ (x.unsqueeze(1) - points[p]).square()).squeeze(1) for p in _parts(points))
    return sum(parts, torch.zeros_like(x))


@_op("relprop::contrasts", mutates_args=(), schema="(Tensor t, Tensor? bias) -> Tensor")
def _contrasts(t: Tensor, bias: Tensor | None) -> Tensor:
    e = t.sum(-1)
    z = e.unsqueeze(-2) - e.unsqueeze(-1)
    return z if bias is None else z + bias


def contrasts(t: Tensor, bias: Tensor | None = None) -> Tensor:
    """z_ck = Σ_i t_ki − Σ_i t_ci + b_ck for groups c, k of terms: t (..., K, D), bias (K, K), result (..., K, K).

    >>> contrasts(torch.tensor([[1.0, 2.0], [5.0, 0.0]]))
    tensor([[ 0.,  2.],
            [-2.,  0.]])
    """
    z: Tensor = _contrasts(t, bias)
    return z


def contrasts_adjoint(s: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """Σ_c s_ck − Σ_c s_kc for each term of group k."""
    v = s.sum(-2) - s.sum(-1)
    return v.unsqueeze(-1).expand(a.shape)


@_op("relprop::shifted", mutates_args=(), schema="(Tensor x, Tensor? constant) -> Tensor")
def _shifted(x: Tensor, constant: Tensor | None) -> Tensor:
    return x.clone() if constant is None else x + constant


def shifted(x: Tensor, constant: Tensor | None) -> Tensor:
    """x + constant, the constant being a bias; it broadcasts to x.

    >>> shifted(torch.tensor([[3.0, 5.0]]), torch.tensor([1.0, -1.0]))
    tensor([[4., 4.]])
    """
    y: Tensor = _shifted(x, constant)
    return y


def shifted_adjoint(s: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """s itself."""
    return s


@_op("relprop::soft_min", mutates_args=(), schema="(Tensor h, Tensor? log_weights, float beta, bool signed) -> Tensor")
def _soft_min(h: Tensor, log_weights: Tensor | None, beta: float, signed: bool) -> Tensor:
    if beta == math.inf:
        return _allowed(h, log_weights).amin(-1)
    z = -beta * h
    return -torch.logsumexp(z if log_weights is None else z + log_weights, -1) / beta


def soft_min(h: Tensor, log_weights: Tensor | None = None, beta: float = math.inf, *, signed: bool = False) -> Tensor:
    """−(1/β) log Σ_k w_k exp(−β h_k) over the last dimension; for β = ∞ the smallest h_k of those with w_k > 0.

    `log_weights`: log w_k, −∞ for what takes no part; it broadcasts to h. None: all w_k = 1. `signed`: the h_k are
    differences of either sign rather than distances, which the rule shares otherwise (`relprop.rules.take_most`).

    >>> soft_min(torch.tensor([[1.0, 2.0]]), beta=1.0), soft_min(torch.tensor([[1.0, 2.0]]))
    (tensor([0.6867]), tensor([1.]))
    """
    y: Tensor = _soft_min(h, log_weights, beta, signed)
    return y


def _allowed(h: Tensor, log_weights: Tensor | None) -> Tensor:
    return h if log_weights is None else torch.where(log_weights == -math.inf, math.inf, h)


def min_shares(h: Tensor, log_weights: Tensor | None, beta: float) -> Tensor:
    """w_k exp(−β h_k) / Σ_k w_k exp(−β h_k), the slope of `soft_min`; for β = ∞ the minima in equal parts.

    >>> min_shares(torch.tensor([[1.0, 2.0, 1.0]]), None, float("inf"))
    tensor([[0.5000, 0.0000, 0.5000]])
    """
    if beta == math.inf:
        open_to = _allowed(h, log_weights)
        least = (open_to == open_to.amin(-1, keepdim=True)).to(h.dtype)
        return least / least.sum(-1, keepdim=True)
    z = -beta * h
    return torch.softmax(z if log_weights is None else z + log_weights, -1)


@_op("relprop::smallest", mutates_args=(), schema="(Tensor h, int k) -> Tensor")
def _smallest(h: Tensor, k: int) -> Tensor:
    return torch.topk(h, k, -1, largest=False).values


def smallest(h: Tensor, k: int) -> Tensor:
    """The k smallest values of the last dimension, from the smallest up.

    >>> smallest(torch.tensor([[3.0, 1.0, 2.0]]), 2)
    tensor([[1., 2.]])
    """
    y: Tensor = _smallest(h, k)
    return y


def smallest_adjoint(s: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """Into the places the values came from."""
    places = torch.topk(a, args[1], -1, largest=False).indices
    return torch.zeros_like(a, dtype=s.dtype).scatter(-1, places, s)


# What the tracer and autograd need to know of them


@_centred.register_fake
def _(x: Tensor, reference: Tensor) -> Tensor:
    return x - reference


@_squared_distances.register_fake
def _(x: Tensor, points: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], points.shape[0]))


@_contrasts.register_fake
def _(t: Tensor, bias: Tensor | None) -> Tensor:
    return t.new_empty((*t.shape[:-1], t.shape[-2]))


@_shifted.register_fake
def _(x: Tensor, constant: Tensor | None) -> Tensor:
    return torch.empty_like(x) if constant is None else x + constant


@_soft_min.register_fake
def _(h: Tensor, log_weights: Tensor | None, beta: float, signed: bool) -> Tensor:
    return h.new_empty(h.shape[:-1])


@_smallest.register_fake
def _(h: Tensor, k: int) -> Tensor:
    return h.new_empty((*h.shape[:-1], k))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.given = [None if isinstance(x, Tensor) else (x,) for x in inputs]


def _given(ctx: Any) -> list[Any]:
    tensors = iter(ctx.saved_tensors)
    return [next(tensors) if x is None else x[0] for x in ctx.given]


def _centred_backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
    x, reference = _given(ctx)
    return g.sum_to_size(x.shape), -g.sum_to_size(reference.shape)


def _squared_distances_backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
    x, points = _given(ctx)
    return 2 * (x * g.sum(1, keepdim=True) - g @ points), 2 * (points * g.sum(0).unsqueeze(1) - g.mT @ x)


def _contrasts_backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor | None]:
    t, bias = _given(ctx)
    return contrasts_adjoint(g, (), {}, t), None if bias is None else g.sum_to_size(bias.shape)


def _shifted_backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor | None]:
    x, constant = _given(ctx)
    return g.sum_to_size(x.shape), None if constant is None else g.sum_to_size(constant.shape)


def _soft_min_backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
    h, log_weights, beta, _ = _given(ctx)
    shared = g.unsqueeze(-1) * min_shares(h, log_weights, beta)
    return shared, None if log_weights is None else (-shared / beta).sum_to_size(log_weights.shape), None, None


def _smallest_backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
    h, k = _given(ctx)
    return smallest_adjoint(g, (h, k), {}, h), None


_centred.register_autograd(_centred_backward, setup_context=_keep)
_squared_distances.register_autograd(_squared_distances_backward, setup_context=_keep)
_contrasts.register_autograd(_contrasts_backward, setup_context=_keep)
_shifted.register_autograd(_shifted_backward, setup_context=_keep)
_soft_min.register_autograd(_soft_min_backward, setup_context=_keep)
_smallest.register_autograd(_smallest_backward, setup_context=_keep)
