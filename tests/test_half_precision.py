"""Models in bfloat16 and float16: relevance is carried in float32, and stays near that of the same weights in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import relprop
import tiny_gpt2
import tiny_llama
from checks import check_finite, check_sums_to
from held import RECIPES, random_weights, relevance

TOKENS = torch.tensor([[3, 1, 4, 1], [9, 2, 2, 5]])
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
TYPES = list(ROUNDING)
BOTH = ("cp_lrp", "attnlrp")


class Words(nn.Module):
    """A tiny GPT-2 with weights of this type; `zero_row`: the token whose embedding is zero."""

    def __init__(self, dtype: torch.dtype, zero_row: int | None = None) -> None:
        super().__init__()
        spelling = tiny_gpt2.Spelling("chunk", "causal", "tanh", "matmul")
        self.net = random_weights(tiny_gpt2.TinyGpt2(tiny_gpt2.Sizes(), spelling))
        if zero_row is not None:
            with torch.no_grad():
                self.net.transformer.wte.weight[zero_row] = 0.0
        self.net.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def expected(self, recipe: str) -> Tensor:
        """Relevance of the tokens in float64, for the weights as they were rounded."""
        p = {n: w.double() for n, w in self.net.state_dict().items()}
        x = p["transformer.wte.weight"][TOKENS]
        held = RECIPES[recipe]
        return relevance(lambda a: tiny_gpt2.held_gpt2(p, tiny_gpt2.Sizes(), a, held)[:, -1, 3], x)[0].sum(-1)


@pytest.mark.parametrize("recipe", BOTH)
@pytest.mark.parametrize("dtype", TYPES)
def test_a_language_model_in_half_precision(dtype: torch.dtype, recipe: str) -> None:
    model = Words(dtype)
    before = copy.deepcopy(model.state_dict())
    e = relprop.explain(model, TOKENS, 3, recipe, ledger=True)
    assert e.relevance.dtype is torch.float32
    assert e.output.dtype is dtype
    expected = model.expected(recipe)
    error = (e.relevance - expected).norm() / expected.norm()
    assert error < 24 * ROUNDING[dtype], error  # activations are rounded some forty times on the way
    assert e.ledger.closes()
    assert all(torch.equal(w, before[n]) for n, w in model.state_dict().items())


@pytest.mark.parametrize("recipe", BOTH)
@pytest.mark.parametrize("dtype", TYPES)
def test_a_word_whose_embedding_is_zero_gives_no_nan(dtype: torch.dtype, recipe: str) -> None:
    model = Words(dtype, zero_row=1)
    e = relprop.explain(model, TOKENS, 3, recipe, ledger=True)
    check_finite(e.relevance)
    assert not e.relevance[TOKENS == 1].any()
    assert e.relevance.any()


@pytest.mark.parametrize("dtype", TYPES)
def test_relevance_beyond_the_range_of_half_precision(dtype: torch.dtype) -> None:
    """Two branches of 30000 that nearly cancel: the shares are 2000 times the score, far above float16's 65504."""

    class Cancelling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([[30000.0, -29952.0, 16.0]]))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.weight)

    model, x = Cancelling().to(dtype), torch.ones(2, 3, dtype=dtype)
    weight = model.weight.detach().double()
    R = torch.full((2, 1), 512.0, dtype=dtype)
    e = relprop.explain(model, x, R, "lrp_zero", ledger=True)
    assert e.relevance.dtype is torch.float32
    check_finite(e.relevance)
    exact = 512.0 * weight / weight.sum()
    assert (e.relevance.double() - exact).abs().max() < 64 * ROUNDING[dtype] * exact.abs().max()
    assert exact.max() > 65504


@pytest.mark.parametrize("dtype", TYPES)
def test_sums_run_in_float32(dtype: torch.dtype) -> None:
    """4096 equal contributions: a sum in half precision would stall at 256 or 2048 of them."""
    model = nn.Linear(4096, 1, bias=False)
    nn.init.ones_(model.weight)
    e = relprop.explain(model.to(dtype), torch.ones(2, 4096, dtype=dtype), 0, "epsilon", ledger=True)
    check_sums_to(e.ledger.input + e.ledger.epsilon, e.score.float(), rtol=1e-5)
    check_sums_to(e.relevance.sum(1), torch.full((2,), 4096.0), rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, *TYPES])
def test_rotary_positions_and_grouped_queries(dtype: torch.dtype) -> None:
    model = random_weights(tiny_llama.TinyLlama(tiny_llama.Sizes(), tiny_llama.SPELLINGS["enable_gqa"])).to(dtype)
    p = {n: w.double() for n, w in model.state_dict().items()}
    x = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(3)).to(dtype)
    e = relprop.explain(model, x, 3, "cp_lrp", ledger=True)
    held = RECIPES["cp_lrp"]
    exact = relevance(lambda a: tiny_llama.held_llama(p, tiny_llama.Sizes(), a, held)[:, -1, 3], x.double())[0]
    assert e.relevance.dtype is torch.float32
    assert (e.relevance - exact).norm() < max(1e-3, 24 * ROUNDING.get(dtype, 0.0)) * exact.norm()
    assert e.ledger.closes()
