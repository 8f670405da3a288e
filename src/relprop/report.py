"""What relprop says of a model before it runs: the rule table, and the report of `examine`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class RuleTable:
    """The rule of every op relevance passes; `notes` say what capture and canonization did. Prints as a table."""

    rows: list[dict[str, str]]
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[dict[str, str]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        columns = ("node", "module", "op", "rule", "parameters", "why")
        wide = {c: max([len(c), *(len(r[c]) for r in self.rows)]) for c in columns}
        lines = ["  ".join(f"{c:<{wide[c]}}" for c in columns).rstrip()]
        lines += ["  ".join(f"{r[c]:<{wide[c]}}" for c in columns).rstrip() for r in self.rows]
        return "\n".join([*lines, *(f"note: {n}" for n in self.notes)])

    __repr__ = __str__


@dataclass
class Report:
    """What `examine` found. `error`: why the model cannot be explained at all. `missing`: ops without a rule.
    `unmatched`: patterns that match nothing. `rules`: the rule table. Prints as a text."""

    model: str
    error: str = ""
    missing: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    rules: RuleTable = field(default_factory=lambda: RuleTable([]))
    ops: dict[str, int] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether `explain` will run."""
        return not (self.error or self.missing or self.unmatched)

    def __str__(self) -> str:
        if self.error:
            return f"{self.model} cannot be explained: {self.error}"
        lines = [str(self.rules), "", "ops: " + ", ".join(f"{n} {op}" for op, n in sorted(self.ops.items()))]
        lines += [f"missing: {m}" for m in self.missing] + [f"matches nothing: {u}" for u in self.unmatched]
        verdict = "ready: every op relevance passes has a rule" if self.ready else "not ready"
        return "\n".join([*lines, f"{self.model}: {verdict}"])

    __repr__ = __str__
