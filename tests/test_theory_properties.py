"""Conservation and positivity as functions that raise, and the picture of root points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import relprop
from relprop import theory
from relprop.errors import InputError, TheoryError


def network(*, bias: bool) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8, bias=bias), nn.ReLU(), nn.Linear(8, 3, bias=bias)).double()


def inputs() -> Tensor:
    return torch.rand(4, 6, dtype=torch.float64)


def test_an_explanation_conserves() -> None:
    model, x = network(bias=False), inputs()
    theory.check_conservation(relprop.explain(model, x, 1, "lrp_zero"), rtol=1e-12)
    theory.check_conservation(relprop.explain(model, x, [0, 1, 2], "lrp_zero"), rtol=1e-12)
    theory.check_conservation(relprop.explain(model.float(), x.float(), 1, "lrp_zero"))


def test_what_took_the_rest_is_said() -> None:
    model, x = network(bias=True), inputs()
    e = relprop.explain(model, x, 1, "epsilon", epsilon=0.1, ledger=True)
    with pytest.raises(TheoryError) as caught:
        theory.check_conservation(e)
    message = str(caught.value)
    assert f"{float(e.relevance[0].sum()):.6g}" in message
    assert f"{float(e.score[0]):.6g}" in message
    assert f"biases {float(e.ledger.bias[0]):.6g}, by ε {float(e.ledger.epsilon[0]):.6g}" in message
    assert "so are 3 more samples" in message
    with pytest.raises(TheoryError, match="ledger=True"):
        theory.check_conservation(relprop.explain(model, x, 1, "epsilon"))


def test_layers_conserve() -> None:
    below, above = np.array([[1.0, 2.0], [0.5, 0.5]]), np.array([[3.0, 0.0, 0.0], [0.25, 0.25, 0.5]])
    theory.check_conservation(below, above)
    with pytest.raises(TheoryError, match=r"sample 1 the relevance sums to 1, the relevance above is 0\.75"):
        theory.check_conservation(below, above - np.array([[0.0], [1.0]]) * above[1] / 4)
    below[1, 0] += 1e-7
    theory.check_conservation(below, above)
    with pytest.raises(TheoryError, match="sample 1"):
        theory.check_conservation(below, above, rtol=1e-8)


def test_several_inputs_are_summed() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x.sum(1, keepdim=True) + y.sum(1, keepdim=True)

    e = relprop.explain(Both(), (inputs(), inputs()), 0, "lrp_zero")
    theory.check_conservation(e)
    with pytest.raises(TheoryError, match="sample 0"):
        theory.check_conservation(e.relevance[0], e.score)


def test_positivity_of_explanations() -> None:
    model, x = network(bias=False), inputs()
    with torch.no_grad():
        model[2].weight.abs_()
    theory.check_positivity(relprop.explain(model, x, 1, "deep_taylor"))
    theory.check_positivity(relprop.explain(model, x, [0, 2], "deep_taylor"))
    e = relprop.explain(model, x, [0, 2], "lrp_zero")
    rows = e.relevance.flatten(0, 1)
    i = int((rows < 0).any(1).nonzero()[0])
    where = rf"sample {i} has relevance down to {float(rows[i].min()):.6g} at \({int(rows[i].argmin())},\)"
    with pytest.raises(TheoryError, match=where):
        theory.check_positivity(e)


def test_what_counts_as_zero() -> None:
    R = torch.tensor([[1.0, -1e-9]])
    theory.check_positivity(R, rtol=1e-8)
    with pytest.raises(TheoryError, match="1 of 2 values are below 0"):
        theory.check_positivity(R)


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("give the relevance of the layer above", lambda: theory.check_conservation(torch.ones(2, 3))),
        ("NaN", lambda: theory.check_conservation(torch.full((2, 3), torch.nan), torch.ones(2))),
        ("counts samples in both", lambda: theory.check_conservation(torch.ones(2, 3), torch.ones(3))),
        ("counts samples", lambda: theory.check_conservation(torch.tensor(1.0), torch.ones(1))),
        ("NaN", lambda: theory.check_positivity(torch.tensor([torch.inf]))),
    ],
)
def test_properties_refuse(words: str, call: Any) -> None:
    with pytest.raises(InputError, match=words):
        call()


def test_an_explanation_brings_its_score() -> None:
    e = relprop.explain(network(bias=False), inputs(), 1, "lrp_zero")
    with pytest.raises(InputError, match="brings its own score"):
        theory.check_conservation(e, e.score)


# the picture


def test_the_picture_shows_the_distances(tmp_path: Any) -> None:
    """w = (1, 0.5) at (1, 1): a_k = 1.5, γ's root point is the origin; w = (1, −0.5): a_k = 0.5, γ's is (0.25, 0.5)."""
    picture = theory.root_points(((1.0, 0.5), (1.0, -0.5)), (1.0, 1.0), epsilon=0.5, gamma=0.5)
    first, second = (ax.get_xlabel() for ax in picture.axes)
    assert "LRP-0 1.41   LRP-ε 1.06   LRP-γ 1.41" in first  # ε: 1.5 / 2 of √2
    # γ = 0.5: direction (1.5, 1), t = 0.5 / (1.5 − 0.5) = 0.5, ã = (0.25, 0.5)
    assert "LRP-0 1.41   LRP-ε 0.71   LRP-γ 0.90" in second
    drawn = {
        (round(float(x), 6), round(float(y), 6))
        for line in picture.axes[1].lines
        for x, y in zip(*line.get_data(), strict=True)
        if len(line.get_xdata()) == 1
    }
    assert drawn == {(0.0, 0.0), (0.5, 0.5), (0.25, 0.5), (1.0, 1.0)}
    picture.savefig(tmp_path / "roots.png")
    assert (tmp_path / "roots.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("not active", {"neurons": ((-1.0, 0.5),)}),
        ("pairs", {"neurons": ((1.0, 1.0, 1.0),)}),
        ("pairs", {"a": (-1.0, 3.0)}),
    ],
)
def test_the_picture_refuses(words: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=words):
        theory.root_points(**options)
