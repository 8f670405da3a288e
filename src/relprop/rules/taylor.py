"""The first-order Taylor rule for elementwise functions (Binder et al. 2016, equations 8 and 9)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import RuleError
from ..ops import Family, name
from .call import Call
from .denominator import quotient
from .linear import pullback
from .registry import rule

Point = Tensor | float | None
Reference = Point | tuple[Point, ...]


@rule(Family.PRODUCT, Family.ACTIVATION, source="Binder et al. 2016, equations 7-9")
def taylor(R: Tensor, f: Call, *, reference: Reference) -> Tensor | tuple[Tensor, ...]:
    """R_i = z_i / Σ_j z_j · R, z_i = g(x̃) / n + ∂g/∂x_i(x̃) · (x_i − x̃_i), for y = g(x_1 … x_n) at each entry

    `reference`: the point x̃; a number, a tensor, None for the input itself, or a tuple with one of these for each live
    input. A function of one input passes all its relevance, wherever it is expanded.
    """
    if len(f.live) == 1:
        return R.sum_to_size(f.a.shape)
    shape: torch.Size = torch.broadcast_shapes(*(a.shape for a in f.operands))  # type: ignore[no-untyped-call]
    x = tuple(a.expand(shape) for a in f.operands)
    if shape != f.y.shape:
        shapes = " and ".join(str(tuple(t.shape)) for t in f.operands)
        raise RuleError(f"taylor expands elementwise functions; {name(f.op)} makes {tuple(f.y.shape)} of {shapes}")
    at = _points(reference, f, x)
    value, slopes = f.at(*at), pullback(f.at, *at, op=f.op)(torch.ones_like(f.y))
    z = [value / len(x) + slope * (a - p) for slope, a, p in zip(slopes, x, at, strict=True)]
    total = torch.stack(z).sum(0)
    s = quotient(R, total)
    if f.ledger:
        f.keep(residual=torch.where(total == 0, R, 0.0))
    return tuple((t * s).sum_to_size(operand.shape) for t, operand in zip(z, f.operands, strict=True))


def _points(reference: Reference, f: Call, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One reference point for each live input, in its shape."""
    points = tuple(reference) if isinstance(reference, (tuple, list)) else (reference,) * len(x)
    if len(points) != len(x):
        raise RuleError(f"taylor: reference has {len(points)} points, {name(f.op)} has {len(x)} live inputs")
    try:
        return tuple(
            a if p is None else torch.as_tensor(p, dtype=a.dtype, device=a.device).expand(a.shape)
            for p, a in zip(points, x, strict=True)
        )
    except RuntimeError:
        raise RuleError(f"taylor: reference does not fit inputs of shape {tuple(x[0].shape)}") from None
