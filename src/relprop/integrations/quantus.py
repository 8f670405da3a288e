"""Relevance for the metrics of Quantus (Hedström et al. 2023): `explain_func`, in the form its metrics call.

Quantus itself is not imported. docs/quantus.md says which metrics take which shape.
"""

from __future__ import annotations

import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import composites
from ..api import Explainer
from ..capture import run_once, undisturbed
from ..captured import InputSpec
from ..composites import Composite
from ..errors import CaptureError, CompositeError, InputError, RelpropError, TargetError
from ..guards import check_model
from ..values import same

Array = NDArray[np.floating[Any]]
Pairs = list[tuple[Any, Any]]

# Arguments of Quantus' own explainers and metrics, which would do nothing here: what to write instead.
ELSEWHERE = {
    **dict.fromkeys(("abs", "normalise", "normalise_func", "normalise_func_kwargs"), "it is an argument of the metric"),
    **dict.fromkeys(("reduce_axes", "keepdims"), "channels='sum' adds the channels up and keeps the axis"),
    **dict.fromkeys(("xai_lib", "xai_lib_kwargs", "attributor", "canonizer"), "choose with composite="),
    **dict.fromkeys(("pos_only", "neg_only"), "clip the returned array where a metric needs one sign"),
    **dict.fromkeys(("img_size", "nr_channels"), "leave it out, the shape of inputs tells"),
    "softmax": "leave it out, a final softmax is never explained: relevance starts at its logits",
    "channel_first": "it is an argument of the metric's call; inputs have the shape that the model takes",
}


def explain_func(
    model: nn.Module,
    inputs: Array | Tensor,
    targets: NDArray[np.integer[Any]] | Tensor | list[int] | int | None = None,
    *,
    composite: str | Composite | Pairs | None = None,
    method: str | None = None,
    channels: str = "keep",
    device: str | torch.device | None = None,
    batch_size: int | None = None,
    **options: Any,
) -> Array:
    """Relevance of the inputs for the target classes, as a metric of Quantus asks for it.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    >>> images = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    >>> explain_func(model, images, np.array([4, 1]), composite="epsilon").shape
    (2, 3, 8, 8)
    >>> explain_func(model, images, np.array([4, 1]), method="gamma", gamma=0.5, channels="sum").shape
    (2, 1, 8, 8)

    `inputs`: floating point, (N, ...) as the model takes them, array or tensor; taken to the type and device of the
    model, as Quantus itself predicts in float32 whatever type it is given. `targets`: N class indices, one for all,
    or None, the class of the largest output. `composite`, `options`: as for `relprop.explain`, "auto" if neither
    `composite` nor `method` is given. `method`: the name of a recipe; beside a `composite` it may be any label, as
    `quantus.evaluate` passes it, but not the name of another recipe. `channels`: "keep" returns the shape of the
    inputs, "sum" adds the channels up, (N, 1, ...). `device`: must be that of the model. `batch_size`: explain so
    many samples at a time; None takes all at once.

    Returns a new array in the type of the model (float32 for half precision), in the units of the explained output;
    what biases and ε took is missing from its sum, as the ledger of `relprop.explain` tells.

    The capture of the last model is kept for the next call, as long as that model lives. It serves a call only if
    model, weights, composite, options, shape and type are the same and the model still gives the output of the
    capture. One thread explains at a time.

    Raises `relprop.errors`: those of `relprop.explain`.
    """
    check_model(model)
    chosen = _composite(composite, method, options)
    if channels not in ("keep", "sum"):
        raise InputError(f"channels={channels!r}: it is 'keep' (the shape of inputs) or 'sum' (N, 1, ...)")
    x = _inputs(model, inputs, device)
    if channels == "sum" and x.dim() < 3:
        raise InputError(f"channels='sum', but inputs of shape {tuple(x.shape)} have no channels; leave it out")
    parts = _parts(x, _targets(targets), batch_size)
    R = torch.cat([_explain(model, part, target, chosen, options) for part, target in parts]).cpu()
    R = R if R.dtype in (torch.float32, torch.float64) else R.float()  # numpy has no bfloat16
    values = (R.sum(1, keepdim=True) if channels == "sum" else R).numpy()
    return np.array(values, order="C")  # Quantus may write to it


def _composite(composite: Any, method: str | None, options: dict[str, Any]) -> Any:
    """What to explain with; refuses two answers, a method that names nothing, and arguments of others."""
    for name in options:
        if name in ELSEWHERE:
            raise CompositeError(f"{name}= does nothing for relprop: {ELSEWHERE[name]}")
    if method is None:
        return "auto" if composite is None else composite
    named = method in composites.names() if isinstance(method, str) else False
    if composite is None and not named:
        raise CompositeError(
            f"method={method!r} is no recipe; there are {', '.join(composites.names())}. To use it as a label, "
            "say what to explain with: functools.partial(explain_func, composite=...)"
        )
    if composite is not None and named and composite != method:
        given = repr(composite) if isinstance(composite, str) else "a composite of your own"
        raise CompositeError(f"method={method!r} is another recipe than composite, {given}; leave out one of them")
    return method if composite is None else composite


def _inputs(model: nn.Module, inputs: Any, device: Any) -> Tensor:
    """The inputs as a tensor in the floating point type and on the device of the model."""
    weights = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    own = weights[0].device if weights else None
    try:
        wanted = own if device is None else torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"device={device!r} is no device of torch; give 'cpu' or 'cuda', or leave it out") from None
    if wanted and own and (wanted.type != own.type or wanted.index not in (None, own.index)):
        raise InputError(f"device={device!r}, but the model is on {own}: model.to({device!r}), or leave device out")
    x = _floating(inputs)
    return x.to(device=own or wanted, dtype=weights[0].dtype if weights else x.dtype)


