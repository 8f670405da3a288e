"""What is explained: from a target and the model's output to the initial relevance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .errors import TargetError
from .values import concrete

Target = None | int | Tensor | Callable[[Tensor], Tensor] | list[Any]


def initial(output: Tensor, target: Target = None) -> tuple[Tensor, Tensor, Any]:
    """Initial relevance (shaped like the output), the score each sample starts from, and the target resolved.

    The output is that in front of a final softmax or sigmoid. `target` is None (the largest output of each sample),
    a class index, a LongTensor with one index a sample, a callable from the output to one score a sample, or the
    initial relevance itself. A callable's score t is spread over the outputs z by its first-order terms R = z ⊙
    ∂t/∂z, which is exact for linear ones such as the difference of two logits; what a non-linear callable leaves
    over is booked as residual.
    """
    if callable(target) and not isinstance(target, Tensor):
        return _callable(output, target)
    if isinstance(target, Tensor) and target.is_floating_point():
        return _relevance(output, target)
    scores = _classes(output)
    if target is None:
        index = scores.argmax(1)
    elif isinstance(target, Tensor):
        index = _indices(target, scores)
    elif isinstance(target, int) and not isinstance(target, bool):
        index = _indices(torch.full((len(scores),), target, device=scores.device), scores)
    else:
        raise TargetError(
            f"target={target!r}: give None, a class index, a LongTensor with one index a sample, a callable from the "
            "output to one score a sample, or a floating point tensor shaped like the output"
        )
    chosen = (index[:, None] == torch.arange(scores.shape[1], device=index.device)).to(output.dtype)
    R = (scores * chosen).reshape(output.shape)
    return R, R.flatten(1).sum(1) if R.dim() > 1 else R, index


def _classes(output: Tensor) -> Tensor:
    """The output as (samples, classes)."""
    if output.dim() == 1:
        return output[:, None]
    if output.dim() == 2:
        return output
    if all(n == 1 for n in output.shape[2:]):
        return output.flatten(1)
    raise TargetError(
        f"the output has shape {tuple(output.shape)}, more than one score a class; say which with a callable such as "
        "target=lambda out: out[:, 3].sum((1, 2)), or with an initial relevance shaped like the output"
    )


def _indices(index: Tensor, scores: Tensor) -> Tensor:
    samples, classes = scores.shape
    if index.dim() == 0:
        index = index.expand(samples)
    if index.shape != (samples,):
        raise TargetError(
            f"target has shape {tuple(index.shape)}; one index for each of the {samples} samples is needed"
        )
    if index.dtype == torch.bool or index.is_floating_point():
        raise TargetError(f"target has dtype {index.dtype}; indices are integers (target.long())")
    if concrete(index) and bool(((index < 0) | (index >= classes)).any()):
        bad = int(index[(index < 0) | (index >= classes)][0])
        raise TargetError(f"target {bad} is out of range: the model has {classes} outputs, 0 to {classes - 1}")
    return index.to(scores.device).long()


def _relevance(output: Tensor, R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if R.shape != output.shape:
        raise TargetError(
            f"target has shape {tuple(R.shape)}, the output {tuple(output.shape)}; an initial relevance has the "
            "output's shape (for class indices use a LongTensor)"
        )
    if concrete(R) and not bool(torch.isfinite(R).all()):
        raise TargetError("target, the initial relevance, holds NaN or infinity")
    R = R.to(output)
    return R, R.flatten(1).sum(1) if R.dim() > 1 else R, R


def _callable(output: Tensor, target: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Any]:
    with torch.enable_grad():
        z = output.detach().requires_grad_()
        score = target(z)
        if not isinstance(score, Tensor) or score.shape != (len(output),):
            got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise TargetError(
                f"the target callable returned {got}; it must return one score a sample, shape ({len(output)},)"
            )
        if not score.requires_grad:
            raise TargetError("the target callable's score does not depend on the output (no arg-max or detach inside)")
        if not bool(torch.isfinite(score).all()):
            raise TargetError("the target callable's score is NaN or infinite (it gets logits, not probabilities)")
        (slope,) = torch.autograd.grad(score.sum(), z)
    return output * slope, score.detach(), target
