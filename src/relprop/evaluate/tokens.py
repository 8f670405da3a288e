"""Texts: tokens masked or removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from relprop.errors import InputError

from .data import block, check_array
from .engine import Job, Settings, Task, check_numbers, checked_orders, run
from .maps import check_maps, constant, named
from .model import Model, Score, check_score, check_target, prepared
from .progress import Progress
from .steps import counts

if TYPE_CHECKING:
    from .curves import Curves
    from .data import Array
    from .maps import Maps


def token_deletion(
    model: Callable[[Any], Any],
    tokens: Array,
    relevance: Maps,
    *,
    mask_token: int | None = None,
    delete: bool = False,
    pad_token: int | None = None,
    keep: Array | None = None,
    target: int | Array | Sequence[int] | None = None,
    score: Score = "logit",
    orders: Sequence[str] = ("highest", "lowest", "random"),
    steps: int | Iterable[int] = 32,
    draws: int = 1,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    progress: Progress = False,
) -> Curves:
    """f of texts whose first counts[k] tokens, in the order of relevance, are masked or removed.

    `tokens`: integers (N, T), a tensor or an array. `relevance`: (N, T), or a function or dictionary as for
    `pixel_flipping`. `keep`: (N, T), True where a token is never touched (padding, special tokens).
    `mask_token`: the number put in place of a token. `delete=True`: tokens are removed, the rest moves left, and
    `pad_token` fills the end; the model must take no notice of padding.
    Where `keep` leaves a text fewer than T tokens, counts are shares of T: round(counts / T · its own number) tokens
    are taken away, halves up. `draws`: how many random orders are averaged; nothing else is drawn.
    All other arguments, and errors, as for `pixel_flipping`.

    >>> words = torch.tensor([[5, 7, 2, 0]])       # 0 is padding
    >>> relevance, padding = words.double(), words == 0
    >>> curves = token_deletion(lambda t: t.sum(1).double(), words, relevance, mask_token=1, keep=padding, steps=3)
    >>> curves.of("relevance", "highest").tolist()
    [[14.0, 8.0, 4.0, 3.0]]
    """
    check_tokens(tokens, mask_token, delete, pad_token)
    check_score(score)
    check_numbers(draws=draws, seed=seed, first=first, batch_size=batch_size)
    settings = Settings(
        check_target(target, tokens.shape[0]), score, checked_orders(orders), draws, seed, first, batch_size, progress
    )
    judge, maps = integers(prepared(model, tokens, device)), named(relevance)
    put = pad_token if delete else mask_token
    task = of_texts(tokens, int(put or 0), delete, untouched(tokens, keep), steps, judge)
    check_maps(maps, (tuple(tokens.shape),))
    return run(Job(task, judge, maps, settings))


def check_tokens(tokens: Array, mask_token: int | None, delete: bool, pad_token: int | None) -> None:
    """Raise `InputError` unless they are texts of at least one token, and one way to take tokens away is chosen."""
    check_array(tokens, "tokens")
    if tokens.ndim != 2 or 0 in tokens.shape[1:]:
        raise InputError(f"tokens has shape {tuple(tokens.shape)}; give the numbers of the tokens, (N, T)")
    if tokens.shape[0] == 0:
        raise InputError("tokens holds zero texts; give at least one")
    if "int" not in str(tokens.dtype):
        raise InputError(f"tokens is {tokens.dtype}; give the numbers of the tokens, integers")
    if delete and (pad_token is None or mask_token is not None):
        raise InputError("delete=True fills the end of a text with pad_token; give pad_token, and no mask_token")
    if not delete and (mask_token is None or pad_token is not None):
        raise InputError("give mask_token, the number put in place of a token; or delete=True and pad_token")
    for name, value in (("mask_token", mask_token), ("pad_token", pad_token)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise InputError(f"{name} is {value!r}; give the number of a token")


def integers(model: Model) -> Model:
    """Tokens stay integers whatever the type of the weights; int64, because embeddings take that."""
    return Model(model.call, model.device, model.arrays, None if model.dtype is None else torch.int64)


def untouched(tokens: Array, keep: Array | None) -> Tensor | None:
    """Where tokens may be taken away, (N, T); None for everywhere. Raises `InputError`."""
    if keep is None:
        return None
    check_array(keep, "keep")
    kept = block(keep, slice(None)).cpu()
    if kept.dtype != torch.bool or kept.shape != tuple(tokens.shape):
        raise InputError(f"keep is {kept.dtype} of shape {tuple(kept.shape)}; give booleans, {tuple(tokens.shape)}")
    full = kept.all(1)
    if bool(full.any()):
        raise InputError(f"keep leaves no token of text {int(full.nonzero()[0])} to be replaced; leave that text out")
    return ~kept


def of_texts(
    tokens: Array, put: int, delete: bool, free: Tensor | None, steps: int | Iterable[int], model: Model
) -> Task:
    """What is special about texts."""

    def values(found: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        if not found.is_floating_point():
            found = found.double()
        return found, constant(found, None if free is None else free[part].to(found.device))

    return Task(
        unit="token",
        size=tokens.shape[0],
        units=tokens.shape[1],
        counts=counts(steps, tokens.shape[1]),
        shapes=((tokens.shape[1],),),
        fetch=lambda part: model.fetch(tokens, part),
        values=values,
        spread=lambda ranks: ranks,
        replacement=lambda x, part, draw: torch.full_like(x, put),
        replaced=removed if delete else lambda x, other, gone: torch.where(gone, other, x),
        note=f"nothing: removed, {put} at the end" if delete else f"token {put}",
        free=free,
    )


def removed(x: Tensor, padding: Tensor, gone: Tensor) -> Tensor:
    """The tokens that are not gone, in their order, then padding.

    >>> x = torch.tensor([[5, 6, 7]])
    >>> removed(x, torch.zeros_like(x), torch.tensor([[True, False, False]])).tolist()
    [[6, 7, 0]]
    """
    left = x.gather(1, gone.to(torch.uint8).argsort(dim=1, stable=True))
    place = torch.arange(x.shape[1], device=x.device)
    return torch.where(place < (~gone).sum(1, keepdim=True), left, padding)
