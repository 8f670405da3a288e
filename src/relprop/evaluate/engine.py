"""Replace ever more units of every sample and note the score: the part that images, texts and tables share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from relprop.errors import InputError, NonFiniteError

from .curves import Curves
from .data import accurate, slices
from .draws import orders as random_orders
from .maps import RANDOM, fetch, ranks
from .model import Model, Score, classes, judged, score_name
from .progress import Progress, shown
from .steps import own_counts

if TYPE_CHECKING:
    from .maps import Map

ORDERS = ("highest", "lowest", RANDOM)


@dataclass(frozen=True)
class Task:
    """What is special about images, texts or tables. Blocks are of B samples, each of U units."""

    unit: str
    size: int
    """N, the number of samples."""
    units: int
    """U."""
    counts: Tensor
    """Units replaced at each point, (K + 1,)."""
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of a relevance map of one sample."""
    fetch: Callable[[slice], Tensor]
    """The samples of a block."""
    values: Callable[[Tensor, slice], tuple[Tensor, Tensor]]
    """Maps of a block to one value a unit (B, U), and whether each map is constant (B,)."""
    spread: Callable[[Tensor], Tensor]
    """The ranks of units (B, U) in a shape that broadcasts to the samples."""
    replacement: Callable[[Tensor, slice, int], Tensor]
    """Of a block, which of all samples it is, and the draw: what replaces it."""
    replaced: Callable[[Tensor, Tensor, Tensor], Tensor]
    """Of samples, their replacement and the units that are gone, in the shape of `spread`: the model's input."""
    note: str
    """What units are replaced by, in words."""
    free: Tensor | None = None
    """Units that may be replaced, (N, U); None: all."""


@dataclass(frozen=True)
class Settings:
    """The choices that all kinds of samples share."""

    target: int | Tensor | None
    score: Score
    orders: tuple[str, ...]
    draws: int
    seed: int
    first: int
    batch_size: int
    progress: Progress


@dataclass(frozen=True)
class Job:
    """All that a block needs to know."""

    task: Task
    model: Model
    maps: dict[str, Map]
    settings: Settings

    @property
    def inner(self) -> int:
        """Points of a curve between f(x) and, where all units are replaced, f of the replacement."""
        return len(self.task.counts) - 1 - self.complete

    @property
    def complete(self) -> bool:
        return int(self.task.counts[-1]) == self.task.units

    @property
    def keys(self) -> list[tuple[str, str]]:
        """(method, order) of every curve; all methods share the one in random order."""
        wanted = self.settings.orders
        named = [(method, order) for method in self.maps for order in wanted if order != RANDOM]
        return named + ([(RANDOM, RANDOM)] if RANDOM in wanted else [])

    @property
    def forwards(self) -> int:
        """Samples of all forwards together."""
        return self.task.size * (1 + self.settings.draws * (self.complete + len(self.keys) * self.inner))


@dataclass(frozen=True)
class Block:
    """The curves of some samples."""

    values: dict[tuple[str, str], Tensor]
    target: Tensor
    constant: dict[str, Tensor]


def checked_orders(orders: str | Sequence[str]) -> tuple[str, ...]:
    """Raise `InputError` unless they are some of `ORDERS`, each once."""
    listed = (orders,) if isinstance(orders, str) else tuple(orders)
    if not listed or len(set(listed)) != len(listed) or not set(listed) <= set(ORDERS):
        raise InputError(f"orders is {orders!r}; give some of {', '.join(map(repr, ORDERS))}, each once")
    return listed


def check_numbers(**numbers: object) -> None:
    """Raise `InputError` unless all are integers, and those other than `seed` and `first` at least 1."""
    for name, value in numbers.items():
        least = {"seed": None, "first": 0}.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
            raise InputError(f"{name} is {value!r}; give an integer{'' if least is None else f' >= {least}'}")


def run(job: Job) -> Curves:
    """The curves of all samples, block by block."""
    with shown(job.settings.progress, job.forwards) as advance:
        parts = slices(job.task.size, job.settings.batch_size)
        return assembled(job, [of_block(job, part, advance) for part in parts])


