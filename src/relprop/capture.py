"""Model to graph: the only file that names torch.export.

The user's model is never run or changed: a clone of its module tree, which shares the parameters and owns
everything else, is put in evaluation mode and exported with a dynamic batch.
"""

from __future__ import annotations

import copy
import io
import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, default_decompositions, export

from .captured import Captured, Inputs, InputSpec, run
from .choice import Choice, without_cache
from .errors import CaptureError, InputError, NonFiniteError
from .functional import make_functional
from .graph import line_of, module_path
from .guards import check_devices, check_inputs, check_weights, type_remedy
from .mixing import first_mixing, mixes
from .ops import OPENED, Family, lookup
from .ops import name as op_name
from .placed import is_placed, shared_hooks, without_hooks
from .recurrence import PACKED, first_step_tells, holds_packed
from .samples import symbolic
from .turns import alone
from .values import out_of_memory, same

# What a graph is for: any batch size, one sample at a time, or the batch size of capture.
_ANY, _SINGLE, _FIXED = "any", "single", "fixed"


class _Flat(nn.Module):
    """The model as a function of its tensors alone, to the one tensor that is explained."""

    def __init__(self, model: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.model, self._spec, self.choice = model, spec, Choice()

    def forward(self, *tensors: Tensor) -> Tensor:
        out = self._spec.call(self.model, tensors)
        return self.choice(out, [t.shape[0] for t in tensors], type(self.model).__name__)


def clone(model: nn.Module, *, share: bool = True) -> nn.Module:
    """The module tree copied, in evaluation mode: parameters shared (unless told), buffers and all else its own."""
    shared: dict[int, Any] = {id(p): p for p in model.parameters()} if share else {}
    for module in model.modules():  # weights computed by hooks (weight_norm) are plain tensors that deepcopy refuses
        held = [x for v in vars(module).values() for x in (v if isinstance(v, (list, tuple)) else [v])]
        loose = [v for v in held if isinstance(v, Tensor) and not v.is_leaf]
        shared.update({id(v): v if share else v.detach().clone() for v in loose})
    shared.update({id(hook): hook for hook in shared_hooks(model)})
    try:
        return without_cache(without_hooks(copy.deepcopy(model, shared).eval()))
    except CaptureError:
        raise
    except Exception as e:
        raise CaptureError(
            f"the model {type(model).__name__} cannot be copied ({e}); relprop explains a copy so that yours is never "
            "changed. Keep locks, files and generators out of the module's attributes"
        ) from e


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Leave torch's global state and its random number generators as they were.

    One thread at a time: a second would take the numbers drawn by the first for the state to come back to.
    """
    devices = [device] if device.type == "cuda" else []
    with alone(), torch.random.fork_rng(devices=devices):
        yield


def capture(model: nn.Module, inputs: Inputs, *, dynamic: bool = True) -> Captured:
    """Export `model` as called with `inputs` to a functional graph of ATen ops, the batch dimension left open.

    Where the model's code allows that for no size but its own, or with `dynamic` off, the graph is for one sample, and
    run sample by sample; where that gives another output (samples that share something), it is for this size alone.
    """
    request = _Request.of(model, inputs)
    tensors = request.tensors
    with undisturbed(tensors[0].device):
        ways = (_ANY, _SINGLE, _FIXED) if request.batch > 1 else (_ANY, _FIXED)
        for way in ways if dynamic else ways[1:]:
            captured = _captured(request, way)
            if captured is not None and runs_as(captured, model, tensors):
                _name(captured)
                return captured
    raise CaptureError(
        "the captured graph gives another output than the model: its forward is random (functional dropout with "
        "training=True?) or depends on Python state that changes between calls; make it deterministic in eval mode"
    )


def untried(model: nn.Module, inputs: Inputs) -> Captured | None:
    """The graph for any batch size, not yet compared with the model; None where the model's code allows none."""
    request = _Request.of(model, inputs)
    with undisturbed(request.tensors[0].device):
        captured = _captured(request, _ANY)
        if captured is not None:
            _name(captured)
        return captured


@dataclass(frozen=True)
class _Request:
    """A model with the inputs it is to be captured with, found fit for it."""

    model: nn.Module
    spec: InputSpec
    tensors: list[Tensor]
    batch: int
    moving: tuple[bool, ...]  # for each input, whether its first dimension counts samples

    @classmethod
    def of(cls, model: nn.Module, inputs: Inputs) -> _Request:
        spec = InputSpec.of(inputs)
        tensors = [t.detach() for t in spec.flatten(inputs)]
        placed = is_placed(model)
        model = clone(model) if placed else model  # offloaded weights are loaded once
        check_devices(model, tensors, spec, anywhere=placed)
        check_inputs(tensors, spec)
        check_weights(model)
        with undisturbed(tensors[0].device):
            batch = _batch(model, tensors, spec)
        return cls(model, spec, tensors, batch, tuple(t.shape[0] == batch for t in tensors))


def _captured(request: _Request, way: str) -> Captured | None:
    """The graph for batches as `way` says, not yet compared with the model; None where there is none."""
    r = request
    flat = _Flat(clone(r.model), r.spec)
    module = _export(flat, r.model, r.spec, r.tensors, r.moving, way)
    if module is None:
        return None
    found = [n for n in module.graph.nodes if n.op == "placeholder"]
    _forget_mutations(module, found)
    explained = _explained(found, r.tensors, r.spec)
    if way == _ANY and not all(m for n, m in zip(found, r.moving, strict=True) if n in explained):
        return None  # captions shared by all images: whose relevance is whose, only one sample at a time can tell
    note = flat.choice.note()
    return Captured(module, found, explained, r.spec, way == _ANY, r.batch, r.moving, way == _SINGLE, note)


def runs_as(captured: Captured, model: nn.Module, tensors: list[Tensor]) -> bool:
    """Whether the graph gives the model's own output on these inputs (after another draw of random numbers)."""
    with undisturbed(tensors[0].device), torch.no_grad():
        expected = run_once(model, tensors, captured.spec, mutates=captured.mutates)
        torch.rand(1)  # a random forward must show
        try:
            got = run(captured, [t.clone() for t in tensors])
        except RuntimeError as e:
            if out_of_memory(e):
                raise
            return False  # a shape the graph does not fit
        if not torch.isfinite(expected).all():
            blamed = first_non_finite(captured.module, tensors)
            raise NonFiniteError(f"the model's output is not finite; it first goes wrong at {blamed}")
        if not same(got, expected):
            return False
        if len(got) > 1 and mixes(captured, tensors, got):
            raise CaptureError(
                f"the samples of a batch influence each other in {type(model).__name__}, first at "
                f"{first_mixing(captured, tensors)}: the first sample gives another output alone than among "
                "others, and has no explanation of its own; change that, or explain batches of one sample"
            )
        return True


def run_once(model: nn.Module, tensors: list[Tensor], spec: InputSpec, *, mutates: bool = False) -> Tensor:
    """The model's output, refusing inputs it cannot be called with and outputs that are no tensor.

    `mutates`: forward changes parameters in place, so that they must not be shared.
    """
    kind = type(model).__name__
    try:
        with torch.no_grad():
            out: Tensor = _Flat(clone(model, share=not mutates), spec)(*[t.clone() for t in tensors])
    except CaptureError:
        raise
    except Exception as e:
        if out_of_memory(e):
            raise  # of an allocator: nothing is wrong with the inputs
        shapes = ", ".join(f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors)
        line = line_of("".join(traceback.format_tb(e.__traceback__)))
        remedy = type_remedy(model, tensors)
        raise InputError(f"{kind} cannot be called with inputs of shape {shapes}: {e} (at {line}){remedy}") from e
    sizes = {t.shape[0] for t in tensors}
    if out.dim() == 0 or out.shape[0] not in sizes:
        raise CaptureError(
            f"{kind} returns shape {tuple(out.shape)} for {' or '.join(map(str, sorted(sizes)))} samples; its output "
            "needs one row a sample (no sum or selection over the batch)"
        )
    if not out.is_floating_point():
        raise CaptureError(f"{kind} returns {out.dtype}; return the scores instead of decisions (no argmax)")
    return out


def _batch(model: nn.Module, tensors: list[Tensor], spec: InputSpec) -> int:
    """The number of samples: the inputs' common first dimension, or, where it differs, the output's."""
    sizes = {t.shape[0] for t in tensors}
    return sizes.pop() if len(sizes) == 1 else run_once(model, tensors, spec, mutates=True).shape[0]


def _export(
    flat: _Flat, model: nn.Module, spec: InputSpec, tensors: list[Tensor], moving: tuple[bool, ...], way: str
) -> fx.GraphModule | None:
    """The graph for batches as `way` says; None where the model's code does not allow that."""
    try:
        if way == _ANY:
            return _any_batch(flat, model, tensors, moving)
        one = [t[:1] if m and way == _SINGLE else t for t, m in zip(tensors, moving, strict=True)]
        return _graph(flat, tuple(one), None)
    except Exception as e:  # any refusal: perhaps the code fixes the batch size
        if way != _FIXED:
            return None
        run_once(model, tensors, spec, mutates=True)  # if the model itself refuses, say that
        raise CaptureError(_refusal(e)) from e


def _any_batch(flat: _Flat, model: nn.Module, tensors: list[Tensor], moving: tuple[bool, ...]) -> fx.GraphModule | None:
    """The graph with its batch dimension open."""
    # a number of samples that is no other size in the model: an equal one could be taken for the batch
    sizes = {n for t in (*model.parameters(), *model.buffers(), *tensors) for n in t.shape}
    count = next(n for n in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43) if n not in sizes or n == 43)
    pairs = [t[:1].expand(count, *t.shape[1:]).clone() if m else t for t, m in zip(tensors, moving, strict=True)]
    module = _graph(flat, tuple(pairs), (tuple({0: Dim.AUTO} if m else None for m in moving),))
    found = [n for n in module.graph.nodes if n.op == "placeholder"]
    return module if any(symbolic(n.meta["val"].shape[0]) for n in found) else None


