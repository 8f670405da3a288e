"""One line of the table: a class with its head, a tiny configuration, and inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..subject import SETTLING

VOCABULARY = 99
LENGTH = 10

Inputs = Callable[[], dict[str, Tensor]]


@dataclass(frozen=True)
class Entry:
    """`kind`: a model class of transformers. `config`: what its configuration is told. `inputs`: of its forward."""

    kind: str
    config: dict[str, Any]
    inputs: Inputs


SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def ids(low: int = 5) -> Tensor:
    """Random tokens; the numbers below `low` are special."""
    return torch.randint(low, VOCABULARY, (SETTLING, LENGTH))


def tokens() -> dict[str, Tensor]:
    """Tokens alone, as in generation."""
    return {"input_ids": ids()}


def sentences() -> dict[str, Tensor]:
    """What a tokenizer returns: tokens and a mask."""
    return {"input_ids": ids(), "attention_mask": torch.ones(SETTLING, LENGTH, dtype=torch.long)}


def translation() -> dict[str, Tensor]:
    """A sentence, and the beginning of its translation."""
    return {**sentences(), "decoder_input_ids": ids()[:, :6]}


def pixels(size: int = 32, channels: int = 3) -> dict[str, Tensor]:
    """Images."""
    return {"pixel_values": torch.randn(SETTLING, channels, size, size)}


def waves(samples: int = 1600) -> dict[str, Tensor]:
    """Sound, as a waveform."""
    return {"input_values": torch.randn(SETTLING, samples)}


def of_size(make: Callable[..., dict[str, Tensor]], size: int) -> Inputs:
    """The inputs of that size."""
    return partial(make, size)
