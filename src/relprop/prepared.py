"""A model made ready: captured, canonized, its rules assigned, its programs emitted as they are asked for, and run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from . import composites
from .canonize.edit import constant
from .canonize.precision import in_bfloat16
from .capture import first_non_finite, runs_as
from .captured import Inputs
from .composites import Assignment, Composite
from .constants import held_summands
from .errors import InputError, NonFiniteError, RuleError, TargetError
from .execution import Execution
from .explanation import Explanation, Tree, in_proportion
from .graph import Reading, is_float, is_random, module_path, module_paths, value, where
from .guards import check_inputs
from .ops import name as op_name
from .program import Ledger, OpEntry, Program, emit, fold
from .ready import ready
from .report import RuleTable
from .samples import Batch
from .targets import Target, check_end, initial
from .turns import alone
from .values import finite


@final
class Prepared:
    """A model captured, canonized and with its rules: what depends on its weights (and perhaps on the batch size)."""

    @alone()
    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        composite: Composite,
        execution: Execution,
        *,
        dynamic: bool = True,
        strict: bool = True,
    ) -> None:
        self.execution = execution
        self._weights = fingerprint(model)
        self.captured, self.explained = ready(model, inputs, dynamic=dynamic)
        tensors = [t.detach() for t in self.captured.spec.flatten(inputs)]
        self._fitting = {self.captured.batch}
        self.shapes = [tuple(t.shape) for t in tensors]
        self.dtypes = [t.dtype for t in tensors]
        self.device = tensors[0].device
        if execution.precision == "bf16":
            self.explained = in_bfloat16(self.captured, self.explained)
        samples = None if self.captured.dynamic else 1 if self.captured.single else self.captured.batch
        self.reading = Reading(self.captured.module.graph, self.captured.explained, self.explained, samples)
        self.assignment: Assignment = composites.assign(composite, self.reading)
        if strict:
            self.assignment.check(self.reading)
            for said in self.interleaved():
                raise RuleError(said)
            if not any(n in self.reading.reached for n in self.captured.explained):
                raise RuleError("the model's output does not depend on any floating point input: nothing to explain")
        self._finals = {op_name(n.target) for n in self.captured.module.graph.nodes if n.meta.get("relprop_final")}
        self.draws = any(is_random(n) for n in self.captured.module.graph.nodes)
        self._probes = probes(model, self.captured.module)
        self._sums: list[int] = []
        self._programs: dict[tuple[bool, tuple[str, ...]], Program] = {}

    def interleaved(self) -> list[str]:
        """What to say of each place where the samples of the batch can no longer be told apart."""
        return [
            f"samples are interleaved in one dimension at {where(n)}: put the batch in front before reshaping, so that "
            "the ledger and ε can tell samples apart"
            for n in self.reading.interleaved()
        ]

    def stale(self, model: nn.Module) -> bool:
        """Whether the model's modules or weights are no longer those that were captured."""
        if fingerprint(model) != self._weights or any(not torch.equal(sample(t), s) for t, s in self._probes):
            return True
        return checksums(self._sources()) != self._sums

    def _sources(self) -> list[Tensor]:
        """The weights that programs keep transformed."""
        kept = self.captured.module.meta.get("relprop_prepared", {}).values()
        return list({id(w): w for w, _, _ in kept}.values())

    def samples(self, inputs: Inputs) -> int:
        """The batch size of further inputs."""
        tensors = self.captured.spec.flatten(inputs)
        moving = (t for t, s in zip(tensors, self.shapes, strict=True) if s[0] == self.captured.batch)
        return next((t.shape[0] for t in moving if t.dim()), 0)

    def known_to_fit(self, batch: int) -> bool:
        """Whether the graph has been found to be the model at this batch size (code may branch on it)."""
        return not self.captured.dynamic or batch in self._fitting

    def fits(self, model: nn.Module, tensors: list[Tensor], batch: int) -> bool:
        """Whether the graph is the model at this batch size too."""
        if not self.known_to_fit(batch) and runs_as(self.captured, model, [t.detach() for t in tensors]):
            self._fitting.add(batch)
        return self.known_to_fit(batch)

    def check(self, inputs: Inputs) -> list[Tensor]:
        """The tensors of further inputs, refusing other shapes, types and devices than those captured."""
        tensors, spec = self.captured.spec.flatten(inputs), self.captured.spec
        batch = self.samples(inputs)
        for t, shape, dtype, name in zip(tensors, self.shapes, self.dtypes, spec.names, strict=True):
            moving = shape[0] == self.captured.batch
            if t.dim() != len(shape) or tuple(t.shape[1:]) != shape[1:] or (not moving and t.shape[0] != shape[0]):
                there = ", ".join(map(str, ("batch" if moving else shape[0], *shape[1:])))
                raise InputError(
                    f"{name} has shape {tuple(t.shape)}, captured was ({there}); only the batch size may differ: "
                    "make a new Explainer for other shapes"
                )
            if moving and t.shape[0] != batch:
                raise InputError(f"{name} holds {t.shape[0]} samples, {spec.names[0]} {batch}")
            if t.dtype != dtype:
                raise InputError(f"{name} has dtype {t.dtype}, captured was {dtype}; pass {name}.to({dtype})")
            if t.device != self.device:
                there = repr(str(self.device))
                raise InputError(f"{name} is on {t.device}, captured was {self.device}; pass {name}.to({there})")
        check_inputs(tensors, spec)
        return tensors

    def program(self, ledger: bool, record: tuple[str, ...]) -> Program:
        """The program with these outputs, emitted when it is first asked for."""
        key = (ledger, record)
        return self._programs.get(key) or self._emitted(key)

    @alone()
    def _emitted(self, key: tuple[bool, tuple[str, ...]]) -> Program:
        if key not in self._programs:  # another thread may have been faster
            ledger, record = key
            nodes = {name: self._recorded(name) for name in record}
            program = emit(
                self.captured, self.reading, self.assignment, self.explained, ledger=ledger, record=nodes,
                half=self.execution.precision is not None, checkpoint=self.execution.checkpoint,
                compiled=self.execution.compile,
            )  # fmt: skip
            self._sums = checksums(self._sources())
            self._programs[key] = program
        return self._programs[key]

    def _recorded(self, name: str) -> fx.Node:
        """The node of this name, or the value that leaves the module of this path, however deep it was computed."""
        by_name = [n for n in self.captured.module.graph.nodes if n.name == name and n in self.reading.reached]
        passed = self.assignment.assigned
        within = {n: None for n in passed if any(f"{p}.".startswith(f"{name}.") for p in module_paths(n))}
        outside = {n for n in passed if n not in within}
        leaving = [n for n in within if n is self.explained or any(u in outside for u in n.users)]
        if len(leaving) > 1 and not by_name:
            raise InputError(
                f"record={name!r}: {len(leaving)} values leave this module (it may be called several times); name one "
                f"of {', '.join(n.name for n in leaving)}"
            )
        found = by_name or leaving
        if not found:
            paths = sorted({p for n in self.assignment.assigned for p in module_paths(n) if p})
            raise InputError(f"record={name!r} names no module relevance passes; there are {', '.join(paths)}")
        return found[-1]

    def places(self, record: tuple[str, ...]) -> dict[str, Batch]:
        """Where the values recorded under these names hold the samples."""
        single = self.captured.single
        return {name: 0 if single else self.reading.batch(self._recorded(name)) for name in record}

    def table(self) -> RuleTable:
        rows = [a.row() for a in self.assignment]
        rows += [
            {"node": n.name, "module": module_path(n), "op": op_name(n.target), "rule": "(none)", "parameters": "",
             "why": "final: explained at its logits"}
            for n in self.captured.module.graph.nodes if n.meta.get("relprop_final")
        ]  # fmt: skip
        return RuleTable(rows, [*self.captured.notes, self._conservation()])

    def _conservation(self) -> str:
        """What to say of the rules that keep relevance to themselves."""
        keeping = sorted({a.rule.name for a in self.assignment if not a.rule.conserves})
        if not keeping:
            return "every rule conserves relevance: inputs, biases and ε sum to the score"
        return f"not conserving in every case: {', '.join(keeping)}; the ledger's residual says how much is kept"

    def run(self, program: Program, tensors: list[Tensor], target: Target, ledger: bool) -> Explanation:
        """Explain one target, or several by one forward pass and a way back for each."""
        check_end(target, self._finals)
        several = isinstance(target, list)
        if not (several or ledger or self.captured.single or self.execution.compile):
            return self._whole(program, tensors, target)
        portions = self.captured.portions(tensors)
        outputs, logits, saved = zip(*(_compiled(program.run_forward, *p) for p in portions), strict=True)
        output, explained = (torch.cat(v) if self.captured.single else v[0] for v in (outputs, logits))
        self._check_output(explained, tensors)
        starts = [initial(explained, t) for t in (target if isinstance(target, list) else [target])]
        if not starts:
            raise TargetError("target is an empty list; give at least one target")
        runs = [self._back(program, R, score, saved, ledger) for R, score, _ in starts]
        relevance = [torch.stack(rs) if several else rs[0] for rs in zip(*(r[0] for r in runs), strict=True)]
        recorded = [torch.stack(rs) if several else rs[0] for rs in zip(*(r[1] for r in runs), strict=True)]
        scores, resolved = [s for _, s, _ in starts], [t for _, _, t in starts]
        if not in_proportion(relevance, self._moving, output, torch.stack(scores) if several else scores[0]):
            raise NonFiniteError("the relevance of an input all samples share is too large a sum; use float64")
        ledgers = [r[2] for r in runs]
        return Explanation(
            relevance=self._tree(relevance),
            output=output,
            score=torch.stack(scores) if several else scores[0],
            target=resolved if several else resolved[0],
            ledger=(ledgers if several else ledgers[0]) if ledger else None,
            recorded=dict(zip(program.record, recorded, strict=True)),
        )  # fmt: skip

    def _whole(self, program: Program, tensors: list[Tensor], target: Target) -> Explanation:
        """One run of forward and way back, in which each value is let go after its last use."""
        output, score, resolved, relevance, recorded, _ = program.whole(*tensors, target)
        self._check_output(output, tensors)
        if not in_proportion(relevance, self._moving, output, score):
            _, explained, saved = program.forward(*tensors)
            self._check_output(explained, tensors)
            raise NonFiniteError(self._blame(program, initial(explained, target)[0], saved))
        named = dict(zip(program.record, recorded, strict=True))
        return Explanation(self._tree(list(relevance)), output, score, resolved, None, named)

    def _check_output(self, output: Tensor, tensors: list[Tensor]) -> None:
        if finite(output):
            return
        portions = self.captured.portions(tensors)
        bad = next((p for p in portions if not finite(self.captured.module(*p)[0])), portions[0])
        raise NonFiniteError(
            "the model's output is not finite for these inputs; it first goes wrong at "
            + first_non_finite(self.captured.module, bad)
        )

    def _tree(self, relevance: list[Tensor]) -> Tree:
        rest = iter(relevance)
        values = [next(rest) if n in self.captured.explained else None for n in self.captured.inputs]
        tree: Tree = self.captured.spec.restore(values)
        return tree

    def _backward(self, program: Program, R: Tensor, saved: Sequence[Any]) -> tuple[list[Tensor], Any, Any]:
        """Relevance of the inputs, of recorded values, and ledger rows; sample by sample where the graph is for one.

        An input all samples share has then a relevance for each sample.
        """
        single = self.captured.single
        starts = list(torch.split(R, 1)) if single else [R]
        parts = [_compiled(program.run_backward, start, *kept) for start, kept in zip(starts, saved, strict=True)]
        for part, start, kept in zip(parts, starts, saved, strict=True):
            if not all(map(finite, part[0])):
                raise NonFiniteError(self._blame(program, start, kept))
        if not single:
            return list(parts[0][0]), *parts[0][1:]
        relevance, recorded, rows = (list(zip(*part, strict=True)) for part in zip(*parts, strict=True))
        joined = [torch.cat(r) if m else torch.stack(r) for r, m in zip(relevance, self._moving, strict=True)]
        return joined, [torch.cat(r) for r in recorded], [torch.cat(r, 1) for r in rows]

    @property
    def _moving(self) -> list[bool]:
        """For each explained input, whether its first dimension counts samples."""
        pairs = zip(self.captured.moving, self.captured.inputs, strict=True)
        return [moves for moves, n in pairs if n in self.captured.explained]

    def _back(
        self, program: Program, R: Tensor, score: Tensor, saved: Sequence[Any], ledger: bool
    ) -> tuple[Any, Any, Any]:
        each, recorded, rows = self._backward(program, R, saved)
        summed = [self.captured.single and not moves for moves in self._moving]
        relevance = [r.sum(0) if shared else r for r, shared in zip(each, summed, strict=True)]
        if not ledger:
            return relevance, recorded, None
        entries = []
        by_name = {a.node.name: a for a in self.assignment}
        for name, row in zip(program.ledger_nodes, rows, strict=True):
            a = by_name[name]
            amounts = fold(row, len(score)).to(score.device)
            entry = OpEntry(name, module_path(a.node), op_name(a.node.target), a.rule.name, *amounts)
            entries.append(replace(entry, constant=held_summands(a.node, self.reading)))
        start = R.reshape(len(score), -1).sum(1)
        return relevance, recorded, Ledger(score, start, self._by_sample(each), entries, rtol=self._rtol())

    def _by_sample(self, relevance: list[Tensor]) -> list[Tensor]:
        """Relevance of the inputs with the samples in front: an initial state may have its layers there."""
        if self.captured.dynamic or self.captured.single:
            return relevance
        dims = [self.reading.batch(n) for n in self.captured.explained]
        return [r.movedim(d, 0) if isinstance(d, int) else r for r, d in zip(relevance, dims, strict=True)]

    def _rtol(self) -> float:
        """How well the ledger is to close: a model in float64 may normalize in float32 (Hugging Face's RMSNorm)."""
        double = all(value(n).dtype is torch.float64 for n in self.reading.reached if is_float(n))
        return 1e-9 if double else 1e-3

    def _blame(self, program: Program, R: Tensor, saved: Any) -> str:
        """The op whose rule first gave a non-finite relevance."""
        by_name = {a.node.name: a for a in self.assignment}
        guilty: list[str] = []

        class Search(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                out = super().run_node(n)
                if isinstance(out, Tensor) and n.name.startswith("R_") and not finite(out) and not guilty:
                    call = next((x for x in n.all_input_nodes if x.name.startswith("f_")), None)
                    guilty.append(call.name[2:] if call is not None else n.name[2:])
                return out

        Search(program.backward).run(R, *saved)
        a = by_name.get(guilty[0]) if guilty else None
        if a is None:
            return "the relevance is not finite, though every rule's result is: too large a sum; use float64"
        return (
            f"rule {a.rule.name!r} gave NaN or infinite relevance at {where(a.node)}: a denominator is close to 0. "
            'Remedy: a rule with epsilon > 0 there, residual="magnitude" for sums, or float64'
        )


def _compiled(part: Callable[..., Any], *args: Any) -> Any:
    """A part of a program; what the compiler refuses is told as an error of ours."""
    try:
        return part(*args)
    except Exception as e:
        if not type(e).__module__.startswith("torch._dynamo"):
            raise
        said = str(e).strip().partition("\n")[0]
        raise RuleError(f"the program cannot be compiled as one graph ({said}): leave out compile=True") from e


def fingerprint(model: nn.Module) -> list[Any]:
    """Changes when a module is replaced, or a parameter or buffer is replaced or written to; asked at every call."""
    found: list[Any] = []
    modules, seen = [model], set()
    while modules:
        module = modules.pop()
        if id(module) not in seen:
            seen.add(id(module))
            found.append(id(module))
            for named in (module._parameters, module._buffers):
                found += [(n, id(t), _version(t), t.data_ptr()) for n, t in named.items() if t is not None]
            modules += [m for m in module._modules.values() if m is not None]
    return found


def _version(t: Tensor) -> int:
    return 0 if t.is_inference() else t._version


def probes(model: nn.Module, module: fx.GraphModule) -> list[tuple[Tensor, Tensor]]:
    """Tensors of the model that went into constants of the graph, with a sample of their values.

    Writing through `.data` leaves no trace in a tensor's version. Tensors the graph itself reads need no probe; all
    values of those that a program keeps transformed are watched (`checksums`).
    """
    read = {id(constant(module, n)) for n in module.graph.nodes if n.op == "get_attr"}
    held = [t.detach() for t in (*model.parameters(), *model.buffers()) if id(t) not in read and t.numel()]
    return [(t, sample(t).clone()) for t in held if not t.is_meta]  # an offloaded weight has no values here


def sample(t: Tensor) -> Tensor:
    """Up to 64 values, evenly spaced in memory."""
    return _flat(t)[:: max(1, t.numel() // 64)]


def checksums(tensors: list[Tensor]) -> list[int]:
    """The sum of each tensor's bits, read as whole numbers: if one value changes, it changes."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for t in tensors:
        flat, several = _flat(t), 8 // t.element_size()
        even = flat.numel() // several * several if flat.storage_offset() % several == 0 else 0
        rest = flat[even:].view(_WHOLE[t.element_size()])
        by_device.setdefault(t.device, []).append(flat[:even].view(torch.int64).sum() + rest.sum())
    return [v for sums in by_device.values() for v in torch.stack(sums).tolist()]


_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _flat(t: Tensor) -> Tensor:
    """All values in the order of memory."""
    return t.detach().permute(sorted(range(t.dim()), key=t.stride, reverse=True)).reshape(-1)
