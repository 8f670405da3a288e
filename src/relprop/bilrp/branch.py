"""One input of a pair: its embedding φ, and the relevance of its cells for any relevance of the embedding's units.

With the forward pass fixed, relevance is linear in the relevance it starts from: cells = L R. `relevance` computes L R
for several R, `transposed` the rows of L by differentiating the program.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from ..api import Explainer
from ..capture import undisturbed
from ..captured import Inputs
from ..errors import InputError, NonFiniteError, RuleError
from ..ops import Family
from ..values import finite
from .cells import Cells, Pool

# Numbers that passes run together may hold: so many of the values kept for the way back times passes.
ROOM, TOGETHER = 1 << 26, 64
_KERNELS = threading.RLock()


@final
class Branch:
    """An input with the program that explains its embedding. `name`: "x" or "x2", for messages."""

    def __init__(self, explainer: Explainer, inputs: Inputs, pool: Pool, name: str) -> None:
        self.name, self.kind = name, type(explainer.model).__name__
        self.state, tensors = explainer._state(inputs)
        self.tensors = [t.detach() for t in tensors]
        self.program = self.state.program(False, ())
        captured = self.state.captured
        if len(captured.explained) != 1:
            names = ", ".join(captured.spec.names)
            raise InputError(
                f"{name}: the model has {len(captured.explained)} inputs that get relevance, of {names}; the joint "
                "relevance is about one: wrap the model in a module that takes that one and holds the others as buffers"
            )
        place = captured.inputs.index(captured.explained[0])
        self.x = self.tensors[place]
        if not captured.moving[place]:
            raise InputError(
                f"{name}: the first dimension of the explained input counts no samples; put the batch first"
            )
        self.cells = Cells(self.x, pool, name)
        self.width = self._width()
        self.phi = torch.empty(0)
        self._saved: list[Any] = []
        self._shape: tuple[int, ...] = ()
        self._mapped = True

    def _width(self) -> int:
        """E, refusing outputs that are no embedding."""
        captured, shape = self.state.captured, tuple(self.state.explained.meta["val"].shape)
        if self.state.explained is not captured.output:
            raise InputError(
                f"{self.name}: {self.kind} ends in a probability (softmax or sigmoid), which is explained at the "
                "values in front of it: its output is no embedding; give a module that returns the layer before"
            )
        if len(shape) < 2 or any(n != 1 for n in shape[2:]):
            raise InputError(
                f"{self.name}: {self.kind} returns shape ({', '.join(['B', *map(str, shape[1:])])}), which is no "
                "embedding (B, E): one vector a sample is needed; flatten it, or average over positions (.mean(1))"
            )
        return int(shape[1])

    def embed(self, *, twice: bool) -> Tensor:
        """φ (B, E), keeping what the way back needs; `twice`: so that the way back can be differentiated."""
        drawing = undisturbed(self.tensors[0].device) if self.state.draws else nullcontext()
        with drawing, torch.no_grad(), self._plain_attention() if twice else nullcontext():
            runs = [self.program.forward(*p) for p in self.state.captured.portions(self.tensors)]
        embedding = torch.cat([r[1] for r in runs])
        self.state._check_output(embedding, self.tensors)
        self._saved, self._shape = [r[2] for r in runs], tuple(embedding.shape)
        self.phi = embedding.flatten(1).to(torch.promote_types(embedding.dtype, torch.float32))
        return self.phi

    def map(self, R: Tensor) -> Tensor:
        """Relevance of the input, like the input, for one relevance (B, E) of the embedding."""
        with torch.no_grad():
            relevance: Tensor = self.state._backward(
                self.program, R.reshape(self._shape).to(self.phi.dtype), self._saved
            )[0][0]
        return relevance

    def relevance(self, starts: Tensor) -> Tensor:
        """Cells (K, B, N) for K relevances (K, B, E) of the embedding."""
        with torch.no_grad():
            out = torch.cat([self._several(part) for part in torch.split(starts, self._together)])
        if not finite(out):
            self._blame(starts, out)
        return out

    def _several(self, starts: Tensor) -> Tensor:
        """Some passes at a time where all ops of the program allow that, else one after another."""
        if self._mapped and len(starts) > 1:
            try:
                with self._plain_attention():
                    mapped: Tensor = torch.func.vmap(self._one)(starts)
                return mapped
            except (RuntimeError, ValueError, NotImplementedError):  # an op that cannot be mapped
                self._mapped = False
        return torch.stack([self._one(R) for R in starts])

    def _one(self, R: Tensor) -> Tensor:
        """L R, (B, E) to (B, N), in whatever mode torch is."""
        R = R.reshape(self._shape).to(self.phi.dtype)
        starts = torch.split(R, 1) if self.state.captured.single else (R,)
        each = [self.program.backward(r, *kept)[0][0] for r, kept in zip(starts, self._saved, strict=True)]
        return self.cells(torch.cat(each) if len(each) > 1 else each[0])

    def _blame(self, starts: Tensor, out: Tensor) -> None:
        bad = next(k for k, cells in enumerate(out) if not finite(cells))
        self.map(starts[bad])  # raises, with the op to blame
        raise NonFiniteError(f"the relevance of {self.name} is not finite, too large a sum for its type; use float64")

    def transposed(self) -> Tensor:
        """The rows of L, (N, B, E): row i is the derivative of cell i's relevance by that of the embedding."""
        if torch.is_inference_mode_enabled():
            raise RuleError(
                "way='tokens' differentiates the program, which torch.inference_mode forbids: use torch.no_grad, or "
                "way='units'"
            )
        with torch.enable_grad():
            R = self.phi.detach().clone().requires_grad_()  # any point would do: the map is linear
            cells = self._one(R)
        if not cells.requires_grad:
            raise RuleError("the relevance of the inputs does not depend on that of the embedding")
        count = cells.shape[1]
        eye = torch.eye(count, dtype=cells.dtype, device=cells.device)[:, None].expand(-1, cells.shape[0], -1)
        return torch.cat([self._pulled(cells, R, part) for part in torch.split(eye, self._together)])

    def _pulled(self, cells: Tensor, R: Tensor, chosen: Tensor) -> Tensor:
        if self._mapped and len(chosen) > 1:
            try:
                return torch.autograd.grad(
                    cells, R, chosen, retain_graph=True, is_grads_batched=True, materialize_grads=True
                )[0]
            except (RuntimeError, ValueError, NotImplementedError):
                self._mapped = False
        rows = [torch.autograd.grad(cells, R, one, retain_graph=True, materialize_grads=True)[0] for one in chosen]
        return torch.stack(rows)

    @property
    def _together(self) -> int:
        """How many passes to run at a time."""
        kept = sum(t.numel() for t in pytree.tree_leaves(self._saved) if isinstance(t, Tensor))
        return max(1, min(TOGETHER, ROOM // max(1, kept)))

    @contextmanager
    def _plain_attention(self) -> Iterator[None]:
        """Attention by matrix products: its fused kernels can be neither mapped nor differentiated twice.

        The choice of a kernel is the process's, so that one thread at a time may make it.
        """
        reading = self.state.reading
        if not any(reading.family(n) is Family.ATTENTION for n in reading.reached if n.op == "call_function"):
            yield
            return
        with _KERNELS, sdpa_kernel(SDPBackend.MATH):
            yield
