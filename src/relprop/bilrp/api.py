"""bilrp and PairExplainer: the joint relevance of two inputs for the similarity of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..api import Explainer
from ..captured import Inputs
from ..composites import Composite
from ..errors import CompositeError, InputError, RelpropError, RuleError
from ..explanation import in_proportion
from ..guards import check_model
from ..program import Ledger
from ..turns import together
from ..values import same, tolerance
from .branch import Branch
from .cells import Pool
from .joint import JointRelevance, account
from .plan import Cost, Way, check_options, plan

Model = nn.Module | Sequence[nn.Module]
Pools = Pool | list[Pool]
LARGEST = 1 << 28  # numbers in the joint relevance


@final
class PairExplainer:
    """An embedding captured once, to explain the similarity of many pairs.

    >>> _ = torch.manual_seed(0)
    >>> embed = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8))
    >>> x, x2 = torch.randn(3, 4), torch.randn(3, 4)
    >>> explainer = PairExplainer(embed, x, x2, composite="epsilon", similarity="cosine")
    >>> explainer(x, x2).relevance.shape
    torch.Size([3, 4, 4])

    Arguments as of `relprop.bilrp`. Inputs of other shapes (texts of other lengths) are captured when they first come.
    """

    def __init__(
        self,
        model: Model,
        x: Inputs,
        x2: Inputs,
        composite: str | Composite = "auto",
        *,
        similarity: Literal["dot", "cosine"] = "dot",
        pool: Pools = None,
        way: Way = "auto",
        **rule_options: Any,
    ) -> None:
        check_options(similarity, way)
        refused = [n for n in ("compile", "checkpoint", "precision", "max_batch") if n in rule_options]
        if refused:
            raise CompositeError(
                f"{refused[0]} is no option of a rule, and bilrp takes none of execution; leave it out"
            )
        self.models = _two(model)
        self.composite, self.rule_options = composite, rule_options
        self.similarity, self.way = similarity, way
        self.pools = _each(pool)
        self._explainers: dict[Any, Explainer] = {}
        self.explainers = tuple(self._explainer(m, i) for m, i in zip(self.models, (x, x2), strict=True))

    @together()
    def __call__(self, x: Inputs, x2: Inputs, *, ledger: bool = False) -> JointRelevance:
        """Explain the similarity of each row of `x` with that of `x2`; see `relprop.bilrp`."""
        one, two = pair = self._branches(x, x2)
        few, many = sorted(pair, key=lambda branch: branch.cells.count)
        cost = plan(self.way, one.width, (one.cells.count, two.cells.count))
        few.embed(twice=cost.way == "tokens")
        many.embed(twice=False)
        norms = self._norms(pair)
        start = one.phi * two.phi / norms[:, None]
        maps = one.map(start), two.map(start)
        marginals = one.cells(maps[0]), two.cells(maps[1])
        cost, matrix, notes = self._joint(cost, few, many, norms, start, marginals[pair.index(few)])
        matrix = matrix if few is one else matrix.transpose(1, 2)
        most = one.phi.norm(dim=1) * two.phi.norm(dim=1) / norms  # of orthogonal embeddings the score says nothing
        in_proportion([matrix], [True], most, start.sum(1))
        of = self._ledgers(pair, (x, x2), start) if ledger else None
        return JointRelevance(
            relevance=matrix.reshape(len(matrix), *one.cells.shape, *two.cells.shape),
            score=start.sum(1),
            embeddings=(one.phi, two.phi),
            maps=maps,
            marginals=(marginals[0].reshape(-1, *one.cells.shape), marginals[1].reshape(-1, *two.cells.shape)),
            ledger=account(start.sum(1), matrix, marginals, of),
            cost=cost,
            inputs=(one.x, two.x),
            kinds=(one.cells.kind, two.cells.kind),
            notes=notes,
        )

    def _branches(self, x: Inputs, x2: Inputs) -> list[Branch]:
        """The two sides, if they fit together."""
        given = zip(self.models, (x, x2), self.pools, ("x", "x2"), strict=True)
        pair = [Branch(self._explainer(model, inputs), inputs, pool, name) for model, inputs, pool, name in given]
        _check_pair(*pair)
        return pair

    def _joint(
        self, cost: Cost, few: Branch, many: Branch, norms: Tensor, start: Tensor, marginal: Tensor
    ) -> tuple[Cost, Tensor, tuple[str, ...]]:
        """R (B, N, N') with the cells of `few` in front; the way that was taken, and why not another."""
        if cost.way == "tokens":
            try:
                return cost, by_cells(few, many, norms, start, marginal), ()
            except (RelpropError, RuntimeError) as e:
                if self.way == "tokens":
                    raise
                said = str(e).strip().partition("\n")[0]
                cost = Cost("units", cost.units, cost.tokens, "the other way failed")
                return cost, by_units(few, many, norms), (f"unit by unit, for cell by cell failed: {said}",)
        return cost, by_units(few, many, norms), ()

    def _norms(self, pair: list[Branch]) -> Tensor:
        """What the dot product is divided by, held at its value for each pair."""
        if self.similarity == "dot":
            return torch.ones_like(pair[0].phi[:, 0])
        sizes = [branch.phi.norm(dim=1) for branch in pair]
        for branch, size in zip(pair, sizes, strict=True):
            if bool((size == 0).any()):
                raise InputError(
                    f"{branch.name}: the embedding of sample {int((size == 0).nonzero()[0])} is zero and has no "
                    "cosine with another; leave that pair out, or use similarity='dot'"
                )
        product: Tensor = sizes[0] * sizes[1]
        return product

    def _ledgers(self, pair: list[Branch], inputs: tuple[Inputs, Inputs], start: Tensor) -> tuple[Ledger, Ledger]:
        """The accounts of the two marginals."""
        found = []
        for branch, model, given in zip(pair, self.models, inputs, strict=True):
            output = branch.state.explained.meta["val"]
            R = start.reshape(len(start), *(int(n) for n in output.shape[1:]))
            found.append(self._explainer(model, given)(given, R, ledger=True).ledger)
        return found[0], found[1]

    def _explainer(self, model: nn.Module, inputs: Inputs) -> Explainer:
        """The explainer for inputs of these shapes; x and x2 share it where they agree."""
        plain = dict(inputs) if isinstance(inputs, dict) else inputs
        leaves, structure = pytree.tree_flatten(plain)
        shapes = [(t.shape[1:], t.dtype) if isinstance(t, Tensor) else repr(t)[:80] for t in leaves]
        key = id(model), str(structure), str(shapes)
        if key not in self._explainers:
            self._explainers[key] = Explainer(model, inputs, self.composite, **self.rule_options)
        return self._explainers[key]


def by_units(one: Branch, two: Branch, norms: Tensor) -> Tensor:
    """R_ii' = Σ_m LRP(φ_m, x)_i · LRP(φ_m, x')_i', a pass for every unit m and input; (B, N, N')."""
    eye = torch.eye(one.width, dtype=one.phi.dtype, device=one.phi.device)[:, None]
    step = max(1, LARGEST // (16 * max(1, one.phi.numel())))  # starts are (K, B, E)
    total: Tensor | float = 0.0
    for part in torch.split(eye, step):
        A, A2 = (branch.relevance(part * branch.phi) for branch in (one, two))
        total = total + torch.einsum("mbi,mbj->bij", A, A2)
    assert isinstance(total, Tensor)
    return total / norms[:, None, None]


def by_cells(few: Branch, many: Branch, norms: Tensor, start: Tensor, marginal: Tensor) -> Tensor:
    """The same, cell by cell: with relevance of cells = L · relevance of units, R = L diag(φ) (L' diag(φ'))ᵀ.

    Row i of L diag(φ) is a transposed pass, and L' times φ' ⊙ that row a pass of the other input; (B, N, N').
    `marginal` = L `start`, by an ordinary pass, must come out of the transposed ones too: it would not if a rule were
    not linear in the relevance that arrives.
    """
    rows = few.transposed()
    again = (rows * start).sum(2).T
    if not same(again, marginal, slack=10 * tolerance(marginal.dtype)):
        raise RuleError(
            "a rule is not linear in the relevance that arrives, or its derivative is wrong: the marginals of the "
            'transposed passes differ from those of an ordinary one; use way="units"'
        )
    return many.relevance(rows * few.phi * many.phi).transpose(0, 1) / norms[:, None, None]


def _two(model: Any) -> tuple[nn.Module, nn.Module]:
    """The embeddings of the two sides."""
    if isinstance(model, (tuple, list)):
        if len(model) != 2:
            raise InputError(f"model holds {len(model)} modules; give one, or two, for x and for x2")
        for m in model:
            check_model(m)
        return model[0], model[1]
    check_model(model)
    return model, model


def _each(pool: Any) -> tuple[Pool, Pool]:
    """The pooling of the two sides."""
    if isinstance(pool, list):
        if len(pool) != 2:
            raise InputError(f"pool={pool!r}: a list has two entries, for x and for x2")
        return pool[0], pool[1]
    return pool, pool


def _check_pair(one: Branch, two: Branch) -> None:
    """Refuse two sides that do not fit together."""
    if one.width != two.width:
        raise InputError(
            f"the embeddings have different sizes, {one.width} for x and {two.width} for x2: their similarity is a sum "
            "over units, and needs the same number"
        )
    if len(one.x) != len(two.x):
        raise InputError(
            f"x holds {len(one.x)} samples, x2 {len(two.x)}: row i of one is compared with row i of the other"
        )
    if one.x.device != two.x.device:
        raise InputError(f"x is on {one.x.device}, x2 on {two.x.device}; move one of them")
    numbers = len(one.x) * one.cells.count * two.cells.count
    if numbers > LARGEST:
        raise InputError(
            f"the joint relevance would hold {len(one.x)} x {one.cells.count} x {two.cells.count} = {numbers:.3g} "
            "numbers: give pool, such as pool=8 for cells of 8 x 8 pixels, or fewer pairs at a time"
        )


def bilrp(
    model: Model,
    x: Inputs,
    x2: Inputs,
    composite: str | Composite = "auto",
    *,
    similarity: Literal["dot", "cosine"] = "dot",
    pool: Pools = None,
    way: Way = "auto",
    ledger: bool = False,
    **rule_options: Any,
) -> JointRelevance:
    """BiLRP: which pairs of features make two inputs similar (Eberle et al. 2020, IEEE TPAMI).

        R_ii' = Σ_m LRP(φ_m, x)_i · LRP(φ_m, x')_i'

    is the joint relevance of feature i of x and i' of x' for the dot product Σ_m φ_m(x) φ_m(x') of their embeddings; it
    sums to it where the rules conserve relevance.

    >>> _ = torch.manual_seed(0)
    >>> embed = torch.nn.Sequential(torch.nn.Linear(4, 16, bias=False), torch.nn.ReLU())
    >>> x, x2 = torch.randn(3, 4), torch.randn(3, 4)
    >>> joint = bilrp(embed, x, x2, composite="lrp_zero")
    >>> joint.relevance.shape, torch.allclose(joint.relevance.sum((1, 2)), (embed(x) * embed(x2)).sum(1), rtol=1e-3)
    (torch.Size([3, 4, 4]), True)

    `model`: a module from the input to an embedding (B, E), or two with the same E, for x and for x2. `x`, `x2`: inputs
    as of `relprop.explain`, B rows each, row i of one with row i of the other; the other dimensions may differ.
    `similarity`: "dot", or "cosine" with the norms held, by whose product R is divided.
    `pool`: what the features are. Images (B, C, H, W): cells of so many pixels a side, or (height, width), channels
    summed. Tokens (B, T) and vectors (B, T, D): cells of so many positions, D summed. (B, N): every feature. Or a
    linear callable from relevance like the input to cells (B, ...). A list of two: one for x, one for x2.
    `way`: "units", 2 E passes; "tokens", cell by cell, 2 T + 1 passes, T the smaller number of cells; "auto", the
    fewer. They give the same. `ledger`: the accounts of the marginals too, op by op. `rule_options`: for the recipe.

    Relevance is in the units of the similarity. Raises `relprop.errors`: as `relprop.explain`; InputError for a model
    that is no embedding, sizes and shapes that do not fit, and the cosine of a zero vector.
    """
    explainer = PairExplainer(model, x, x2, composite, similarity=similarity, pool=pool, way=way, **rule_options)
    return explainer(x, x2, ledger=ledger)