def _graph(flat: nn.Module, tensors: tuple[Tensor, ...], shapes: Any) -> fx.GraphModule:
    quiet = [logging.getLogger(f"torch.{n}") for n in ("fx.experimental.symbolic_shapes", "_subclasses.fake_tensor")]
    levels, hooks = [logger.level for logger in quiet], nn.modules.module._global_buffer_registration_hooks
    registered = dict(hooks)  # torch 2.11 leaves its own behind when an export fails
    # what torch prints and warns of: its internals, and a graph in part where an export fails
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()), first_step_tells():
        warnings.simplefilter("ignore")
        for logger in quiet:  # a refusal is told by our error, once
            logger.setLevel(logging.CRITICAL)
        try:
            program = export(flat, tensors, dynamic_shapes=shapes, strict=False)
            module = program.module(check_guards=False)
            if not (isinstance(module, fx.GraphModule) and make_functional(module)):
                module = program.run_decompositions(_opened()).module(check_guards=False)
        finally:
            for logger, level in zip(quiet, levels, strict=True):
                logger.setLevel(level)
            for key in [k for k in hooks if k not in registered]:
                del hooks[key]
    assert isinstance(module, fx.GraphModule)
    for node in module.graph.nodes:  # for inputs in another memory format a view may not exist
        if node.op == "call_function" and op_name(node.target) in ("view", "_unsafe_view"):
            node.target = torch.ops.aten.reshape.default
    module._forward_pre_hooks.clear()  # export's check of input sizes; ours names the argument
    return module


