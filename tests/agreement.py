"""One comparison: relprop's relevance of a model, and input × gradient of the same function with parts held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import relprop
from checks import check_same_map, check_sums_to
from held import relevance

EXACT = 1e-9


def score_of(y: Tensor, target: int) -> Tensor:
    """One number a sample: of outputs (batch, ..., classes) one class, its places weighed by 1, 2, 3 …"""
    places = y[..., target].reshape(y.shape[0], -1)
    return places @ torch.arange(1.0, places.shape[1] + 1, dtype=y.dtype)


def check_agrees(
    model: nn.Module,
    held: Callable[..., Tensor],
    *inputs: Tensor,
    recipe: str = "lrp_zero",
    target: int = 1,
    conserves: bool = False,
    **options: Any,
) -> relprop.Explanation:
    """`held` computes what the model does, and x ∂held/∂x is the model's relevance by the recipe with ε = 0.

    `conserves`: nothing is a bias, so that the inputs have all of the score.
    """
    options = {"epsilon": 0.0, **options}
    given = inputs if len(inputs) > 1 else inputs[0]
    e = relprop.explain(model, given, lambda y: score_of(y, target), recipe, ledger=True, **options)
    check_same_map(held(*inputs).detach(), model(*inputs).detach(), rtol=1e-10, about="the oracle's output")
    found = e.relevance if isinstance(e.relevance, tuple) else (e.relevance,)
    for got, expected in zip(found, relevance(lambda *x: score_of(held(*x), target), *inputs), strict=True):
        if expected.any():
            check_same_map(got, expected, rtol=EXACT)
        else:
            assert not got.any()
    assert e.ledger.closes()
    if conserves:
        check_sums_to(sum((r.flatten(1).sum(1) for r in found), torch.zeros(())), e.score, rtol=EXACT)
    return e
