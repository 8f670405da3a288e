"""Attention layers of torch, windows, heads and masks of every kind, against gradient forms written by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dense
import relprop
from agreement import check_agrees
from checks import check_same_map
from held import (
    RECIPES,
    Recipe,
    Weights,
    causal,
    heads,
    joined,
    layer_norm,
    normalized,
    random_weights,
    secant,
    without,
)
from nets import Net
from tiny_windows import HEADS, SIDE, WIDTH, Windows, affine, held_windows

VALUES, SHARED = RECIPES["cp_lrp"], RECIPES["attnlrp"]
BOTH = {"cp_lrp": VALUES, "attnlrp": SHARED}
LENGTH = 5


def sequences(length: int = LENGTH, seed: int = 14) -> Tensor:
    return torch.randn(3, length, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def multihead(p: Weights, at: str, how: Recipe, x: Tensor, memory: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """nn.MultiheadAttention with queries from x, keys and values from `memory`, both (batch, length, width)."""
    packed = p[at + "in_proj_weight"].split(WIDTH), p[at + "in_proj_bias"].split(WIDTH)
    q, k, v = (heads(a @ w.T + b, HEADS) for a, w, b in zip((x, memory, memory), *packed, strict=True))
    return affine(p, at + "out_proj", joined(how.attend(q, k, v, bias)))


# nn.MultiheadAttention

KEEP = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]).bool()
FLOATS = torch.randn(LENGTH, LENGTH, dtype=torch.float64, generator=torch.Generator().manual_seed(15))
MASKS: dict[str, tuple[dict[str, object], Tensor | float]] = {
    "boolean": ({"attn_mask": torch.ones(LENGTH, LENGTH).triu(1).bool()}, causal(LENGTH)),
    "is_causal": ({"attn_mask": causal(LENGTH), "is_causal": True}, causal(LENGTH)),
    "floats": ({"attn_mask": FLOATS}, FLOATS),
}  # fmt: skip


def self_attention(batch_first: bool, **options: object) -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = x if batch_first else x.transpose(0, 1)
        y = m.attention(x, x, x, **options)[0]
        return y if batch_first else y.transpose(0, 1)

    return random_weights(Net(forward, attention=nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first)), 6)


@pytest.mark.parametrize("recipe", BOTH)
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention(batch_first: bool, need_weights: bool, recipe: str) -> None:
    model = self_attention(batch_first, need_weights=need_weights)
    p = model.state_dict()
    check_agrees(model, lambda x: multihead(p, "attention.", BOTH[recipe], x, x), sequences(), recipe=recipe)


@pytest.mark.parametrize("recipe", BOTH)
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_masks_of_multihead_attention(mask: str, need_weights: bool, recipe: str) -> None:
    options, bias = MASKS[mask]
    model = self_attention(True, need_weights=need_weights, **options)
    p = model.state_dict()
    check_agrees(model, lambda x: multihead(p, "attention.", BOTH[recipe], x, x, bias), sequences(), recipe=recipe)


@pytest.mark.parametrize("recipe", BOTH)
def test_padded_keys_of_multihead_attention(recipe: str) -> None:
    net = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    model = random_weights(Net(lambda m, x, keep: m.a(x, x, x, key_padding_mask=~keep)[0], a=net), 6)
    x, p, bias = sequences(), model.state_dict(), torch.where(KEEP, 0.0, -torch.inf)[:, None, None]
    e = relprop.explain(model, (x, KEEP), lambda y: y[:, 0, 1], recipe, epsilon=0.0, ledger=True)

    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(multihead(p, "a.", BOTH[recipe], leaf, leaf, bias)[:, 0, 1].sum(), leaf)
    check_same_map(e.relevance[0], x * g, rtol=1e-9)
    assert not e.relevance[0][1, 3:].any()
    assert e.ledger.closes()


# The transformer layers of torch


def encoder_layer(p: Weights, how: Recipe, x: Tensor, *, norm_first: bool, act: Callable[[Tensor], Tensor]) -> Tensor:
    """nn.TransformerEncoderLayer without dropout."""

    def norm(a: Tensor, i: int) -> Tensor:
        return layer_norm(a, p[f"layer.norm{i}.weight"], p[f"layer.norm{i}.bias"])

    def feed(a: Tensor) -> Tensor:
        return affine(p, "layer.linear2", secant(act, affine(p, "layer.linear1", a)))

    def attend(a: Tensor) -> Tensor:
        return multihead(p, "layer.self_attn.", how, a, a)

    if norm_first:
        x = x + attend(norm(x, 1))
        return x + feed(norm(x, 2))
    x = norm(x + attend(x), 1)
    return norm(x + feed(x), 2)


@pytest.mark.parametrize("recipe", BOTH)
@pytest.mark.parametrize(("norm_first", "act"), [(False, F.relu), (True, F.gelu)])
def test_encoder_layer_of_torch(norm_first: bool, act: Callable[[Tensor], Tensor], recipe: str) -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 10, 0.1, act, batch_first=True, norm_first=norm_first)
    model = random_weights(Net(lambda m, x: m.layer(x), layer=layer), 7)
    p = model.state_dict()
    check_agrees(
        model, lambda x: encoder_layer(p, BOTH[recipe], x, norm_first=norm_first, act=act), sequences(), recipe=recipe
    )


def decoder_layer(p: Weights, how: Recipe, x: Tensor, memory: Tensor) -> Tensor:
    """nn.TransformerDecoderLayer without dropout, normalized last, with causal self-attention."""

    def norm(a: Tensor, i: int) -> Tensor:
        return layer_norm(a, p[f"layer.norm{i}.weight"], p[f"layer.norm{i}.bias"])

    x = norm(x + multihead(p, "layer.self_attn.", how, x, x, causal(x.shape[1])), 1)
    x = norm(x + multihead(p, "layer.multihead_attn.", how, x, memory), 2)
    return norm(x + affine(p, "layer.linear2", secant(F.relu, affine(p, "layer.linear1", x))), 3)


@pytest.mark.parametrize("recipe", BOTH)
def test_decoder_layer_of_torch_with_its_two_inputs(recipe: str) -> None:
    layer = nn.TransformerDecoderLayer(WIDTH, HEADS, 10, batch_first=True)
    model = random_weights(
        Net(lambda m, x, y: m.layer(x, y, tgt_mask=causal(x.shape[1]), tgt_is_causal=True), layer=layer), 8
    )
    p = model.state_dict()
    inputs = sequences(), sequences(4, 16)
    check_agrees(model, lambda x, y: decoder_layer(p, BOTH[recipe], x, y), *inputs, recipe=recipe)


# Windows of images


@pytest.mark.parametrize("recipe", BOTH)
@pytest.mark.parametrize("shift", [0, 1])
def test_windows_with_relative_positions(shift: int, recipe: str) -> None:
    model = random_weights(Windows(shift), 9)
    p = model.state_dict()
    x = torch.randn(3, SIDE, SIDE, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(17))
    check_agrees(model, lambda a: held_windows(p, BOTH[recipe], shift, a), x, recipe=recipe)


# Variations between scores and values

LINEARS = {"q": (WIDTH, WIDTH), "k": (WIDTH, WIDTH), "v": (WIDTH, WIDTH), "o": (WIDTH, 3)}


def projected(m: Net, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    b, t, _ = x.shape
    q, k, v = (layer(x).view(b, t, HEADS, -1).transpose(1, 2) for layer in (m.q, m.k, m.v))
    return q, k, v


def rms(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def ended(m: Net, y: Tensor) -> Tensor:
    return m.o(y.transpose(1, 2).flatten(2))


def talking(m: Net, x: Tensor) -> Tensor:
    """Heads mixed before and after the softmax (Shazeer et al. 2020)."""
    q, k, v = projected(m, x)
    scores = m.before((q @ k.mT / 2).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    weights = m.after(scores.softmax(-1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return ended(m, weights @ v)


def normalized_queries(m: Net, x: Tensor) -> Tensor:
    q, k, v = projected(m, x)
    return ended(m, F.scaled_dot_product_attention(rms(q), rms(k), v))


def capped(m: Net, x: Tensor) -> Tensor:
    """Scores through c tanh(s / c), as in Gemma 2."""
    q, k, v = projected(m, x)
    return ended(m, (torch.tanh(q @ k.transpose(2, 3) / 2 / 1.5) * 1.5).softmax(-1) @ v)


def sloped(m: Net, x: Tensor) -> Tensor:
    """ALiBi: a slope for each head times the distance."""
    q, k, v = projected(m, x)
    return ended(m, F.scaled_dot_product_attention(q, k, v, attn_mask=slopes(x.shape[1])))


def slopes(length: int) -> Tensor:
    at = torch.arange(length)
    return -(at[:, None] - at[None]).abs() * torch.tensor([0.5, 0.25], dtype=torch.float64)[:, None, None]


def one_key(m: Net, x: Tensor) -> Tensor:
    """One head of keys and values for all queries."""
    q, k, v = projected(m, x)
    return ended(m, F.scaled_dot_product_attention(q, k[:, :1].expand_as(k), v[:, :1].expand_as(v), scale=0.7))


def sigmoids(m: Net, x: Tensor) -> Tensor:
    """Sigmoid attention: no normalization of weights (Ramapuram et al. 2024)."""
    q, k, v = projected(m, x)
    return ended(m, torch.sigmoid(q @ k.mT / 2 - math.log(LENGTH)) @ v)


def held_scores(how: Recipe, q: Tensor, k: Tensor) -> Tensor:
    return how.product(q, k.mT, torch.matmul) / 2


def held_talking(m: Net, how: Recipe, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bhij,gh->bgij", held_scores(how, q, k), m.before.weight)
    weights = torch.einsum("bhij,gh->bgij", scores.softmax(-1), m.after.weight)
    return weights.detach() @ v if how is VALUES else how.product(weights, v, torch.matmul)


def held_norms(m: Net, how: Recipe, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return how.attend(*(normalized(z, (-1,), 1e-6, centre=False) for z in (q, k)), v)


def held_capped(m: Net, how: Recipe, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = secant(lambda s: 1.5 * torch.tanh(s / 1.5), held_scores(how, q, k)).softmax(-1)
    return weights.detach() @ v if how is VALUES else how.product(weights, v, torch.matmul)


def held_sigmoids(m: Net, how: Recipe, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.sigmoid(q @ k.mT / 2 - math.log(LENGTH)).detach() @ v


Held = Callable[[Net, Recipe, Tensor, Tensor, Tensor], Tensor]
VARIANTS: dict[str, tuple[Callable[[Net, Tensor], Tensor], Held]] = {
    "talking heads": (talking, held_talking),
    "normalized queries and keys": (normalized_queries, held_norms),
    "capped scores": (capped, held_capped),
    "slopes": (sloped, lambda m, how, q, k, v: how.attend(q, k, v, slopes(q.shape[2]))),
    "one head of keys": (one_key, lambda m, how, q, k, v: how.attend(q, k[:, :1], v[:, :1], scale=0.7)),
    "sigmoids": (sigmoids, held_sigmoids),
}


@pytest.mark.parametrize("recipe", BOTH)
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_attention(variant: str, recipe: str) -> None:
    written, held = VARIANTS[variant]
    mixing = {"before": nn.Linear(HEADS, HEADS, bias=False), "after": nn.Linear(HEADS, HEADS, bias=False)}
    layers = {n: nn.Linear(*size) for n, size in LINEARS.items()}
    model = random_weights(Net(written, **layers, **(mixing if variant == "talking heads" else {})), 10)

    def oracle(x: Tensor) -> Tensor:
        q, k, v = (heads(layer(x), HEADS) for layer in (model.q, model.k, model.v))
        return model.o(joined(held(model, BOTH[recipe], q, k, v)))

    check_agrees(model, oracle, sequences(), recipe=recipe)


# Every one of them conserves by default


def cross(m: Net, x: Tensor, y: Tensor) -> Tensor:
    return x + m.attention(x, y, y, need_weights=False)[0]


def conserving(name: str) -> nn.Module:
    if name == "decoder layer":
        return nn.TransformerDecoderLayer(WIDTH, HEADS, 10, batch_first=True, norm_first=True)
    if name == "cross attention":
        return Net(cross, attention=nn.MultiheadAttention(WIDTH, HEADS, batch_first=True))
    if name == "encoder layer":
        return nn.TransformerEncoderLayer(WIDTH, HEADS, 10, activation="gelu", batch_first=True)
    if name == "windows":
        shape = (SIDE, SIDE)
        return Net(
            lambda m, x: m.windows(F.pad(x, (0, 0, 0, 11)).unflatten(1, shape)).flatten(1, 2), windows=Windows(1)
        )
    if name == "multihead attention":
        return self_attention(False)
    return Net(VARIANTS[name][0], **{n: nn.Linear(*size) for n, size in LINEARS.items()})


@pytest.mark.parametrize(
    "name",
    ["decoder layer", "cross attention", "encoder layer", "windows", "multihead attention", "capped scores", "slopes"],
)
def test_attention_conserves_by_default(name: str) -> None:
    model = without(random_weights(conserving(name), 11), ("bias",))
    x = (sequences(), sequences(4, 16)) if name in ("decoder layer", "cross attention") else (sequences(),)
    e = relprop.explain(model, x if len(x) > 1 else x[0], lambda y: y[:, 0, 1], "auto", epsilon=0.0, ledger=True)
    total = sum(r.flatten(1).sum(1) for r in (e.relevance if len(x) > 1 else [e.relevance]))
    check_same_map(total, e.score, rtol=1e-9)
    assert e.ledger.closes()


def test_cross_attention_gives_all_but_the_residual_to_the_memory() -> None:
    model = without(random_weights(conserving("cross attention"), 12), ("bias",))
    x, y = sequences(), sequences(4, 16)
    e = relprop.explain(model, (x, y), lambda out: out[:, 0, 1], "cp_lrp", epsilon=0.0)
    kept = torch.zeros_like(x)
    kept[:, 0, 1] = x[:, 0, 1]
    check_same_map(e.relevance[0], kept, rtol=1e-9)
    check_same_map(e.relevance[1].flatten(1).sum(1), e.score - x[:, 0, 1], rtol=1e-9)


# Rules of weighted layers apply to the projections as to any linear layer

PROJECTIONS = {
    "gamma": ({"gamma": 0.5, "epsilon": 0.0}, dense.gamma),
    "alpha_beta": ({"alpha": 2.0, "beta": 1.0}, dense.alpha_beta),
    "z_plus": ({}, dense.z_plus),
    "epsilon": ({"epsilon": 0.1}, dense.epsilon),
}


@pytest.mark.parametrize("rule", PROJECTIONS)
def test_rules_inside_a_packed_projection(rule: str) -> None:
    """One head: R_v = v ⊙ Aᵀ (R / y), zero for queries and keys, then the rule's double sum on the packed layer."""
    options, formula = PROJECTIONS[rule]

    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v)

    model = random_weights(Net(forward, qkv=nn.Linear(WIDTH, 3 * WIDTH)), 13)
    x = sequences()
    with torch.no_grad():
        q, k, v = model.qkv(x).chunk(3, -1)
        weights = torch.softmax(q @ k.mT / math.sqrt(WIDTH), -1)
        y = weights @ v
        s = torch.zeros_like(y)
        s[:, 2, 1] = 1.0  # R / y for the score y[2, 1]
        if rule == "epsilon":
            s[:, 2, 1] = y[:, 2, 1] / (y + 0.1 * y.square().mean((1, 2), keepdim=True).sqrt() * y.sign())[:, 2, 1]
        R = torch.cat((torch.zeros_like(q), torch.zeros_like(k), v * (weights.mT @ s)), -1)
    layer = dense.dense(lambda a: model.qkv(a), (LENGTH, WIDTH))
    expected = formula(layer, x, R, **options).detach()
    e = relprop.explain(model, x, lambda out: out[:, 2, 1], rule, ledger=True, **{"epsilon": 0.0, **options})
    check_same_map(e.relevance, expected, rtol=1e-9)
    assert e.ledger.closes()
