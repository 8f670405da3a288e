"""Targets of some of the samples at a time: cut, checked and joined again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import TargetError
from ..values import tolerance
from .kinds import COMPOSED, Target
from .start import initial


def rows(target: Target, which: slice, samples: int) -> Target:
    """The target of some of the samples: tensors with one row a sample are cut, what names all alike stays.

    A callable becomes one that is given these samples' outputs and remembers them, for `check_alone`. Raises
    TargetError where a tensor has not one row for each of the `samples`.

    >>> from relprop.targets import Token
    >>> rows(Token(torch.tensor([3, 5, 7]), 1), slice(1, 3), 3)
    Token(position=tensor([5, 7]), id=1)
    """
    if isinstance(target, list):
        return [rows(t, which, samples) for t in target]
    if isinstance(target, COMPOSED):
        cut: list[Any] = [rows(v, which, samples) for v in vars(target).values()]
        return type(target)(*cut)
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

    @property
    def of_output(self) -> bool:
        """Whether the callable is a value of the output itself."""
        return getattr(self.target, "of_output", False)

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
    elif isinstance(first, COMPOSED):
        for name in vars(first):
            check_alone([getattr(p, name) for p in parts])
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
    if isinstance(first, COMPOSED):
        return type(first)(*(join([getattr(p, name) for p in parts]) for name in vars(first)))
    return first.target if isinstance(first, _OfRows) else first
