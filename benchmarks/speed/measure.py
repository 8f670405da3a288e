"""Everything about one subject on one device, in this process: checks, memory, then time in turn."""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from . import machine, memory, peers, works
from .clock import Clock, limit
from .flops import flops
from .results import Row, first_line
from .subjects import Subject, subject
from .works import Work

PATIENCE = 60.0  # a work may take this many seconds plus 100 times the gradient before it counts as failed
PEERS_LEAST = 2  # measurements of other libraries, which are several times slower
COMPILING = 900.0  # seconds more for one that is compiled first
SLOW = 0.2  # seconds of a gradient, from which a measurement of time is one call


@dataclass(frozen=True)
class Plan:
    """What to measure: each work `rounds` times, fewer (but three) if that takes more than `share` seconds.

    Of works of other libraries two measurements are enough then.
    """

    rounds: int = 9
    share: float = 8.0
    quick: bool = False
    skip: frozenset[tuple[str, str, str]] = frozenset()  # library, recipe, variant: measured already
    libraries: tuple[str, ...] = ()  # all, if empty
    compiled: bool = True  # also compiled programs


def available(made: Subject, plan: Plan) -> list[Work]:
    """The works on this subject that are asked for."""
    found = [*works.explanations(made), *peers.explanations(made)]
    chosen = [w for w in found if not plan.libraries or w.library in plan.libraries]
    chosen = [w for w in chosen if plan.compiled or w.variant != "compile"]
    return [w for w in chosen if (w.library, w.recipe, w.variant) not in plan.skip]


def measured(name: str, device: str, plan: Plan) -> Iterator[Row]:
    """A row for each work: those that fail as they fail, the others and the gradient when all are done."""
    made = subject(name, device, quick=plan.quick)
    about, clock = machine.describe(device), Clock(device)
    gradient = Row(name, "gradient", device=device, setting=made.setting, machine=about)
    runs = {"gradient": _prepared(Work("gradient", "", lambda: works.gradient(made.model)), made, gradient, {})}
    gradient.gradient_flops, gradient.gradient_peak = gradient.flops, gradient.peak
    gradient.sums, gradient.scores = [], []  # a gradient is no relevance
    patience = PATIENCE + 100 * clock.seconds(runs["gradient"])
    rows: dict[str, Row] = {}
    maps: dict[str, Tensor] = {}
    for work in available(made, plan):
        row = Row(name, work.library, work.recipe, work.variant, device, made.setting, machine=about)
        row.gradient_flops, row.gradient_peak = gradient.flops, gradient.peak
        try:
            with limit(patience + (COMPILING if work.variant == "compile" else 0)), _quietly():
                runs[work.name] = _prepared(work, made, row, maps)
            rows[work.name] = row
        except Exception as error:  # whatever a library raises is its result
            row.error = _said(error)
            yield row
    fewer = {name: PEERS_LEAST for name, row in rows.items() if row.library != "relprop"}
    slow = runs if clock.seconds(runs["gradient"]) > SLOW else ()
    with _quietly():
        found = clock.alternate(runs["gradient"], runs, plan.rounds, plan.share, fewer, slow)
    for work_name, row in {**rows, "gradient": gradient}.items():
        row.seconds, row.gradient_seconds = ([_digits(t) for t in ts] for ts in zip(*found[work_name], strict=True))
        yield row


def _prepared(work: Work, made: Subject, row: Row, maps: dict[str, Tensor]) -> Callable[[], Tensor]:
    """The work on the whole input, after its FLOPs were counted on one sample and its memory measured."""
    before = memory.held()
    explain = work.prepare()

    def run() -> Tensor:
        return explain(made.x, made.labels)

    def one() -> Tensor:
        return explain(made.x[:1], made.labels[:1])

    if work.variant == "compile":  # what it is made of is not dispatched, and it is compiled for a size
        run()
    else:
        one()
        row.flops, _ = flops(one)
    if work.library == "relprop":  # the others work on a copy of the model
        row.kept = memory.added(before, memory.held())
    row.peak, relevance = memory.peak(run, row.device)
    _look_at(relevance.double(), made, row, maps)
    return run


def _look_at(R: Tensor, made: Subject, row: Row, maps: dict[str, Tensor]) -> None:
    with torch.no_grad():
        scores = made.model(made.x).gather(1, made.labels[:, None])[:, 0]
    row.sums, row.scores = ([_digits(v) for v in values.tolist()] for values in (R.flatten(1).sum(1), scores.double()))
    if row.library == "relprop" and not row.variant:
        maps[row.recipe] = R
    elif row.recipe in maps:
        cosine = torch.nn.functional.cosine_similarity(R.flatten(), maps[row.recipe].flatten(), 0)
        row.cosine = round(float(cosine), 6) if bool(torch.isfinite(cosine)) else None


def _digits(x: float) -> float:
    return float(f"{x:.5g}")


def _said(error: Exception) -> str:
    """Class and first line of an error."""
    return f"{type(error).__name__}: {first_line(str(error))}".removesuffix(": ")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the warnings and prints of libraries."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def constructed(name: str, device: str, plan: Plan, repeats: int = 3) -> Iterator[Row]:
    """Capture and emission: the first Explainer of a process, and the best of some further ones."""
    import relprop

    made = subject(name, device, quick=plan.quick)
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        program = relprop.Explainer(made.model, made.x, "epsilon").program
        seconds.append(_digits(time.perf_counter() - start))
        del program
    about = machine.describe(device)
    for variant, part in {"construct, first": seconds[:1], "construct, again": seconds[1:]}.items():
        yield Row(name, "relprop", "epsilon", variant, device, made.setting, seconds=part, machine=about)
