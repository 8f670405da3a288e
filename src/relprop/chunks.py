"""Large requests in parts: some of the samples at a time, explained one after another and put together."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from . import targets
from .captured import Captured, Inputs
from .errors import InputError, OutOfMemoryError
from .explanation import Explanation, Tree
from .memory import Alive, affordable, fitting
from .program import Ledger, OpEntry, Program
from .samples import Batch
from .targets import Target
from .values import out_of_memory

# How many samples at a time: all of them, at most so many, or as many as memory allows.
MaxBatch = int | Literal["auto"] | None


def check_max_batch(max_batch: Any) -> None:
    """Refuse what is no number of samples."""
    number = isinstance(max_batch, int) and not isinstance(max_batch, bool) and max_batch >= 1
    if not (max_batch is None or max_batch == "auto" or number):
        raise InputError(
            f"max_batch={max_batch!r}: give the largest number of samples to explain at a time (1 or more), "
            '"auto" for as many as fit into memory, or None for all at once'
        )


def example(inputs: Inputs, max_batch: MaxBatch) -> Inputs:
    """What to capture a model by where memory may not suffice for all samples: the first two of these inputs.

    Two, so that samples that influence each other are noticed. Inputs of several first dimensions stay as they are:
    which of them counts samples, only the model can tell. So do all without `max_batch`.
    """
    tensors = [t for t in pytree.tree_leaves(_plain(inputs)) if isinstance(t, Tensor)]
    sizes = {len(t) if t.dim() else None for t in tensors}
    if max_batch is None or len(sizes) != 1 or None in sizes:
        return inputs
    return portion(inputs, [True] * len(tensors), slice(0, 2))


def portion(inputs: Inputs, moving: Sequence[bool], which: slice) -> Inputs:
    """Some of the samples. `moving`: for each tensor of the inputs, whether its first dimension counts samples."""
    leaves, structure = pytree.tree_flatten(_plain(inputs))
    moves = iter(moving)
    cut = [v[which] if isinstance(v, Tensor) and next(moves) else v for v in leaves]
    some: Inputs = pytree.tree_unflatten(cut, structure)
    return some


def _plain(inputs: Inputs) -> Inputs:
    """Mappings of a class of their own, such as a tokenizer's result, as a dict."""
    return dict(inputs) if isinstance(inputs, Mapping) else inputs


