"""Max-pooling where the winner takes all. (Treated as sum-pooling, it takes the rules of affine.)"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import Family, name
from ..values import owned
from .call import Call
from .linear import pullback
from .registry import rule
from .windows import Windows


@rule(Family.MAX_POOL, source="Bach et al. 2015 (winner-take-all); Montavon et al. 2019, section 10.3.2")
def winner(R: Tensor, f: Call) -> Tensor:
    """R_j = Σ_k [a_j = max of window k] / (number of maxima) · R_k

    Ties share equally, so that the map does not depend on the order of the pixels.
    """
    if name(f.op) in ("amax", "max"):
        return pullback(f.at, f.a)(R)[0]  # the derivative of these shares ties equally
    windows = Windows(name(f.op), f.args, f.kwargs, f.a, f.y)
    if windows.tile:  # every entry is in one window: all at once
        one = _equal(f.a, windows.tiled(f.y))
        return one * windows.tiled(R / windows.total(one))
    padded = windows.pad(f.a, -torch.inf)
    chosen = [_equal(padded[part], f.y[outputs]) for part, outputs in windows.parts]
    ties = torch.zeros_like(f.y)
    for (_, outputs), one in zip(windows.parts, chosen, strict=True):
        ties[outputs] += one.sum_to_size(ties[outputs].shape)
    s = R / ties
    return windows.fold(one * s[outputs] for (_, outputs), one in zip(windows.parts, chosen, strict=True))


def _equal(a: Tensor, most: Tensor) -> Tensor:
    """1 where a is `most`, 0 where it is less: in arithmetic, which costs a fraction of comparisons and masks."""
    least = -torch.finfo(a.dtype).tiny  # not a subnormal number, which may be flushed to 0
    d = a - most
    return torch.threshold_(d, least, -1.0).add_(1.0) if owned(d) else F.threshold(d, least, -1.0) + 1.0
