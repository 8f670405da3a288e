"""Tables: columns replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from relprop.errors import InputError

from .data import accurate, check_array
from .engine import Job, Settings, Task, check_numbers, checked_orders, run
from .maps import check_maps, constant, named
from .model import Model, Score, check_score, check_target, prepared
from .progress import Progress
from .replace import Replacement, for_table
from .steps import counts

if TYPE_CHECKING:
    from .curves import Curves
    from .data import Array
    from .maps import Maps
    from .replace import Replace


def feature_deletion(
    model: Callable[[Any], Any],
    table: Array,
    relevance: Maps,
    *,
    replace: Replace = "mean",
    reference: Array | None = None,
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
    """f of rows whose first counts[k] features, in the order of relevance, are replaced.

    `table`: (N, F), a tensor or an array. `relevance`: (N, F), or a function or dictionary as for `pixel_flipping`.
    `replace`: "mean" of each column; "zero"; "random", a value drawn from the same column, each column by itself; a
    number; an array for one row or for all; a function from a block of rows to as many.
    `reference`: rows, (M, F), that means and random values are taken from, by default `table`; give the training set,
    or give the same to every run if the table is cut into several.
    All other arguments, and errors, as for `pixel_flipping`.

    >>> x = torch.tensor([[3.0, 1.0, 2.0]])
    >>> feature_deletion(lambda x: x.sum(1), x, x, replace="zero").of("relevance", "highest").tolist()
    [[6.0, 3.0, 1.0, 0.0]]
    """
    check_table(table, "table")
    if reference is not None:
        check_table(reference, "reference")
        if reference.shape[1] != table.shape[1]:
            raise InputError(
                f"reference has {reference.shape[1]} columns, table {table.shape[1]}; give the same columns"
            )
    check_score(score)
    check_numbers(draws=draws, seed=seed, first=first, batch_size=batch_size)
    settings = Settings(
        check_target(target, table.shape[0]), score, checked_orders(orders), draws, seed, first, batch_size, progress
    )
    judge, maps = prepared(model, table, device), named(relevance)
    replacement = for_table(replace, table, table if reference is None else reference, judge, seed, first)
    check_maps(maps, (tuple(table.shape),))
    return run(Job(of_rows(table, steps, judge, replacement), judge, maps, settings))


def check_table(table: Array, name: str) -> None:
    """Raise `InputError` unless it has rows and columns."""
    check_array(table, name)
    if table.ndim != 2 or table.shape[1] == 0:
        raise InputError(f"{name} has shape {tuple(table.shape)}; give one row a sample, (N, F)")
    if table.shape[0] == 0:
        raise InputError(f"{name} holds zero rows; give at least one")


def of_rows(table: Array, steps: int | Iterable[int], model: Model, replacement: Replacement) -> Task:
    """What is special about tables."""

    def values(found: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        exact = found.to(accurate(found.device))
        return exact, constant(exact)

    return Task(
        unit="feature",
        size=table.shape[0],
        units=table.shape[1],
        counts=counts(steps, table.shape[1]),
        shapes=((table.shape[1],),),
        fetch=lambda part: model.fetch(table, part),
        values=values,
        spread=lambda ranks: ranks,
        replacement=replacement.make,
        replaced=lambda x, other, gone: torch.where(gone, other, x),
        note=replacement.note,
    )
