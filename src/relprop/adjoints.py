"""Transposed linear maps of the ops that carry the arithmetic: fᵀ(s), stated, so that no forward is repeated.

Each takes `(s, args, kwargs, a)`: the cotangent, the call's arguments, and the live input (its shape alone
matters). A bias among the arguments is ignored.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
Args = tuple[Any, ...]


def argument(args: Args, kwargs: dict[str, Any], index: int, name: str, default: Any) -> Any:
    """An argument given by position or name, or its default."""
    return args[index] if len(args) > index else kwargs.get(name, default)


def per_dim(value: Any, dims: int) -> list[int]:
    """`2` or `[2]` or `[2, 2]` as one number a dimension."""
    values = list(value) if isinstance(value, Sequence) else [value]
    return values * dims if len(values) == 1 else values


def linear(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """s W for z = a Wᵀ."""
    return torch.matmul(s, args[1])


def addmm(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """s Wᵀ for z = α a W (+ bias)."""
    weight: Tensor = args[2]
    return torch.matmul(s, weight.mT) * float(kwargs.get("alpha", 1))


def matmul(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """s Wᵀ for z = a W, and Wᵀ s for z = W a; batch dimensions that were broadcast are summed."""
    left = args[0] is a
    w = args[1] if left else args[0]
    if a.dim() < 2 or w.dim() < 2:
        raise NotImplementedError  # vectors: by automatic differentiation
    c = torch.matmul(s, w.mT) if left else torch.matmul(w.mT, s)
    return c.sum_to_size(a.shape)


def _convolution(s: Tensor, args: Args, a: Tensor, stride: Any, padding: Any, dilation: Any, transposed: bool,
                 output_padding: Any, groups: int) -> Tensor:  # fmt: skip
    dims = args[1].dim() - 2
    unbatched = a.dim() == dims + 1
    if unbatched:
        s, a = s.unsqueeze(0), a.unsqueeze(0)
    c: Tensor = aten.convolution_backward.default(
        s, a, args[1], None, per_dim(stride, dims), per_dim(padding, dims), per_dim(dilation, dims),
        transposed, per_dim(output_padding, dims), groups, [True, False, False],
    )[0]  # fmt: skip
    return c.squeeze(0) if unbatched else c


def conv(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """Transposed convolution with the layer's own stride, padding, dilation and groups."""
    stride, padding = argument(args, kwargs, 3, "stride", 1), argument(args, kwargs, 4, "padding", 0)
    dilation, groups = argument(args, kwargs, 5, "dilation", 1), argument(args, kwargs, 6, "groups", 1)
    return _convolution(s, args, a, stride, padding, dilation, False, 0, groups)


def conv_same(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """For padding "same" of an odd total: the far side has one more, so the border is added and cut off here."""
    dims = args[1].dim() - 2
    dilation = per_dim(argument(args, kwargs, 5, "dilation", 1), dims)
    total = [d * (k - 1) for d, k in zip(dilation, args[1].shape[2:], strict=True)]
    lead = a.dim() - dims
    bordered = a.new_empty([*a.shape[:lead], *(n + t for n, t in zip(a.shape[lead:], total, strict=True))])
    c = _convolution(s, args, bordered, 1, 0, dilation, False, 0, argument(args, kwargs, 6, "groups", 1))
    inner: Any = (..., *(slice(t // 2, t // 2 + n) for n, t in zip(a.shape[lead:], total, strict=True)))
    return c[inner]


def conv_transpose(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """The convolution whose transpose the layer is."""
    stride, padding = argument(args, kwargs, 3, "stride", 1), argument(args, kwargs, 4, "padding", 0)
    output_padding, groups = argument(args, kwargs, 5, "output_padding", 0), argument(args, kwargs, 6, "groups", 1)
    dilation = argument(args, kwargs, 7, "dilation", 1)
    return _convolution(s, args, a, stride, padding, dilation, True, output_padding, groups)


def scale_shift(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """The channel's scale again: a diagonal map is its own transpose."""
    scale: Tensor = args[1].view((1, -1) + (1,) * (a.dim() - 2))
    return s * scale


def _pool(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor, backward: Any, dims: int) -> Tensor:
    if a.dim() != dims + 2:
        raise NotImplementedError
    kernel = argument(args, kwargs, 1, "kernel_size", None)
    stride = argument(args, kwargs, 2, "stride", [])
    rest = (
        argument(args, kwargs, 3, "padding", 0),
        argument(args, kwargs, 4, "ceil_mode", False),
        argument(args, kwargs, 5, "count_include_pad", True),
        argument(args, kwargs, 6, "divisor_override", None),
    )
    kernel = per_dim(kernel, dims)
    stride = per_dim(stride, dims) if stride not in (None, []) else kernel
    out: Tensor = backward(s.contiguous(), a, kernel, stride, per_dim(rest[0], dims), *rest[1:])
    return out


def avg_pool2d(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """Each output spread evenly over its window."""
    return _pool(s, args, kwargs, a, aten.avg_pool2d_backward.default, 2)


def avg_pool3d(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """Each output spread evenly over its window."""
    return _pool(s, args, kwargs, a, aten.avg_pool3d_backward.default, 3)


def adaptive_avg_pool2d(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """Each output spread evenly over its window."""
    out: Tensor = aten._adaptive_avg_pool2d_backward.default(s.contiguous(), a)
    return out


def _reduced(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor) -> tuple[Tensor, int]:
    dims = argument(args, kwargs, 1, "dim", None)
    keepdim = argument(args, kwargs, 2, "keepdim", False)
    dims = list(range(a.dim())) if dims in (None, []) else [d % a.dim() for d in per_dim(dims, 1)]
    count = 1
    for d in sorted(dims):
        count *= a.shape[d]
        s = s if keepdim else s.unsqueeze(d)
    return s.expand(a.shape), count


def mean(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """s / n for each of the n averaged entries."""
    spread, count = _reduced(s, args, kwargs, a)
    return spread / count


def total(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """s for each summed entry."""
    return _reduced(s, args, kwargs, a)[0]


def reshape(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """Back to the shape it came from."""
    return s.reshape(a.shape)


def permute(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """The inverse permutation."""
    inverse = [0] * len(args[1])
    for i, d in enumerate(args[1]):
        inverse[d % a.dim()] = i
    return s.permute(inverse)


def transpose(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """A transposition is its own inverse."""
    return s.transpose(args[1], args[2])


def select(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """Into the place that was selected."""
    out: Tensor = aten.select_backward.default(s, a.shape, args[1], args[2])
    return out


def sliced(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """Into the places that were kept."""
    dim, start, end, step = (argument(args, kwargs, i, n, d) for i, n, d in _SLICE)
    last = sys.maxsize if end is None else end
    out: Tensor = aten.slice_backward.default(s, a.shape, dim, 0 if start is None else start, last, step)
    return out


_SLICE = ((1, "dim", 0), (2, "start", None), (3, "end", None), (4, "step", 1))


def expand(s: Tensor, args: Args, kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """The sum over the copies."""
    return s.sum_to_size(a.shape)
