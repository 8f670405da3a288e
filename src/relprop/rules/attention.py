"""Rules for fused attention y = softmax(q kᵀ / √d + m) v: no matrix of attention weights is built.

Both are in the form g = R / a: g at the output is R / (y + ε sign(y)), the fused kernel's own derivative carries it
back, and each operand is multiplied with its g.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..ops import Family
from ..values import concrete
from .affine import divided
from .call import Call
from .denominator import Denominator
from .linear import pullback, recorded
from .registry import rule

QUERY, KEY, VALUE, MASK = range(4)


def attend(f: Call) -> tuple[Tensor, Any]:
    """The op's value, recorded by torch.autograd, so that its kernel need not run again for the way back."""
    a = f.operands
    known = all(concrete(t) for t in a) and not torch.is_inference_mode_enabled()
    if not known or (torch.is_grad_enabled() and any(t.requires_grad for t in a)):  # to be differentiated once more
        return f.at(*a), None
    y, transposed = recorded(f.at, *a)
    return y.detach(), transposed


def _transposed(f: Call, s: Tensor) -> tuple[Tensor, ...]:
    """The derivative of Σ s ⊙ y by the live operands."""
    s = s.to(f.operands[0].dtype)
    if f.saved is None or not concrete(s):
        # of the kernels, one alone has a derivative that can be differentiated, and mapped over targets
        mapped = torch._C._functorch.is_batchedtensor(s)
        with sdpa_kernel(SDPBackend.MATH) if torch.is_grad_enabled() or mapped else nullcontext():
            return pullback(f.at, *f.operands)(s)
    got: tuple[Tensor, ...] = f.saved(s)
    return got


@rule(Family.ATTENTION, feeds=(VALUE,), forward=attend, source="Ali et al. 2022 (CP-LRP)")
def attention_values(R: Tensor, f: Call, *, epsilon: float = 1e-6, epsilon_mode: str = "rms") -> Tensor:
    """R_v = v ⊙ Aᵀ (R / (y + ε sign(y))), y = A v: the attention weights A are held, the values take all"""
    return f.a * _transposed(f, divided(R, f, Denominator(f.y, epsilon, epsilon_mode, f.batch)))[0]


@rule(Family.ATTENTION, conserves=False, forward=attend, source="Achtibat et al. 2024 (AttnLRP)")
def attention_shared(
    R: Tensor, f: Call, *, epsilon: float = 1e-6, epsilon_mode: str = "rms"
) -> Tensor | tuple[Tensor, ...]:
    """R_v = ½ v ⊙ g_v, R_q = ¼ q ⊙ g_q, R_k = ¼ k ⊙ g_k, with g the gradient of Σ s ⊙ y, s = R / (y + ε sign(y))

    Each product is shared equally and the softmax is expanded to first order, R_i = x_i (R_i − A_i Σ_j R_j), whose
    remainder is booked as residual. A product with a constant factor is no product: if v is constant the weights take
    all of it, if k is constant q takes all of the scores. A mask that depends on the input is a summand of the scores.
    """
    s = divided(R, f, Denominator(f.y, epsilon, epsilon_mode, f.batch))
    g = _transposed(f, s)
    shares = _shares(f)
    # −∞ in a mask is no term
    a = (torch.where(x.isfinite(), x, 0.0) if p == MASK else x for p, x in zip(f.live, f.operands, strict=True))
    out = tuple(shares[p] * x * t for p, x, t in zip(f.live, a, g, strict=True))
    if f.ledger:
        passed = sum(f.rows(r, i) for i, r in enumerate(out))
        f.kept["residual"] = f.sum(R) - passed - f.kept.get("epsilon", 0)
    return out if len(out) > 1 else out[0]


def _shares(f: Call) -> dict[Any, float]:
    """What a half for each factor of a product of two live values leaves for q, k, v and the mask."""
    value = 0.5 if len(f.live) > 1 else 1.0
    weights = 0.5 if VALUE in f.live else 1.0
    scores = weights / 2 if QUERY in f.live and KEY in f.live else weights
    return {QUERY: scores, KEY: scores, VALUE: value, MASK: weights}
