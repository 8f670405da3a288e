"""Small embeddings for tests of pairwise matching. Nothing here imports the package under test."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

import tiny_bert
from held import random_weights


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64, the same at every call."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dense(*sizes: int, bias: bool = False, seed: int = 1) -> nn.Sequential:
    """Linear layers with ReLU between them and behind the last, in float64."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for n, m in pairwise(sizes):
        layers += [nn.Linear(n, m, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers).double()


def bert(layers: int = 1) -> nn.Module:
    """A transformer with 3 units on top, for tokens below 11 or their embeddings (B, up to 9, 8)."""
    return random_weights(tiny_bert.TinyBert(tiny_bert.Sizes(layers=layers), tiny_bert.Spelling()))
