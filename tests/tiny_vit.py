"""A vision transformer of two layers in several spellings, and its relevance with held parts, written independently.

Parameters are named as in `torchvision.models.VisionTransformer`.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from held import Recipe, Weights, heads, joined, layer_norm, secant

EPS = 1e-6


@dataclass(frozen=True)
class Sizes:
    image: int = 8
    patch: int = 4
    width: int = 8
    hidden: int = 10
    heads: int = 2
    layers: int = 2
    classes: int = 3

    @property
    def places(self) -> int:
        return (self.image // self.patch) ** 2 + 1


@dataclass(frozen=True)
class Spelling:
    attention: str = "module"
    patches: str = "convolution"


SPELLINGS = {
    "nn.MultiheadAttention": Spelling(),
    "packed, permute and unbind": Spelling("unbind", "unfold"),
    "packed, chunk, written out": Spelling("written", "reshape"),
}


class Packed(nn.Module):
    """Self-attention with one projection for q, k and v."""

    def __init__(self, sizes: Sizes, how: str) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * sizes.width, sizes.width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * sizes.width))
        self.out_proj = nn.Linear(sizes.width, sizes.width)
        self.heads, self.how = sizes.heads, how

    def forward(self, x: Tensor) -> Tensor:
        b, t, w = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        if self.how == "unbind":
            q, k, v = qkv.reshape(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            q, k, v = (z.reshape(b, t, self.heads, -1).transpose(1, 2) for z in qkv.chunk(3, dim=-1))
            weights = ((q * math.sqrt(self.heads / w)) @ k.transpose(-2, -1)).softmax(dim=-1)
            y = weights @ v
        return self.out_proj(y.transpose(1, 2).reshape(b, t, w))


class Block(nn.Module):
    def __init__(self, sizes: Sizes, how: Spelling) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = (nn.LayerNorm(sizes.width, eps=EPS) for _ in range(2))
        attention = nn.MultiheadAttention(sizes.width, sizes.heads, batch_first=True)
        self.self_attention: Any = attention if how.attention == "module" else Packed(sizes, how.attention)
        layers = nn.Linear(sizes.width, sizes.hidden), nn.GELU(), nn.Dropout(0.1), nn.Linear(sizes.hidden, sizes.width)
        self.mlp = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        n = self.ln_1(x)
        module = isinstance(self.self_attention, nn.MultiheadAttention)
        x = x + (self.self_attention(n, n, n, need_weights=False)[0] if module else self.self_attention(n))
        return x + self.mlp(self.ln_2(x))


class TinyVit(nn.Module):
    """Images (batch, 3, 8, 8) to class logits."""

    def __init__(self, sizes: Sizes, spelling: Spelling) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.empty(1, 1, sizes.width))
        self.conv_proj = nn.Conv2d(3, sizes.width, sizes.patch, sizes.patch)
        self.encoder: Any = nn.Module()
        self.encoder.pos_embedding = nn.Parameter(torch.empty(1, sizes.places, sizes.width))
        blocks = (Block(sizes, spelling) for _ in range(sizes.layers))
        self.encoder.layers = nn.Sequential(OrderedDict((f"encoder_layer_{i}", b) for i, b in enumerate(blocks)))
        self.encoder.ln = nn.LayerNorm(sizes.width, eps=EPS)
        self.heads = nn.Sequential(OrderedDict(head=nn.Linear(sizes.width, sizes.classes)))
        self.how, self.patch = spelling.patches, sizes.patch

    def patches(self, x: Tensor) -> Tensor:
        if self.how == "convolution":
            return self.conv_proj(x).flatten(2).transpose(1, 2)
        w, p = self.conv_proj.weight.flatten(1), self.patch
        if self.how == "unfold":
            return F.linear(F.unfold(x, p, stride=p).mT, w, self.conv_proj.bias)
        b, c, h, _ = x.shape
        pieces = x.reshape(b, c, h // p, p, h // p, p).permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * p * p)
        return F.linear(pieces, w, self.conv_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], 1) + self.encoder.pos_embedding
        return self.heads(self.encoder.ln(self.encoder.layers(x))[:, 0])


def held_vit(p: Weights, sizes: Sizes, x: Tensor, recipe: Recipe, eps: float = EPS) -> Tensor:
    """Class logits with the recipe's parts held; `x` images."""

    def norm(a: Tensor, name: str) -> Tensor:
        return layer_norm(a, p[name + ".weight"], p[name + ".bias"], eps)

    def dense(a: Tensor, name: str) -> Tensor:
        return a @ p[name + ".weight"].T + p[name + ".bias"]

    patches = x.unfold(2, sizes.patch, sizes.patch).unfold(3, sizes.patch, sizes.patch)  # (b, c, i, j, m, n)
    x = torch.einsum("bcijmn,wcmn->bijw", patches, p["conv_proj.weight"]).flatten(1, 2) + p["conv_proj.bias"]
    x = torch.cat((p["class_token"].repeat(len(x), 1, 1), x), 1) + p["encoder.pos_embedding"]
    for i in range(sizes.layers):
        at = f"encoder.layers.encoder_layer_{i}."
        n, attention = norm(x, at + "ln_1"), at + "self_attention."
        w, b = (p[attention + part].tensor_split(3) for part in ("in_proj_weight", "in_proj_bias"))
        q, k, v = (heads(n @ u.T + c, sizes.heads) for u, c in zip(w, b, strict=True))
        x = x + dense(joined(recipe.attend(q, k, v)), attention + "out_proj")
        h = secant(F.gelu, dense(norm(x, at + "ln_2"), at + "mlp.0"))
        x = x + dense(h, at + "mlp.3")
    return dense(norm(x, "encoder.ln")[:, 0], "heads.head")


RENAMED = (
    (r"vit\.embeddings\.cls_token", "class_token"),
    (r"vit\.embeddings\.position_embeddings", "encoder.pos_embedding"),
    (r"vit\.embeddings\.patch_embeddings\.projection", "conv_proj"),
    (r"vit\.layers\.(\d+)", r"encoder.layers.encoder_layer_\1"),
    (r"layernorm_before", "ln_1"),
    (r"layernorm_after", "ln_2"),
    (r"attention\.o_proj", "self_attention.out_proj"),
    (r"mlp\.fc1", "mlp.0"),
    (r"mlp\.fc2", "mlp.3"),
    (r"vit\.layernorm", "encoder.ln"),
    (r"^classifier", "heads.head"),
)


def renamed(weights: Weights) -> Weights:
    """Weights of `transformers.ViTForImageClassification` under torchvision's names, q, k and v packed."""
    out = dict(weights)
    for name in [n for n in weights if ".q_proj." in n]:
        parts = [out.pop(name.replace("q_proj", f"{c}_proj")) for c in "qkv"]
        out[name.replace("attention.q_proj.", "self_attention.in_proj_")] = torch.cat(parts)
    for pattern, new in RENAMED:
        out = {re.sub(pattern, new, n): w for n, w in out.items()}
    return out
