"""How an explanation is computed: what trades time, memory and precision for each other, and changes no rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .chunks import MaxBatch, check_max_batch
from .errors import InputError


@dataclass(frozen=True)
class Execution:
    """Options of `relprop.explain` and `relprop.Explainer` that do not change what is computed.

    `compile`: the program is compiled by `torch.compile` as one graph. `checkpoint`: the way back computes the model's
    values again, segment by segment, instead of keeping them (about one forward pass more). `precision`: "bf16" runs
    linear maps, convolutions, matrix products and attention in bfloat16, and sums of relevance in float32.
    `max_batch`: how many samples at a time; "auto": as many as fit into memory.
    """

    compile: bool = False
    checkpoint: bool = False
    precision: Literal["bf16"] | None = None
    max_batch: MaxBatch = None

    def __post_init__(self) -> None:
        for name in ("compile", "checkpoint"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}={getattr(self, name)!r}: give True or False")
        if self.precision not in (None, "bf16"):
            raise InputError(
                f'precision={self.precision!r}: give "bf16", or None for the precision the model computes in'
            )
        if self.compile and self.checkpoint:
            raise InputError(
                "compile and checkpoint exclude each other: a compiler keeps a value rather than compute it twice"
            )
        check_max_batch(self.max_batch)
