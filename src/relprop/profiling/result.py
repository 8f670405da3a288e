"""A profile: one row an op, the whole beside the plain gradient; prints as tables."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import InputError
from .rows import ORDERS, Row, Run, summed
from .table import TOP, by_kind, by_node, unit


@dataclass(frozen=True, repr=False)
class Profile:
    """Where an explanation's time goes. Prints as tables: by kind of op and rule, and the ops that lose most.

    `rows`: one an op of the model, those that lose most time first; all rows add up to `total`. `call`: the whole
    explanation; `program`: the program in it, without what is checked before and after; `gradient`: the model's plain
    gradient; all in the same run. `peaks`: FLOP/s by precision, and `bandwidth`: bytes/s, as measured on `device` with
    `threads`.
    """

    model: str
    composite: str
    samples: int
    device: str
    threads: int
    repeats: int
    rows: tuple[Row, ...]
    call: Run
    program: Run
    gradient: Run
    peaks: dict[str, float]
    bandwidth: float
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> Row:
        """The sum of all rows."""
        return summed(self.rows, "all")

    @property
    def kinds(self) -> tuple[Row, ...]:
        """Rows of the same op and rule added up, those that lose most time first."""
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row.op, row.rule), []).append(row)
        made = (replace(summed(rows, ""), op=op, rule=rule) for (op, rule), rows in groups.items())
        return tuple(sorted(made, key=ORDERS["lost"], reverse=True))

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON; times in seconds, memory and traffic in bytes."""
        own = {k: v for k, v in asdict(self).items() if k != "rows"}
        return own | {"total": self.total.as_dict(), "rows": [row.as_dict() for row in self.rows]}

    def to_json(self) -> str:
        """`as_dict` as JSON text."""
        return json.dumps(self.as_dict(), indent=1)

    def __str__(self) -> str:
        return self.text()

    __repr__ = __str__

    def text(self, top: int = TOP, order: str = "lost") -> str:
        """The summary and both tables, `top` lines of each, sorted by `order`: "lost", "excess" or "time".

        Raises `InputError` for another order.
        """
        if order not in ORDERS:
            raise InputError(f"order={order!r}: rows are sorted by {', '.join(ORDERS)}")
        kinds, rows = (sorted(rows, key=ORDERS[order], reverse=True) for rows in (self.kinds, self.rows))
        tables = (*by_kind(kinds, self.total, top), "", *by_node(rows, self.total, top))
        return "\n".join([*self._summary(), "", *tables, *(f"note: {n}" for n in self.notes)])

    def _summary(self) -> list[str]:
        """What the whole costs, beside the plain gradient."""
        call, program, plain, total = self.call, self.program, self.gradient, self.total
        peaks = "".join(f"{unit(p, 'FLOP/s')} {dtype}, " for dtype, p in self.peaks.items())

        def beside(a: float, b: float, name: str) -> str:
            return f"{f'{a / b:.2f}' if b else '?'} × the plain gradient's {unit(b, name)}"

        return [
            f"{self.model}, composite {self.composite}: {self.samples} sample(s) on {self.device}, "
            f"{self.threads} CPU thread(s), median of {self.repeats}",
            f"time        {unit(call.seconds, 's')}: {beside(call.seconds, plain.seconds, 's')}",
            f"            {unit(program.seconds, 's')} in the program, {unit(total.seconds, 's')} summed over its ops",
            f"arithmetic  {unit(call.flops, 'FLOP')}: {beside(call.flops, plain.flops, 'FLOP')}",
            f"memory      {unit(call.memory, 'B')} of tensors at most: {beside(call.memory, plain.memory, 'B')}",
            f"limit       {unit(total.limit, 's')}, {total.share:.0%} of the ops' time; measured peaks: {peaks}"
            f"{unit(self.bandwidth, 'B/s')}",
        ]
