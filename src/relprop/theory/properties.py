"""Conservation and positivity of explanations (Montavon et al. 2017), as functions that raise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, TheoryError
from ..explanation import Explanation
from ..program import Ledger
from ..values import finite

ROUNDING = 64  # additions' worth of rounding allowed, relative to Σ |R|


def check_conservation(explanation: Explanation | Any, upper: Any = None, *, rtol: float = 1e-6) -> None:
    """Raise unless Σ_p R_p = f(x), or Σ_i R_i = Σ_j R_j of two layers, for every sample.

    `explanation`: what `relprop.explain` returns, or the relevance of a layer as a tensor or an array, samples in the
    first dimension; then `upper` is the relevance of the layer above, or the scores (samples,). `rtol`: allowed
    difference relative to the score, on top of the rounding of the sum.

    Biases, ε and rules that keep something make an explanation not conserving, and rightly so: of an explanation made
    with `ledger=True` the message says how much each took. Raises `TheoryError`, and `InputError` for shapes that do
    not belong together and for NaN or infinity. Source: Montavon et al. 2017, definition 1.

    >>> check_conservation(torch.tensor([[0.5, 0.5], [2.0, 1.0]]), torch.tensor([1.0, 3.0]))
    >>> check_conservation(torch.tensor([[0.5, 0.25]]), torch.tensor([1.0]))
    Traceback (most recent call last):
    relprop.errors.TheoryError: not conserved: of sample 0 the relevance sums to 0.75, the score is 1 (75 % of it)...
    """
    if isinstance(explanation, Explanation):
        if upper is not None:
            raise InputError("an explanation brings its own score: give check_conservation(explanation) alone")
        total, size, eps = _sums(_leaves(explanation.relevance), explanation.score.dim())
        score, above, ledger = explanation.score.detach().to(torch.float64), "score", explanation.ledger
    else:
        if upper is None:
            raise InputError("give the relevance of the layer above, or the scores: check_conservation(lower, upper)")
        total, size, eps = _sums([_array("lower", explanation)], 1)
        score, _, eps_above = _sums([_array("upper", upper)], 1)
        eps, above, ledger = max(eps, eps_above), "relevance above", None
        above = "score" if torch.as_tensor(upper).dim() == 1 else above
    if total.shape != score.shape:
        raise InputError(
            f"relevance of {tuple(total.shape)} samples, {above} of {tuple(score.shape)}: the first dimension counts "
            "samples in both"
        )
    total, size, score = total.flatten(), size.flatten(), score.flatten().to(total.device)
    wrong = (total - score).abs() > rtol * score.abs() + ROUNDING * eps * size
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        share = f" ({100 * float(total[i] / score[i]):.4g} % of it)" if score[i] else ""
        more = f"; so are {int(wrong.sum()) - 1} more samples" if int(wrong.sum()) > 1 else ""
        raise TheoryError(
            f"not conserved: of sample {i} the relevance sums to {float(total[i]):.6g}, the {above} is "
            f"{float(score[i]):.6g}{share}{more}. {_accounts(ledger, i)}"
        )


def check_positivity(explanation: Explanation | Any, *, rtol: float = 0.0) -> None:
    """Raise unless R_p >= 0 for every input p of every sample (Montavon et al. 2017, definition 2).

    `explanation`: what `relprop.explain` returns, or relevance as a tensor or an array, samples in the first dimension.
    `rtol`: what counts as 0, relative to the sample's largest |R|. Raises `TheoryError`, and `InputError` for NaN or
    infinity.

    >>> check_positivity(torch.tensor([[0.5, 0.0]]))
    >>> check_positivity(torch.tensor([[0.5, -0.25]]))
    Traceback (most recent call last):
    relprop.errors.TheoryError: not positive: sample 0 has relevance down to -0.25 at (1,), 1 of 2 values are below 0...
    """
    dims = 1
    if isinstance(explanation, Explanation):
        leaves, dims = _leaves(explanation.relevance), explanation.score.dim()
    else:
        leaves = [_array("relevance", explanation)]
    for R in leaves:
        rows = R.reshape(-1, *R.shape[dims:])
        flat = rows.reshape(len(rows), -1)
        below = flat < -rtol * flat.abs().amax(1, keepdim=True)
        if bool(below.any()):
            i = int(below.any(1).nonzero()[0])
            place = int(flat[i].argmin())
            where = tuple(int(n) for n in torch.unravel_index(torch.tensor(place), rows.shape[1:])) or (0,)
            raise TheoryError(
                f"not positive: sample {i} has relevance down to {float(flat[i, place]):.6g} at {where}, "
                f"{int(below[i].sum())} of {flat.shape[1]} values are below 0 (Σ R {float(flat[i].sum()):.6g}). Rules "
                "that weigh contributions by their sign alone give that: z_plus, w_square, z_box, flat, alpha_beta "
                "with alpha=1, from a score >= 0"
            )


def _accounts(ledger: Any, sample: int) -> str:
    if not isinstance(ledger, Ledger):
        return "Biases, ε and rules that keep relevance can be why: explain(..., ledger=True) prints what each took"
    taken = {k: float(getattr(ledger, k).flatten()[sample]) for k in ("bias", "epsilon", "residual")}
    return "Kept by biases {bias:.6g}, by ε {epsilon:.6g}, by rules {residual:.6g}".format(**taken)


def _sums(leaves: list[Tensor], dims: int) -> tuple[Tensor, Tensor, float]:
    """Σ R and Σ |R| of each sample in float64, and the precision the relevance came in."""
    eps = max(torch.finfo(R.dtype).eps for R in leaves)
    flat = torch.cat([R.to(leaves[0].device, torch.float64).reshape(*R.shape[:dims], -1) for R in leaves], -1)
    return flat.sum(-1), flat.abs().sum(-1), eps


def _leaves(relevance: Any) -> list[Tensor]:
    """The tensors of a relevance that has the structure of the inputs; inputs without relevance are None."""
    tree = torch.utils._pytree.tree_leaves(relevance)
    return [_array("relevance", R) for R in tree if R is not None]


def _array(name: str, value: Any) -> Tensor:
    R = torch.as_tensor(value).detach()
    R = R if R.is_floating_point() else R.to(torch.float64)
    if R.dim() == 0 or R.numel() == 0:
        raise InputError(f"{name} is {tuple(R.shape)}; its first dimension counts samples")
    if not finite(R):
        raise InputError(f"{name} holds NaN or infinity: nothing can be said of its sum")
    return R
