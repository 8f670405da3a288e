"""Max-pooling where the winner takes all. (Treated as sum-pooling, it takes the rules of affine.)"""

from __future__ import annotations

from typing import Any

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
    """Whether places are worth keeping: values may be looked at, at no price, and nothing differentiates or maps it."""
    if a.device.type != "cpu":
        return False
    return owned(a) or (torch.compiler.is_dynamo_compiling() and not torch.is_grad_enabled())


@rule(
    Family.MAX_POOL, forward=located, source="Bach et al. 2015 (winner-take-all); Montavon et al. 2019, section 10.3.2"
)
def winner(R: Tensor, f: Call) -> Tensor:
    """R_j = Σ_k [a_j = max of window k] / (number of maxima) · R_k

    Ties share equally, so that the map does not depend on the order of the pixels.
    """
    if name(f.op) in ("amax", "max"):
        return pullback(f.at, f.a)(R)[0]  # the derivative of these shares ties equally
    if f.saved is not None and _cheap(f.a) and _cheap(R):
        by_parts = _compiled if torch.compiler.is_dynamo_compiling() else _by_parts
        return by_parts(R, f.a, f.y, f.saved, *_windows(f, f.a, f.y).geometry)
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


def _by_parts(
    R: Tensor, a: Tensor, y: Tensor, places: Tensor,
    kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil_mode: bool,
) -> Tensor:  # fmt: skip
    """Some planes at a time: to the place of each maximum, unless one that receives relevance has equals."""
    geometry = kernel, stride, padding, dilation, ceil_mode
    shape = a.shape
    a, y, R, places = (t.reshape(-1, *t.shape[-2:]) for t in (a, y, R, places))
    out = torch.empty_like(a, dtype=R.dtype, memory_format=torch.contiguous_format)
    backward = torch.ops.aten.max_pool2d_with_indices_backward.grad_input
    step = max(1, PART // max(1, shape[-1] * shape[-2]))
    for i in range(0, len(a), step):
        few = slice(i, i + step)
        s, x, most = R[few], a[few], y[few]
        windows = Windows("max_pool2d", (x, *geometry), {}, x, most)
        if _alone(s, x, most, windows):
            backward(s, x.to(s.dtype), *geometry, places[few], grad_input=out[few])
        else:
            out[few] = _shared(s, x, most, windows)
    return out.reshape(shape)


# One op of a compiled graph, which could not look at values itself.
_compiled = torch.library.custom_op("relprop::won", _by_parts, mutates_args=())


@_compiled.register_fake
def _(R: Tensor, a: Tensor, *_: Any) -> Tensor:
    return torch.empty(a.shape, dtype=R.dtype, device=a.device)


def _alone(R: Tensor, a: Tensor, y: Tensor, windows: Windows) -> bool:
    """Whether every maximum that receives relevance is the only one of its window."""
    padded, sought = windows.pad(a, -torch.inf), y.masked_fill(R == 0, torch.nan)
    equal = sum(int(torch.eq(padded[part], sought[outputs]).sum()) for part, outputs in windows.parts)
    return equal == int(torch.count_nonzero(R))


def _windows(f: Call, a: Tensor, y: Tensor) -> Windows:
    return Windows(name(f.op), f.args, f.kwargs, a, y)
