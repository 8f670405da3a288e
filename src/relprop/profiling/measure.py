"""Run the program op by op: once counting what it does, then several times with a clock."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from .. import neon
from ..api import Explainer
from ..capture import undisturbed
from ..captured import Inputs
from ..composites import Composite
from ..errors import InputError, TargetError
from ..memory import Alive
from ..prepared import Prepared
from ..targets import Target, rows
from ..turns import together
from .counter import Counted, Counter
from .fold import CALLS, Measured, Nodes
from .gradient import Around, Gradient, OpGradients
from .machine import Clock, Machine
from .result import Profile
from .rows import Run

APART = ("compile", "max_batch")  # options by which what runs is no longer the program, op by op and once


def profile(
    model: nn.Module,
    inputs: Inputs,
    composite: str | Composite = "auto",
    target: Target = None,
    *,
    repeats: int = 5,
    **options: Any,
) -> Profile:
    """Where the time of `relprop.explain(model, inputs, target, composite)` goes, op by op.

    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8))
    >>> p = profile(model, torch.randn(16, 64), "epsilon", repeats=1)
    >>> {row.module: (row.forward.flops, row.backward.flops) for row in p.rows if row.op == "linear"} == {
    ...     "0": (2 * 16 * 64 * 32, 2 * 16 * 32 * 64), "2": (2 * 16 * 32 * 8, 2 * 16 * 8 * 32)}
    True

    Each op of the model is one row: FLOPs and bytes of its forward and of its rule's step, counted on the ATen ops
    that run, and seconds, the median of `repeats` runs. Beside it the limit, seconds the same work needs at this
    machine's peak (a large matrix product, convolution and copy, measured in the same run with the same threads), and
    the gradient of the op itself. The whole stands beside the plain gradient of the model: `Profile`.
    `options`: as for `explain`: those of the rules, `precision`, `checkpoint`; `target`: one, no list.

    Raises what `explain` raises; InputError for options that make no sense here.
    """
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise InputError(f"repeats={repeats!r}: give how often to measure, a whole number from 1 on")
    if isinstance(target, list):
        raise TargetError("a profile is of one target; give one instead of a list")
    if named := [name for name in APART if name in options]:
        raise InputError(f"{named[0]}: a profile runs the program op by op and in one piece; leave this option out")
    inputs = pytree.tree_map_only(Tensor, Tensor.detach, inputs)
    explainer = Explainer(model, inputs, composite, **options)
    inputs = neon.as_inputs(explainer.model, inputs)
    state, tensors = explainer._state(inputs)
    parts = _Parts(explainer, state, inputs, tensors, target)
    notes = [] if parts.plain.whole else ["tokens have no gradient: the plain gradient is taken at their embedding"]
    with undisturbed(state.device) if state.draws else together():
        measured = parts.measured(repeats)
    machine = measured.machine
    return Profile(
        model=type(model).__name__,
        composite=composite if isinstance(composite, str) else "of your own",
        samples=state.captured.batch,
        device=_device(state.device),
        threads=torch.get_num_threads(),
        repeats=repeats,
        rows=measured.rows(state),
        call=measured.call,
        program=measured.whole,
        gradient=measured.gradient,
        peaks={str(dtype).removeprefix("torch."): peak for dtype, peak in machine.peaks.items()},
        bandwidth=machine.bandwidth,
        notes=(*state.captured.notes, *notes),
    )


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


@dataclass
class _Parts:
    """What is run: the explainer, its program, and the plain gradient."""

    explainer: Explainer
    state: Prepared
    inputs: Inputs
    tensors: list[Tensor]
    target: Target  # as given

    def __post_init__(self) -> None:
        self.chosen = neon.as_target(self.explainer.model, self.target)
        self.program = self.explainer.program
        self.tensors = [t.detach() for t in self.tensors]
        self.portions = self.state.captured.portions(self.tensors)
        self.plain = Gradient(self.explainer.model, self.state.captured, self.state.reading)

    def explain(self) -> object:
        """The whole explanation, as the user has it."""
        return self.explainer(self.inputs, self.target)

    def run(self) -> object:
        """The program alone."""
        with torch.no_grad():
            parts = zip(self.portions, self._targets(), strict=True)
            return [self.program(*portion, target) for portion, target in parts]

    def differentiate(self) -> object:
        """The whole gradient."""
        return self.plain(self.tensors, self.chosen)

    def measured(self, repeats: int) -> Measured:
        """Count, warm up and measure: in every repeat everything once, so that all see the same machine."""
        nodes, gradients = Nodes(), Nodes()
        self._program(_counted(nodes))
        self._gradients(_counted(gradients))
        wholes = (self.explain, self.run, self.differentiate)
        counts = [_whole(f) for f in wholes]
        machine = Machine(self.state.device)
        seconds: list[list[float]] = [[] for _ in wholes]
        for run in range(-1, repeats):  # the first is not kept
            timed = _Timer(machine.clock)
            self._program(timed.nodes)
            own = _Timer(machine.clock)
            self._gradients(own.nodes)
            whole = [machine.clock.time(f) for f in wholes]
            if run >= 0:
                timed.give(nodes)
                own.give(gradients)
                for all_, one in zip(seconds, whole, strict=True):
                    all_.append(one)
        runs = [replace(run, seconds=statistics.median(s)) for run, s in zip(counts, seconds, strict=True)]
        return Measured(machine, self.program, nodes, gradients, *runs)

    def _program(self, around: Around) -> None:
        with torch.no_grad():
            for portion, target in zip(self.portions, self._targets(), strict=True):
                _Program(self.program, around).run(*portion, target)

    def _targets(self) -> list[Target]:
        """The target of each portion."""
        many = len(self.portions)
        samples = [slice(i, i + 1) for i in range(many)]
        return [rows(self.chosen, one, many) for one in samples] if many > 1 else [self.chosen]

    def _gradients(self, around: Around) -> None:
        for portion in self.portions:
            OpGradients(self.state.captured.module, self.state.reading, around).run(*portion)


class _Program(fx.Interpreter):
    """Runs the program with `around(node name, call)` for the call of every node, its arguments already fetched."""

    def __init__(self, module: fx.GraphModule, around: Around) -> None:
        super().__init__(module)
        self.around = around

    def run_node(self, n: fx.Node) -> Any:
        if n.op not in CALLS:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        run = getattr(self, n.op)
        return self.around(n.name, lambda: run(n.target, args, kwargs))


def _counted(nodes: Nodes) -> Around:
    """Counts the work of each node."""

    def around(name: str, call: Callable[[], Any]) -> Any:
        with Counter() as counter:
            counter.begin()
            result = call()
            work = counter.end(result)
        nodes.work[name] = nodes.work.get(name, Counted())
        nodes.work[name] += work
        return result

    return around


def _whole(f: Callable[[], object]) -> Run:
    """A whole run but for its time."""
    with Counter() as counter:
        f()
    with Alive() as alive:
        f()
    return Run(0.0, sum(counter.total.flops.values()), counter.total.moved, sum(alive.peak.values()))


class _Timer:
    """Notes when each node begins and ends; `give` adds the seconds to those of other runs."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.marks: list[tuple[str, Any, Any]] = []

    def nodes(self, name: str, call: Callable[[], Any]) -> Any:
        begin = self.clock.mark()
        result = call()
        self.marks.append((name, begin, self.clock.mark()))
        return result

    def give(self, nodes: Nodes) -> None:
        self.clock.wait()
        seconds: dict[str, float] = {}
        for name, begin, end in self.marks:  # several of one name where the graph is run sample by sample
            seconds[name] = seconds.get(name, 0.0) + self.clock.seconds(begin, end)
        for name, one in seconds.items():
            nodes.seconds.setdefault(name, []).append(one)