def _floating(inputs: Any) -> Tensor:
    if not isinstance(inputs, (Tensor, np.ndarray)):
        raise InputError(f"inputs is a {type(inputs).__name__}; give one array or tensor, (N, ...)")
    floating = inputs.is_floating_point() if isinstance(inputs, Tensor) else np.issubdtype(inputs.dtype, np.floating)
    if not floating:
        remedy = "inputs.float()" if isinstance(inputs, Tensor) else "inputs.astype(np.float32)"
        raise InputError(f"inputs has dtype {inputs.dtype}; give real numbers: {remedy}, scaled as in training")
    if isinstance(inputs, Tensor):
        return inputs.detach()
    # a copy: torch takes neither read-only nor reversed nor big-endian memory
    return torch.from_numpy(np.array(inputs, np.float32 if inputs.dtype == np.float32 else np.float64, order="C"))


def _targets(targets: Any) -> Tensor | None:
    """Class indices as a LongTensor, of no dimension if one stands for all samples."""
    if targets is None:
        return None
    y = targets.detach().cpu().numpy() if isinstance(targets, Tensor) else np.asarray(targets)
    if not np.issubdtype(y.dtype, np.integer):
        raise TargetError(f"targets has dtype {y.dtype}; give class indices, such as targets.astype(int)")
    if y.ndim > 1:
        raise TargetError(f"targets has shape {y.shape}; give one class index a sample: one-hot rows by .argmax(1)")
    return torch.tensor(y.astype(np.int64))


def _parts(x: Tensor, y: Tensor | None, batch_size: int | None) -> list[tuple[Tensor, Tensor | None]]:
    """Inputs and targets, at most `batch_size` samples at a time."""
    if batch_size is not None and not (isinstance(batch_size, int) and batch_size >= 1):
        raise InputError(f"batch_size={batch_size!r}; give a whole number of at least 1, or None for all at once")
    if x.dim() == 0 or len(x) == 0:
        raise InputError(f"inputs has shape {tuple(x.shape)}: the first dimension counts samples, at least one")
    if y is not None and y.dim() and len(y) != len(x):
        raise TargetError(f"targets holds {len(y)} class indices for {len(x)} samples; give one for each")
    y = y if y is None or y.dim() else y.expand(len(x))
    step = batch_size or len(x)
    return [(x[i : i + step], None if y is None else y[i : i + step]) for i in range(0, len(x), step)]


@dataclass(frozen=True)
class _Kept:
    """The capture of a model that may die meanwhile: between calls, `explainer` holds another in its place."""

    model: weakref.ref[nn.Module]
    asked: Any
    explainer: Explainer


_LATEST: list[_Kept] = []  # one or none
_LOCK = threading.Lock()
_NOBODY = nn.Module()


def _explain(model: nn.Module, x: Tensor, target: Tensor | None, composite: Any, options: dict[str, Any]) -> Tensor:
    """Relevance by the capture kept, if it was made for the same and the model still does it; else by a new one."""
    asked = _copied((composite, options, tuple(x.shape[1:]), x.dtype, x.device))
    with _LOCK:
        for kept in _LATEST:
            if kept.model() is model and _equal(kept.asked, asked):
                with suppress(RelpropError):  # perhaps an error of a capture out of date; a new one raises it again
                    return _run(kept.explainer, model, x, target, check=True)
        _LATEST.clear()
        explainer = Explainer(model, x, composite, **options)
        relevance = _run(explainer, model, x, target)
        _LATEST[:] = [_Kept(weakref.ref(model, _forget), asked, explainer)]
        return relevance


def _run(explainer: Explainer, model: nn.Module, x: Tensor, target: Tensor | None, check: bool = False) -> Tensor:
    explainer.model = model
    try:
        explanation = explainer(x, target)
        if check:
            _check_still(explainer, model, x, explanation.output)
    finally:
        explainer.model = _NOBODY  # or what is kept would keep the model alive
    relevance: Tensor = explanation.relevance
    return relevance.detach()


def _check_still(explainer: Explainer, model: nn.Module, x: Tensor, output: Tensor) -> None:
    """Refuse a capture that is no longer the model: its weights are, but a plain attribute or a hook may differ."""
    mutates = explainer._any.captured.mutates
    with undisturbed(x.device):
        own = run_once(model, [x], InputSpec.of(x), mutates=mutates)
    if not same(output, own):
        raise CaptureError(f"{type(model).__name__} has changed since it was captured; capture it anew")


def _forget(dead: weakref.ref[nn.Module]) -> None:
    _LATEST[:] = [kept for kept in _LATEST if kept.model is not dead]


def _copied(value: Any) -> Any:
    """A value as it is now, to tell later whether it changed in place."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Composite):
        return tuple((pair.pattern, pair.rule, _copied(pair.parameters)) for pair in value.pairs)
    if isinstance(value, partial):
        return value.func, _copied(value.args), _copied(value.keywords)
    if isinstance(value, dict):
        return {name: _copied(v) for name, v in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_copied(v) for v in value)
    return value.copy() if isinstance(value, np.ndarray) else value


def _equal(a: Any, b: Any) -> bool:
    """Whether two results of `_copied` are the same; what cannot be looked into, only if it is one object."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(v, b[name]) for name, v in a.items())
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    plain = (str, int, float, type(None), torch.dtype, torch.device)
    return a is b or (type(a) is type(b) and isinstance(a, plain) and bool(a == b))
