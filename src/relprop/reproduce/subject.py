"""What an experiment is about: a model, its normalizations, and how photos become its input."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from relprop import ops
from relprop.api import Explainer
from relprop.errors import InputError

from .methods import Method


@dataclass(frozen=True)
class Subject:
    """A model in eval mode that classifies photos.

    `prepare`: PIL images to inputs (N, 3, H, W). `low`, `high`: the inputs that black and white become, (3,).
    """

    name: str
    model: nn.Module
    prepare: Callable[[Sequence[Any]], Tensor]
    low: Tensor
    high: Tensor
    classes: Sequence[str] = ()

    @cached_property
    def device(self) -> torch.device:
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def batch(self, photos: Sequence[Any]) -> Tensor:
        """Inputs, (N, 3, H, W), on the model's device."""
        return self.prepare(photos).to(self.device)

    def visible(self, x: Tensor) -> Tensor:
        """Inputs back as colours in 0 … 1."""
        low, high = (t.reshape(-1, 1, 1) for t in (self.low, self.high))
        return ((x.cpu() - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)

    def predicted(self, x: Tensor) -> Tensor:
        """The class with the largest logit, (N,). Raises `InputError` if the model gives no logits."""
        with torch.no_grad():
            output = self.model(x)
        if not isinstance(output, Tensor) or output.dim() != 2:
            raise InputError(f"{self.name} gives no logits of shape (N, classes); this experiment needs a classifier")
        return output.argmax(1)

    def explainer(self, method: Method, x: Tensor) -> Explainer:
        return Explainer(self.model, x[:2], method.composite)

    def layers(self, x: Tensor) -> tuple[str, ...]:
        """The names of the values of the local response normalizations, in order.

        Raises `InputError` if there is none, or if the model ends in a softmax or sigmoid.
        """
        table = Explainer(self.model, x[:2], Method("ε=0.01", "identity").composite).rules
        final = [row["op"] for row in table.rows if row["why"].startswith("final")]
        if final:
            raise InputError(
                f"{self.name} ends in {final[0]}: its explanations are those of the logits, so pixel flipping has to "
                "judge logits too. Give --model the network without its last function"
            )
        found = [row["node"] for row in table.rows if row["op"] == ops.name(ops.local_response_norm)]
        if not found:
            raise InputError(
                f"{self.name} has no local response normalization: identity and Taylor would be the same. Give --model "
                "a network with one (nn.LocalResponseNorm, or x / (k + b Σ x²)^c over channels written by hand)"
            )
        return tuple(found)

    @cached_property
    def judge(self) -> Callable[[Tensor], Tensor]:
        """The model for many forwards: a copy of it that keeps images in the order in which convolutions are fast."""
        copied = copy.deepcopy(self.model).to(memory_format=torch.channels_last)
        return lambda x: copied(x.contiguous(memory_format=torch.channels_last))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the weights."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]
