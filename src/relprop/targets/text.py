"""Targets of classes as text: from what a user writes, and back to words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from ..errors import TargetError
from .kinds import Contrast, LogOdds, Margin, Probability, Target, Token

KINDS: dict[str, type[LogOdds | Margin | Probability]] = {
    "odds": LogOdds, "margin": Margin, "probability": Probability,
}  # fmt: skip


def parse(text: str, index: Callable[[str], int]) -> Target:
    """The target that a text names: CLASS, odds:CLASS, margin:CLASS,RIVAL or probability:CLASS.

    `index`: the index of a class by what the user wrote for it, its name or number. Without CLASS the predicted one is
    meant, without RIVAL the largest other output. Raises `TargetError`: more classes than the kind takes, and what
    `index` raises.

    >>> classes = ["cat", "dog", "frog"]
    >>> parse("odds:dog", classes.index), parse("margin:,frog", classes.index), parse("frog", classes.index)
    (LogOdds(c=1), Margin(c=None, rival=2), 2)
    """
    kind, _, names = text.partition(":")
    made = KINDS.get(kind.lower())
    if made is None:
        return index(text)
    chosen = [index(name.strip()) if name.strip() else None for name in names.split(",")]
    if len(chosen) > len(fields(made)):
        takes = "a class and a rival" if made is Margin else "a class"
        raise TargetError(f"target {text!r}: {kind} takes {takes}, not {len(chosen)} classes")
    return made(*chosen)


def words(target: Any, name: Callable[[Any], str]) -> str:
    """What a resolved target asks for: "cat", "cat rather than dog", "cat against all others", "probability of cat".

    `name`: what to call a class, given as the target has it: indices of the samples, or a `Token`.

    >>> words(Margin(3, 5), str), words(Contrast(LogOdds(3), 5), str)
    ('3 rather than 5', '3 against all others rather than 5')
    """
    if isinstance(target, Contrast):
        return f"{words(target.a, name)} rather than {words(target.b, name)}"
    if isinstance(target, Margin):
        rival = Token(target.c.position, target.rival) if isinstance(target.c, Token) else target.rival
        return f"{words(target.c, name)} rather than {words(rival, name)}"
    if isinstance(target, LogOdds):
        return f"{words(target.c, name)} against all others"
    if isinstance(target, Probability):
        return f"probability of {words(target.c, name)}"
    return name(target)


def check_end(target: Any, finals: set[str]) -> None:
    """Refuse targets that are another quantity at the logits of a model that ends in one of these operations.

    `finals`: the names of its last softmax and sigmoid, whose logits are explained instead. A softmax's quantity is
    refused of outputs that have a sigmoid each, and so do not compete; a target of the output's own value, of either.
    """
    kind = competing(target)
    if kind and finals & {"sigmoid", "log_sigmoid"}:
        raise TargetError(
            f"{kind} is the quantity of a softmax, but this model ends in a sigmoid: there each output is itself "
            "the log-odds of its class, and target=c, the class index, explains it"
        )
    if finals and (own := _of_output(target)):
        raise TargetError(
            f"{own} is a value of the output, but this model ends in a {min(finals)}, in front of which relprop "
            "explains: give the model without it, and the target is of its logits"
        )


def _of_output(target: Any) -> str:
    """The kind of a target that is a value of the output itself, if there is one in `target`, else ""."""
    parts = target if isinstance(target, list) else [target.a, target.b] if isinstance(target, Contrast) else []
    own = type(getattr(target, "target", target)).__name__ if getattr(target, "of_output", False) else ""
    return own or next(filter(None, map(_of_output, parts)), "")


def competing(target: Any) -> str:
    """The kind of target that takes the classes for those of one softmax, if there is one in `target`, else "".

    >>> competing([3, Contrast(LogOdds(3), 5)]), competing(Margin(3))
    ('LogOdds', '')
    """
    if isinstance(target, Contrast):
        return competing(target.a) or competing(target.b)
    if isinstance(target, list):
        return next(filter(None, map(competing, target)), "")
    return type(target).__name__ if isinstance(target, (LogOdds, Probability)) else ""
