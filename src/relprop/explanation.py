"""The result of an explanation: relevance, output, score, ledger, and a few ways to look at it."""

from __future__ import annotations

import base64
import html
import io
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
from .values import finite

# Σ|R| over Σ|output| of a sample at which no digit of a float32 sum is left, and no meaning in any precision.
AMPLIFIED = 1e6
_INSIDE = ("relprop", "contextlib")  # frames of this package, and of decorators on its functions

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


def in_proportion(relevance: Sequence[Tensor], moving: Sequence[bool], output: Tensor, score: Tensor) -> bool:
    """Whether all relevance is finite; a warning where it is larger than output and score by a factor no reason has.

    That is asked for each sample, and each target where there are several: `score` is (samples,) or (targets,
    samples), and so does relevance begin, but that of inputs that do not count samples (`moving`), left out here. Where
    the terms of a sum nearly cancel, LRP multiplies relevance by Σ|z_i| / |Σ z_i + ε|; in a row of such sums, as over
    the steps of a recurrent network, the factors multiply.
    """
    sizes = [_size(r, score.dim()).to(score.device) for r, moves in zip(relevance, moving, strict=True) if moves]
    shared = [r for r, moves in zip(relevance, moving, strict=True) if not moves]
    if not all(map(finite, shared)):
        return False
    if not sizes:
        return True
    size = sum(sizes[1:], sizes[0])
    if float((size / score.detach().abs()).amax()) <= AMPLIFIED:  # neither infinite nor 0 / 0
        return True
    if not bool(size.isfinite().all()) and not all(map(finite, relevance)):  # else a sum alone is too large
        return False
    own = torch.maximum(_size(output, 1).to(size), score.detach().abs().to(size))
    worst = float(torch.where(own > 0, size / own, 0.0).amax())
    if worst > AMPLIFIED:
        warnings.warn(
            f"relevance is {worst:.0e} times as large as the output (Σ|R| over Σ|output| of a sample): it grew where "
            "terms of both signs nearly cancel, and tells nothing of the decision. Remedy: residual='magnitude' for "
            "sums of branches and memories; for other sums a larger ε, up to epsilon=1, with epsilon_mode='absolute' "
            "where all sums of a layer nearly cancel",
            AmplifiedWarning,
            stacklevel=_outside(),
        )
    return True


def _size(t: Tensor, lead: int) -> Tensor:
    """Σ|t| over all but the first dimensions."""
    wide = torch.promote_types(t.dtype, torch.float32)
    rest = list(range(lead, t.dim()))
    return t.detach().abs().sum(rest, dtype=wide) if rest else t.detach().abs().to(wide)


def _outside() -> int:
    """How many frames up the caller of this package is."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _INSIDE:
        depth, frame = depth + 1, frame.f_back
    return depth
