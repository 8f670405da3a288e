"""Rules for fused attention y = softmax(q kᵀ / √d + m) v: no matrix of attention weights is built.

Both are in the form g = R / a: g at the output is R / (y + ε sign(y)), the fused kernel's own derivative carries it
back, and each operand is multiplied with its g.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops import Family
from .affine import quotient, stabilizer
from .call import Call, pullback
from .registry import rule

QUERY, KEY, VALUE, MASK = range(4)


@rule(Family.ATTENTION, feeds=(VALUE,), source="Ali et al. 2022 (CP-LRP)")
def attention_values(R: Tensor, f: Call, *, epsilon: float = 1e-6, epsilon_mode: str = "rms") -> Tensor:
    """R_v = v ⊙ Aᵀ (R / (y + ε sign(y))), y = A v: the attention weights A are held, the values take all"""
    s = _quotient(R, f, epsilon, epsilon_mode)
    return f.a * pullback(f.at, f.a)(s)[0]


@rule(Family.ATTENTION, conserves=False, source="Achtibat et al. 2024 (AttnLRP)")
def attention_shared(
    R: Tensor, f: Call, *, epsilon: float = 1e-6, epsilon_mode: str = "rms"
) -> Tensor | tuple[Tensor, ...]:
    """R_v = ½ v ⊙ g_v, R_q = ¼ q ⊙ g_q, R_k = ¼ k ⊙ g_k, with g the gradient of Σ s ⊙ y, s = R / (y + ε sign(y))

    Each product is shared equally and the softmax is expanded to first order, R_i = x_i (R_i − A_i Σ_j R_j), whose
    remainder is booked as residual. A product with a constant factor is no product: if v is constant the weights take
    all of it, if k is constant q takes all of the scores. A mask that depends on the input is a summand of the scores.
    """
    s = _quotient(R, f, epsilon, epsilon_mode)
    g = pullback(f.at, *f.operands)(s)
    shares = _shares(f)
    shared = ((shares[p], a, t) for p, a, t in zip(f.live, f.operands, g, strict=True))
    out = tuple(share * torch.where(torch.isfinite(a), a, 0.0) * t for share, a, t in shared)  # −∞ in a mask: no term
    if f.ledger:
        passed = sum(f.rows(r, i) for i, r in enumerate(out))
        f.kept["residual"] = f.sum(R) - passed - f.kept["epsilon"]
    return out if len(out) > 1 else out[0]


def _shares(f: Call) -> dict[Any, float]:
    """What a half for each factor of a product of two live values leaves for q, k, v and the mask."""
    value = 0.5 if len(f.live) > 1 else 1.0
    weights = 0.5 if VALUE in f.live else 1.0
    scores = weights / 2 if QUERY in f.live and KEY in f.live else weights
    return {QUERY: scores, KEY: scores, VALUE: value, MASK: weights}


def _quotient(R: Tensor, f: Call, epsilon: float, epsilon_mode: str) -> Tensor:
    """s = R / (y + e), with what ε takes booked."""
    y = f.y if f.z is None else f.z
    e = stabilizer(y, epsilon, epsilon_mode, f.batch) if epsilon else torch.zeros_like(y)
    s = quotient(R, y + e)
    if f.ledger:
        f.keep(epsilon=s * e, residual=torch.where(y + e == 0, R, 0.0))
    return s
