"""When two results count as the same, when values may be looked at, and when there was no room for them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def concrete(x: Tensor) -> bool:
    """Whether values may be looked at: not while the program is compiled, exported, or mapped over targets.

    Asked of the tensor, for another thread may be exporting at the same time.
    """
    if torch.compiler.is_dynamo_compiling():
        return False
    return type(x) in (Tensor, nn.Parameter) and not x.is_meta and not torch._C._functorch.is_batchedtensor(x)


def owned(t: Tensor) -> bool:
    """Whether a tensor that was just made may be written to: its making is neither recorded nor mapped."""
    return concrete(t) and not torch.is_grad_enabled() and forward_ad._current_level < 0


def finite(t: Tensor) -> bool:
    """Whether no value is NaN or infinite: told by the sum, in one pass, unless that is too large itself."""
    return math.isfinite(t.detach().sum()) or bool(torch.isfinite(t).all())


def tolerance(dtype: torch.dtype) -> float:
    """Relative difference allowed between two ways to compute one function: the square root of the precision."""
    return math.sqrt(torch.finfo(dtype).eps)


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference of two results of one shape, relative to the largest value of the second."""
    if a.numel() == 0:
        return 0.0
    return float((a - b).abs().max()) / max(float(b.abs().max()), torch.finfo(b.dtype).tiny)


def same(a: Tensor, b: Tensor, *, slack: float = 0.0) -> bool:
    """Whether two results agree to `tolerance` or `slack`, relative to the largest value."""
    return a.shape == b.shape and difference(a, b) <= max(tolerance(b.dtype), slack)


# What allocators say, where they raise no error of a type of its own.
_SAID = ("not enough memory", "can't allocate memory", "out of memory", "alloc_failed")


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, is an allocator's."""
    while error is not None:
        said = str(error).lower()
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return True
        if isinstance(error, RuntimeError) and any(words in said for words in _SAID):
            return True
        error = error.__cause__
    return False
