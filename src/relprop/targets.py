"""What is explained: from a target and the model's output to the initial relevance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .errors import TargetError
from .values import concrete, finite, tolerance


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
    if concrete(R) and not finite(R):
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
        if not finite(score):
            raise TargetError("the target callable's score is NaN or infinite (it gets logits, not probabilities)")
        (slope,) = torch.autograd.grad(score.sum(), z)
    return output * slope, score.detach(), target


# Some of the samples at a time


def rows(target: Target, which: slice, samples: int) -> Target:
    """The target of some of the samples: tensors with one row a sample are cut, what names all alike stays.

    A callable becomes one that is given these samples' outputs and remembers them, for `check_alone`. Raises
    TargetError where a tensor has not one row for each of the `samples`.

    >>> rows(Token(torch.tensor([3, 5, 7]), 1), slice(1, 3), 3)
    Token(position=tensor([5, 7]), id=1)
    """
    if isinstance(target, list):
        return [rows(t, which, samples) for t in target]
    if isinstance(target, Contrast):
        return Contrast(rows(target.a, which, samples), rows(target.b, which, samples))
    if isinstance(target, Token):
        return Token(rows(target.position, which, samples), rows(target.id, which, samples))  # type: ignore[arg-type]
    if isinstance(target, Logit):
        return Logit(rows(target.c, which, samples))  # type: ignore[arg-type]
    if isinstance(target, Tensor):
        if target.dim() and len(target) != samples:
            raise TargetError(
                f"target has shape {tuple(target.shape)}; one row for each of the {samples} samples is needed"
            )
        return target[which] if target.dim() else target
    return _OfRows(target, samples) if callable(target) else target


@dataclass(frozen=True)
class _OfRows:
    """A callable that is to see the outputs of some of the samples alone."""

    target: Callable[[Tensor], Tensor]
    samples: int
    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, output: Tensor) -> Tensor:
        self.seen[:] = [output.detach()]
        try:
            score = self.target(output)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as e:
            raise TargetError(self.refusal(f"fails on {len(output)} of them ({type(e).__name__}: {e})")) from e
        if not isinstance(score, Tensor) or score.shape != (len(output),):
            got = f"shape {tuple(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
            raise TargetError(self.refusal(f"returns {got} for {len(output)} of them, not one score a sample"))
        return score

    def refusal(self, what: str) -> str:
        return (
            f"with max_batch a target callable is given the outputs of a few of the {self.samples} samples at a time; "
            f"this one {what}. It may use nothing that has a row for each sample, nor compare samples: give a tensor "
            "as the target itself (classes as a LongTensor, positions and ids in relprop.targets.Token, an initial "
            "relevance shaped like the output), or leave max_batch out"
        )


def check_alone(parts: Sequence[Target]) -> None:
    """Refuse a callable that scores a sample otherwise among all samples than among those of its part.

    `parts`: what `rows` gave for parts of the samples that follow one another, after they were used.
    """
    first = parts[0]
    if isinstance(first, list):
        for each in zip(*parts, strict=True):
            check_alone(each)
    elif isinstance(first, Contrast):
        check_alone([p.a for p in parts])  # type: ignore[union-attr]
        check_alone([p.b for p in parts])  # type: ignore[union-attr]
    elif isinstance(first, _OfRows):
        outputs = [p.seen[0] for p in parts]  # type: ignore[union-attr]
        together = initial(torch.cat(outputs), _OfRows(first.target, first.samples))
        apart = [initial(z, first.target) for z in outputs]
        for a, b in zip(together[:2], zip(*(x[:2] for x in apart), strict=True), strict=True):
            _check_same_rows(a, torch.cat(b), together[0], first)


def _check_same_rows(a: Tensor, b: Tensor, R: Tensor, target: _OfRows) -> None:
    """Equal rows, up to rounding relative to the relevance each sample starts with."""
    scale = R.flatten(1).abs().sum(1) if R.dim() > 1 else R.abs()
    apart = (a - b).abs().reshape(len(a), -1).amax(1)
    if bool((apart > tolerance(R.dtype) * scale).any()):
        bad = int((apart > tolerance(R.dtype) * scale).nonzero()[0])
        raise TargetError(target.refusal(f"scores sample {bad} otherwise among {len(a)} samples than in its chunk"))


def join(parts: Sequence[Any]) -> Any:
    """The resolved targets of parts of the samples as that of all of them."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, list):
        return [join(each) for each in zip(*parts, strict=True)]
    if isinstance(first, Token):
        return Token(join([p.position for p in parts]), join([p.id for p in parts]))
    if isinstance(first, Contrast):
        return Contrast(join([p.a for p in parts]), join([p.b for p in parts]))
    return first.target if isinstance(first, _OfRows) else first
