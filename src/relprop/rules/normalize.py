"""Normalizations y = w (a − mean(a)) / σ(a) + b, with the statistic held at its value for this input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import RuleError
from ..ops import Family, name
from .affine import divided
from .call import Call
from .denominator import Denominator
from .registry import rule


@rule(Family.NORMALIZE, source="Ali et al. 2022 (the statistic held constant)")
def held(R: Tensor, f: Call, *, epsilon: float = 1e-6, epsilon_mode: str = "rms") -> Tensor:
    """R_i = Σ_k a_i ∂z_k/∂a_i / (z_k + ε sign(z_k)) · R_k, z = w r (a − mean(a)) + b with r = 1/σ(a) held constant"""
    s = divided(R, f, Denominator(f.y, epsilon, epsilon_mode, f.batch))
    transposed, b = _held_statistic(f)
    if f.ledger and b is not None:
        f.keep(bias=s * b)
    return f.a * transposed(s)


@dataclass(frozen=True)
class _Form:
    """Where an op keeps its arguments, and what it normalizes over; `groups`: parts of the channels, None: none."""

    dims: tuple[int, ...]
    groups: int | None
    weight: int
    bias: int | None
    epsilon: int
    centred: bool = True


def _form(f: Call) -> _Form:
    op, args = name(f.op), f.args
    if op == "layer_norm":
        return _Form(tuple(range(-len(args[1]), 0)), None, 2, 3, 4)
    if op == "rms_norm":
        return _Form(tuple(range(-len(args[1]), 0)), None, 2, None, 3, centred=False)
    if op == "group_norm":
        return _Form((2,), args[1], 2, 3, 4)
    if args[5]:
        return _Form((2,), f.a.shape[1], 1, 2, 7)
    raise RuleError("instance_norm with running statistics is affine; replace it by the BatchNorm it is")


def _held_statistic(f: Call) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
    """The transpose s -> r (w s − mean(w s)) of the map x -> w r (x − mean(x)) with r = 1/σ held, and the bias."""
    form, a = _form(f), f.a

    def parameter(i: int | None) -> Tensor | None:
        p: Tensor | None = f.args[i] if i is not None and len(f.args) > i else None
        return p if p is None or form.groups is None else p.view((1, -1) + (1,) * (a.dim() - 2))

    inner = a.shape if form.groups is None else (a.shape[0], form.groups, -1)
    x = a.reshape(inner)
    centred = x - x.mean(form.dims, keepdim=True) if form.centred else x
    variance = centred.square().mean(form.dims, keepdim=True)  # torch.var costs twenty times as much
    eps = f.args[form.epsilon] if len(f.args) > form.epsilon else None
    default = 1e-5 if form.centred else torch.finfo(a.dtype).eps
    r = torch.rsqrt(variance + (default if eps is None else eps))
    w = parameter(form.weight)

    def transposed(s: Tensor) -> Tensor:
        t = (s if w is None else s * w).reshape(inner)
        t = t - t.mean(form.dims, keepdim=True) if form.centred else t
        return (t * r).reshape(a.shape)

    return transposed, parameter(form.bias)
