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

# Values a part of the input holds that is worked on at a time, so that it stays in the processor's cache.
PART = 1 << 18


def located(f: Call) -> tuple[Tensor, Tensor | None]:
    """The value of a max-pooling over planes, and where in its plane each window's first maximum stands."""
    if name(f.op) != "max_pool2d" or not _cheap(f.a):
        return f.at(*f.operands), None
    y, places = F.max_pool2d(*f.args, **f.kwargs, return_indices=True)
    return y, places


def _cheap(a: Tensor) -> bool:
    """Whether places are worth keeping: values may be looked at, at no price, and a sum in any order is the same."""
    return a.device.type == "cpu" and owned(a)


@rule(
    Family.MAX_POOL, forward=located, source="Bach et al. 2015 (winner-take-all); Montavon et al. 2019, section 10.3.2"
)
def winner(R: Tensor, f: Call) -> Tensor:
    """R_j = Σ_k [a_j = max of window k] / (number of maxima) · R_k

    Ties share equally, so that the map does not depend on the order of the pixels.
    """
    if name(f.op) in ("amax", "max"):
        return pullback(f.at, f.a)(R)[0]  # the derivative of these shares ties equally
    if f.saved is not None and _cheap(f.a) and owned(R):
        return _by_parts(R, f)
    return _shared(R, f.a, f.y, _windows(f, f.a, f.y))


def _shared(R: Tensor, a: Tensor, y: Tensor, windows: Windows) -> Tensor:
    """The definition: every entry that equals its window's maximum, counted."""
    if windows.tile:  # every entry is in one window: all at once
        one = _equal(a, windows.tiled(y))
        return one * windows.tiled(R / windows.total(one))
    padded = windows.pad(a, -torch.inf)
    chosen = [_equal(padded[part], y[outputs]) for part, outputs in windows.parts]
    ties = torch.zeros_like(y)
    for (_, outputs), one in zip(windows.parts, chosen, strict=True):
        ties[outputs] += one.sum_to_size(ties[outputs].shape)
    s = R / ties
    return windows.fold(one * s[outputs] for (_, outputs), one in zip(windows.parts, chosen, strict=True))


def _equal(a: Tensor, most: Tensor) -> Tensor:
    """1 where a is `most`, 0 where it is less: in arithmetic, which costs a fraction of comparisons and masks."""
    least = -torch.finfo(a.dtype).tiny  # not a subnormal number, which may be flushed to 0
    d = a - most
    return torch.threshold_(d, least, -1.0).add_(1.0) if owned(d) else F.threshold(d, least, -1.0) + 1.0


def _by_parts(R: Tensor, f: Call) -> Tensor:
    """Some planes at a time: to the place of each maximum, unless one that receives relevance has equals."""
    a, y, R, places = (t.reshape(-1, *t.shape[-2:]) for t in (f.a, f.y, R, f.saved))
    out = torch.empty_like(a, dtype=R.dtype)
    backward = torch.ops.aten.max_pool2d_with_indices_backward.grad_input
    step = max(1, PART // max(1, a.shape[-1] * a.shape[-2]))
    for i in range(0, len(a), step):
        few = slice(i, i + step)
        s, x, most = R[few], a[few], y[few]
        windows = _windows(f, x, most)
        if _alone(s, x, most, windows):
            backward(s, x.to(s.dtype), *windows.geometry, places[few], grad_input=out[few])
        else:
            out[few] = _shared(s, x, most, windows)
    return out.reshape(f.a.shape)


def _alone(R: Tensor, a: Tensor, y: Tensor, windows: Windows) -> bool:
    """Whether every maximum that receives relevance is the only one of its window."""
    padded, sought = windows.pad(a, -torch.inf), y.masked_fill(R == 0, torch.nan)
    equal = sum(int(torch.eq(padded[part], sought[outputs]).sum()) for part, outputs in windows.parts)
    return equal == int(torch.count_nonzero(R))


def _windows(f: Call, a: Tensor, y: Tensor) -> Windows:
    return Windows(name(f.op), f.args, f.kwargs, a, y)
