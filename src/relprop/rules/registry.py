"""The list of rules: name, families, whether it conserves relevance, source."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from ..errors import CompositeError
from ..ops import Family

RuleFunction = Callable[..., Any]
F = TypeVar("F", bound=RuleFunction)


@dataclass(frozen=True)
class Rule:
    """What is declared of a rule beside its function.

    `feeds`: the live arguments that get relevance, by position, or "signal" (of a product); None: all.
    `forward`: computes the op's value together with what the rule needs of it again, `Call.saved`. `rectified`: where
    relevance arrives only where y > 0, max(0, y) will do for y, with `Call.scale`.
    """

    name: str
    function: RuleFunction
    families: frozenset[Family]
    conserves: bool
    source: str
    feeds: tuple[int, ...] | str | None = None
    forward: Callable[[Any], tuple[Any, Any]] | None = None
    rectified: bool = False

    @property
    def parameters(self) -> dict[str, Any]:
        """Names and defaults; a parameter without a default is `inspect.Parameter.empty`."""
        ps = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in ps if p.kind is p.KEYWORD_ONLY}

    @property
    def equation(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.function) or "").split("\n")[0]


_RULES: dict[str, Rule] = {}


def rule(
    *families: Family,
    conserves: bool = True,
    source: str,
    feeds: tuple[int, ...] | str | None = None,
    forward: Callable[[Any], tuple[Any, Any]] | None = None,
    rectified: bool = False,
) -> Callable[[F], F]:
    """Declare a rule `(R, f, *, parameters) -> R_a` for ops of these families.

    `R` is the relevance of the call's output, `f` the `Call`; the result has the shape of its live input (a tuple
    if there are several). `feeds` names the live arguments that get relevance where that is not all of them; for
    `forward` and `rectified` see `Rule`.
    """

    def declare(function: F) -> F:
        name = function.__name__
        if name in _RULES and _RULES[name].function.__module__ != function.__module__:
            raise CompositeError(f"there is a rule called {name!r} already; rename the new one")
        _RULES[name] = Rule(name, function, frozenset(families), conserves, source, feeds, forward, rectified)
        return function

    return declare


def names() -> list[str]:
    """All rules by name."""
    return sorted(_RULES)


def get(rule: str | RuleFunction) -> tuple[Rule, dict[str, Any]]:
    """The declaration of a rule given by name, function or `functools.partial`, and the parameters the partial binds.

    >>> get("epsilon")[0].parameters["epsilon"]
    1e-06
    """
    bound: dict[str, Any] = {}
    function: Any = rule
    while isinstance(function, partial):
        if function.args:
            raise CompositeError(f"give the parameters of {function.func.__name__!r} by keyword")
        bound = {**function.keywords, **bound}
        function = function.func
    key = function if isinstance(function, str) else getattr(function, "__name__", None)
    found = _RULES.get(key) if isinstance(key, str) else None
    if found is None or not (isinstance(function, str) or found.function is function):
        raise CompositeError(
            f"{rule!r} is no rule; there are {', '.join(names())} (declare your own with @relprop.rules.rule)"
        )
    unknown = set(bound) - set(found.parameters)
    if unknown:
        raise CompositeError(
            f"rule {found.name!r} has no parameter {', '.join(sorted(unknown))}; it has "
            + (", ".join(found.parameters) or "none")
        )
    return found, bound
