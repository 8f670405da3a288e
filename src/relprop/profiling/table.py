"""Rows in print: a line for each kind of op and rule, a line for each op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from .rows import Row, summed

TOP = 20  # lines of each table
TEXTS = ("node", "op", "rule")

Columns = Sequence[tuple[str, Callable[[Row], str]]]


def by_kind(rows: Sequence[Row], total: Row, top: int) -> list[str]:
    """Lines for sums over ops of a kind, the first `top` of them, and the sum of all."""
    names: Columns = (("op", lambda r: r.op), ("rule", lambda r: r.rule), ("ops", lambda r: str(r.count)))
    return _table(rows, (*names, *_figures(total)), replace(total, op="all"), top, lambda r, name: replace(r, op=name))


def by_node(rows: Sequence[Row], total: Row, top: int) -> list[str]:
    """Lines for ops, the first `top` of them, and the sum of all."""
    names: Columns = (("node", lambda r: r.node), ("op", lambda r: r.op), ("rule", lambda r: r.rule))
    return _table(rows, (*names, *_figures(total)), total, top, lambda r, name: replace(r, node=name))


def number(x: float) -> str:
    """Three figures or so, of the same width for neighbours."""
    places = 0 if abs(x) >= 1000 else 1 if abs(x) >= 10 else 2 if abs(x) >= 1 else 3
    return f"{x:,.{places}f}"


PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))


def unit(x: float, name: str) -> str:
    """A number with its unit, such as 1.53 ms; counts have no parts."""
    known = PREFIXES[4:] if name == "s" else PREFIXES[:5]
    scale, prefix = next(((s, p) for s, p in known if abs(x) >= s), known[-1])
    return f"{number(x / scale)} {prefix}{name}"


def _figures(total: Row) -> Columns:
    """The columns of numbers, in units that fit the sum."""
    flops, many = (1e9, "GFLOP") if total.flops >= 1e9 else (1e6, "MFLOP")
    size, large = (1e6, "MB") if total.moved >= 1e6 else (1e3, "kB")
    return (
        ("lost ms", lambda r: number(r.lost * 1e3)),
        ("excess ms", lambda r: number(r.excess * 1e3)),
        ("time ms", lambda r: number(r.seconds * 1e3)),
        ("limit ms", lambda r: number(r.limit * 1e3)),
        ("share", lambda r: f"{r.share:.0%}"),
        ("forward ms", lambda r: number(r.forward.seconds * 1e3)),
        ("back ms", lambda r: number(r.backward.seconds * 1e3)),
        ("gradient ms", lambda r: number(r.gradient.seconds * 1e3)),
        (many, lambda r: number(r.forward.flops / flops)),
        ("back", lambda r: number(r.backward.flops / flops)),
        (f"{large} moved", lambda r: number(r.moved / size)),
        ("needed", lambda r: number(r.both.needed / size)),
    )


def _table(rows: Sequence[Row], columns: Columns, total: Row, top: int, called: Callable[[Row, str], Row]) -> list[str]:
    """Lines of a table: the first `top` rows, the rest in one, and the sum of all."""
    rest = rows[top:]
    more = [called(summed(rest, ""), f"({len(rest)} more)")] if rest else []
    lines = [[name for name, _ in columns]]
    lines += [[get(row) for _, get in columns] for row in (*rows[:top], *more, total)]
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    fits = [str.ljust if name in TEXTS else str.rjust for name, _ in columns]
    return ["  ".join(fit(c, w) for fit, c, w in zip(fits, line, wide, strict=True)).rstrip() for line in lines]