@cache
def _opened() -> dict[Any, Any]:
    """How torch defines the ops that have no rule of their own by others."""
    known = default_decompositions()
    return {op: known[op] for op in OPENED}


def _refusal(e: Exception) -> str:
    line = line_of("".join(traceback.format_tb(e.__traceback__)))
    kind = f"{type(e).__name__}: {e}"
    advice = "write it with tensor operations"
    if "data-dependent" in kind.lower() or "GuardOnDataDependent" in kind:
        advice = (
            "a decision on tensor values cannot be recorded: replace `if`, `while`, `.item()`, `int(...)` on a tensor "
            "by torch.where or a fixed bound"
        )
    if holds_packed(e):
        advice = PACKED
    first = kind.strip().splitlines()[0][:300]
    report = "`torch.export.export(model, args, strict=False)` shows the full report"
    return f"forward cannot be exported at {line}: {first}\nRemedy: {advice}; {report}"


def _forget_mutations(module: fx.GraphModule, found: list[fx.Node]) -> None:
    """Drop the write-backs of a forward that changes its inputs or its own state: the program is a function."""
    changed = False
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target is torch.ops.aten.copy_.default:
            target = node.args[0]
            if target in found or target.op == "get_attr":
                changed |= target.op == "get_attr"
                node.replace_all_uses_with(node.args[1])
                module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    module.meta["relprop_mutates"] = changed


