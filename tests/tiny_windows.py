"""Attention within windows (Liu et al. 2021): 2 × 2 places in a 4 × 4 image, shifted or not; and its oracle.

The oracle is attention over all places of the image at once, with a mask.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from held import Recipe, Weights, heads, joined

WIDTH, HEADS = 8, 2
SIDE, WINDOW = 4, 2


class Windows(nn.Module):
    """Attention within windows, with a bias for each offset; `shift` rolls the image and masks what was not adjacent."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.offsets = nn.Parameter(torch.empty((2 * WINDOW - 1) ** 2, HEADS))
        self.shift = shift
        at = torch.stack(torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")).flatten(1)
        delta = at[:, :, None] - at[:, None, :] + WINDOW - 1
        self.register_buffer("index", delta[0] * (2 * WINDOW - 1) + delta[1])
        region = torch.zeros(1, SIDE, SIDE, 1)
        parts = (slice(0, -WINDOW), slice(-WINDOW, -shift or None), slice(-shift, None)) if shift else ()
        for i, rows in enumerate(parts):
            for j, columns in enumerate(parts):
                region[:, rows, columns] = 3 * i + j
        r = self.cut(region)[..., 0]
        self.register_buffer("mask", (r[:, :, None] != r[:, None, :]).double() * -100.0)

    @staticmethod
    def cut(x: Tensor) -> Tensor:
        """(batch, side, side, c) -> (batch · windows, places, c)."""
        b, h, w, c = x.shape
        x = x.view(b, h // WINDOW, WINDOW, w // WINDOW, WINDOW, c)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW * WINDOW, c)

    @staticmethod
    def paste(x: Tensor) -> Tensor:
        n = SIDE // WINDOW
        x = x.view(-1, n, n, WINDOW, WINDOW, WIDTH)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, SIDE, SIDE, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.roll(x, (-self.shift, -self.shift), (1, 2)) if self.shift else x
        w = self.cut(x)
        n, t, c = w.shape
        q, k, v = self.qkv(w).reshape(n, t, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * (c // HEADS) ** -0.5) @ k.transpose(-2, -1)
        scores = scores + self.offsets[self.index.view(-1)].view(t, t, HEADS).permute(2, 0, 1).unsqueeze(0)
        if self.shift:
            kinds = self.mask.shape[0]
            scores = scores.view(n // kinds, kinds, HEADS, t, t) + self.mask[:, None].unsqueeze(0)
            scores = scores.view(-1, HEADS, t, t)
        y = self.paste(self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, c)))
        return torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y


def held_windows(p: Weights, how: Recipe, shift: int, x: Tensor) -> Tensor:
    """The same over all places of the image at once, with −100 or −∞ between places that do not see each other."""
    place = torch.arange(SIDE).repeat_interleave(SIDE), torch.arange(SIDE).repeat(SIDE)
    rolled = [(c - shift) % SIDE for c in place]  # where a place stands in the rolled image
    window = rolled[0] // WINDOW * SIDE + rolled[1] // WINDOW
    wrapped = (place[0] < shift) * 2 + (place[1] < shift)
    delta = [(c % WINDOW)[:, None] - (c % WINDOW)[None] + WINDOW - 1 for c in rolled]
    bias = p["offsets"][delta[0] * (2 * WINDOW - 1) + delta[1]].permute(2, 0, 1)
    bias = bias + torch.where(window[:, None] == window[None], 0.0, -torch.inf)
    bias = bias + torch.where(wrapped[:, None] == wrapped[None], 0.0, -100.0)
    q, k, v = (heads(z, HEADS) for z in affine(p, "qkv", x.flatten(1, 2)).split(WIDTH, -1))
    return affine(p, "proj", joined(how.attend(q, k, v, bias))).unflatten(1, (SIDE, SIDE))


def affine(p: Weights, name: str, x: Tensor) -> Tensor:
    """x Wᵀ + b; without b where there is none."""
    return x @ p[name + ".weight"].T + p.get(name + ".bias", torch.zeros(()))
