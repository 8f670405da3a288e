"""Tensors and arrays alike: what is accepted, and how a block of samples is taken from either."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from relprop.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = Tensor | NDArray[Any]


def is_array(values: object) -> bool:
    """Whether it is a NumPy array, told without importing NumPy: who holds one has imported it.

    >>> is_array([1.0])
    False
    """
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(values, numpy.ndarray)


def check_array(values: object, name: str) -> None:
    """Raise `InputError` unless `values` is a tensor or a NumPy array of numbers."""
    if not isinstance(values, Tensor) and not is_array(values):
        raise InputError(f"{name} is a {type(values).__name__}; give a torch tensor or a NumPy array")
    if is_array(values) and values.dtype.kind not in "fiub":  # type: ignore[attr-defined]
        raise InputError(f"{name} is an array of {values.dtype}; give real numbers")  # type: ignore[attr-defined]
    if isinstance(values, Tensor) and values.is_complex():
        raise InputError(f"{name} is a tensor of {values.dtype}; give real numbers")


def block(values: Array, part: slice) -> Tensor:
    """Samples `part` as a tensor without gradient; of an array, a copy: it may be read-only or mapped to a file.

    >>> block(torch.arange(6), slice(2, 4))
    tensor([2, 3])
    """
    if isinstance(values, Tensor):
        return values[part].detach()
    import numpy as np

    copy = np.array(values[part], order="C", dtype=values.dtype.newbyteorder("="))
    return torch.from_numpy(copy)


def accurate(device: torch.device) -> torch.dtype:
    """The type in which scores are kept and relevance is added up: float64, except on Apple's GPUs, which lack it."""
    return torch.float32 if device.type == "mps" else torch.float64


def slices(size: int, length: int) -> list[slice]:
    """0 … size in pieces of `length`.

    >>> slices(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(i, min(i + length, size)) for i in range(0, size, length)]
