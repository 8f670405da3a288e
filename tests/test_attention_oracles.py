"""Whole networks with attention or a selective state space against oracles written by hand, in every usual spelling.

The expected relevance is the gradient form of tests/held.py, put together anew for each architecture in tests/tiny_*.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
import tiny_bert
import tiny_gpt2
import tiny_llama
import tiny_mamba
import tiny_vit
from checks import check_same_map, check_sums_to
from held import RECIPES, random_weights, relevance, shares, without

EXACT = 1e-9


@dataclass(frozen=True)
class Architecture:
    """A tiny model and its oracle. `constants`: endings of the names of weights that count as biases."""

    model: Callable[..., nn.Module]
    oracle: Callable[..., Tensor]
    sizes: Any
    spellings: Any
    constants: tuple[str, ...]
    embeddings: str = ""  # name of the word embeddings
    shape: tuple[int, ...] = ()

    def build(self, spelling: str) -> nn.Module:
        how = self.spellings[spelling] if isinstance(self.spellings, dict) else spelling
        return random_weights(self.model(self.of(spelling), how))

    def of(self, spelling: str) -> Any:
        """The first spelling has two layers, the others one."""
        return self.sizes if spelling == next(iter(self.spellings)) else replace(self.sizes, layers=1)

    def scores(self, weights: dict[str, Tensor], x: Tensor, recipe: str, layers: int = 2) -> Tensor:
        """One explained logit a sample, with the recipe's parts held."""
        y = self.oracle(weights, replace(self.sizes, layers=layers), x, RECIPES[recipe])
        return (y if y.dim() == 2 else y[:, -1]).gather(1, TARGET[:, None])[:, 0]

    def inputs(self) -> Tensor:
        return torch.randn(2, *self.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


TARGET = torch.tensor([1, 2])
TOKENS = torch.tensor([[3, 1, 4], [9, 2, 2]])
ARCHITECTURES = {
    "llama": Architecture(
        tiny_llama.TinyLlama, tiny_llama.held_llama, tiny_llama.Sizes(), tiny_llama.SPELLINGS,
        (".bias",), "model.embed_tokens.weight", (4, 16),
    ),
    "gpt2": Architecture(
        tiny_gpt2.TinyGpt2, tiny_gpt2.held_gpt2, tiny_gpt2.Sizes(), tiny_gpt2.SPELLINGS,
        (".bias", "wpe.weight"), "transformer.wte.weight", (4, 8),
    ),
    "bert": Architecture(
        tiny_bert.TinyBert, tiny_bert.held_bert, tiny_bert.Sizes(), tiny_bert.SPELLINGS,
        (".bias", "position_embeddings.weight", "type_embeddings.weight"),
        "bert.embeddings.word_embeddings.weight", (4, 8),
    ),
    "vit": Architecture(
        tiny_vit.TinyVit, tiny_vit.held_vit, tiny_vit.Sizes(), tiny_vit.SPELLINGS,
        ("bias", "pos_embedding", "class_token"), "", (3, 8, 8),
    ),
    "mamba": Architecture(
        tiny_mamba.TinyMamba, tiny_mamba.held_mamba, tiny_mamba.Sizes(), tiny_mamba.SPELLINGS,
        (".bias",), "backbone.embeddings.weight", (3, 6),
    ),
}  # fmt: skip


@cache
def expected(name: str, layers: int, recipe: str) -> tuple[Tensor, Tensor]:
    """Relevance of the inputs, and what all constants took."""
    architecture = ARCHITECTURES[name]
    spelling = next(s for s in architecture.spellings if architecture.of(s).layers == layers)
    x, weights = architecture.inputs(), architecture.build(spelling).state_dict()
    taken = shares(lambda p: architecture.scores(p, x, recipe, layers), weights, architecture.constants)
    given = relevance(lambda a: architecture.scores(weights, a, recipe, layers), x)[0]
    return given, torch.stack(list(taken.values())).sum(0)


BOTH = ("cp_lrp", "attnlrp")
CASES = [
    (name, spelling, recipe)
    for name, architecture in ARCHITECTURES.items()
    for spelling in architecture.spellings
    for recipe in BOTH
]


@pytest.mark.parametrize(("name", "spelling", "recipe"), CASES)
def test_every_spelling_has_the_relevance_of_the_oracle(name: str, spelling: str, recipe: str) -> None:
    architecture = ARCHITECTURES[name]
    model, x = architecture.build(spelling), architecture.inputs()
    e = relprop.explain(model, x, TARGET, recipe, epsilon=0, ledger=True)
    inputs, constants = expected(name, architecture.of(spelling).layers, recipe)
    check_same_map(e.output, model(x).detach(), rtol=1e-12)
    check_same_map(e.relevance, inputs, rtol=EXACT)
    check_same_map(e.ledger.bias, constants, rtol=EXACT)
    assert e.ledger.closes()
    if recipe == "cp_lrp":  # nothing is lost where the attention weights are held
        check_sums_to(e.ledger.input + e.ledger.bias, e.score, rtol=EXACT)


@pytest.mark.parametrize("name", [n for n, a in ARCHITECTURES.items() if a.embeddings])
def test_tokens_have_the_sum_over_their_embeddings(name: str) -> None:
    architecture, recipe = ARCHITECTURES[name], "attnlrp"
    model = architecture.build(list(architecture.spellings)[1])
    weights = model.state_dict()
    e = relprop.explain(model, TOKENS, TARGET, recipe, epsilon=0, ledger=True)
    x = weights[architecture.embeddings][TOKENS]
    check_same_map(
        e.relevance, relevance(lambda a: architecture.scores(weights, a, recipe, 1), x)[0].sum(-1), rtol=EXACT
    )
    assert e.relevance.shape == TOKENS.shape
    assert e.ledger.closes()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_without_constants_the_input_has_all_of_the_score(name: str) -> None:
    architecture = ARCHITECTURES[name]
    model = without(architecture.build(list(architecture.spellings)[1]), architecture.constants)
    e = relprop.explain(model, architecture.inputs(), TARGET, "auto", epsilon=0, ledger=True)
    check_sums_to(e.relevance.flatten(1).sum(1), e.score, rtol=EXACT)
    assert e.ledger.closes()


@pytest.mark.parametrize("recipe", BOTH)
def test_padding_takes_part_in_nothing(recipe: str) -> None:
    architecture, keep = ARCHITECTURES["bert"], torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    model, x = architecture.build("fused"), architecture.inputs()
    weights = model.state_dict()

    def score(a: Tensor) -> Tensor:
        return tiny_bert.held_bert(weights, architecture.sizes, a, RECIPES[recipe], keep).gather(1, TARGET[:, None])

    e = relprop.explain(model, (x, keep), TARGET, recipe, epsilon=0, ledger=True)
    check_same_map(e.relevance[0], relevance(score, x)[0], rtol=EXACT)
    assert not e.relevance[0][0, 2:].any()
    assert e.ledger.closes()
