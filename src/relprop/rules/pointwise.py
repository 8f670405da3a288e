"""Rules for everything that is no weighted sum: activations, products, gates, movements, normalizations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import RuleError
from ..ops import Family, name
from .affine import quotient, stabilizer
from .call import Call, in_rows, pullback
from .registry import rule


@rule(Family.ACTIVATION, source="Bach et al. 2015 (activations pass relevance); constant part: relprop")
def activation(R: Tensor, f: Call) -> Tensor:
    """R_a = R, for f(0) = 0; in general R_a = (f(a) − f(0)) / f(a) · R, and f(0) counts as a bias

    A sigmoid gives ½ even at a = 0, which its input cannot have caused: that part is a constant of the network.
    """
    if f.zero is None:
        return R
    s = quotient(R, f.y)
    if f.ledger:
        f.keep(bias=s * f.zero, residual=torch.where(f.y == 0, R, 0.0))
    return (f.y - f.zero) * s


@rule(
    Family.ACTIVATION, Family.SCALE, Family.LRN, Family.AFFINE, Family.BATCH_NORM, Family.SUM, Family.NORMALIZE,
    Family.MAX_POOL, Family.AVERAGE,
    source="Bach et al. 2015",
)  # fmt: skip
def pass_(R: Tensor, f: Call) -> Tensor:
    """R_a = R: relevance passes unchanged, entry by entry"""
    if len(f.live) != 1:
        raise RuleError(f"pass_ does not say how {len(f.live)} inputs of {name(f.op)} share relevance; use epsilon")
    if R.shape == f.a.shape:
        return R
    try:
        return R.sum_to_size(f.a.shape)  # the input was broadcast
    except RuntimeError:
        raise RuleError(
            f"pass_ needs input and output of one shape; {name(f.op)} maps {tuple(f.a.shape)} to {tuple(R.shape)}"
        ) from None


@rule(Family.PRODUCT, source="Arras et al. 2017; Montavon et al. 2019, section 10.4")
def signal(R: Tensor, f: Call) -> Tensor:
    """R_signal = R, R_gate = 0: the gate weighs the signal, the signal takes all"""
    return R.sum_to_size(f.a.shape)


@rule(Family.PRODUCT, source="Achtibat et al. 2024 (uniform rule)")
def half(R: Tensor, f: Call) -> tuple[Tensor, ...]:
    """R_a = R_b = R / 2: both factors of a product share equally"""
    return tuple((R / 2).sum_to_size(x.shape) for x in f.operands)


@rule(Family.SHAPE, source="the adjoint of a map that moves or copies entries")
def move(R: Tensor, f: Call) -> Tensor | tuple[Tensor, ...]:
    """R_a = Mᵀ R for y = M a: relevance goes back where the entry came from; constants keep theirs as bias"""
    if len(f.live) == 1 and f.row.adjoint is not None:
        return f.row.adjoint(R, f.args, f.kwargs, f.a)
    out = pullback(f.at, *f.operands, op=f.op)(R.to(f.y.dtype))
    if f.ledger:
        f.kept["bias"] = f.sum(R) - sum(in_rows(f.sum(r, i), len(f.sum(R))) for i, r in enumerate(out))
    return out[0] if len(out) == 1 else out


@rule(Family.SOFTMAX, Family.NORMALIZE, Family.LRN, Family.ACTIVATION, conserves=False, source="Achtibat et al. 2024")
def first_order(R: Tensor, f: Call) -> Tensor:
    """R_a = a ⊙ Jᵀ(R / y): the first-order terms at a; the others are booked as residual

    For y = softmax(a) these are R_i = a_i (R_i − y_i Σ_j R_j).
    """
    out = f.a * pullback(f.at, f.a, op=f.op)(quotient(R, f.y))[0]
    if f.ledger:
        f.kept["residual"] = f.sum(R) - in_rows(f.sum(out, 0), len(f.sum(R)))
    return out


@rule(Family.EMBEDDING, source="Arras et al. 2017")
def tokens(R: Tensor, f: Call) -> Tensor:
    """R_token = Σ_d R_d over the dimensions of its embedding vector"""
    return R.sum(-1)


@rule(Family.NORMALIZE, source="Ali et al. 2022 (the statistic held constant)")
def held(R: Tensor, f: Call, *, epsilon: float = 1e-6, epsilon_mode: str = "rms") -> Tensor:
    """R_i = Σ_k a_i ∂z_k/∂a_i / (z_k + ε sign(z_k)) · R_k, z = w r (a − mean(a)) + b with r = 1/σ(a) held constant"""
    z = f.y
    e = stabilizer(z, epsilon, epsilon_mode, f.batch) if epsilon else torch.zeros_like(z)
    s = quotient(R, z + e)
    linear, b = _held_statistic(f)
    if f.ledger:
        f.keep(epsilon=s * e, bias=None if b is None else s * b, residual=torch.where(z + e == 0, R, 0.0))
    return f.a * pullback(linear, f.a)(s)[0]


def _held_statistic(f: Call) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
    """The normalization with 1/σ of this input held: the linear map x -> w r (x − mean(x)), and the bias."""
    op, args, a = name(f.op), f.args, f.a
    if op == "layer_norm":
        dims, groups, weight, bias, eps = tuple(range(-len(args[1]), 0)), None, 2, 3, 4
    elif op == "group_norm":
        dims, groups, weight, bias, eps = (2,), args[1], 2, 3, 4
    elif args[5]:
        dims, groups, weight, bias, eps = (2,), a.shape[1], 1, 2, 7
    else:
        raise RuleError("instance_norm with running statistics is affine; replace it by the BatchNorm it is")

    def parameter(i: int) -> Tensor | None:
        p: Tensor | None = args[i] if len(args) > i else None
        return p if p is None or groups is None else p.view((1, -1) + (1,) * (a.dim() - 2))

    def centred(x: Tensor) -> Tensor:
        return x - x.mean(dims, keepdim=True)

    inner = a.shape if groups is None else (a.shape[0], groups, -1)
    variance = centred(a.reshape(inner)).square().mean(dims, keepdim=True)
    r = torch.rsqrt(variance + (args[eps] if len(args) > eps else 1e-5))
    w = parameter(weight)

    def linear(x: Tensor) -> Tensor:
        y = (centred(x.reshape(inner)) * r).reshape(a.shape)
        return y if w is None else y * w

    return linear, parameter(bias)
