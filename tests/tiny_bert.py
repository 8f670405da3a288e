"""A BERT of two layers in several spellings, and its relevance with held parts, written independently.

Parameters are named as in `transformers.BertForSequenceClassification`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from held import Recipe, Weights, heads, joined, layer_norm, secant

EPS = 1e-12


@dataclass(frozen=True)
class Sizes:
    words: int = 11
    width: int = 8
    hidden: int = 10
    heads: int = 2
    layers: int = 2
    positions: int = 9
    classes: int = 3


@dataclass(frozen=True)
class Spelling:
    attention: str = "fused"
    gelu: str = "exact"
    norm: str = "module"


SPELLINGS = {
    "fused": Spelling(),
    "additive mask of the smallest number": Spelling("finite", "written", "module"),
    "weights normalized by hand": Spelling("by hand", "exact", "written"),
}


class Norm(nn.LayerNorm):
    """LayerNorm written out as (x − mean) / sqrt(var + eps)."""

    def forward(self, x: Tensor) -> Tensor:
        mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) / torch.sqrt(var + self.eps) * self.weight + self.bias


def norm(sizes: Sizes, how: Spelling) -> nn.Module:
    return (Norm if how.norm == "written" else nn.LayerNorm)(sizes.width, eps=EPS)


class SelfAttention(nn.Module):
    def __init__(self, sizes: Sizes, how: Spelling) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(sizes.width, sizes.width) for _ in range(3))
        self.heads, self.how = sizes.heads, how.attention

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        b, t, w = x.shape
        q, k, v = (p(x).view(b, t, self.heads, -1).transpose(1, 2) for p in (self.query, self.key, self.value))
        seen = None if keep is None else keep.bool()[:, None, None, :]
        if self.how == "fused":
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        else:
            scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(w // self.heads)
            y = self.weights(scores, seen) @ v
        return y.transpose(1, 2).contiguous().view(b, t, w)

    def weights(self, scores: Tensor, seen: Tensor | None) -> Tensor:
        if self.how == "finite":
            if seen is not None:
                scores = scores + (1.0 - seen.to(scores.dtype)) * torch.finfo(torch.float32).min
            return nn.functional.softmax(scores, dim=-1)
        e = torch.exp(scores) if seen is None else torch.exp(scores) * seen
        return e / e.sum(-1, keepdim=True)


class Layer(nn.Module):
    def __init__(self, sizes: Sizes, how: Spelling) -> None:
        super().__init__()
        self.attention: Any = nn.Module()
        self.attention.self = SelfAttention(sizes, how)
        self.attention.output = self.part(sizes.width, sizes.width, norm(sizes, how))
        self.intermediate = self.part(sizes.width, sizes.hidden, None)
        self.output = self.part(sizes.hidden, sizes.width, norm(sizes, how))
        self.gelu = how.gelu

    @staticmethod
    def part(n: int, m: int, after: nn.Module | None) -> Any:
        part: Any = nn.Module()
        part.dense = nn.Linear(n, m)
        if after is not None:
            part.LayerNorm = after
        return part

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        out = self.attention.output
        x = out.LayerNorm(out.dense(self.attention.self(x, keep)) + x)
        h = self.intermediate.dense(x)
        h = h * 0.5 * (1.0 + torch.erf(h / math.sqrt(2.0))) if self.gelu == "written" else F.gelu(h)
        return self.output.LayerNorm(self.output.dense(h) + x)


class TinyBert(nn.Module):
    """Tokens, or their embeddings (batch, length, width), and perhaps a mask (batch, length), to class logits."""

    def __init__(self, sizes: Sizes, spelling: Spelling) -> None:
        super().__init__()
        self.bert: Any = nn.Module()
        self.bert.embeddings = e = nn.Module()
        e.word_embeddings = nn.Embedding(sizes.words, sizes.width)
        e.position_embeddings = nn.Embedding(sizes.positions, sizes.width)
        e.token_type_embeddings = nn.Embedding(2, sizes.width)
        e.LayerNorm = norm(sizes, spelling)
        self.bert.encoder = nn.Module()
        self.bert.encoder.layer = nn.ModuleList(Layer(sizes, spelling) for _ in range(sizes.layers))
        self.bert.pooler = Layer.part(sizes.width, sizes.width, None)
        self.classifier = nn.Linear(sizes.width, sizes.classes)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        e = self.bert.embeddings
        x = x if x.is_floating_point() else e.word_embeddings(x)
        places = torch.arange(x.shape[1])
        x = e.LayerNorm(x + e.token_type_embeddings(torch.zeros_like(places)) + e.position_embeddings(places))
        for layer in self.bert.encoder.layer:
            x = layer(x, keep)
        return self.classifier(torch.tanh(self.bert.pooler.dense(x[:, 0])))


def held_bert(p: Weights, sizes: Sizes, x: Tensor, recipe: Recipe, keep: Tensor | None = None) -> Tensor:
    """Class logits with the recipe's parts held; `x` embeddings (batch, length, width)."""

    def dense(a: Tensor, name: str) -> Tensor:
        return a @ p[name + ".weight"].T + p[name + ".bias"]

    def layer_normed(a: Tensor, name: str) -> Tensor:
        return layer_norm(a, p[name + ".LayerNorm.weight"], p[name + ".LayerNorm.bias"], EPS)

    e = "bert.embeddings."
    x = x + p[e + "token_type_embeddings.weight"][0] + p[e + "position_embeddings.weight"][: x.shape[1]]
    x = layer_normed(x, "bert.embeddings")
    unseen = 0.0 if keep is None else torch.where(keep.bool(), 0.0, -torch.inf)[:, None, None, :]
    for i in range(sizes.layers):
        at = f"bert.encoder.layer.{i}."
        q, k, v = (heads(dense(x, f"{at}attention.self.{n}"), sizes.heads) for n in ("query", "key", "value"))
        y = dense(joined(recipe.attend(q, k, v, unseen)), at + "attention.output.dense")
        x = layer_normed(y + x, at + "attention.output")
        h = secant(F.gelu, dense(x, at + "intermediate.dense"))
        x = layer_normed(dense(h, at + "output.dense") + x, at + "output")
    return dense(secant(torch.tanh, dense(x[:, 0], "bert.pooler.dense")), "classifier")
