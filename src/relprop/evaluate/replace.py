"""What replaces a pixel or a feature: a function from a block of samples to samples of the same shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from relprop.errors import InputError

from .data import block, check_array, is_array, slices
from .draws import rows, uniform
from .model import Model, tensor_of

if TYPE_CHECKING:
    from .data import Array

    Bound = float | Sequence[float] | Tensor
    Replace = str | float | Array | Callable[[Any], Any]


@dataclass(frozen=True)
class Replacement:
    """`make(samples, which of all, draw)` gives what they are replaced by; `note` says it in words."""

    make: Callable[[Tensor, slice, int], Tensor]
    note: str


def for_images(
    replace: Replace, inputs: Array, model: Model, low: Bound | None, high: Bound | None, seed: int, first: int
) -> Replacement:
    """The replacement of images (N, C, H, W) or (N, H, W) by its name, a value, an array or a function."""
    drawn = isinstance(replace, str) and replace == "random"
    if not drawn and not (low is None and high is None):
        raise InputError("low and high bound random replacement; leave them out, or give replace='random'")
    if drawn:
        return noise(inputs, low, high, seed, first)
    if isinstance(replace, str):
        if replace not in IMAGES:
            raise InputError(f"replace is {replace!r}; give 'random', {CHOICES}, a number, an array or a function")
        function, note = IMAGES[replace]
        return Replacement(lambda x, part, draw: like(function(planes(x)).reshape(x.shape), x), note)
    return given(replace, inputs, model)


def noise(inputs: Array, low: Bound | None, high: Bound | None, seed: int, first: int) -> Replacement:
    """Uniform in [low, high], each channel of each pixel by itself."""
    channels = inputs.shape[1] if inputs.ndim == 4 else 1
    found = extent(inputs, channels) if low is None or high is None else (torch.zeros(0), torch.zeros(0))
    lows = found[0] if low is None else bound(low, channels, "low")
    highs = found[1] if high is None else bound(high, channels, "high")
    if bool((lows > highs).any()):
        raise InputError(f"low {lows.tolist()} is above high {highs.tolist()}; exchange them")

    def make(x: Tensor, part: slice, draw: int) -> Tensor:
        shape = tuple(planes(x).shape[1:])
        u = uniform(shape, seed, draw, range(first + part.start, first + part.stop)).to(x.device)
        down, up = (b.to(x.device, u.dtype)[:, None, None] for b in (lows, highs))
        return like((down + (up - down) * u).reshape(x.shape), x)

    source = "" if low is not None and high is not None else ", bounds left out taken from the inputs given"
    return Replacement(make, f"random, uniform per channel from {numbers(lows)} to {numbers(highs)}{source}")


def extent(inputs: Array, channels: int) -> tuple[Tensor, Tensor]:
    """The smallest and largest value of each channel, (C,) and (C,), float64."""
    found = []
    for part in slices(inputs.shape[0], 1024):
        x = planes(block(inputs, part)).transpose(0, 1).reshape(channels, -1)
        found.append((x.amin(1).double().cpu(), x.amax(1).double().cpu()))
    lows, highs = zip(*found, strict=True)
    return torch.stack(lows).amin(0), torch.stack(highs).amax(0)


def bound(value: Bound, channels: int, name: str) -> Tensor:
    """A bound a channel, (C,). Raises `InputError`."""
    try:
        given = torch.as_tensor(value, dtype=torch.float64).detach().cpu().reshape(-1)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name} is {value!r}; give a number, or one for each of the {channels} channels") from None
    if len(given) not in (1, channels) or not bool(given.isfinite().all()):
        raise InputError(f"{name} is {value!r}; give a finite number, or one for each of the {channels} channels")
    return given.expand(channels)


def given(replace: Any, inputs: Array, model: Model) -> Replacement:
    """A number, an array for one sample or for all of them, or a function. Raises `InputError`."""
    shape = tuple(inputs.shape)
    if isinstance(replace, (int, float)) and not isinstance(replace, bool):
        if not math.isfinite(replace):
            raise InputError(f"replace is {replace}; give a finite number")
        return Replacement(lambda x, part, draw: torch.full_like(x, replace), f"the value {replace:g}")
    if isinstance(replace, Tensor) or is_array(replace):
        check_array(replace, "replace")
        every = replace.ndim == len(shape) and replace.shape[0] == shape[0] != 1
        sample = tuple(replace.shape[1:]) if every else tuple(replace.shape)
        if not fits(sample, shape[1:]):
            raise InputError(
                f"replace has shape {tuple(replace.shape)}; give one that broadcasts to {shape[1:]} or {shape}"
            )
        note = "given samples, one for each" if every else "a given sample"
        return Replacement(
            lambda x, part, draw: like(block(replace, part if every else slice(None)), x).expand_as(x), note
        )
    if callable(replace):
        return Replacement(lambda x, part, draw: called(replace, x, model), f"the function {name_of(replace)}")
    raise InputError(f"replace is a {type(replace).__name__}; give a name, a number, an array or a function")


def fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether `shape` broadcasts to `wanted`, or to one sample of it with a leading 1."""
    if len(shape) == len(wanted) + 1 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) > len(wanted):
        return False
    return all(a in (1, b) for a, b in zip(reversed(shape), reversed(wanted), strict=False))