def _explained(found: list[fx.Node], tensors: list[Tensor], spec: InputSpec) -> list[fx.Node]:
    """The inputs that get relevance: real numbers, and tokens that go into an embedding."""
    explained = [n for n, t in zip(found, tensors, strict=True) if t.is_floating_point() or _is_tokens(n)]
    if explained:
        return explained
    name = spec.names[0]
    if len(found) == 1:
        dtype = tensors[0].dtype
        raise InputError(
            f"{name} has dtype {dtype}; give real numbers: {name}.float(), scaled as in training (token ids are "
            "explained where an nn.Embedding, or F.embedding(ids, table), looks them up)"
        )
    raise InputError(f"none of {', '.join(spec.names)} is a floating point tensor or goes into an embedding")


def _name(captured: Captured) -> None:
    """Call the placeholders by the arguments' names."""
    found, spec = captured.inputs, captured.spec
    for i, (node, name) in enumerate(zip(found, spec.names, strict=True)):
        last = "".join(c if c.isalnum() else "_" for c in name.removeprefix("inputs")).strip("_")
        node.name = node.target = "x" if spec.single else f"x_{last or i}"


def _is_tokens(node: fx.Node) -> bool:
    """Whether an integer input goes into an embedding, as it is or moved (reshaped, sliced, copied)."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.is_floating_point() or value.dtype is torch.bool:
        return False
    return any(
        u.args[1] is node if u.target is torch.ops.aten.embedding.default else _moves(u, node) and _is_tokens(u)
        for u in node.users
    )


def _moves(user: fx.Node, node: fx.Node) -> bool:
    """Whether an op moves the entries of this operand and computes nothing from them."""
    row = lookup(user.target)
    copies = op_name(user.target) in ("clone", "alias", "contiguous", "lift_fresh_copy", "to")
    return (copies or (row is not None and row.family is Family.SHAPE)) and user.args[0] is node


def first_non_finite(module: fx.GraphModule, tensors: list[Tensor]) -> str:
    """The first node whose value is NaN or infinite, described."""

    class Search(fx.Interpreter):
        found = ""

        def run_node(self, n: fx.Node) -> Any:
            out = super().run_node(n)
            if not self.found and isinstance(out, Tensor) and out.is_floating_point() and not torch.isfinite(out).all():
                self.found = (
                    f"{n.name} (module {module_path(n) or '(model)'!r}, {line_of(n.meta.get('stack_trace') or '')})"
                )
            return out

    search = Search(module)
    with torch.no_grad():
        search.run(*tensors)
    return search.found or "an op that relprop could not single out"
