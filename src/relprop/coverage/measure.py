"""One model tried: captured, rules assigned, explained with each composite, the ledger checked."""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .. import composites
from ..composites.composite import missing_message
from ..errors import RelpropError
from ..execution import Execution
from ..guards import check_model
from ..ops import name as op_name
from ..prepared import Prepared
from ..program import emit
from .subject import Subject, peak

RTOL = 1e-3  # of the ledger, relative to the largest amount of relevance that passed any op
ROUNDING = ("the ledger is", "another output", "NaN", "not finite")  # reasons that rounding may be behind


@dataclass
class Tried:
    """What came of one composite: the ledger's error, the largest |R| / |score|, and whether that is a pass."""

    error: float = float("nan")
    peak: float = float("nan")
    reason: str = ""


@dataclass
class Row:
    """One model of the table. `reason`: why it does not pass, '' where it does. `missing`: ops without a rule."""

    zoo: str
    model: str
    parameters: int = 0
    shapes: str = ""
    dtype: str = ""
    seconds: float = 0.0  # from the model to the assigned rules, with the first composite
    ops: int = 0
    missing: dict[str, str] = field(default_factory=dict)  # op: what is said of its first place
    tried: dict[str, Tried] = field(default_factory=dict)
    reason: str = ""
    recipes: list[str] = field(default_factory=list)
    versions: str = ""

    @property
    def passes(self) -> bool:
        """Captured, every op has a rule, and every composite gave finite relevance that adds up."""
        return not self.reason

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, data: dict[str, Any]) -> Row:
        """Back from JSON."""
        return cls(**{**data, "tried": {name: Tried(**t) for name, t in data.get("tried", {}).items()}})


def measure(row: Row, subject: Subject) -> None:
    """Fill the row.

    A model whose samples cannot be told apart, or share an input, is tried with one sample; one that amplifies
    rounding errors in float64.
    """
    row.parameters = sum(p.numel() for p in subject.model.parameters())
    row.dtype = "float32"
    _attempt(row, subject)
    if "samples cannot be told apart" in row.reason or (row.reason and subject.shares):
        subject = subject.single()
        _attempt(row, subject)
    if any(said in row.reason for said in ROUNDING):
        row.dtype = "float64"
        _attempt(row, subject.double())


def _attempt(row: Row, subject: Subject) -> None:
    row.reason, row.missing, row.tried = "", {}, {}
    row.shapes = " + ".join("×".join(map(str, t.shape)) for t in _tensors(subject.inputs))
    start = time.perf_counter()
    try:
        check_model(subject.model)
        state = Prepared(subject.model, subject.inputs, composites.get(row.recipes[0]), Execution(), strict=False)
    except RelpropError as error:
        row.reason = in_short(error)
        return
    row.seconds = time.perf_counter() - start
    row.ops = sum(n.op == "call_function" and n in state.reading.reached for n in state.reading.graph.nodes)
    for node in state.assignment.missing:
        if op_name(node.target) == "getitem":  # a part of another op's result; that op is missing too
            continue
        row.missing.setdefault(op_name(node.target), in_short(missing_message(node, state.reading)))
    row.reason = "; ".join([*(f"no rule for {op}" for op in row.missing), *state.interleaved()])
    if row.reason:
        return
    row.tried = {recipe: _explained(state, subject, recipe) for recipe in row.recipes}
    row.reason = "; ".join(f"{recipe}: {t.reason}" for recipe, t in row.tried.items() if t.reason)


def _explained(state: Prepared, subject: Subject, recipe: str) -> Tried:
    """One composite on the capture that all of them share."""
    tried = Tried()
    try:
        state.assignment = composites.assign(composites.get(recipe), state.reading)
        state.assignment.check(state.reading)
        program = emit(state.captured, state.reading, state.assignment, state.explained, ledger=True, record={})
        with torch.no_grad():
            e = state.run(program, state.check(subject.inputs), peak, True)
    except RelpropError as error:
        tried.reason = in_short(error)
        return tried
    R = torch.stack([_largest(r, len(e.score)) for r in _tensors(e.relevance)]).amax(0)
    tried.error, tried.peak = float(e.ledger.error.max()), float((R / e.score.abs()).max())
    if not bool((R > 0).all()):
        tried.reason = "the relevance is zero"
    elif not e.ledger.closes(RTOL):
        tried.reason = f"the ledger is {tried.error:.0e} off"
    return tried


def _largest(R: Tensor, samples: int) -> Tensor:
    """Of each sample; of all, where samples share the input."""
    return R.abs().flatten(1).amax(1) if len(R) == samples else R.abs().max().expand(samples)


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor)]


def in_short(error: RelpropError | str) -> str:
    """What an error says, without the folder packages are installed in: the table is for other machines too."""
    return re.sub(r"\S*/site-packages/", "", str(error))
