"""Random numbers that belong to a sample: they depend on neither batches nor chunks, and touch no global state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor


def generators(stream: str, seed: int, draw: int, indices: range) -> Iterator[torch.Generator]:
    """One generator after the other, on the CPU, seeded from (stream, seed, draw, index of the sample).

    Use each before the next is taken: it is one object, seeded anew.
    """
    generator = torch.Generator()
    for index in indices:
        key = f"{stream}/{seed}/{draw}/{index}".encode()
        generator.manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little"))
        yield generator


def uniform(shape: tuple[int, ...], seed: int, draw: int, indices: range) -> Tensor:
    """Noise in [0, 1) of `shape` for every sample, float32: (B, *shape).

    >>> bool((uniform((2,), 0, 0, range(3))[1:] == uniform((2,), 0, 0, range(1, 3))).all())
    True
    """
    noise = torch.empty(len(indices), *shape)
    for row, generator in zip(noise, generators("replacement", seed, draw, indices), strict=True):
        row.uniform_(generator=generator)
    return noise


def rows(limit: int, columns: int, seed: int, draw: int, indices: range) -> Tensor:
    """For every sample and column a random row number in [0, limit): (B, columns)."""
    made = generators("replacement", seed, draw, indices)
    return torch.stack([torch.randint(limit, (columns,), generator=g) for g in made])


def orders(units: int, seed: int, draw: int, indices: range) -> Tensor:
    """A random order of the units of every sample, apart from the stream of the noise: (B, units), permutations."""
    return torch.stack([torch.randperm(units, generator=g) for g in generators("order", seed, draw, indices)])
