"""A Llama of two layers in several spellings, and its relevance with held parts, written independently.

Parameters are named as in `transformers.LlamaForCausalLM`, so that weights can be exchanged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from held import Recipe, Weights, causal, heads, joined, rms_norm


@dataclass(frozen=True)
class Sizes:
    """`pairs`: key and value heads."""

    words: int = 11
    width: int = 16
    hidden: int = 10
    heads: int = 4
    pairs: int = 2
    layers: int = 2
    eps: float = 1e-5
    theta: float = 10000.0


@dataclass(frozen=True)
class Spelling:
    """How the same function is written."""

    attention: str = "causal"
    norm: str = "rsqrt"
    mlp: str = "apart"


SPELLINGS = {
    "is_causal": Spelling(),
    "float mask": Spelling(attention="float mask"),
    "boolean mask": Spelling(attention="boolean mask"),
    "enable_gqa": Spelling(attention="gqa", norm="functional"),
    "written out": Spelling(attention="written", norm="divided"),
    "written out, mask of finite numbers": Spelling(attention="finite mask", norm="reciprocal"),
    "masked_fill": Spelling(attention="masked_fill", norm="square"),
    "einsum": Spelling(attention="einsum", norm="functional", mlp="packed"),
    "bmm": Spelling(attention="bmm", norm="module", mlp="sigmoid"),
}


class Norm(nn.Module):
    def __init__(self, sizes: Sizes, how: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(sizes.width))
        self.eps, self.how = sizes.eps, how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "functional":
            return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        if self.how == "module":
            return torch.rms_norm(x, [x.shape[-1]], self.weight, self.eps)
        if self.how == "divided":
            return x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.weight
        if self.how == "reciprocal":
            return x * torch.reciprocal(torch.sqrt(torch.mean(x**2, -1, keepdim=True) + self.eps)) * self.weight
        if self.how == "square":
            return self.weight * (x * (x.square().sum(-1, keepdim=True) / x.shape[-1] + self.eps) ** -0.5)
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def rotated(x: Tensor, theta: float) -> Tensor:
    """Rotary positions as most code writes them: x cos + rotate_half(x) sin."""
    half = x.shape[-1] // 2
    rates = 1.0 / theta ** (torch.arange(half, dtype=torch.float64) / half)
    angles = torch.outer(torch.arange(x.shape[-2], dtype=torch.float64), rates).repeat(1, 2)
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * angles.cos().to(x.dtype) + turned * angles.sin().to(x.dtype)


def repeat_kv(x: Tensor, n: int) -> Tensor:
    b, h, t, d = x.shape
    return x[:, :, None].expand(b, h, n, t, d).reshape(b, h * n, t, d)


class Attention(nn.Module):
    def __init__(self, sizes: Sizes, how: str) -> None:
        super().__init__()
        width, narrow = sizes.width, sizes.width // sizes.heads * sizes.pairs
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, narrow)
        self.v_proj, self.o_proj = nn.Linear(width, narrow), nn.Linear(width, width)
        self.sizes, self.how = sizes, how

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (
            p(x).view(b, t, -1, x.shape[-1] // self.sizes.heads).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotated(q, self.sizes.theta), rotated(k, self.sizes.theta)
        if self.how == "gqa":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            n = self.sizes.heads // self.sizes.pairs
            y = getattr(self, self.how.replace(" ", "_"))(q, repeat_kv(k, n), repeat_kv(v, n))
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))

    def causal(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def float_mask(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.full((q.shape[2], q.shape[2]), float("-inf"), dtype=q.dtype).triu(1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def boolean_mask(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(q.shape[2], q.shape[2]).bool().tril())

    def written(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.full((q.shape[2], q.shape[2]), float("-inf"), dtype=q.dtype).triu(1)
        return F.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]) + mask, -1) @ v

    def finite_mask(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.full((q.shape[2], q.shape[2]), torch.finfo(torch.float32).min, dtype=q.dtype).triu(1)
        weights = torch.softmax(torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5 + mask, dim=-1)
        return torch.matmul(weights, v)

    def masked_fill(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q * q.shape[-1] ** -0.5) @ k.mT
        later = torch.ones(q.shape[2], q.shape[2]).triu(1).bool()
        return scores.masked_fill(later, float("-inf")).softmax(-1) @ v

    def einsum(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.shape[-1])
        keep = torch.ones(q.shape[2], q.shape[2]).tril().bool()
        weights = torch.where(keep, scores, float("-inf")).softmax(-1)
        return torch.einsum("bhqk,bhkd->bhqd", weights, v)

    def bmm(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, h, t, d = q.shape
        q, k, v = (x.reshape(b * h, t, d) for x in (q, k, v))
        mask = torch.full((t, t), float("-inf"), dtype=q.dtype).triu(1)
        weights = torch.softmax(torch.bmm(q, k.transpose(1, 2)) / math.sqrt(d) + mask, -1)
        return torch.bmm(weights, v).view(b, h, t, d)


class Mlp(nn.Module):
    """SwiGLU: down(silu(gate(x)) ⊙ up(x))."""

    def __init__(self, sizes: Sizes, how: str) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(sizes.width, sizes.hidden, bias=False)
        self.up_proj = nn.Linear(sizes.width, sizes.hidden, bias=False)
        self.down_proj = nn.Linear(sizes.hidden, sizes.width, bias=False)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "packed":
            gate, up = F.linear(x, torch.cat((self.gate_proj.weight, self.up_proj.weight))).chunk(2, -1)
            return self.down_proj(F.silu(gate) * up)
        gate, up = self.gate_proj(x), self.up_proj(x)
        act = gate * torch.sigmoid(gate) if self.how == "sigmoid" else F.silu(gate)
        return self.down_proj(act * up)


class Block(nn.Module):
    def __init__(self, sizes: Sizes, spelling: Spelling) -> None:
        super().__init__()
        self.self_attn = Attention(sizes, spelling.attention)
        self.mlp = Mlp(sizes, spelling.mlp)
        self.input_layernorm, self.post_attention_layernorm = (Norm(sizes, spelling.norm) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class TinyLlama(nn.Module):
    """Tokens (batch, length), or their embeddings (batch, length, width), to the logits of the last position."""

    def __init__(self, sizes: Sizes, spelling: Spelling) -> None:
        super().__init__()
        self.model: Any = nn.Module()
        self.model.embed_tokens = nn.Embedding(sizes.words, sizes.width)
        self.model.layers = nn.ModuleList(Block(sizes, spelling) for _ in range(sizes.layers))
        self.model.norm = Norm(sizes, spelling.norm)
        self.lm_head = nn.Linear(sizes.width, sizes.words, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x if x.is_floating_point() else self.model.embed_tokens(x)
        for layer in self.model.layers:
            x = layer(x)
        return self.lm_head(self.model.norm(x))[:, -1]


def turned(x: Tensor, theta: float) -> Tensor:
    """Rotary positions as a rotation of complex numbers x_i + i x_{i + d/2}."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] * theta ** (-torch.arange(half, dtype=torch.float64) / half)
    z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((z.real, z.imag), -1)


