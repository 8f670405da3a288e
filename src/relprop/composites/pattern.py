"""Patterns select nodes of the graph by family, op, module path, module class, or place; they combine with & | ~."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import final

from torch import fx, nn

from .. import ops
from ..errors import CompositeError
from ..gates import Strength
from ..graph import Reading, module_class, module_paths
from ..ops import Family

Test = Callable[[fx.Node, Reading], bool]


@final
@dataclass(frozen=True)
class Pattern:
    """A test of nodes with a name for tables and messages.

    >>> first & (op("conv*") | op("linear"))
    first & (op('conv*') | op('linear'))
    """

    name: str
    test: Test

    def __call__(self, node: fx.Node, reading: Reading) -> bool:
        return self.test(node, reading)

    def __and__(self, other: Pattern | str) -> Pattern:
        o = as_pattern(other)
        return Pattern(f"{_group(self)} & {_group(o)}", lambda n, r: self.test(n, r) and o.test(n, r))

    def __or__(self, other: Pattern | str) -> Pattern:
        o = as_pattern(other)
        return Pattern(f"{_group(self)} | {_group(o)}", lambda n, r: self.test(n, r) or o.test(n, r))

    def __invert__(self) -> Pattern:
        return Pattern(f"~{_group(self)}", lambda n, r: not self.test(n, r))

    def __repr__(self) -> str:
        return self.name


def _group(p: Pattern) -> str:
    return f"({p.name})" if " " in p.name else p.name


def as_pattern(pattern: Pattern | str) -> Pattern:
    """A string is a glob over module paths."""
    if isinstance(pattern, str):
        return path(pattern)
    if not isinstance(pattern, Pattern):
        raise CompositeError(
            f"{pattern!r} is no pattern; use a module path such as 'layer1.*', or relprop.composites' "
            "path, kind, op, family, depth, first, last, everything"
        )
    return pattern


def path(glob: str) -> Pattern:
    """Nodes recorded in modules whose path (as in `named_modules()`) matches the glob; `*` also crosses dots."""
    return Pattern(f"path({glob!r})", lambda n, r: any(fnmatchcase(p, glob) for p in module_paths(n)))


def kind(module: type[nn.Module]) -> Pattern:
    """Nodes whose innermost module is of exactly this class."""
    if not isinstance(module, type):
        raise CompositeError(f"kind({module!r}): give a module class such as nn.Conv2d")
    name = f"{module.__module__}.{module.__qualname__}"
    return Pattern(f"kind({module.__name__})", lambda n, r: module_class(n) == name)


def op(glob: str) -> Pattern:
    """Calls of ops with this name: `conv2d`, `linear`, `conv*`."""
    known = {ops.name(t) for t in ops.TABLE}
    if not any(fnmatchcase(k, glob) for k in known):
        raise CompositeError(f"op({glob!r}) is no op relprop knows; there are {', '.join(sorted(known))}")
    return Pattern(f"op({glob!r})", lambda n, r: fnmatchcase(ops.name(n.target), glob))


def family(name: str | Family) -> Pattern:
    """Nodes of one family: affine, average, sum, max_pool, activation, shape, scale, product, batch_norm, ..."""
    try:
        wanted = Family(name)
    except ValueError:
        known = ", ".join(f.value for f in Family)
        raise CompositeError(f"family({name!r}) does not exist; there are {known}") from None
    return Pattern(f"family({wanted.value!r})", lambda n, r: r.family(n) is wanted)


def _weighing(n: fx.Node, r: Reading) -> Strength:
    return r.weighing(n)[0] if r.family(n) is Family.PRODUCT else Strength.NONE


def depth(low: float, high: float) -> Pattern:
    """Weighted layers at a depth in [low, high): 0 is the first, 1 the last (which high = 1 includes)."""
    if not 0 <= low < high <= 1:
        raise CompositeError(f"depth({low}, {high}): 0 <= low < high <= 1 is needed")

    def test(n: fx.Node, r: Reading) -> bool:
        d = r.depth(n)
        return d is not None and (low <= d < high or (d == 1 and high == 1))

    return Pattern(f"depth({low:g}, {high:g})", test)


first = Pattern("first", lambda n, r: r.is_first(n))
last = Pattern("last", lambda n, r: r.is_last(n))
everything = Pattern("everything", lambda n, r: True)

# What the recipes select by; users may too.
convolution = Pattern("convolution", lambda n, r: ops.name(n.target).startswith("conv"))
dense = Pattern("dense", lambda n, r: r.family(n) is Family.AFFINE and not ops.name(n.target).startswith("conv"))
normalizing = Pattern("normalizing", lambda n, r: _weighing(n, r) is Strength.STATISTIC)
weighted = Pattern("weighted", lambda n, r: _weighing(n, r) is Strength.WEIGHTS)
gated = Pattern("gated", lambda n, r: _weighing(n, r) in (Strength.RATE, Strength.BOUNDED))
activated = Pattern("activated", lambda n, r: _weighing(n, r) is Strength.ACTIVATED)
centred = Pattern("centred", lambda n, r: r.family(n) is Family.SUM and r.is_centred(n))
units = Pattern("units", lambda n, r: r.changes_units(n))
