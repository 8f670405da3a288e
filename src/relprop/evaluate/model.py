"""The model to be judged: any callable, what it is given, and how its output becomes one score a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from relprop.errors import InputError, TargetError

from .data import accurate, block, is_array

if TYPE_CHECKING:
    from .data import Array

Score = str | Callable[[Any], Any]
SCORES = ("logit", "probability")


@dataclass(frozen=True)
class Model:
    """A callable, where it wants its samples, and whether as arrays; `dtype`: what arrays become for a module."""

    call: Callable[[Any], Any]
    device: torch.device
    arrays: bool = False
    dtype: torch.dtype | None = None

    def hand(self, x: Tensor) -> Any:
        """The samples in the form the callable takes."""
        return x.cpu().numpy() if self.arrays else x

    def output(self, x: Tensor) -> Any:
        """What the callable returns, computed without gradients; it may overwrite x."""
        with torch.no_grad():
            return self.call(self.hand(x))

    def fetch(self, inputs: Array, part: slice) -> Tensor:
        """Samples `part` on the device; those of an array in the module's floating type."""
        x = block(inputs, part)
        return x.to(self.device, self.dtype if is_array(inputs) else None)


def prepared(model: Callable[[Any], Any], inputs: Array, device: str | torch.device | None) -> Model:
    """The model and where its inputs go. Raises `InputError`: not callable, a module in training mode."""
    if not callable(model):
        raise InputError(f"model is a {type(model).__name__}; give a module or a function from a batch to its scores")
    where = None if device is None else torch.device(device)
    if isinstance(model, nn.Module):
        if any(m.training for m in model.modules()):
            raise InputError("model is in training mode, or a part of it is; call model.eval() first")
        tensors = [*model.parameters(), *model.buffers()]
        floating = [t.dtype for t in tensors if t.is_floating_point()]
        own = tensors[0].device if tensors else torch.device("cpu")
        return Model(model, where or own, dtype=floating[0] if floating else torch.get_default_dtype())
    if isinstance(inputs, Tensor):
        return Model(model, where or inputs.device)
    return Model(model, where or torch.device("cpu"), arrays=where is None)


def check_score(score: Score) -> None:
    """Raise `InputError` unless it names a score or is a function of the output."""
    if score not in SCORES and not callable(score):
        raise InputError(f"score is {score!r}; give 'logit', 'probability' or a function from the output to (B,)")


def score_name(score: Score) -> str:
    """How the score is called in tables and figures."""
    return score if isinstance(score, str) else str(getattr(score, "__name__", type(score).__name__))


def check_target(target: object, size: int) -> int | Tensor | None:
    """None, one class, or a class a sample as int64 (N,). Raises `TargetError`."""
    if target is None or (isinstance(target, int) and not isinstance(target, bool)):
        return target
    if not isinstance(target, (Tensor, list, tuple)) and not is_array(target):
        raise TargetError(
            f"target is {target!r}; give None for the predicted class, one class, or one a sample, ({size},)"
        )
    listed = block(target, slice(None)) if is_array(target) else torch.as_tensor(target)  # type: ignore[arg-type]
    if listed.is_floating_point() or listed.dtype == torch.bool or tuple(listed.shape) != (size,):
        raise TargetError(
            f"target is {listed.dtype} of shape {tuple(listed.shape)}; give integer classes, one a sample: ({size},)"
        )
    return listed.detach().long().cpu()


def classes(output: Any, target: int | Tensor | None, score: Score, part: slice) -> Tensor | None:
    """The class of every sample of a block, (B,); None where there are none. Raises `InputError`, `TargetError`."""
    size = part.stop - part.start
    scores = tensor_of(output)
    if scores is None or scores.ndim != 2:
        if callable(score):
            return None if target is None else chosen(target, part, size)
        check_output(output, size)
        if target is not None:
            raise TargetError("target is given, but the model returns one score a sample, (B,); leave target out")
        return None
    if target is None:
        return scores.argmax(1)
    wanted = chosen(target, part, size).to(scores.device)
    if not bool(((wanted >= 0) & (wanted < scores.shape[1])).all()):
        raise TargetError(
            f"target holds a class outside 0 … {scores.shape[1] - 1}: the model has {scores.shape[1]} outputs"
        )
    return wanted


def chosen(target: int | Tensor, part: slice, size: int) -> Tensor:
    """The given classes of a block."""
    return torch.full((size,), target) if isinstance(target, int) else target[part]


def check_output(output: Any, size: int) -> Tensor:
    """The output as a tensor (B,) or (B, K). Raises `InputError`."""
    scores = tensor_of(output)
    if scores is None:
        raise InputError(
            f"the model returns a {type(output).__name__}; wrap it so that it returns scores, (B, K) or (B,)"
        )
    if scores.ndim not in (1, 2) or scores.shape[0] != size:
        raise InputError(
            f"the model returns shape {tuple(scores.shape)} for {size} samples; it must return (B, K) or (B,), "
            "or score must be a function that makes (B,) of its output"
        )
    return scores


def judged(output: Any, target: Tensor | None, score: Score, size: int) -> Tensor:
    """One score a sample, (B,), in the accurate type of its device. Raises `InputError`."""
    if callable(score):
        with torch.no_grad():
            made = tensor_of(score(output))
        if made is None or tuple(made.shape) != (size,):
            got = "no tensor" if made is None else f"shape {tuple(made.shape)}"
            raise InputError(f"the score function returns {got} for {size} samples; it must return ({size},)")
        return made.to(accurate(made.device), copy=True)  # a function may return its own memory again
    scores = check_output(output, size)
    scores = scores.to(accurate(scores.device), copy=True)  # a model may write into the same memory again
    if score == "probability":
        if scores.ndim == 1 or scores.shape[1] == 1:
            raise InputError(
                "score='probability' is a softmax over classes, but the model has one output; give "
                "score=lambda output: output.sigmoid().flatten()"
            )
        scores = scores.softmax(1)
    return scores if target is None else scores.gather(1, target.to(scores.device)[:, None])[:, 0]


def tensor_of(output: Any) -> Tensor | None:
    """A tensor, or an array as a tensor; None for anything else."""
    if is_array(output):
        return block(output, slice(None)) if output.ndim else torch.tensor(float(output))
    return output if isinstance(output, Tensor) else None
