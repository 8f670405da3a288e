"""Relevance to colours: signed, symmetric around a white zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from relprop.errors import InputError

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

Array = Tensor | NDArray[np.generic]
RGB = NDArray[np.uint8]

# negative end, zero, positive end
PALETTES = {
    "red-blue": ("#0000ff", "#ffffff", "#ff0000"),
    "orange-purple": ("#4b1d8f", "#ffffff", "#d95f02"),  # told apart with any colour vision
}


def pixels(relevance: Array) -> NDArray[np.float64]:
    """One signed number a pixel: channels are summed, never their absolute values.

    `relevance`: (H, W), (C, H, W) or (1, C, H, W), finite. Returns (H, W), float64.
    Raises `InputError` for other shapes, integers that are no relevance, NaN and infinity.

    >>> pixels(np.array([[[1.0, -2.0]], [[0.5, -1.0]]]))
    array([[ 1.5, -3. ]])
    """
    values = as_array(relevance).astype(np.float64)
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.ndim not in (2, 3) or values.size == 0:
        raise InputError(
            f"relevance has shape {tuple(as_array(relevance).shape)}; a heatmap shows one image, "
            "(H, W), (C, H, W) or (1, C, H, W): pass one sample of a batch, relevance[i]"
        )
    if not np.isfinite(values).all():
        raise InputError(f"relevance holds {int((~np.isfinite(values)).sum())} values that are NaN or infinite")
    return values if values.ndim == 2 else values.sum(axis=0)


def scale(relevance: Array, percentile: float | None = None) -> float:
    """The value drawn in full colour: max |R|, or that percentile of |R| over the pixels; 0 if all are 0.

    With a percentile, what lies above it is drawn in full colour too.
    Raises `InputError` outside 0 < percentile <= 100.

    >>> scale(np.array([[1.0, -4.0]]))
    4.0
    """
    sizes = np.abs(pixels(relevance))
    if percentile is None:
        return float(sizes.max())
    if not 0 < percentile <= 100:
        raise InputError(f"percentile is {percentile:g}; give a number in (0, 100]")
    # a sparse map can be 0 at the percentile; its few pixels must stay visible
    return float(np.percentile(sizes, percentile)) or float(sizes.max())


def heatmap(
    relevance: Array, *, limit: float | None = None, percentile: float | None = None, palette: str = "red-blue"
) -> RGB:
    """R > 0 red, R < 0 blue, R = 0 white, on the symmetric scale -limit ... +limit.

    `relevance`: as for `pixels`. `limit`: the value in full colour, by default `scale(relevance, percentile)`; give
    the same to several calls to compare maps. `palette`: a key of `PALETTES`. Returns (H, W, 3), uint8.
    Raises `InputError`.

    >>> heatmap(np.array([[2.0, 0.0, -2.0]])).tolist()
    [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]
    """
    colours = colormap(palette)(0.5 + 0.5 * relative(relevance, limit, percentile), bytes=True)
    return np.ascontiguousarray(np.asarray(colours)[..., :3], dtype=np.uint8)


def overlay(
    photo: Array,
    relevance: Array,
    *,
    limit: float | None = None,
    percentile: float | None = None,
    palette: str = "red-blue",
) -> RGB:
    """The photo in grey under the relevance: the larger |R|, the more of its colour; where R = 0, the photo alone.

    `photo`: uint8 in 0 ... 255 or float in 0 ... 1, (H, W), (H, W, 3), (3, H, W) or (1, 3, H, W), of the size of
    `relevance`; the rest as for `heatmap`. Returns (H, W, 3), uint8. Raises `InputError`.

    >>> overlay(np.zeros((1, 2, 3), np.uint8), np.array([[1.0, 0.0]])).tolist()
    [[[255, 0, 0], [0, 0, 0]]]
    """
    from PIL import Image

    under = rgb(photo)
    share = relative(relevance, limit, percentile)
    if under.shape[:2] != share.shape:
        raise InputError(
            f"photo is {under.shape[1]} x {under.shape[0]} pixels, relevance {share.shape[1]} x {share.shape[0]}: "
            "pass the photo as the model saw it, resized and cropped"
        )
    colours = colormap(palette)(np.where(share < 0, 0.0, 1.0), bytes=True)
    tint = Image.fromarray(np.ascontiguousarray(np.asarray(colours)[..., :3], dtype=np.uint8))
    mask = Image.fromarray(np.rint(255 * np.abs(share)).astype(np.uint8))
    return np.asarray(Image.composite(tint, Image.fromarray(under).convert("L").convert("RGB"), mask))


def rgb(photo: Array) -> RGB:
    """A photo in any of the forms that `overlay` takes to (H, W, 3), uint8."""
    values = as_array(photo)
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    if values.ndim == 3 and values.shape[2] != 3 and values.shape[0] in (1, 3):
        values = np.moveaxis(values, 0, 2)
    if values.ndim == 3 and values.shape[2] == 1:
        values = np.repeat(values, 3, axis=2)
    if values.ndim != 3 or values.shape[2] != 3 or values.size == 0:
        raise InputError(f"photo has shape {tuple(as_array(photo).shape)}; give (H, W), (H, W, 3) or (3, H, W)")
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if not np.issubdtype(values.dtype, np.floating):
        raise InputError(f"photo is {values.dtype}; give uint8 in 0 ... 255 or float in 0 ... 1")
    # a photo that was resized or normalized and back strays from [0, 1] by rounding and no more
    if not (values.min() >= -0.01 and values.max() <= 1.01):
        raise InputError(
            f"photo runs from {values.min():.3g} to {values.max():.3g}; "
            "floats are taken in 0 ... 1: undo the normalization"
        )
    return np.asarray(np.rint(255 * np.clip(values, 0, 1)), dtype=np.uint8)


def as_array(values: Array) -> NDArray[np.generic]:
    """A tensor of any device and float type, or an array, as an array."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        # numpy has no bfloat16
        return np.asarray(values.double() if values.is_floating_point() else values)
    return np.asarray(values)


def relative(relevance: Array, limit: float | None, percentile: float | None) -> NDArray[np.float64]:
    """R / limit, clipped to -1 ... 1; zero everywhere if the limit is zero."""
    values = pixels(relevance)
    if limit is None:
        limit = scale(values, percentile)
    elif percentile is not None:
        raise InputError("limit and percentile are both given; the limit alone sets the scale")
    if not (np.isfinite(limit) and limit >= 0):
        raise InputError(f"limit is {limit:g}; give a finite number >= 0")
    return np.clip(values / limit, -1, 1) if limit > 0 else np.zeros_like(values)


def colormap(palette: str) -> Colormap:
    """The matplotlib colour map of a palette. 257 steps: an odd number has a middle one, and zero is exactly white."""
    from matplotlib.colors import LinearSegmentedColormap

    if palette not in PALETTES:
        raise InputError(f"palette {palette!r} is unknown; there are {', '.join(PALETTES)}")
    return LinearSegmentedColormap.from_list(f"relprop_{palette}", PALETTES[palette], N=257)
