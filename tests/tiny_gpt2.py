"""A GPT-2 of two layers in several spellings, and its relevance with held parts, written independently.

Parameters are named and shaped as in `transformers.GPT2LMHeadModel` (projections are (in, out)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from held import Recipe, Weights, causal, heads, joined, layer_norm, secant


@dataclass(frozen=True)
class Sizes:
    words: int = 11
    width: int = 8
    heads: int = 2
    layers: int = 2
    positions: int = 9


@dataclass(frozen=True)
class Spelling:
    """How the same function is written."""

    split: str = "chunk"
    attention: str = "causal"
    gelu: str = "tanh"
    dense: str = "addmm"


SPELLINGS = {
    "split, is_causal": Spelling(),
    "chunk, written out": Spelling("chunk", "written", "new"),
    "permute and unbind": Spelling("unbind", "causal", "tanh", "matmul"),
    "slices, baddbmm": Spelling("slices", "baddbmm", "new", "matmul"),
}


class Conv1D(nn.Module):
    def __init__(self, n: int, m: int, how: str) -> None:
        super().__init__()
        self.weight, self.bias, self.how = nn.Parameter(torch.empty(n, m)), nn.Parameter(torch.empty(m)), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "matmul":
            return x @ self.weight + self.bias
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], -1)


class Attention(nn.Module):
    def __init__(self, sizes: Sizes, how: Spelling) -> None:
        super().__init__()
        self.c_attn, self.c_proj = (Conv1D(sizes.width, n * sizes.width, how.dense) for n in (3, 1))
        self.heads, self.how = sizes.heads, how

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, t, w = x.shape
        qkv = self.c_attn(x)
        if self.how.split == "unbind":
            q, k, v = qkv.reshape(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
            return q, k, v
        if self.how.split == "slices":
            parts = qkv[..., :w], qkv[..., w : 2 * w], qkv[..., 2 * w :]
        else:
            parts = qkv.chunk(3, -1) if self.how.split == "chunk" else qkv.split(w, 2)
        q, k, v = (p.view(b, t, self.heads, w // self.heads).transpose(1, 2) for p in parts)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        b, t, w = x.shape
        q, k, v = self.split(x)
        if self.how.attention == "causal":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        elif self.how.attention == "written":
            mask = torch.ones(t, t).triu(1).bool()
            y = (q @ k.mT / math.sqrt(w // self.heads)).masked_fill(mask, float("-inf")).softmax(-1) @ v
        else:
            q, k, v = (z.reshape(b * self.heads, t, -1) for z in (q, k, v))
            mask = torch.full((t, t), float("-inf"), dtype=x.dtype).triu(1).expand(b * self.heads, t, t)
            scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=(w // self.heads) ** -0.5)
            y = torch.bmm(scores.softmax(-1), v).view(b, self.heads, t, -1)
        return self.c_proj(y.transpose(1, 2).reshape(b, t, w))


class Mlp(nn.Module):
    def __init__(self, sizes: Sizes, how: Spelling) -> None:
        super().__init__()
        self.c_fc = Conv1D(sizes.width, 4 * sizes.width, how.dense)
        self.c_proj = Conv1D(4 * sizes.width, sizes.width, how.dense)
        self.how = how.gelu

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        if self.how == "new":
            x = 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))
        else:
            x = F.gelu(x, approximate="tanh")
        return self.c_proj(x)


class Block(nn.Module):
    def __init__(self, sizes: Sizes, how: Spelling) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(sizes.width), nn.LayerNorm(sizes.width)
        self.attn, self.mlp = Attention(sizes, how), Mlp(sizes, how)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class TinyGpt2(nn.Module):
    """Tokens, or their embeddings (batch, length, width), to the logits of the last position."""

    def __init__(self, sizes: Sizes, spelling: Spelling) -> None:
        super().__init__()
        self.transformer: Any = nn.Module()
        self.transformer.wte = nn.Embedding(sizes.words, sizes.width)
        self.transformer.wpe = nn.Embedding(sizes.positions, sizes.width)
        self.transformer.h = nn.ModuleList(Block(sizes, spelling) for _ in range(sizes.layers))
        self.transformer.ln_f = nn.LayerNorm(sizes.width)
        self.lm_head = nn.Linear(sizes.width, sizes.words, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x if x.is_floating_point() else self.transformer.wte(x)
        x = x + self.transformer.wpe(torch.arange(x.shape[1]))
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))[:, -1]


def held_gpt2(p: Weights, sizes: Sizes, x: Tensor, recipe: Recipe) -> Tensor:
    """Logits at every position with the recipe's parts held; `x` embeddings (batch, length, width)."""

    def dense(a: Tensor, name: str) -> Tensor:
        return a @ p[name + ".weight"] + p[name + ".bias"]

    def norm(a: Tensor, name: str) -> Tensor:
        return layer_norm(a, p[name + ".weight"], p[name + ".bias"])

    def gelu(a: Tensor) -> Tensor:
        return a / 2 * (1 + torch.tanh((2 / math.pi) ** 0.5 * (a + 0.044715 * a**3)))

    x = x + p["transformer.wpe.weight"][: x.shape[1]]
    for i in range(sizes.layers):
        at = f"transformer.h.{i}."
        q, k, v = (heads(z, sizes.heads) for z in dense(norm(x, at + "ln_1"), at + "attn.c_attn").tensor_split(3, -1))
        x = x + dense(joined(recipe.attend(q, k, v, causal(x.shape[1]))), at + "attn.c_proj")
        x = x + dense(secant(gelu, dense(norm(x, at + "ln_2"), at + "mlp.c_fc")), at + "mlp.c_proj")
    return norm(x, "transformer.ln_f") @ p["lm_head.weight"].T
