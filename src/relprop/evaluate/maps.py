"""Relevance maps: which are accepted, one value a unit, and the order they put the units in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from relprop.errors import InputError

from .data import accurate, block, check_array, is_array, slices
from .model import Model, tensor_of

if TYPE_CHECKING:
    from .data import Array

    Map = Array | Callable[[Any, Any], Any]
    Maps = Map | Mapping[str, Map]

RANDOM = "random"


def named(relevance: Maps) -> dict[str, Map]:
    """The maps by method name; a single one is called "relevance". Raises `InputError`."""
    if not isinstance(relevance, Mapping):
        return {"relevance": relevance}
    if not relevance:
        raise InputError("relevance is empty; give a map, or a dictionary from method names to maps")
    if RANDOM in relevance:
        raise InputError("relevance has a method named 'random', the name of the random order; call it something else")
    if not all(isinstance(name, str) for name in relevance):
        raise InputError(f"relevance has keys {list(relevance)!r}; give method names as text")
    return dict(relevance)


def check_maps(maps: Mapping[str, Map], shapes: tuple[tuple[int, ...], ...]) -> None:
    """Refuse arrays of another shape than one of `shapes`, (N, …), or not finite, before the work starts."""
    for name, values in maps.items():
        if isinstance(values, Tensor) or is_array(values):
            values = cast("Array", values)
            check_shape(name, tuple(values.shape), shapes)
            check_array(values, f"relevance {name!r}")
            for part in slices(values.shape[0], 1024):
                check_finite(name, block(values, part), part)
        elif not callable(values):
            raise InputError(
                f"relevance {name!r} is a {type(values).__name__}; "
                "give a tensor, an array, or a function of a block of inputs and their targets"
            )


def check_shape(name: str, shape: tuple[int, ...], shapes: tuple[tuple[int, ...], ...]) -> None:
    if shape not in shapes:
        accepted = " or ".join(dict.fromkeys(map(str, shapes)))
        raise InputError(f"relevance {name!r} has shape {shape}; the inputs ask for {accepted}")


def check_finite(name: str, values: Tensor, part: slice) -> None:
    fine = values.reshape(len(values), -1).isfinite().all(1)
    if not bool(fine.all()):
        sample = part.start + int((~fine).nonzero()[0])
        raise InputError(
            f"relevance {name!r} of sample {sample} holds NaN or infinity; mend it, or leave the sample out"
        )


def fetch(
    name: str,
    values: Map,
    model: Model,
    x: Tensor,
    target: Tensor | None,
    part: slice,
    shapes: tuple[tuple[int, ...], ...],
) -> Tensor:
    """The maps of a block, on the device of the model; a function is called with the block and its targets."""
    if isinstance(values, Tensor) or is_array(values):
        found = block(cast("Array", values), part)
    else:
        classes = None if target is None else target.cpu().numpy() if model.arrays else target
        made = tensor_of(cast("Callable[[Any, Any], Any]", values)(model.hand(x.clone()), classes))
        if made is None:
            raise InputError(
                f"relevance {name!r} is a function that returns no tensor or array; return one map a sample"
            )
        found = made.detach()
        check_shape(name, tuple(found.shape), tuple((len(x), *shape) for shape in shapes))
        check_finite(name, found, part)
    return found.to(model.device, accurate(model.device) if found.dtype == torch.float64 else None)


def sums(values: Tensor) -> Tensor:
    """Maps (B, C, H, W) or (B, H, W) to one value a pixel, channels added up: (B, H, W)."""
    dtype = accurate(values.device)
    return values.sum(1, dtype=dtype) if values.ndim == 4 else values.to(dtype)


def constant(values: Tensor, free: Tensor | None = None) -> Tensor:
    """Whether a map is the same everywhere (on its free units), so that it orders nothing: (B,), bool.

    >>> constant(torch.tensor([[1.0, 1.0], [1.0, 2.0]])).tolist()
    [True, False]
    """
    flat = values.reshape(len(values), -1)
    if free is None:
        return flat.amin(1) == flat.amax(1)
    return flat.masked_fill(~free, torch.inf).amin(1) == flat.masked_fill(~free, -torch.inf).amax(1)


def ranks(values: Tensor, highest: bool, free: Tensor | None = None) -> Tensor:
    """The place of each unit in the order of replacement, 0 first: (B, U), int32. Equal values stay in raster order.

    Units that are not `free` come last.

    >>> ranks(torch.tensor([[1.0, 3.0, 1.0]]), True).tolist(), ranks(torch.tensor([[1.0, 3.0, 1.0]]), False).tolist()
    ([[1, 0, 2]], [[0, 2, 1]])
    """
    if free is not None:
        values = values.masked_fill(~free, -torch.inf if highest else torch.inf)
    order = values.argsort(dim=1, descending=highest, stable=True)
    places = torch.arange(values.shape[1], dtype=torch.int32, device=values.device).expand_as(order)
    return torch.empty_like(order, dtype=torch.int32).scatter_(1, order, places)
