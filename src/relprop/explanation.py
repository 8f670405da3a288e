"""The result of an explanation: relevance, output, score, ledger, and a few ways to look at it."""

from __future__ import annotations

import base64
import html
import io
import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .errors import AmplifiedWarning, InputError
from .program import Ledger
from .targets import Token, words
from .values import amount, finite

# Σ|R| over Σ|output| at which no digit of a float32 sum is left, and of the map no meaning in any precision.
AMPLIFIED = 1e6

Tree = Any  # a Tensor, or a tuple or dict of them, as the inputs were given


@dataclass(repr=False)
class Explanation:
    """Relevance of the inputs for the explained score.

    `relevance`: structure and shapes of the explained inputs (for token inputs, one number a token); with K
    targets a leading dimension K. Inputs that get none, such as masks, are None. `output`: the tensor explained of
    what the model returned (of a Hugging Face model its logits; the rule table says which). `score`: Tensor[B], what
    was explained. `target`: the class indices or target used, as tensors. `ledger`: accounts, if asked for.
    `recorded`: relevance at inner modules asked for with `record`.
    """

    relevance: Tree
    output: Tensor
    score: Tensor
    target: Any
    ledger: Any = None
    recorded: dict[str, Tensor] = field(default_factory=dict)

    def save(self, path: str, *, sample: int | None = None, **options: Any) -> None:
        """Write the relevance as a picture: one heatmap a sample (needs `relprop[show]`)."""
        from . import show

        maps, scores = self._maps(sample)
        show.save(path, maps, scores=scores, **options)

    def plot(self, *, sample: int | None = None, **options: Any) -> Any:
        """The relevance as a matplotlib figure (needs `relprop[show]`)."""
        from . import show

        maps, scores = self._maps(sample)
        return show.plot(maps, scores=scores, **options)

    def _maps(self, sample: int | None) -> tuple[list[Tensor], list[float]]:
        R, scores = self.relevance, self.score
        if not isinstance(R, Tensor):
            raise InputError("the model has several inputs; give one of e.relevance to relprop.show")
        if scores.dim() > 1:  # several targets: a row each
            R, scores = R.flatten(0, 1), scores.flatten()
        if R.dim() not in (3, 4) or (R.dim() == 4 and R.shape[1] not in (1, 3, 4)):
            raise InputError(f"relevance of shape {tuple(R.shape)} is no image; draw e.relevance yourself")
        chosen = range(len(R)) if sample is None else [sample]
        return [R[i].detach() for i in chosen], [float(scores[i]) for i in chosen]

    def _repr_html_(self) -> str:
        """A heatmap inside a notebook, or the text where relevance is no image."""
        return notebook(self, "relevance")

    def __repr__(self) -> str:
        shapes = torch.utils._pytree.tree_map(lambda t: tuple(t.shape) if isinstance(t, Tensor) else t, self.relevance)
        target = _short(self.target)
        scores = [round(s, 4) for s in self.score.flatten()[:8].tolist()]
        kept = "" if not isinstance(self.ledger, Ledger) else f", ledger closes: {self.ledger.closes()}"
        return f"Explanation(relevance {shapes}, target {target}, score {scores}{kept})"


def notebook(result: Any, alt: str) -> str:
    """What `result.plot()` draws as HTML that needs nothing else, or the result as text where it cannot be drawn."""
    try:
        figure = result.plot()
    except (InputError, ImportError):
        return f"<pre>{html.escape(repr(result))}</pre>"
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}" alt="{alt}">'


def _short(target: Any) -> str:
    """A target in few words: indices as lists, tokens and contrasts by their parts."""
    return words(target, lambda one: str(_plain(one)))


def _plain(target: Any) -> Any:
    if isinstance(target, Tensor) and target.numel() < 9:
        return target.tolist()
    if isinstance(target, Token):
        return f"Token({_plain(target.position)}, {_plain(target.id)})"
    return target if isinstance(target, (int, type(None))) else "..."


def in_proportion(relevance: Sequence[Tensor], output: Tensor, score: Tensor) -> bool:
    """Whether all relevance is finite; a warning where it is larger than output and score by a factor no reason has.

    Where the terms of a sum nearly cancel, LRP multiplies relevance by Σ|z_i| / |Σ z_i + ε|; in a row of such sums, as
    over the steps of a recurrent network, the factors multiply.
    """
    total = sum(map(amount, relevance))
    if not math.isfinite(total) and not all(map(finite, relevance)):  # else the sum alone is too large
        return False
    if total > AMPLIFIED * amount(score) and total > AMPLIFIED * (own := max(amount(output), amount(score))) > 0:
        warnings.warn(
            f"the relevance of the inputs is {total / own:.0e} times as large as the output (Σ|R| over Σ|output|): it "
            "grew where terms of both signs nearly cancel, and tells nothing of the decision. Remedy: a larger ε "
            "(epsilon=0.1), or what lets less cancel (residual='magnitude', or the recipes gamma and epsilon_plus)",
            AmplifiedWarning,
            stacklevel=_outside(),
        )
    return True


def _outside() -> int:
    """How many frames up the caller of this package is."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "relprop":
        depth, frame = depth + 1, frame.f_back
    return depth
