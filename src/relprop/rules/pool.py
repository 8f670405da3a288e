"""Max-pooling where the winner takes all. (Treated as sum-pooling, it takes the rules of affine.)"""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import Family, name
from .call import Call, pullback
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
    padded = windows.pad(f.a, -torch.inf)
    ties = torch.zeros_like(f.y)
    for part, outputs in windows.parts:
        ties[outputs] += (padded[part] == f.y[outputs]).to(ties.dtype).sum_to_size(ties[outputs].shape)
    s = R / ties
    return windows.fold(torch.where(padded[p] == f.y[o], s[o], 0.0) for p, o in windows.parts)
