"""Which of a sample's outputs an index or a token means."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ..errors import TargetError
from ..values import concrete
from .kinds import Logit, Token


@dataclass(frozen=True)
class Choice:
    """One of the scores of each sample.

    `scores`: (samples, classes), of a language model at the chosen position. `index`: (samples,), the chosen one.
    `place`: (samples,), the position, where there are positions. `shape`: of the model's output.
    """

    scores: Tensor
    index: Tensor
    place: Tensor | None
    shape: torch.Size

    @property
    def resolved(self) -> Tensor | Token:
        """What was chosen, with a number for each sample."""
        return self.index if self.place is None else Token(self.place, self.index)

    def mask(self, index: Tensor | None = None) -> Tensor:
        """(samples, classes), true at `index`, by default the chosen one."""
        index = self.index if index is None else index
        return index[:, None] == torch.arange(self.scores.shape[1], device=index.device)

    def whole(self, R: Tensor) -> Tensor:
        """Relevance of the scores, (samples, classes), in the shape of the output: zero at other positions."""
        if self.place is None:
            return R.reshape(self.shape)
        here = self.place[:, None] == torch.arange(self.shape[1], device=R.device)
        return here[..., None] * R[:, None]


def choose(output: Tensor, c: Any, what: str) -> Choice:
    """The scores that `c` chooses from, and which: None, an index, a LongTensor with one a sample, a Logit, a Token.

    `what`: what to call `c` in a refusal.
    """
    if isinstance(c, Token):
        return _token(output, c)
    scores = _classes(output)
    return Choice(scores, entry(scores, c.c if isinstance(c, Logit) else c, what), None, output.shape)


def entry(scores: Tensor, c: Any, what: str) -> Tensor:
    """The index of each sample in its scores, (samples, classes): the largest for None."""
    if c is None:
        return scores.argmax(1)
    if isinstance(c, Tensor):
        return _indices(c, scores)
    if isinstance(c, Integral) and not isinstance(c, bool):
        return _indices(torch.full((len(scores),), int(c), device=scores.device), scores)
    raise TargetError(f"{what}={c!r}: give None, a class index, or a LongTensor with one index a sample")


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


def _token(output: Tensor, target: Token) -> Choice:
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
    return Choice(scores, entry(scores, chosen, "Token id"), place, output.shape)


def _each(index: Any, samples: int, device: torch.device, what: str) -> Tensor:
    """One whole number a sample."""
    if isinstance(index, bool) or not isinstance(index, (Integral, Tensor)):
        raise TargetError(f"Token {what}={index!r}: give an index, or a LongTensor with one a sample")
    if isinstance(index, Integral):
        return torch.full((samples,), int(index), device=device)
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
    index = index.long()  # comparisons are not defined for every type without sign
    if concrete(index) and bool(((index < 0) | (index >= classes)).any()):
        bad = int(index[(index < 0) | (index >= classes)][0])
        raise TargetError(f"target {bad} is out of range: the model has {classes} outputs, 0 to {classes - 1}")
    return index.to(scores.device)
