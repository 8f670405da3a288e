"""The top layer: log-odds, probability and margin of a class (Montavon et al. 2019, section 10.3.1)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import TargetError
from ..values import concrete, finite
from .choice import Choice, choose, entry
from .kinds import LogOdds, Margin, Probability

Start = tuple[Tensor, Tensor, Any]  # initial relevance, score, resolved target


def log_odds(output: Tensor, target: LogOdds) -> Start:
    """R_c = z_c, R_c' = −p_c' z_c', and the score η_c = −log Σ_{c'≠c} exp(−(z_c − z_c'))."""
    chosen = _against(output, target)
    R, score = _redistributed(chosen)
    return chosen.whole(R), score, LogOdds(chosen.resolved)


def probability(output: Tensor, target: Probability) -> Start:
    """R = P_c (1 − P_c) z ⊙ ∂η_c/∂z, and the score P_c = σ(η_c)."""
    chosen = _against(output, target)
    R, odds = _redistributed(chosen)
    P, rest = odds.sigmoid(), (-odds).sigmoid()  # 1 − P, which would be 0 long before it is
    return chosen.whole((P * rest)[:, None] * R), P, Probability(chosen.resolved)


def margin(output: Tensor, target: Margin) -> Start:
    """R_c = z_c, R_c' = −z_c', and the score z_c − z_c' of a class and one rival."""
    chosen = _against(output, target)
    scores, own = chosen.scores, chosen.mask()
    if target.rival is None:
        rival = scores.masked_fill(own, -float("inf")).argmax(1)
    else:
        rival = entry(scores, target.rival, "Margin rival")
        same = rival == chosen.index
        if concrete(same) and bool(same.any()):
            raise TargetError(
                f"Margin compares class {int(rival[same][0])} with itself in sample {int(same.nonzero()[0])}: give "
                "another rival, or None for the largest other output"
            )
    R = scores * (own.to(scores.dtype) - chosen.mask(rival).to(scores.dtype))
    return chosen.whole(R), R.sum(1), Margin(chosen.resolved, rival)


def _redistributed(chosen: Choice) -> tuple[Tensor, Tensor]:
    """Relevance of the scores and log-odds, from the differences −z_cc' = z_c' − z_c: exact where scores are huge."""
    scores, own = chosen.scores, chosen.mask()
    z = scores.gather(1, chosen.index[:, None])
    against = (scores - z).masked_fill(own, -float("inf"))
    odds = -against.logsumexp(1)
    if concrete(odds) and not finite(odds) and finite(scores):
        raise TargetError(
            f"the log-odds of outputs as large as {float(scores.abs().max()):.3g} exceed what {scores.dtype} holds: "
            "explain the model in float64 (model.double())"
        )
    return scores.where(own, -against.softmax(1) * scores), odds


def _against(output: Tensor, target: LogOdds | Margin | Probability) -> Choice:
    """The chosen class, which must have rivals."""
    name = type(target).__name__
    chosen = choose(output, target.c, f"{name} c")
    if chosen.scores.shape[1] < 2:
        raise TargetError(
            f"{name} sets a class against others, but the output, of shape {tuple(output.shape)}, has one score a "
            "sample. Behind a sigmoid that score is itself the log-odds of the positive class: target=0 explains it"
        )
    return chosen
