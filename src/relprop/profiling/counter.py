"""What the ATen ops that really run do: FLOPs by precision, bytes moved. No clock is read."""

from __future__ import annotations

import math
from collections import Counter as Tally
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from .formulas import formula

# Ops that hand out memory without writing to it.
UNWRITTEN = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted")
# Ops that read no more of their first argument than they give.
GATHERS = ("embedding", "index", "index_select", "gather", "take", "_unsafe_index")
# Ops that change, in place, no more of their first argument than they are given.
SCATTERS = ("index_put_", "index_add_", "index_copy_", "scatter_", "scatter_add_", "scatter_reduce_")
# Ops that overwrite their first argument without reading it.
OVERWRITES = ("copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_")


@dataclass
class Counted:
    """The work of a stretch of ops. `flops`: by the precision it is done in, 2 for a multiply-add. Bytes: `moved` by
    the ops one by one; `needed` at least, if the stretch were one kernel: what it takes from outside and hands on."""

    flops: Tally[torch.dtype] = field(default_factory=Tally)
    moved: int = 0
    needed: int = 0

    def __iadd__(self, other: Counted) -> Counted:
        self.flops.update(other.flops)
        self.moved += other.moved
        self.needed += other.needed
        return self


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the ops that run inside `with Counter() as counter:`; `total` is their sum.

    >>> with Counter() as counter:
    ...     y = torch.ones(10) + torch.ones(10)
    >>> counter.total.moved      # 40 bytes written twice; 80 read, 40 written
    200
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = Counted()
        self._stretch: _Stretch | None = None

    def begin(self) -> None:
        """A stretch of ops begins, whose work `end` returns."""
        self._stretch = _Stretch()

    def end(self, result: Any) -> Counted:
        """The work since `begin`; `result`: what the stretch hands on, tensors in any nest."""
        assert self._stretch is not None
        counted, self._stretch = self._stretch.finish(result), None
        return counted

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):  # an operator on functions: what it calls is counted
            return func(*args, **kwargs)
        count = formula(func._overloadpacket)
        if count is None and func is not torch.ops.prim.device.default:
            with self:  # under inference_mode linear and its like arrive whole
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        work = Counted()
        if count is not None:
            work.flops[_precision(args)] += count(*args, **kwargs, out_val=result)
        call = _Traffic(func, args, kwargs, result)
        work.moved = call.read + call.written
        self.total += work
        if self._stretch is not None:
            self._stretch.add(work, call)
        return result


class _Traffic:
    """The memory one call of an op touches: `reads` as (tensor, bytes), bytes `read` and `written`, `new` storages."""

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        self.name = func._overloadpacket.__name__
        inputs, outputs = list(tensors((args, kwargs))), list(tensors(result))
        there = {id(storage(t)) for t in inputs}
        self.new = [s for s in map(storage, outputs) if id(s) not in there]
        changed = list(_changed(func, args, kwargs))
        self.reads: list[tuple[Tensor, int]] = []
        self.read = self.written = 0
        if self.name in UNWRITTEN or not (self.new or changed or _number(result)):
            return  # a view, or memory without content
        fresh = [t for t in outputs if id(storage(t)) not in there]
        self.written = sum(map(touched, fresh)) + sum(self._limited(t, inputs) for t in changed)
        self.reads = [(t, self._limited(t, inputs, fresh)) for t in _distinct(inputs) if not self._unread(t, changed)]
        self.read = sum(size for _, size in self.reads)

    def _unread(self, t: Tensor, changed: list[Tensor]) -> bool:
        return any(t is c for c in changed) and (self.name in OVERWRITES or self.name.endswith("_out"))

    def _limited(self, t: Tensor, inputs: list[Tensor], fresh: list[Tensor] | None = None) -> int:
        """Bytes touched of an argument; of the first of a gather or scatter no more than what moves."""
        size = touched(t)
        if t is inputs[0] and self.name in GATHERS and fresh:
            return min(size, touched(fresh[0]))
        if t is inputs[0] and self.name in SCATTERS and len(inputs) > 1:
            return min(size, touched(inputs[-1]))
        return size


class _Stretch:
    """The work of ops between `begin` and `end`. Storages are held meanwhile, so that no address is used twice."""

    def __init__(self) -> None:
        self.counted = Counted()
        self.made: dict[int, torch.UntypedStorage] = {}
        self.taken: dict[int, dict[Any, int]] = {}  # of each storage from outside: bytes of each view that was read
        self.held: list[torch.UntypedStorage] = []

    def add(self, work: Counted, call: _Traffic) -> None:
        self.counted += work
        for t, size in call.reads:
            s = storage(t)
            if id(s) not in self.made:
                self.held.append(s)
                views = self.taken.setdefault(id(s), {})
                views[_view(t)] = max(size, views.get(_view(t), 0))
        self.made |= {id(s): s for s in call.new}

    def finish(self, result: Any) -> Counted:
        sizes = {id(s): s.nbytes() for s in self.held}
        taken = sum(min(sizes[key], sum(views.values())) for key, views in self.taken.items())
        given = {id(storage(t)): touched(t) for t in tensors(result) if id(storage(t)) in self.made}
        self.counted.needed = taken + sum(given.values())
        return self.counted


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors with memory of their own kind in a nest of arguments or results."""
    return (t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor) and t.layout is torch.strided)


def storage(t: Tensor) -> torch.UntypedStorage:
    """The memory a tensor looks at; one Python object as long as anyone holds it."""
    return t.untyped_storage()


def touched(t: Tensor) -> int:
    """Bytes of the entries a tensor shows: an expanded dimension is one entry."""
    return math.prod(n for n, step in zip(t.shape, t.stride(), strict=True) if step or not n) * t.element_size()


def _view(t: Tensor) -> Any:
    return t.storage_offset(), tuple(t.shape), t.stride()


def _distinct(inputs: list[Tensor]) -> list[Tensor]:
    """Tensors without repetitions: x · x reads x once."""
    return list({(id(storage(t)), _view(t)): t for t in reversed(inputs)}.values())[::-1]


def _changed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The arguments an op writes to, by its schema."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tensors(args[i] if i < len(args) else kwargs.get(argument.name))


def _number(result: Any) -> bool:
    """Whether an op gives a number: then it read its input."""
    return isinstance(result, (bool, int, float))


def _precision(args: tuple[Any, ...]) -> torch.dtype:
    return next((t.dtype for t in tensors(args) if t.is_floating_point() or t.is_complex()), torch.float32)
