"""The ledger: where the score went. score = Σ input + Σ bias + Σ epsilon + Σ residual, per sample and per op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

ACCOUNTS = ("bias", "epsilon", "residual")


@dataclass(frozen=True)
class OpEntry:
    """What one op did with the relevance that arrived at it; tensors over samples.

    `constant`: the module or parameter of what was added that does not depend on the explained inputs, such as
    `embeddings.position_embeddings`; its share is in `bias`.
    """

    node: str
    module: str
    op: str
    rule: str
    arrived: Tensor
    passed: Tensor
    bias: Tensor
    epsilon: Tensor
    residual: Tensor
    constant: str = ""

    @property
    def gap(self) -> Tensor:
        """arrived − passed − bias − epsilon − residual: rounding, if the rule is right."""
        return self.arrived - self.passed - self.bias - self.epsilon - self.residual


@final
class Ledger:
    """Accounts of one explanation; every amount is a tensor over samples.

    `input`: relevance of the explained inputs. `bias`: what biases and other constants took. `epsilon`: what
    stabilizers absorbed. `residual`: what non-conserving rules kept. `score`: what was to be explained. `total`: the
    sum of the first four. `by_op`: one `OpEntry` an op, from the output to the input.
    """

    def __init__(
        self, score: Tensor, start: Tensor, relevance: list[Tensor], by_op: list[OpEntry], *, rtol: float | None = None
    ) -> None:
        wide = torch.float64 if score.dtype == torch.float64 else torch.float32
        self.score = score.to(wide)
        self.rtol = rtol or (1e-9 if score.dtype == torch.float64 else 1e-3)
        self.by_op = by_op
        zero = torch.zeros_like(self.score)
        self.input = sum((_per_sample(r, self.score) for r in relevance), zero)
        self.bias = sum((e.bias.to(wide) for e in by_op), zero)
        self.epsilon = sum((e.epsilon.to(wide) for e in by_op), zero)
        # what a non-linear target did not hand to the outputs
        self.residual = sum((e.residual.to(wide) for e in by_op), zero) + (self.score - start.to(wide))

    @property
    def total(self) -> Tensor:
        """input + bias + epsilon + residual."""
        return self.input + self.bias + self.epsilon + self.residual

    @property
    def error(self) -> Tensor:
        """|score − total| relative to the largest amount that passed any op of the sample."""
        moved = [e.arrived.abs() for e in self.by_op] + [self.score.abs()]
        scale = torch.stack([m.to(self.score.dtype) for m in moved]).amax(0)
        return (self.score - self.total).abs() / scale.clamp(min=torch.finfo(self.score.dtype).tiny)

    def closes(self, rtol: float | None = None) -> bool:
        """Whether score and total agree for every sample, and arrivals and departures at every op.

        `rtol` is relative to the largest amount that passed any op; by default 1e-9 for a model that computes in
        float64 throughout, and 1e-3 for others.
        """
        rtol = self.rtol if rtol is None else rtol
        finite = bool(torch.isfinite(self.error).all())
        return finite and bool((self.error <= rtol).all()) and all(self._op_closes(e, rtol) for e in self.by_op)

    def _op_closes(self, e: OpEntry, rtol: float) -> bool:
        amounts = torch.stack([e.arrived, e.passed, e.bias, e.epsilon, e.residual]).abs().amax(0)
        floor = rtol * torch.stack([x.arrived.abs() for x in self.by_op]).amax(0)
        return bool((e.gap.abs() <= torch.maximum(rtol * amounts, floor)).all())

    def rows(self, sample: int = 0) -> list[dict[str, Any]]:
        """The accounts of one sample, an op a row, as numbers."""
        names = ("arrived", "passed", *ACCOUNTS)
        return [
            {
                "node": e.node,
                "module": e.module,
                "op": e.op,
                "rule": e.rule,
                "constant": e.constant,
                **{n: float(getattr(e, n)[sample]) for n in names},
            }
            for e in self.by_op
        ]

    def __str__(self) -> str:
        head = f"{'sample':>6} {'score':>12} = {'input':>12} + {'bias':>12} + {'epsilon':>12} + {'residual':>12}"
        lines = [head]
        for i in range(len(self.score)):
            amounts = [float(getattr(self, n)[i]) for n in ("score", "input", *ACCOUNTS)]
            lines.append(f"{i:>6} " + "   ".join(f"{a:>12.5g}" for a in amounts))
        busy = [r for r in self.rows() if any(abs(r[n]) > 0 for n in ACCOUNTS)]
        if busy:
            lines.append("")
            lines.append("of sample 0, by op (those that kept something):")
            wide = max(len(r["module"] or r["node"]) for r in busy)
            named = "  constant" if any(r["constant"] for r in busy) else ""
            lines.append(
                f"  {'module':<{wide}} {'op':<16} {'rule':<12} "
                + " ".join(f"{n:>11}" for n in ("arrived", "passed", *ACCOUNTS))
                + named
            )
            for r in busy:
                numbers = " ".join(f"{r[n]:>11.4g}" for n in ("arrived", "passed", *ACCOUNTS))
                line = f"  {r['module'] or r['node']:<{wide}} {r['op']:<16} {r['rule']:<12} {numbers}  {r['constant']}"
                lines.append(line.rstrip())
        return "\n".join(lines)

    __repr__ = __str__


def _per_sample(r: Tensor, like: Tensor) -> Tensor:
    r = r.to(like.dtype)
    return r.reshape(len(like), -1).sum(1) if len(r) == len(like) else r.sum().expand(like.shape) / len(like)


def fold(rows: Tensor, samples: int) -> Tensor:
    """Ledger rows over a batch dimension that was merged with others, back to one column a sample."""
    return rows if rows.shape[1] == samples else rows.reshape(rows.shape[0], samples, -1).sum(2)