def held_llama(p: Weights, sizes: Sizes, x: Tensor, recipe: Recipe) -> Tensor:
    """Logits at every position with the recipe's parts held; `x` embeddings (batch, length, width)."""
    for i in range(sizes.layers):
        at = f"model.layers.{i}."
        n = rms_norm(x, p[at + "input_layernorm.weight"], sizes.eps)
        project = at + "self_attn.{}_proj."
        q, k, v = (
            heads(n @ p[project.format(c) + "weight"].T + p[project.format(c) + "bias"], count)
            for c, count in (("q", sizes.heads), ("k", sizes.pairs), ("v", sizes.pairs))
        )
        q, k = turned(q, sizes.theta), turned(k, sizes.theta)
        k, v = (t.repeat_interleave(sizes.heads // sizes.pairs, 1) for t in (k, v))
        y = joined(recipe.attend(q, k, v, causal(x.shape[1])))
        x = x + y @ p[project.format("o") + "weight"].T + p[project.format("o") + "bias"]
        n = rms_norm(x, p[at + "post_attention_layernorm.weight"], sizes.eps)
        gate, up = n @ p[at + "mlp.gate_proj.weight"].T, n @ p[at + "mlp.up_proj.weight"].T
        x = x + recipe.gate(F.silu, gate, up) @ p[at + "mlp.down_proj.weight"].T
    return rms_norm(x, p["model.norm.weight"], sizes.eps) @ p["lm_head.weight"].T
