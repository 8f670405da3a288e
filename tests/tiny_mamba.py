"""A Mamba of two layers, its scan written as a loop over time, and its relevance with held parts.

Held are Δ, A̅, B, C and the statistic of RMSNorm; SiLU passes relevance; the product with the gate z is shared
(Jafari et al. 2024, MambaLRP). Parameters are named as in `transformers.MambaForCausalLM`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from held import Recipe, Weights, rms_norm, secant

EPS = 1e-5


@dataclass(frozen=True)
class Sizes:
    """`inner`: channels of the state space, `state`: numbers of state a channel, `rank`: of the step's projection."""

    words: int = 11
    width: int = 6
    inner: int = 12
    state: int = 3
    rank: int = 2
    kernel: int = 3
    layers: int = 2


SPELLINGS = ("matmul", "sum of products", "einsum")


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS))


class Mixer(nn.Module):
    def __init__(self, s: Sizes, how: str) -> None:
        super().__init__()
        self.in_proj = nn.Linear(s.width, 2 * s.inner, bias=False)
        self.conv1d = nn.Conv1d(s.inner, s.inner, s.kernel, groups=s.inner, padding=s.kernel - 1)
        self.x_proj = nn.Linear(s.inner, s.rank + 2 * s.state, bias=False)
        self.dt_proj = nn.Linear(s.rank, s.inner)
        self.A_log, self.D = nn.Parameter(torch.empty(s.inner, s.state)), nn.Parameter(torch.empty(s.inner))
        self.out_proj = nn.Linear(s.inner, s.width, bias=False)
        self.sizes, self.how = s, how

    def forward(self, x: Tensor) -> Tensor:
        s, length = self.sizes, x.shape[1]
        u, z = self.in_proj(x).transpose(1, 2).chunk(2, dim=1)
        u = F.silu(self.conv1d(u)[..., :length])
        step, B, C = torch.split(self.x_proj(u.transpose(1, 2)), [s.rank, s.state, s.state], dim=-1)
        step = F.softplus(self.dt_proj(step)).transpose(1, 2)
        A = -torch.exp(self.A_log)
        decay = torch.exp(A[None, :, None, :] * step[:, :, :, None])
        entering = step[:, :, :, None] * B[:, None, :, :] * u[:, :, :, None]
        h, out = torch.zeros(len(x), s.inner, s.state, dtype=x.dtype), []
        for t in range(length):
            h = decay[:, :, t, :] * h + entering[:, :, t, :]
            out.append(self.read(h, C[:, t, :]))
        y = torch.stack(out, -1) + u * self.D[None, :, None]
        return self.out_proj((y * F.silu(z)).transpose(1, 2))

    def read(self, h: Tensor, c: Tensor) -> Tensor:
        if self.how == "matmul":
            return torch.matmul(h, c.unsqueeze(-1))[:, :, 0]
        if self.how == "einsum":
            return torch.einsum("bdn,bn->bd", h, c)
        return (h * c[:, None, :]).sum(-1)


class Block(nn.Module):
    def __init__(self, s: Sizes, how: str) -> None:
        super().__init__()
        self.norm, self.mixer = Norm(s.width), Mixer(s, how)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mixer(self.norm(x))


class TinyMamba(nn.Module):
    """Tokens, or their embeddings (batch, length, width), to the logits of the last position."""

    def __init__(self, sizes: Sizes, how: str) -> None:
        super().__init__()
        self.backbone: Any = nn.Module()
        self.backbone.embeddings = nn.Embedding(sizes.words, sizes.width)
        self.backbone.layers = nn.ModuleList(Block(sizes, how) for _ in range(sizes.layers))
        self.backbone.norm_f = Norm(sizes.width)
        self.lm_head = nn.Linear(sizes.width, sizes.words, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x if x.is_floating_point() else self.backbone.embeddings(x)
        for layer in self.backbone.layers:
            x = layer(x)
        return self.lm_head(self.backbone.norm_f(x))[:, -1]


def held_mamba(p: Weights, sizes: Sizes, x: Tensor, recipe: Recipe) -> Tensor:
    """Logits at every position with the recipe's parts held; `x` embeddings (batch, length, width)."""
    for i in range(sizes.layers):
        at = f"backbone.layers.{i}."
        w = {n.removeprefix(at + "mixer."): v for n, v in p.items() if n.startswith(at + "mixer.")}
        u, z = (rms_norm(x, p[at + "norm.weight"], EPS) @ w["in_proj.weight"].T).tensor_split(2, -1)
        u = secant(F.silu, _delayed(u, w["conv1d.weight"][:, 0]) + w["conv1d.bias"])
        y = recipe.gate(F.silu, z, _scan(u, w, sizes) + u * w["D"])
        x = x + y @ w["out_proj.weight"].T
    return rms_norm(x, p["backbone.norm_f.weight"], EPS) @ p["lm_head.weight"].T


def _delayed(u: Tensor, kernel: Tensor) -> Tensor:
    """Σ_k kernel[c, K − 1 − k] u[t − k, c]: the causal convolution of each channel."""
    out = torch.zeros_like(u)
    for k in range(kernel.shape[1]):
        out = out + kernel[:, -1 - k] * F.pad(u, (0, 0, k, 0))[:, : u.shape[1]]
    return out


def _scan(u: Tensor, w: Weights, s: Sizes) -> Tensor:
    """y_t = Σ_{r ≤ t} C_t (Π_{r < q ≤ t} A̅_q) Δ_r B_r u_r, without recursion; all but u held."""
    step, b, c = (u @ w["x_proj.weight"].T).detach().split([s.rank, s.state, s.state], -1)
    delta = torch.log1p(torch.exp(step @ w["dt_proj.weight"].T + w["dt_proj.bias"])).detach()
    rate = -torch.exp(w["A_log"]).detach()
    out = []
    for t in range(u.shape[1]):
        y = torch.zeros_like(u[:, 0])
        for r in range(t + 1):
            decay = torch.exp(delta[:, r + 1 : t + 1].sum(1)[..., None] * rate)  # (batch, inner, state)
            weight = (decay * b[:, r, None, :] * c[:, t, None, :]).sum(-1) * delta[:, r]
            y = y + weight * u[:, r]
        out.append(y)
    return torch.stack(out, 1)
