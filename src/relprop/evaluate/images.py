"""Images: single pixels and square regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from relprop.errors import InputError

from .data import check_array
from .engine import Job, Settings, Task, check_numbers, checked_orders, run
from .maps import check_maps, constant, named, sums
from .model import Model, Score, check_score, check_target, prepared
from .progress import Progress
from .replace import Replacement, for_images
from .steps import counts

if TYPE_CHECKING:
    from .curves import Curves
    from .data import Array
    from .maps import Maps
    from .replace import Bound, Replace


def pixel_flipping(
    model: Callable[[Any], Any],
    inputs: Array,
    relevance: Maps,
    *,
    target: int | Array | Sequence[int] | None = None,
    score: Score = "logit",
    orders: Sequence[str] = ("highest", "lowest", "random"),
    replace: Replace = "random",
    low: Bound | None = None,
    high: Bound | None = None,
    steps: int | Iterable[int] = 32,
    region: int = 1,
    draws: int = 1,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    progress: Progress = False,
) -> Curves:
    """f(x_k) with x_k = x̃ where a pixel is among the first counts[k] of its image in the order of relevance, else x.

    Whole pixels are replaced, all channels at once. x̃ is drawn once an image (and draw), so x_k+1 differs from x_k in
    the newly replaced pixels alone. Pixels of equal relevance go in raster order, also in the order lowest first.

    `model`: a module in eval mode, or any function from a batch to scores (B, K) or (B,); it is called without
    gradients and not changed. `inputs`: (N, C, H, W) or (N, H, W), a tensor, or an array: functions then get arrays
    (tensors, if `device` is given), modules get tensors of their floating type on their device.
    `relevance`: the shape of the inputs (channels are added up), (N, 1, H, W) or (N, H, W); or a function (block of
    inputs, their targets) → maps; or a dictionary from method names to these, compared in one run.
    `target`: None, the class predicted for x; one class; or one a sample. `score`: "logit", "probability" (softmax
    of the logits), or a function from the model's output to (B,).
    `orders`: "highest" relevance first, "lowest" first, "random", one order for all methods.
    `replace`: "random", uniform in [`low`, `high`], numbers or one a channel, by default the extremes of each channel
    in `inputs`; "mean" of each channel of each image; "zero"; "blur", Gaussian with σ = H/8 and W/8; a number; an
    array for one image or for all; a function from a block of images to as many.
    `steps`: how many equal steps from no pixel to all, or the counts of replaced pixels.
    `region`: squares of region × region pixels in place of pixels, see `region_perturbation`.
    `draws`: how many replacements (and random orders) each curve is averaged over. `seed`, `first`: every image has
    its own random numbers, from seed, draw and `first` + its position, so that results depend neither on `batch_size`
    nor, with `low` and `high` given, on how a data set is cut into runs; `first` is the number of the first image in
    the whole set.
    `device`: where inputs go, by default where the module is. `progress`: True draws a bar with rich; a function is
    called with the samples of every forward.

    Raises `InputError`, `TargetError`; `NonFiniteError` where the score is not finite.

    >>> weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> curves = pixel_flipping(lambda x: (weights * x).sum((1, 2)), torch.ones(1, 2, 2), weights[None], replace=0)
    >>> curves.of("relevance", "highest").tolist(), curves.of("relevance", "lowest").tolist()
    ([[10.0, 6.0, 3.0, 1.0, 0.0]], [[10.0, 9.0, 7.0, 4.0, 0.0]])
    """
    check_images(inputs, region)
    check_score(score)
    check_numbers(region=region, draws=draws, seed=seed, first=first, batch_size=batch_size)
    settings = Settings(
        check_target(target, inputs.shape[0]), score, checked_orders(orders), draws, seed, first, batch_size, progress
    )
    judge, maps = prepared(model, inputs, device), named(relevance)
    task = of_images(inputs, region, steps, judge, for_images(replace, inputs, judge, low, high, seed, first))
    check_maps(maps, tuple((inputs.shape[0], *shape) for shape in task.shapes))
    return run(Job(task, judge, maps, settings))


def region_perturbation(
    model: Callable[[Any], Any],
    inputs: Array,
    relevance: Maps,
    *,
    target: int | Array | Sequence[int] | None = None,
    score: Score = "logit",
    orders: Sequence[str] = ("highest", "lowest", "random"),
    replace: Replace = "random",
    low: Bound | None = None,
    high: Bound | None = None,
    steps: int | Iterable[int] = 32,
    region: int = 9,
    draws: int = 1,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    progress: Progress = False,
) -> Curves:
    """`pixel_flipping` of squares of region × region pixels, by their sums of relevance [Samek et al. 2017].

    The squares do not overlap and start at the upper left corner; those at the right and lower border may be cut off.
    Arguments and errors as for `pixel_flipping`; `steps` counts squares.

    >>> x, relevance = torch.ones(1, 1, 3, 4), torch.arange(12.0).reshape(1, 3, 4)
    >>> curves = region_perturbation(lambda x: x.sum((1, 2, 3)), x, relevance, region=2, replace=0)
    >>> curves.of("relevance").tolist()       # the sums of the four squares are 10, 18, 17, 21
    [[12.0, 10.0, 6.0, 4.0, 0.0]]
    """
    return pixel_flipping(
        model, inputs, relevance, target=target, score=score, orders=orders, replace=replace, low=low, high=high,
        steps=steps, region=region, draws=draws, seed=seed, first=first, batch_size=batch_size, device=device,
        progress=progress,
    )  # fmt: skip


def check_images(inputs: Array, region: int) -> None:
    """Raise `InputError` unless they are at least one image of at least one pixel."""
    check_array(inputs, "inputs")
    if inputs.ndim not in (3, 4):
        raise InputError(f"inputs has shape {tuple(inputs.shape)}; give images, (N, C, H, W) or (N, H, W)")
    if inputs.shape[0] == 0:
        raise InputError("inputs holds zero images; give at least one")
    if 0 in inputs.shape:
        raise InputError(f"inputs has shape {tuple(inputs.shape)}: images without pixels")
    check_numbers(region=region)
    if region > max(inputs.shape[-2:]):
        raise InputError(f"region is {region}, but the images have {inputs.shape[-2]} × {inputs.shape[-1]} pixels")


def of_images(inputs: Array, region: int, steps: int | Iterable[int], model: Model, replacement: Replacement) -> Task:
    """What is special about images."""
    shape = tuple(inputs.shape[1:])
    height, width = shape[-2:]
    square = squares(height, width, region).to(model.device)
    units = int(square[-1]) + 1

    def values(found: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        pixels = sums(found).reshape(len(found), -1)
        if region == 1:
            return pixels, constant(pixels)
        added = pixels.new_zeros(len(pixels), units).index_add(1, square, pixels)
        return added, constant(pixels) | constant(added)

    def spread(ranks: Tensor) -> Tensor:
        pixels = ranks if region == 1 else ranks[:, square]
        return pixels.reshape(len(ranks), *(1 for _ in shape[:-2]), height, width)

    return Task(
        unit="pixel" if region == 1 else "region",
        size=inputs.shape[0],
        units=units,
        counts=counts(steps, units),
        shapes=(shape, (1, height, width), (height, width)),
        fetch=lambda part: model.fetch(inputs, part),
        values=values,
        spread=spread,
        replacement=replacement.make,
        replaced=lambda x, other, gone: torch.where(gone, other, x),
        note=replacement.note,
    )


def squares(height: int, width: int, region: int) -> Tensor:
    """The number of the square that each pixel lies in, squares and pixels in raster order: (H · W,).

    >>> squares(2, 3, 2).tolist()
    [0, 0, 1, 0, 0, 1]
    """
    down, across = torch.arange(height) // region, torch.arange(width) // region
    return (down[:, None] * (int(across[-1]) + 1) + across).reshape(-1)
