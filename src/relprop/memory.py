"""How much memory a program needs for a number of samples, and how much the machine has left.

A program is rehearsed on stand-ins for tensors that have shapes and no values: its operations follow one another as in
a run, nothing is computed, and what would be alive at each moment is added up.
"""

from __future__ import annotations

import math
import os
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from . import targets
from .captured import Captured
from .program import Program
from .turns import together

# Amounts by device.
Bytes = Mapping[torch.device, int]

# Of what is free, so much is planned with: allocators round up and leave gaps, kernels take more than is known of them.
SHARE = 0.8

aten = torch.ops.aten


@final
class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors made while it is active, on each device: those alive `now`, and the most, `peak`.

    Tensors made before do not count, nor do views of them. `scratch`: also what convolutions take while they run.

    >>> with Alive() as alive:
    ...     a = torch.ones(100, dtype=torch.float64)
    ...     b = (a + 1).sum()
    >>> alive.now[a.device], alive.peak[a.device]
    (808, 1608)
    """

    def __init__(self, *, scratch: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.scratch = scratch
        self.now: Counter[torch.device] = Counter()
        self.peak: Counter[torch.device] = Counter()
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for t in _strided((args, kwargs)):
            self._meet(t, 0)
        out = func(*args, **kwargs)
        for t in _strided(out):
            self._meet(t, t.untyped_storage().nbytes())
        if self.scratch and func in (aten.convolution.default, aten.convolution_backward.default):
            found = _strided((args[:3], out))
            device = next(found).device
            self.peak[device] = max(self.peak[device], self.now[device] + _scratch(func, args, out))
        return out

    def _meet(self, t: Tensor, size: int) -> None:
        storage = t.untyped_storage()
        key, device = storage._cdata, t.device
        if key not in self._known:
            self._known.add(key)
            self.now[device] += size
            self.peak[device] = max(self.peak[device], self.now[device])
            weakref.finalize(storage, self._lose, key, device, size).atexit = False

    def _lose(self, key: int, device: torch.device, size: int) -> None:
        self._known.discard(key)
        self.now[device] -= size


def _strided(tree: Any) -> Iterator[Tensor]:
    return (t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor) and t.layout is torch.strided)


def _scratch(func: Any, args: Any, out: Any) -> int:
    """Bytes a convolution takes for the time of its call, as measured on the CPU.

    Results and weights are held in a second layout, results of transposed convolutions in a third. In float64, and of
    a single sample, the input is unfolded instead: a column of the kernel's size for each of its places.
    """
    backward = func is aten.convolution_backward.default
    small, x, weight = args[:3] if backward else (out, *args[:2])
    transposed = args[7 if backward else 6]
    made = sum(_bytes(t) for t in _strided(out))
    copies = made * (2 if transposed or backward else 1) + _bytes(weight)
    if weight.device.type != "cpu" or (weight.dtype is not torch.float64 and x.shape[0] > 1):
        return copies
    columns = x.shape[0] * math.prod(weight.shape[1:]) * math.prod((x if transposed else small).shape[2:])
    unfolded = int(columns * weight.element_size())
    return unfolded if weight.dtype is torch.float64 else max(unfolded, copies)


def _bytes(t: Tensor) -> int:
    return t.numel() * t.element_size()


@final
class _Rehearsal(fx.Interpreter):
    """Runs a part of a program with stand-ins for its weights, so that no rule keeps one of them beside the real."""

    def __init__(self, part: fx.GraphModule, fake: FakeTensorMode) -> None:
        super().__init__(part)
        self._held: dict[str, Any] = {}
        for node in part.graph.find_nodes(op="get_attr"):
            held = super().fetch_attr(str(node.target))
            self._held[str(node.target)] = fake.from_tensor(held.detach()) if isinstance(held, Tensor) else held

    def fetch_attr(self, target: str) -> Any:
        return self._held[target]

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is targets.initial:  # which output is explained depends on values
            return _start(args[0]), args[0].new_zeros(len(args[0])), None
        return super().call_function(target, args, kwargs)


def _start(logits: Tensor) -> Tensor:
    """An initial relevance."""
    return torch.zeros_like(logits, dtype=torch.promote_types(logits.dtype, torch.float32))


# What rehearsals said: by the whole of a program, the number of samples, and whether values are held.
_REHEARSED: weakref.WeakKeyDictionary[fx.GraphModule, dict[tuple[int, bool], tuple[Bytes, Bytes]]] = (
    weakref.WeakKeyDictionary()
)


def rehearse(
    program: Program, captured: Captured, tensors: Sequence[Tensor], samples: int, *, held: bool = False
) -> tuple[Bytes, Bytes]:
    """Bytes at the peak of a run on so many samples like these, and bytes of its results, on each device.

    Weights and inputs are there before and do not count. `held`: forward and way back are run apart, with all that the
    way back needs held to its end, as for several targets; otherwise values are let go after their last use. Raises
    what a rule raises that looks at values.
    """
    known = _REHEARSED.setdefault(program.whole, {})
    if (samples, held) not in known:
        with together():
            known[samples, held] = _rehearse(program, captured, tensors, samples, held or captured.single)
    return known[samples, held]


def _rehearse(
    program: Program, captured: Captured, tensors: Sequence[Tensor], samples: int, held: bool
) -> tuple[Bytes, Bytes]:
    if captured.single and samples > 2:  # each further sample adds what is kept of it
        one, two = (rehearse(program, captured, tensors, n, held=held) for n in (1, 2))
        return _line(one[0], two[0], samples), _line(one[1], two[1], samples)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    whole, forward, backward = (_Rehearsal(part, fake) for part in (program.whole, program.forward, program.backward))
    with fake, torch.no_grad(), Alive(scratch=True) as alive:
        given = [_like(t, samples if moves else len(t)) for t, moves in zip(tensors, captured.moving, strict=True)]
        before = Counter(alive.now)
        if held:
            runs = [forward.run(*portion) for portion in captured.portions(given)]
            results = [(output, backward.run(_start(logits), *saved)) for output, logits, saved in runs]
        else:
            results = [whole.run(*given, None)]
        out: Counter[torch.device] = Counter()
        for t in _strided(results):
            out[t.device] += _bytes(t)
    return {d: n - before[d] for d, n in alive.peak.items()}, out


def _like(t: Tensor, samples: int) -> Tensor:
    """An empty tensor with another number of samples and the dimensions in the same order in memory."""
    shape, order = [samples, *t.shape[1:]], sorted(range(t.dim()), key=t.stride, reverse=True)
    dense = torch.empty([shape[d] for d in order], dtype=t.dtype, device=t.device)
    return dense.permute([order.index(d) for d in range(t.dim())])


def _line(one: Bytes, two: Bytes, samples: int) -> Bytes:
    """What is known for one sample and for two, continued to more."""
    return {d: one[d] + (samples - 1) * max(two[d] - one[d], 0) for d in one}


def affordable(program: Program, captured: Captured, tensors: Sequence[Tensor], *, several: bool = False) -> int:
    """How many of the samples of these inputs fit into memory at once; 0 if not even one does.

    `several`: there are several targets.

    The need grows with the samples as a convex function (the largest of several lines), so between one sample and all
    of them a straight line never underrates it.
    """
    samples = next(len(t) for t, moves in zip(tensors, captured.moving, strict=True) if moves)
    held = several or captured.single or program.compiled or bool(program.ledger_nodes)
    all_, results = rehearse(program, captured, tensors, samples, held=held)
    free = {d: n for d in all_ if (n := available(d)) is not None}
    if all(all_[d] <= SHARE * n for d, n in free.items()):
        return samples
    one, _ = rehearse(program, captured, tensors, 1, held=held)
    if any(one[d] > n for d, n in free.items()):
        return 0
    found = samples
    for d, n in free.items():
        spare = SHARE * n - 2 * results.get(d, 0) - one[d]  # results: in parts, and put together
        if all_[d] > one[d]:
            found = min(found, 1 + math.floor(spare * (samples - 1) / (all_[d] - one[d])))
    return max(found, 1)


def fitting(peak: Bytes) -> int:
    """How many samples fit at once, by the bytes at the peak of a run on one: more never need more than as often that.

    At least one."""
    free = {d: available(d) for d in peak}
    return max(1, min((math.floor(SHARE * n / peak[d]) for d, n in free.items() if n and peak[d]), default=1))


def available(device: torch.device) -> int | None:
    """Bytes that can still be had on a device; None where nobody says."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + held)
    if device.type != "cpu":
        return None
    return min((n for n in (_host(), cgroup()) if n is not None), default=None)


def _host() -> int | None:
    """What the operating system could give without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


# Of a control group: its limit, what it uses, and the entry of memory.stat for the file cache it would give back.
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def cgroup(mounted: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """What the control groups of this process leave it, as containers set them; None where there is no limit."""
    try:
        lines = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return None
    left: list[int] = []
    for _, controllers, path in lines:
        if controllers and "memory" not in controllers.split(","):
            continue
        root, files = (mounted / "memory", _V1) if controllers else (mounted, _V2)
        group = root / path.strip("/")
        found = [_left(g, files) for g in (group, *group.parents) if g.is_relative_to(root)]
        left += [n for n in found if n is not None]
    return min(left, default=None)


def _left(group: Path, files: tuple[str, str, str]) -> int | None:
    """What one control group leaves, None without a limit."""
    limit, used, cache = files
    try:
        most, now = ((group / f).read_text(encoding="ascii").strip() for f in (limit, used))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except OSError:
        return None
    return None if most == "max" else max(int(most) - int(now) + int(stat.get(cache, 0)), 0)
