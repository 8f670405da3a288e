"""Model classes of transformers and torchvision as they are, with their own random weights, against the oracles.

Some parts of transformers compute in float32 whatever the model's type (RMSNorm, the scan of Mamba, the softmax of a
vision transformer's written-out attention): agreement ends there at about 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable
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
from held import RECIPES, random_weights, relevance

transformers = pytest.importorskip("transformers")

TOKENS = torch.tensor([[3, 1, 4, 1], [9, 2, 2, 5]])
KEEP = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
BOTH = ("cp_lrp", "attnlrp")


def llama(attention: str) -> nn.Module:
    s = tiny_llama.Sizes()
    config = transformers.LlamaConfig(
        vocab_size=s.words, hidden_size=s.width, intermediate_size=s.hidden, num_hidden_layers=s.layers,
        num_attention_heads=s.heads, num_key_value_heads=s.pairs, attention_bias=True, rms_norm_eps=s.eps,
        max_position_embeddings=16, attn_implementation=attention,
    )  # fmt: skip
    return random_weights(transformers.LlamaForCausalLM(config))


def gpt2(attention: str) -> nn.Module:
    s = tiny_gpt2.Sizes()
    config = transformers.GPT2Config(
        vocab_size=s.words, n_embd=s.width, n_layer=s.layers, n_head=s.heads, n_positions=s.positions,
        attn_implementation=attention, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return random_weights(transformers.GPT2LMHeadModel(config))


def bert(attention: str) -> nn.Module:
    s = tiny_bert.Sizes()
    config = transformers.BertConfig(
        vocab_size=s.words, hidden_size=s.width, intermediate_size=s.hidden, num_hidden_layers=s.layers,
        num_attention_heads=s.heads, max_position_embeddings=s.positions, num_labels=s.classes,
        attn_implementation=attention,
    )  # fmt: skip
    return random_weights(transformers.BertForSequenceClassification(config))


def mamba(_: str) -> nn.Module:
    s = tiny_mamba.Sizes()
    config = transformers.MambaConfig(
        vocab_size=s.words, hidden_size=s.width, state_size=s.state, num_hidden_layers=s.layers,
        time_step_rank=s.rank, conv_kernel=s.kernel, expand=s.inner // s.width, layer_norm_epsilon=tiny_mamba.EPS,
    )  # fmt: skip
    return random_weights(transformers.MambaForCausalLM(config))


LANGUAGE: dict[str, tuple[Callable[[str], nn.Module], Callable[..., Tensor], Any, str, float]] = {
    "llama": (llama, tiny_llama.held_llama, tiny_llama.Sizes(), "model.embed_tokens.weight", 1e-6),
    "gpt2": (gpt2, tiny_gpt2.held_gpt2, tiny_gpt2.Sizes(), "transformer.wte.weight", 1e-9),
    "mamba": (mamba, tiny_mamba.held_mamba, tiny_mamba.Sizes(), "backbone.embeddings.weight", 1e-5),
}


@pytest.mark.parametrize("recipe", BOTH)
@pytest.mark.parametrize(
    ("name", "attention"), [("llama", "sdpa"), ("llama", "eager"), ("gpt2", "sdpa"), ("gpt2", "eager"), ("mamba", "")]
)
def test_language_models(name: str, attention: str, recipe: str) -> None:
    build, oracle, sizes, embeddings, rtol = LANGUAGE[name]
    model = build(attention)
    p = {n: w.detach() for n, w in model.state_dict().items()}
    e = relprop.explain(model, {"input_ids": TOKENS}, lambda y: y[:, -1, 3], recipe, epsilon=0.0, ledger=True)
    expected = relevance(lambda x: oracle(p, sizes, x, RECIPES[recipe])[:, -1, 3], p[embeddings][TOKENS])[0]
    check_same_map(e.relevance["input_ids"], expected.sum(-1), rtol=rtol)
    assert e.ledger.closes(1e-6)
    if recipe == "cp_lrp":
        check_sums_to(e.ledger.input + e.ledger.bias, e.score, rtol=rtol)


@pytest.mark.parametrize("recipe", BOTH)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bert_with_padding(attention: str, recipe: str) -> None:
    model, sizes = bert(attention), tiny_bert.Sizes()
    p = {n: w.detach() for n, w in model.state_dict().items()}
    inputs = {"input_ids": TOKENS, "attention_mask": KEEP}
    e = relprop.explain(model, inputs, 1, recipe, epsilon=0.0, ledger=True)
    x = p["bert.embeddings.word_embeddings.weight"][TOKENS]
    expected = relevance(lambda a: tiny_bert.held_bert(p, sizes, a, RECIPES[recipe], KEEP)[:, 1], x)[0]
    check_same_map(e.relevance["input_ids"], expected.sum(-1), rtol=1e-9)
    assert not e.relevance["input_ids"][1, 2:].any()
    assert e.ledger.closes()


@pytest.mark.parametrize("recipe", BOTH)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_vit_of_transformers(attention: str, recipe: str) -> None:
    s = tiny_vit.Sizes()
    config = transformers.ViTConfig(
        hidden_size=s.width, intermediate_size=s.hidden, num_hidden_layers=s.layers, num_attention_heads=s.heads,
        image_size=s.image, patch_size=s.patch, num_labels=s.classes, attn_implementation=attention,
    )  # fmt: skip
    model = random_weights(transformers.ViTForImageClassification(config))
    rtol = 1e-6 if attention == "eager" else 1e-9
    check_vit(model, tiny_vit.renamed(model.state_dict()), config.layer_norm_eps, recipe, rtol)


@pytest.mark.parametrize("recipe", BOTH)
def test_vit_of_torchvision(recipe: str) -> None:
    models = pytest.importorskip("torchvision.models")
    s = tiny_vit.Sizes()
    model = random_weights(
        models.VisionTransformer(s.image, s.patch, s.layers, s.heads, s.width, s.hidden, num_classes=s.classes)
    )
    check_vit(model, model.state_dict(), 1e-6, recipe)


def check_vit(model: nn.Module, p: dict[str, Tensor], eps: float, recipe: str, rtol: float = 1e-9) -> None:
    """The relevance of an image is the oracle's with these weights, by torchvision's names."""
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    e = relprop.explain(model, x, 1, recipe, epsilon=0.0, ledger=True)
    expected = relevance(lambda a: tiny_vit.held_vit(p, tiny_vit.Sizes(), a, RECIPES[recipe], eps)[:, 1], x)[0]
    check_same_map(e.relevance, expected, rtol=rtol)
    assert e.ledger.closes(rtol)
