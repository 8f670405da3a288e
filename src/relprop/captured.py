"""What capture hands on: the graph, and how the user's inputs are structured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from .errors import InputError
from .values import difference

Inputs = Tensor | tuple[Any, ...] | list[Any] | dict[str, Any]


@dataclass
class Captured:
    """The functional graph of a model, and what is needed to call it.

    `inputs`: placeholders in order. `explained`: those that get relevance. `dynamic`: whether any batch size fits;
    otherwise only `batch`, or with `single` one sample at a time. `moving`: for each input, whether its first dimension
    counts samples. `notes`: what capture and canonization did, for the rule table.
    """

    module: fx.GraphModule
    inputs: list[fx.Node]
    explained: list[fx.Node]
    spec: InputSpec
    dynamic: bool
    batch: int
    moving: tuple[bool, ...]
    single: bool = False
    notes: list[str] = field(default_factory=list)

    def portions(self, tensors: list[Tensor]) -> list[list[Tensor]]:
        """The inputs as the graph takes them: all at once, or a sample at a time."""
        if not self.single:
            return [tensors]
        samples = next(len(t) for t, moves in zip(tensors, self.moving, strict=True) if moves)
        return [
            [t[i : i + 1] if moves else t for t, moves in zip(tensors, self.moving, strict=True)]
            for i in range(samples)
        ]

    @property
    def mutates(self) -> bool:
        """Whether the model's forward changes its own parameters or buffers in place."""
        return bool(self.module.meta.get("relprop_mutates"))

    @property
    def output(self) -> fx.Node:
        """The node whose value the model returns."""
        node = next(n for n in self.module.graph.nodes if n.op == "output")
        result: fx.Node = node.args[0][0] if isinstance(node.args[0], (tuple, list)) else node.args[0]
        return result


@dataclass(frozen=True)
class InputSpec:
    """How the user's inputs are structured: positional (Tensor or tuple) or keyword (dict), tensors and constants."""

    structure: Any
    constants: tuple[Any, ...]  # None where a tensor stands
    names: tuple[str, ...]
    single: bool

    @classmethod
    def of(cls, inputs: Inputs) -> InputSpec:
        """Read the structure of the inputs; names are used in messages."""
        single = isinstance(inputs, Tensor)
        leaves, structure = pytree.tree_flatten_with_path(_as_call(inputs))
        paths = ["inputs" + pytree.keystr(p)[3:] for p, _ in leaves]
        constants = tuple(None if isinstance(v, Tensor) else v for _, v in leaves)
        names = tuple(
            "inputs" if single else n for n, (_, v) in zip(paths, leaves, strict=True) if isinstance(v, Tensor)
        )
        if not names:
            raise InputError(
                f"inputs holds no tensor but {type(inputs).__name__}; give a Tensor, a tuple or a dict of them"
            )
        return cls(structure, constants, names, single)

    def flatten(self, inputs: Inputs) -> list[Tensor]:
        """The tensors of a further call, refusing another structure."""
        if self.single and isinstance(inputs, Tensor):
            return [inputs]
        leaves, structure = pytree.tree_flatten(_as_call(inputs))
        foreign = [v for v in leaves if hasattr(v, "__array__") and not isinstance(v, Tensor)]
        if foreign:
            raise InputError(f"inputs holds a {type(foreign[0]).__name__}; pass a tensor, as torch.from_numpy(...)")
        tensors = [v for v in leaves if isinstance(v, Tensor)]
        constants = tuple(None if isinstance(v, Tensor) else v for v in leaves)
        if structure != self.structure or constants != self.constants:
            raise InputError(
                f"inputs have another structure than at capture ({len(self.names)} tensors: {', '.join(self.names)}); "
                "pass the same arguments, or make a new Explainer"
            )
        return tensors

    def call(self, model: nn.Module, tensors: tuple[Tensor, ...]) -> Any:
        """Run the model as the user would."""
        rest = iter(tensors)
        leaves = [next(rest) if c is None else c for c in self.constants]
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        return model(*args, **kwargs)

    def restore(self, values: list[Any]) -> Any:
        """Values, one a tensor, in the structure of the user's inputs (constants become None)."""
        if self.single:
            return values[0]
        rest = iter(values)
        args, kwargs = pytree.tree_unflatten(
            [next(rest) if c is None else None for c in self.constants], self.structure
        )
        return kwargs if kwargs else tuple(args)


def _as_call(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):  # a dict, or a tokenizer's BatchEncoding
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def run(captured: Captured, tensors: list[Tensor]) -> Tensor:
    """The graph's output."""
    outs = [captured.module(*portion) for portion in captured.portions(tensors)]
    found = [out[0] if isinstance(out, (tuple, list)) else out for out in outs]
    return torch.cat(found) if captured.single else found[0]


def noise_of(captured: Captured, tensors: list[Tensor], output: Tensor) -> float:
    """Relative change of the output when the input changes by a rounding error: no two ways to it can be closer."""
    return difference(run(captured, nudged(tensors)), output)


def nudged(tensors: list[Tensor]) -> list[Tensor]:
    """Inputs changed by a rounding error: up and down in turn."""
    return [t * (1 + torch.finfo(t.dtype).eps * _alternating(t)) if t.is_floating_point() else t for t in tensors]


def _alternating(t: Tensor) -> Tensor:
    return 1 - 2 * (torch.arange(t.numel(), device=t.device) % 2).reshape(t.shape).to(t.dtype)
