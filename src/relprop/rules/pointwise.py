"""Rules for what is no weighted sum: activations, movements of entries, softmax, tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import RuleError
from ..ops import Family, name
from ..values import owned
from .call import Call, in_rows
from .denominator import quotient
from .linear import pullback
from .registry import rule

# Conversions of type: relevance is a real number either way, and is not rounded.
CASTS = ("to", "_to_copy", "type_as")
# Values that take longer to write than it takes to ask whether they may be written to.
LARGE = 1 << 14


def rectify(z: Tensor) -> Tensor:
    """max(0, z); where z is large in place of it, which nothing reads afterwards: no memory has to be fetched."""
    return z.relu_() if z.numel() > LARGE and owned(z) else z.relu()


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


@rule(Family.SHAPE, source="the adjoint of a map that moves or copies entries")
def move(R: Tensor, f: Call) -> Tensor | tuple[Tensor, ...]:
    """R_a = Mᵀ R for y = M a: relevance goes back where the entry came from; constants keep theirs as bias"""
    if len(f.live) == 1 and f.row.adjoint is not None:
        return f.row.adjoint(R, f.args, f.kwargs, f.a)
    if name(f.op) in CASTS:
        return R.to(f.a.device)  # of a model split over several
    if f.y.is_floating_point() or f.y.is_complex():
        out = pullback(f.at, *f.operands, op=f.op)(R.to(f.y.dtype))
    else:  # token ids, moved
        out = pullback(f.at, *(a.to(R.dtype) for a in f.operands))(R)
    if f.ledger:
        f.kept["bias"] = f.sum(R) - sum(in_rows(f.sum(r, i), len(f.sum(R))) for i, r in enumerate(out))
    return out[0] if len(out) == 1 else out


@rule(Family.SOFTMAX, Family.NORMALIZE, Family.LRN, Family.ACTIVATION, conserves=False, source="Achtibat et al. 2024")
def first_order(R: Tensor, f: Call) -> Tensor:
    """R_a = a ⊙ Jᵀ(R / y): the first-order terms at a; the others are booked as residual

    For y = softmax(a) these are R_i = a_i (R_i − y_i Σ_j R_j).
    """
    a = torch.where(f.a.isinf(), 0.0, f.a)  # of a masked entry, to which nothing flows
    out = a * pullback(f.at, f.a, op=f.op)(quotient(R, f.y))[0]
    if f.ledger:
        f.kept["residual"] = f.sum(R) - in_rows(f.sum(out, 0), len(f.sum(R)))
    return out


@rule(Family.EMBEDDING, source="Arras et al. 2017")
def tokens(R: Tensor, f: Call) -> Tensor:
    """R_token = Σ_d R_d over the dimensions of its embedding vector"""
    return R.sum(-1)
