"""Checks of rule parameters, before anything runs: each names the parameter and what it may be."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from ..errors import CompositeError
from .registry import Rule

BIAS = ("absorb", "ignore", "share")
EPSILON = ("rms", "std", "absolute")
GATE = ("signal", "half")


def check_parameters(rule: Rule, given: dict[str, Any]) -> None:
    """Refuse values the rule is not defined for, and a missing one without a default."""
    needed = [k for k, v in rule.parameters.items() if v is inspect.Parameter.empty and given.get(k) is None]
    if needed:
        raise CompositeError(
            f"rule {rule.name!r} needs {' and '.join(f'{k}=' for k in needed)}: "
            f"functools.partial(relprop.rules.{rule.name}, {', '.join(f'{k}=...' for k in needed)})"
        )
    for name, value in given.items():
        if not _can_be_written(value):
            raise CompositeError(
                f"{name}={value!r}: rule {rule.name!r} cannot take a {type(value).__name__}, because parameters "
                "are written into a program; give numbers, texts, tensors or tuples of them"
            )
    for name in ("gamma", "epsilon"):
        if name in given and not _number(given[name]) >= 0:
            raise CompositeError(f"{name}={given[name]!r}: it must be a number that is not negative")
    for name, choices in (("bias", BIAS), ("epsilon_mode", EPSILON), ("gate", GATE)):
        if name in given and given[name] not in choices:
            raise CompositeError(f"{name}={given[name]!r}: it is one of {', '.join(choices)}")
    if "power" in given and not (_number(given["power"]) >= 1 and given["power"] == int(given["power"])):
        raise CompositeError(f"power={given['power']!r}: it must be a whole number of at least 1")
    if "order" in given and given["order"] not in (1, 2):
        raise CompositeError(f"order={given['order']!r}: the Taylor expansion is of order 1 or 2")
    if rule.name == "alpha_beta":
        complete_alpha_beta(given.get("alpha"), given.get("beta"))
    if rule.name == "z_box":
        _check_box(given["low"], given["high"])


def plain(value: Any) -> Any:
    """A number of numpy as Python's own, since it is written into a program; anything else as it is."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0 else value


def _can_be_written(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_can_be_written, value))
    return value is None or isinstance(value, (bool, int, float, str, torch.Tensor))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else -1.0


def complete_alpha_beta(alpha: float | None, beta: float | None) -> tuple[float, float]:
    """Both parameters from either, 2 and 1 from neither, refusing α − β ≠ 1."""
    if alpha is None:
        alpha = 2.0 if beta is None else 1.0 + beta
    if beta is None:
        beta = alpha - 1.0
    if not abs(alpha - beta - 1.0) <= 1e-9:
        raise CompositeError(f"alpha={alpha}, beta={beta}: alpha - beta must be 1 (relevance would not be conserved)")
    return float(alpha), float(beta)


def _check_box(low: Any, high: Any) -> None:
    lo, hi = torch.as_tensor(low), torch.as_tensor(high)
    try:
        empty = bool((lo >= hi.to(lo.device)).any())
    except RuntimeError:
        raise CompositeError(f"low {tuple(lo.shape)} and high {tuple(hi.shape)} do not fit each other") from None
    if empty or not bool(torch.isfinite(lo).all() and torch.isfinite(hi).all()):
        raise CompositeError("low >= high: the box of the zB rule is empty; low must lie below high, both finite")
