"""A model captured and canonized, with as few runs as tell that the result is the model.

Capture compares the graph with the model, and each rewriting with the graph before it: a forward pass for each. Where
all goes well one comparison of the last graph with the model says the same, so that comes first. Where it fails, or
anything else does, the steps are taken again one at a time, and say what went wrong.
"""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor, fx, nn

from .canonize import canonize, rewrite
from .capture import capture, run_once, undisturbed, untried
from .captured import Captured, Inputs, nudged, run
from .errors import RelpropError
from .values import same


def ready(model: nn.Module, inputs: Inputs, *, dynamic: bool = True) -> tuple[Captured, fx.Node]:
    """The canonical graph of a model, and the node of it that is explained; errors as of `capture` and `canonize`.

    `dynamic` off: a graph for any batch size is known not to fit, and not tried.
    """
    if dynamic:
        with suppress(RelpropError, RuntimeError):  # told by the careful way, with the cause
            captured = untried(model, inputs)
            if captured is not None:
                tensors = [t.detach() for t in captured.spec.flatten(inputs)]
                with undisturbed(tensors[0].device):
                    explained = rewrite(captured)
                    if is_model(captured, model, tensors):
                        return captured, explained
    captured = capture(model, inputs, dynamic=dynamic)
    tensors = [t.detach() for t in captured.spec.flatten(inputs)]
    with undisturbed(tensors[0].device):
        return captured, canonize(captured, few(captured, tensors))


def few(captured: Captured, tensors: list[Tensor]) -> list[Tensor]:
    """Two samples are enough to check a rewriting by, where the graph takes any number."""
    if not (captured.dynamic or captured.single):
        return tensors
    return [t[:2] if t.shape[0] == captured.batch else t for t in tensors]


def is_model(captured: Captured, model: nn.Module, tensors: list[Tensor]) -> bool:
    """Whether a graph for any batch size gives the model's output, and each sample an output of its own.

    The first sample is run among copies of itself, the last alone: whatever a sample's output owes to the others, or
    to its place among them, shows in one of the two. All inputs are moved by a rounding error, so that a model that
    amplifies rounding errors is not taken for an equal.
    """
    with torch.no_grad():
        expected = run_once(model, tensors, captured.spec, mutates=captured.mutates)
        torch.rand(1)  # a random forward must show
        if len(expected) != captured.batch or not bool(torch.isfinite(expected).all()):
            return False
        parts = [(0, 2), (captured.batch - 1, 1)] if captured.batch > 1 else [(0, 1)]
        for sample, copies in parts:
            own = expected[sample : sample + 1]
            got = run(captured, nudged(_copies(captured, tensors, sample, copies)))
            if not same(got, own.expand(copies, *own.shape[1:])):
                return False
        return True


def _copies(captured: Captured, tensors: list[Tensor], sample: int, copies: int) -> list[Tensor]:
    pairs = zip(tensors, captured.moving, strict=True)
    return [t[sample : sample + 1].expand(copies, *t.shape[1:]).clone() if m else t.clone() for t, m in pairs]