def called(function: Callable[[Any], Any], x: Tensor, model: Model) -> Tensor:
    """What a function makes of a block. Raises `InputError`: another shape."""
    made = tensor_of(function(model.hand(x.clone())))
    if made is None or made.shape != x.shape:
        got = "no tensor" if made is None else f"shape {tuple(made.shape)}"
        raise InputError(f"replace is a function that returns {got}; it must return the shape it got, {tuple(x.shape)}")
    return like(made.detach(), x)


def like(values: Tensor, x: Tensor) -> Tensor:
    """On the device and of the type of x; rounded where those are integers."""
    if not x.is_floating_point() and values.is_floating_point():
        values = values.round()
    return values.to(x.device, x.dtype)


def planes(x: Tensor) -> Tensor:
    """Images without channels with one: (B, C, H, W)."""
    return x if x.ndim == 4 else x[:, None]


def blurred(x: Tensor) -> Tensor:
    """A Gaussian of σ = H/8 down and W/8 across, cut off at 3 σ, the image reflected at its borders: (B, C, H, W)."""
    exact = x if x.is_floating_point() else x.float()
    flat = exact.reshape(-1, 1, *x.shape[2:])
    for axis, size in ((2, x.shape[2]), (3, x.shape[3])):
        if size == 1:
            continue
        radius = math.ceil(3 * size / 8)
        at = torch.arange(-radius, radius + 1, dtype=flat.dtype, device=x.device)
        kernel = (-0.5 * (at / (size / 8)) ** 2).exp()
        pad = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        flat = F.conv2d(F.pad(flat, pad, mode="reflect"), (kernel / kernel.sum()).reshape(shape))
    return flat.reshape(x.shape)


def means(x: Tensor) -> Tensor:
    """The mean of each channel of each image: (B, C, H, W)."""
    exact = x if x.is_floating_point() else x.float()
    return exact.mean((2, 3), keepdim=True).expand_as(x)


IMAGES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "mean": (means, "the mean of each channel of each image"),
    "zero": (torch.zeros_like, "zero"),
    "blur": (blurred, "the image blurred by a Gaussian, σ = H/8 and W/8, reflected at the borders"),
}
CHOICES = ", ".join(repr(name) for name in IMAGES)


def for_table(replace: Replace, table: Array, reference: Array, model: Model, seed: int, first: int) -> Replacement:
    """The replacement of rows of a table (N, F); means and random values are those of the rows of `reference`."""
    if not isinstance(replace, str):
        return given(replace, table, model)
    if replace == "zero":
        return Replacement(lambda x, part, draw: torch.zeros_like(x), "zero")
    known = block(reference, slice(None))
    if replace == "mean":
        mean = known.double().mean(0)
        return Replacement(lambda x, part, draw: like(mean, x).expand_as(x), f"the mean of each column{rows_of(known)}")
    if replace != "random":
        raise InputError(f"replace is {replace!r}; give 'mean', 'zero', 'random', a number, an array or a function")

    def make(x: Tensor, part: slice, draw: int) -> Tensor:
        chosen = rows(len(known), x.shape[1], seed, draw, range(first + part.start, first + part.stop))
        return like(known.cpu().gather(0, chosen), x)

    return Replacement(make, f"random values of the same column{rows_of(known)}")


def rows_of(known: Tensor) -> str:
    return f", of {len(known)} rows"


def numbers(values: Tensor) -> str:
    """A few numbers for a note."""
    listed = [f"{v:.4g}" for v in values.tolist()]
    if len(set(listed)) == 1:
        return listed[0]
    return "(" + ", ".join(listed if len(listed) <= 4 else [*listed[:3], "…"]) + ")"


def name_of(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