def explain(
    some: Callable[[Inputs, Target], Explanation],
    inputs: Inputs,
    target: Target,
    max_batch: int | Literal["auto"],
    captured: Captured,
    program: Program,
    places: Mapping[str, Batch],
) -> Explanation:
    """Explain `inputs` in chunks of at most `max_batch` samples, the sizes as equal as can be.

    `some` explains a chunk. Where memory does not suffice for it, chunks are halved from there on. `program` is what
    it runs, for `max_batch="auto"`; `places` says where the values recorded by name hold the samples.

    Raises InputError where the graph is for one batch size alone, TargetError for a target that needs all samples
    together, OutOfMemoryError where one sample does not fit.
    """
    tensors = captured.spec.flatten(inputs)
    samples = next(len(t) for t, moves in zip(tensors, captured.moving, strict=True) if moves)
    if not (captured.dynamic or captured.single):
        if max_batch == "auto" or samples <= max_batch:
            return some(inputs, target)
        raise InputError(
            f"max_batch={max_batch}: the graph of this model fits one batch size alone (docs/how_it_works.md says "
            f"when), so that these {samples} samples cannot be explained in parts; leave max_batch out, or explain "
            "batches of the size you want one after another"
        )
    several = isinstance(target, list)
    size, measured = (max_batch, False) if max_batch != "auto" else _planned(program, captured, tensors, several)
    parts: list[Explanation] = []
    wanted: list[Target] = []
    done = 0
    while done < samples:
        left = samples - done
        count = -(-left // -(-left // size))  # as many chunks as needed, of equal size
        which = slice(done, done + count)
        chosen = target if count == samples else targets.rows(target, which, samples)
        given = portion(inputs, captured.moving, which)
        alive = Alive()
        got = _attempt(some, given, chosen, alive if measured else None)
        if isinstance(got, str):
            if count == 1:
                raise OutOfMemoryError(f"one sample alone does not fit into memory ({got}). {_REMEDY}")
            size = -(-count // 2)
            continue
        parts.append(got)
        wanted.append(chosen)
        done += count
        if measured:
            size, measured = fitting(alive.peak), False
        if len(parts) == 2:
            targets.check_alone(wanted)  # soon, for there may be many more
    if len(parts) == 1:
        return parts[0]
    targets.check_alone(wanted)
    return join(parts, captured, places, several=several)


_REMEDY = (
    "Remedy: checkpoint=True, which keeps fewer values for the way back; precision=\"bf16\"; a smaller input; or free "
    "memory that other tensors or programs hold"
)  # fmt: skip


def _planned(program: Program, captured: Captured, tensors: list[Tensor], several: bool) -> tuple[int, bool]:
    """How many samples fit, and whether that is to be measured on the first one: a rule may look at values."""
    try:
        found = affordable(program, captured, tensors, several=several)
    except Exception:
        return 1, True
    if not found:
        raise OutOfMemoryError(
            f"one sample alone needs more memory than there is. {_REMEDY}. max_batch=1 tries all the same"
        )
    return found, False


def _attempt(
    some: Callable[[Inputs, Target], Explanation], inputs: Inputs, target: Target, alive: Alive | None
) -> Explanation | str:
    """An explanation, or what was said where memory did not suffice: nothing of the attempt is held any more."""
    try:
        if alive is None:
            return some(inputs, target)
        with alive:
            return some(inputs, target)
    except Exception as e:
        if not out_of_memory(e):
            raise
        said = str(e).strip().partition("\n")[0]
    gc.collect()  # after the except clause: the traceback held the frames, and these the tensors
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return said or "out of memory"


# Putting together


def join(
    parts: Sequence[Explanation], captured: Captured, places: Mapping[str, Batch], *, several: bool
) -> Explanation:
    """One explanation of all samples from those of chunks that follow one another.

    Relevance of an input that all samples share is the sum over the samples. `several`: there is a dimension of
    targets in front.
    """
    lead = int(several)
    return replace(
        parts[0],
        relevance=_tree([e.relevance for e in parts], captured, lead),
        output=torch.cat([e.output for e in parts]),
        score=torch.cat([e.score for e in parts], lead),
        target=targets.join([e.target for e in parts]),
        ledger=_ledgers([e.ledger for e in parts]),
        recorded={n: _placed([e.recorded[n] for e in parts], places[n], lead) for n in parts[0].recorded},
    )


def _tree(parts: list[Tree], captured: Captured, lead: int) -> Tree:
    flat, structures = zip(*(pytree.tree_flatten(tree) for tree in parts), strict=True)
    leaves = zip(*flat, strict=True)
    joined = [
        None if each[0] is None else _placed(each, 0 if moves else None, lead)
        for each, moves in zip(leaves, _leaves_moving(captured), strict=True)
    ]
    tree: Tree = pytree.tree_unflatten(joined, structures[0])
    return tree


def _leaves_moving(captured: Captured) -> Iterator[bool]:
    """For each leaf of the inputs, tensor or constant, whether its first dimension counts samples."""
    moving = iter(captured.moving)
    return (constant is None and next(moving) for constant in captured.spec.constants)


def _placed(parts: Sequence[Tensor], place: Batch, lead: int) -> Tensor:
    """Values of chunks as that of all samples; `place`: see `relprop.samples`, None for what all samples share."""
    if place is None:
        return torch.stack(list(parts)).sum(0)
    if isinstance(place, int):
        return torch.cat(list(parts), place + lead)
    dim, outer, _ = place  # blocks of samples: each block of the whole holds that of every chunk
    blocks = [torch.unflatten(p, dim + lead, (outer, -1)) for p in parts]
    return torch.cat(blocks, dim + lead + 1).flatten(dim + lead, dim + lead + 1)


def _ledgers(parts: Sequence[Any]) -> Any:
    """Ledgers of the chunks, or for several targets a list of them for each chunk, as of all samples."""
    if isinstance(parts[0], list):
        return [_ledgers(each) for each in zip(*parts, strict=True)]
    if parts[0] is None:
        return None
    whole = copy.copy(parts[0])
    for name in ("score", "input", "bias", "epsilon", "residual"):
        setattr(whole, name, torch.cat([getattr(ledger, name) for ledger in parts]))
    whole.by_op = [_entry(each) for each in zip(*map(_rows, parts), strict=True)]
    return whole


def _rows(ledger: Ledger) -> list[OpEntry]:
    return ledger.by_op


def _entry(parts: tuple[OpEntry, ...]) -> OpEntry:
    each = {f.name: [getattr(e, f.name) for e in parts] for f in fields(OpEntry)}
    amounts: dict[str, Any] = {n: torch.cat(v) for n, v in each.items() if isinstance(v[0], Tensor)}
    return replace(parts[0], **amounts)
