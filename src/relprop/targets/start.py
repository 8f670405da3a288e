"""From a target and the model's output to initial relevance and score."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ..errors import TargetError
from ..values import concrete, finite
from .choice import choose
from .kinds import Contrast, Logit, LogOdds, Margin, Probability, Target, Token
from .top import log_odds, margin, probability


def initial(output: Tensor, target: Target = None) -> tuple[Tensor, Tensor, Any]:
    """Initial relevance (shaped like the output), the score each sample starts from, and the target resolved.

    The output is that in front of a final softmax or sigmoid. `target` is None (the largest output of each sample),
    a class index, a LongTensor with one index a sample, a target of this module, a callable from the output to one
    score a sample, or the initial relevance itself. The relevance of a chosen output is that output, R_c = z_c; of a
    contrast it is R_a = z_a and R_b = −z_b; `LogOdds`, `Probability` and `Margin` say theirs. A callable's score t is
    spread over the outputs z by its first-order terms R = z ⊙ ∂t/∂z, which is exact for linear ones such as the
    difference of two logits; what a non-linear score leaves over is booked as residual. Outputs in half precision are
    explained in float32.
    """
    if output.dtype in (torch.float16, torch.bfloat16):
        output = output.float()
    if isinstance(target, Contrast):
        return _contrast(output, target)
    if isinstance(target, LogOdds):
        return log_odds(output, target)
    if isinstance(target, Probability):
        return probability(output, target)
    if isinstance(target, Margin):
        return margin(output, target)
    if isinstance(target, Logit):
        target = target.c
    if callable(target) and not isinstance(target, Tensor):
        return _callable(output, target)
    if isinstance(target, Tensor) and target.is_floating_point():
        return _relevance(output, target)
    if not (target is None or isinstance(target, (Tensor, Token, Integral))) or isinstance(target, bool):
        raise TargetError(
            f"target={target!r}: give None, a class index, a LongTensor with one index a sample, a target of "
            "relprop.targets, a callable from the output to one score a sample, or a floating point tensor shaped like "
            "the output"
        )
    chosen = choose(output, target, "target")
    R = chosen.scores * chosen.mask().to(output.dtype)
    return chosen.whole(R), R.sum(1), chosen.resolved


def _contrast(output: Tensor, target: Contrast) -> tuple[Tensor, Tensor, Contrast]:
    (R_a, score_a, a), (R_b, score_b, b) = initial(output, target.a), initial(output, target.b)
    return R_a - R_b, score_a - score_b, Contrast(a, b)


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
