"""The result for a batch of pairs: joint relevance, its marginals, the account of the score, and views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..explanation import notebook
from ..program import Ledger
from .plan import Cost

PLAIN = (".txt", ".html")


@dataclass(frozen=True)
class PairLedger:
    """Where the similarity went: score = pairs + first + second + neither, each Tensor[B].

    `pairs`: Σ of the joint relevance. `first`: features of x together with what no feature of x2 caused, that is what
    biases, ε and rules that keep relevance took there; `second`: the other way round; `neither`: these of both.
    `of`: the ledgers of the two marginals, op by op, where they were asked for.
    """

    score: Tensor
    pairs: Tensor
    first: Tensor
    second: Tensor
    neither: Tensor
    of: tuple[Ledger, Ledger] | None = None

    @property
    def total(self) -> Tensor:
        """pairs + first + second + neither."""
        return self.pairs + self.first + self.second + self.neither

    def closes(self, rtol: float | None = None) -> bool:
        """Whether score and total agree, and with them the ledgers of both marginals (asked for by ledger=True)."""
        if self.of is None:
            raise InputError("no accounts were kept op by op; ask for them with ledger=True")
        scale = torch.stack([self.score, self.pairs, self.first, self.second, self.neither]).abs().amax(0)
        limit = rtol if rtol is not None else max(ledger.rtol for ledger in self.of)
        agree = bool(((self.score - self.total).abs() <= limit * scale).all())
        sums = (self.pairs + self.first, self.pairs + self.second)
        inputs = all(
            bool(((ledger.input - s).abs() <= limit * torch.maximum(scale, ledger.input.abs())).all())
            for ledger, s in zip(self.of, sums, strict=True)
        )
        return agree and inputs and all(ledger.closes(rtol) for ledger in self.of)

    def __str__(self) -> str:
        names = ("pairs", "first", "second", "neither")
        lines = [f"{'sample':>6} {'score':>12} = " + " + ".join(f"{n:>12}" for n in names)]
        for i in range(len(self.score)):
            amounts = "   ".join(f"{float(getattr(self, n)[i]):>12.5g}" for n in names)
            lines.append(f"{i:>6} {float(self.score[i]):>12.5g}   {amounts}")
        return "\n".join(lines)

    __repr__ = __str__


def account(
    score: Tensor, matrix: Tensor, marginals: tuple[Tensor, Tensor], of: tuple[Ledger, Ledger] | None
) -> PairLedger:
    """The four parts of the score from the joint relevance (B, N, N') and its marginals (B, N), (B, N').

    With φ_m = I_m + C_m, what inputs and what constants have of a unit, they are Σ_m I I', I C', C I' and C C'; the
    first is Σ R, and the marginals sum to Σ_m I φ' and Σ_m φ I'.
    """
    pairs, first, second = matrix.sum((1, 2)), marginals[0].sum(1), marginals[1].sum(1)
    return PairLedger(score, pairs, first - pairs, second - pairs, score - first - second + pairs, of)


@dataclass(repr=False)
class JointRelevance:
    """Joint relevance of pairs of features for the similarity of two embeddings (Eberle et al. 2020).

    `relevance`: (B, cells of x, cells of x2), for images with 2 x 2 dimensions of cells, (B, H, W, H', W').
    `score`: the similarity, Tensor[B]. `embeddings`: φ(x) and φ(x2), (B, E). `maps`: what the features of x have in the
    similarity with φ(x2) held, in the shape of x, and those of x2. `ledger`: see `PairLedger`. `cost`: see `Cost`.
    `inputs`: x and x2. `kinds`: what their cells are, "image", "tokens", "features" or "own". `notes`: what was done
    otherwise than planned.
    """

    relevance: Tensor
    score: Tensor
    embeddings: tuple[Tensor, Tensor]
    maps: tuple[Tensor, Tensor]
    marginals: tuple[Tensor, Tensor]
    """Relevance of the cells of x for ⟨φ(x), φ(x2)⟩ with φ(x2) held, (B, cells of x), and of those of x2.

    One pass each. They are the sums of `relevance` over the other input's cells where that input conserves relevance
    for every unit. Else they also have what goes with its biases: Σ of the first is `pairs` + `first` of the ledger.
    """
    ledger: PairLedger
    cost: Cost
    inputs: tuple[Tensor, Tensor]
    kinds: tuple[str, str]
    notes: tuple[str, ...] = ()

    @property
    def matrix(self) -> Tensor:
        """The relevance as (B, N, N'), the cells of each input in one dimension."""
        return self.relevance.reshape(len(self.relevance), self.marginals[0][0].numel(), -1)

    def top(self, count: int = 10, sample: int = 0) -> list[tuple[tuple[int, ...], tuple[int, ...], float]]:
        """The pairs with the largest |R| of a sample: cell of x, cell of x2, R; the largest first."""
        self._check(sample)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"count={count!r}: how many pairs, from 1 on")
        R = self.relevance[sample]
        chosen = R.flatten().abs().topk(min(count, R.numel())).indices
        dims = self.marginals[0].dim() - 1
        places = torch.stack(torch.unravel_index(chosen, R.shape), 1).tolist()
        values = R.flatten()[chosen].tolist()
        return [(tuple(p[:dims]), tuple(p[dims:]), v) for p, v in zip(places, values, strict=True)]

    def save(self, path: str, *, sample: int = 0, **options: Any) -> None:
        """Write one pair: arcs between two images, otherwise a matrix; texts also as .html or .txt.

        Options are those of `plot`. Needs `relprop[show]`.
        Raises `InputError`, `OutputError`.
        """
        from ..show import check_path, save_figure
        from ..show.files import FIGURE_SUFFIXES

        suffixes = FIGURE_SUFFIXES if self._images else (*FIGURE_SUFFIXES, *PLAIN)
        target = check_path(path, suffixes)
        if target.suffix.lower() not in PLAIN:
            save_figure(self.plot(sample=sample, **options), target)
            return
        from ..show.pairs import save_pairs

        rows, columns = self._labels(options.pop("tokens", None))
        save_pairs(target, self._matrix(sample), rows, columns, **self._said(sample), **options)

    def plot(
        self,
        *,
        sample: int = 0,
        photos: tuple[Any, Any] | None = None,
        tokens: tuple[Sequence[str], Sequence[str]] | None = None,
        **options: Any,
    ) -> Any:
        """One pair as a matplotlib figure: arcs between two images, otherwise a matrix (needs `relprop[show]`).

        `photos`: the two images as `relprop.show.overlay` takes them, by default the inputs themselves, their values
        stretched to 0 ... 1. `tokens`: names of the rows and columns of a matrix. Further options: `top` (arcs drawn),
        `palette`, `limit`; see `relprop.show.pairs`.
        """
        from ..show import pairs

        self._check(sample)
        if self._images:
            shown = photos if photos is not None else tuple(_stretched(x[sample]) for x in self.inputs)
            return pairs.arcs(shown[0], shown[1], self.relevance[sample].detach(), **self._said(sample), **options)
        if photos is not None:
            raise InputError(f"photos are drawn where both inputs are images; these are {' and '.join(self.kinds)}")
        rows, columns = self._labels(tokens)
        return pairs.matrix(self._matrix(sample), rows, columns, **self._said(sample), **options)

    @property
    def _images(self) -> bool:
        return self.kinds == ("image", "image")

    def _matrix(self, sample: int) -> Tensor:
        self._check(sample)
        return self.matrix[sample].detach()

    def _said(self, sample: int) -> dict[str, Any]:
        return {"score": float(self.score[sample])}

    def _labels(self, tokens: Any) -> tuple[Sequence[str], Sequence[str]]:
        """Names of rows and columns: those given, else numbers."""
        sizes = self.matrix.shape[1:]
        if tokens is None:
            return tuple(tuple(map(str, range(n))) for n in sizes)  # type: ignore[return-value]
        if len(tokens) != 2 or any(isinstance(t, str) or len(t) != n for t, n in zip(tokens, sizes, strict=True)):
            raise InputError(f"tokens: give two lists of names, {sizes[0]} for x and {sizes[1]} for x2")
        return [str(t) for t in tokens[0]], [str(t) for t in tokens[1]]

    def _check(self, sample: int) -> None:
        if not isinstance(sample, int) or not -len(self.score) <= sample < len(self.score):
            raise InputError(f"sample={sample!r}: there are {len(self.score)} pairs, 0 to {len(self.score) - 1}")

    def _repr_html_(self) -> str:
        """Arcs or matrix of the first pair inside a notebook, or the text where they cannot be drawn."""
        return notebook(self, "joint relevance")

    def __repr__(self) -> str:
        score, pairs = ([round(v, 4) for v in t[:8].tolist()] for t in (self.score, self.ledger.pairs))
        return f"JointRelevance(relevance {tuple(self.relevance.shape)}, score {score}, ΣR {pairs}, {self.cost})"


def _stretched(x: Tensor) -> Tensor:
    """An image (C, H, W) with its values in 0 ... 1, as (H, W) unless it has three channels."""
    x = x.detach().float()
    low, high = x.min(), x.max()
    x = (x - low) / (high - low) if high > low else torch.zeros_like(x)
    return x if len(x) == 3 else x.mean(0)
