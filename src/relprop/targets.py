"""What is explained: from a target and the model's output to the initial relevance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import TargetError
from .values import concrete


@dataclass(frozen=True)
class Logit:
    """One class of each sample: the same as the index `c` itself, for use in a `Contrast`.

    `c`: an index, a LongTensor with one index a sample, or None for the largest output.
    """

    c: int | Tensor | None = None


@dataclass(frozen=True)
class Token:
    """One token of a language model's output (samples, positions, ids): the logit of `id` at `position`.

    `position`: an index, negative from the end, or a LongTensor with one a sample. `id`: a token id, a LongTensor with
    one a sample, or None for the largest logit there. A causal model scores at position t the token that follows t.

    >>> initial(torch.tensor([[[1.0, 2.0], [4.0, 3.0]]]), Token(-1))[1]
    tensor([4.])
    """

    position: int | Tensor = -1
    id: int | Tensor | None = None


@dataclass(frozen=True)
class Contrast:
    """Why `a` rather than `b`: the score z_a − z_b, of any two targets.

    >>> initial(torch.tensor([[1.0, 2.0, 4.0]]), Contrast(2, 0))[:2]
    (tensor([[-1.,  0.,  4.]]), tensor([3.]))
    """

    a: Any
    b: Any


Target = None | int | Tensor | Logit | Token | Contrast | Callable[[Tensor], Tensor] | list[Any]


def initial(output: Tensor, target: Target = None) -> tuple[Tensor, Tensor, Any]:
    """Initial relevance (shaped like the output), the score each sample starts from, and the target resolved.

    The output is that in front of a final softmax or sigmoid. `target` is None (the largest output of each sample),
    a class index, a LongTensor with one index a sample, a `Token`, a `Contrast`, a callable from the output to one
    score a sample, or the initial relevance itself. The relevance of a chosen output is that output, R_c = z_c; of a
    contrast it is R_a = z_a and R_b = −z_b. A callable's score t is spread over the outputs z by its first-order
    terms R = z ⊙ ∂t/∂z, which is exact for linear ones such as the difference of two logits; what a non-linear
    callable leaves over is booked as residual. Outputs in half precision are explained in float32.
    """
    if output.dtype in (torch.float16, torch.bfloat16):
        output = output.float()
    if isinstance(target, Contrast):
        return _contrast(output, target)
    if isinstance(target, Token):
        return _token(output, target)
    if isinstance(target, Logit):
        target = target.c
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
            f"target={target!r}: give None, a class index, a LongTensor with one index a sample, a target of "
            "relprop.targets, a callable from the output to one score a sample, or a floating point tensor shaped like "
            "the output"
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
    which = "a callable such as target=lambda out: out[:, 3].sum((1, 2))"
    if output.dim() == 3:
        which = (
            "target=relprop.targets.Token(position=-1, id=None) where it is (samples, positions, tokens) (None: the "
            "most likely token), or a callable such as target=lambda out: out[:, 0, 3]"
        )
    raise TargetError(
        f"the output has shape {tuple(output.shape)}, more than one score a class; say which with {which}, or with an "
        "initial relevance shaped like the output"
    )


def _token(output: Tensor, target: Token) -> tuple[Tensor, Tensor, Token]:
    if output.dim() != 3:
        raise TargetError(
            f"the output has shape {tuple(output.shape)}, not (samples, positions, tokens): Token is for language "
            "models that score tokens; give a class index such as target=0"
        )
    samples, positions, _ = output.shape
    place = _each(target.position, samples, output.device, "position")
    if concrete(place) and bool(((place < -positions) | (place >= positions)).any()):
        raise TargetError(
            f"Token position {int(place[(place < -positions) | (place >= positions)][0])} is out of range: the output "
            f"has {positions} positions, 0 to {positions - 1}, or -1 to {-positions} from the end"
        )
    place = torch.where(place < 0, place + positions, place)
    here = place[:, None] == torch.arange(positions, device=output.device)
    scores = torch.where(here[..., None], output, 0).sum(1)
    chosen = None if target.id is None else _each(target.id, samples, output.device, "id")
    R, score, index = initial(scores, chosen)
    return here[..., None] * R[:, None], score, Token(place, index)


def _contrast(output: Tensor, target: Contrast) -> tuple[Tensor, Tensor, Contrast]:
    (R_a, score_a, a), (R_b, score_b, b) = initial(output, target.a), initial(output, target.b)
    return R_a - R_b, score_a - score_b, Contrast(a, b)


def _each(index: Any, samples: int, device: torch.device, what: str) -> Tensor:
    """One whole number a sample."""
    if isinstance(index, bool) or not isinstance(index, (int, Tensor)):
        raise TargetError(f"Token {what}={index!r}: give an index, or a LongTensor with one a sample")
    if isinstance(index, int):
        return torch.full((samples,), index, device=device)
    if index.is_floating_point() or index.dtype == torch.bool or index.shape not in ((), (samples,)):
        raise TargetError(
            f"Token {what} has shape {tuple(index.shape)} and dtype {index.dtype}; one whole number for each of the "
            f"{samples} samples is needed"
        )
    return index.to(device).long().expand(samples)


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