def of_block(job: Job, part: slice, advance: Callable[[int], object]) -> Block:
    """The curves of one block: f(x) once, and for every draw f of the replacement once, for all methods."""
    size, score = part.stop - part.start, job.settings.score
    x = job.task.fetch(part)
    output = job.model.output(x.clone())  # a model may work in place, and x may be a view of the user's inputs
    target = classes(output, job.settings.target, score, part)

    def judge(output: object) -> Tensor:
        advance(size)
        return judged(output, target, score, size)

    at_0 = judge(output)
    curves: dict[tuple[str, str], Tensor] = {}
    constant: dict[str, Tensor] = {}
    held: dict[str, Tensor] = {}
    for draw in range(job.settings.draws):
        other = job.task.replacement(x, part, draw)
        at_end = judge(job.model.output(whole(job, x, other, part))) if job.complete else None
        for key, rank in ranked(job, x, target, part, draw, held, constant):
            curve = torch.stack(
                [at_0, *inner(job, x, other, rank, part, judge), *([] if at_end is None else [at_end])], 1
            )
            curves[key] = curves[key] + curve if draw else curve
    means = {key: (curve / job.settings.draws).cpu().double() for key, curve in curves.items()}
    check_scores(means, part, job)
    chosen = torch.full((size,), -1) if target is None else target.cpu()
    return Block(means, chosen, constant)


def whole(job: Job, x: Tensor, other: Tensor, part: slice) -> Tensor:
    """The samples with all their free units replaced."""
    free = job.task.free
    gone = torch.ones(len(x), job.task.units, dtype=torch.bool) if free is None else free[part]
    return job.task.replaced(x, other, job.task.spread(gone.to(x.device)))


def inner(
    job: Job, x: Tensor, other: Tensor, rank: Tensor, part: slice, judge: Callable[[object], Tensor]
) -> Iterator[Tensor]:
    """The scores between the ends; one comparison and one selection beside each forward."""
    places = job.task.spread(rank)
    own = None if job.task.free is None else job.task.free[part].sum(1).to(x.device)
    for count in job.task.counts[1 : 1 + job.inner].tolist():
        limit = count if own is None else own_counts(count, job.task.units, own)[:, None]
        yield judge(job.model.output(job.task.replaced(x, other, places < limit)))


def ranked(
    job: Job,
    x: Tensor,
    target: Tensor | None,
    part: slice,
    draw: int,
    held: dict[str, Tensor],
    constant: dict[str, Tensor],
) -> Iterator[tuple[tuple[str, str], Tensor]]:
    """Every curve's name and the ranks of the units; maps are kept in `held` only if another draw needs them."""
    free = None if job.task.free is None else job.task.free[part].to(x.device)
    for name, values in job.maps.items():
        wanted = [order for order in job.settings.orders if order != RANDOM]
        if not wanted:
            break
        if name not in held:
            found = fetch(name, values, job.model, x, target, part, job.task.shapes)
            held[name], flags = job.task.values(found, part)
            constant[name] = flags.cpu()
        for order in wanted:
            yield (name, order), ranks(held[name], order == "highest", free)
        if draw == job.settings.draws - 1:
            del held[name]
    if RANDOM in job.settings.orders:
        s = job.settings
        keys = random_orders(job.task.units, s.seed, draw, range(s.first + part.start, s.first + part.stop))
        yield (RANDOM, RANDOM), ranks(keys.to(x.device, accurate(x.device)), True, free)


def check_scores(curves: dict[tuple[str, str], Tensor], part: slice, job: Job) -> None:
    """Raise `NonFiniteError` where the model returned NaN or infinity."""
    for (method, order), curve in curves.items():
        if not bool(curve.isfinite().all()):
            sample, point = (int(i) for i in (~curve.isfinite()).nonzero()[0])
            raise NonFiniteError(
                f"the score of sample {part.start + sample} is {float(curve[sample, point])} with "
                f"{int(job.task.counts[point])} {job.task.unit}s replaced (method {method!r}, order {order!r}); "
                "give a model, inputs and a replacement that keep it finite"
            )


def assembled(job: Job, blocks: list[Block]) -> Curves:
    """One result of all blocks."""
    task, s = job.task, job.settings
    settings = (
        f"score: {score_name(s.score)} of the {'predicted' if s.target is None else 'given'} class",
        f"replaced by {task.note}",
        f"seed {s.seed}, {s.draws} draw{'s' if s.draws > 1 else ''}",
        f"{task.units} {task.unit}s a sample, equal relevance in raster order",
    )
    return Curves(
        methods=tuple(job.maps),
        orders=s.orders,
        counts=task.counts,
        fraction=task.counts.double() / task.units,
        values={key: torch.cat([b.values[key] for b in blocks]) for key in job.keys},
        target=torch.cat([b.target for b in blocks]),
        index=torch.arange(s.first, s.first + task.size),
        constant={name: torch.cat([b.constant[name] for b in blocks]) for name in blocks[0].constant},
        unit=task.unit,
        units=task.units,
        score=score_name(s.score),
        settings=settings,
    )
