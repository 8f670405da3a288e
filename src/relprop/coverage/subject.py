"""A model to be tried: how it is called, how its weights are settled, and which score is explained."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.utils import _pytree as pytree

from ..captured import Inputs
from ..errors import InputError

SAMPLES = 2  # that are explained
SETTLING = 4  # that BatchNorm takes its statistics from; the explained ones are among them

TINY = 1e-2  # a parameter that is the same number everywhere, and no larger than this, hides what it multiplies


@dataclass(frozen=True)
class Subject:
    """A module, ready to be explained, and inputs of `SAMPLES` samples."""

    model: nn.Module
    inputs: Inputs

    @property
    def shares(self) -> bool:
        """Whether all samples share an input: one with another first dimension."""
        return any(len(t) != SAMPLES for t in pytree.tree_leaves(self.inputs) if isinstance(t, Tensor))

    def double(self) -> Subject:
        """The same in float64."""
        wide = pytree.tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, self.inputs)
        return Subject(self.model.double(), wide)

    def single(self) -> Subject:
        """The same for the first sample alone."""
        one = pytree.tree_map_only(Tensor, lambda t: t[:1].clone() if len(t) == SAMPLES else t, self.inputs)
        return Subject(self.model, one)


def subject(model: nn.Module, inputs: Inputs) -> Subject:
    """Settle the weights with inputs of `SETTLING` samples and keep the first `SAMPLES` of them.

    An input with another first dimension is one that all samples share, and stays as it is.
    """
    awaken(model)
    settle(model.eval(), inputs)
    few = pytree.tree_map_only(Tensor, lambda t: t[:SAMPLES].clone() if len(t) == SETTLING else t, inputs)
    return Subject(model, few)


def awaken(model: nn.Module) -> None:
    """Give constant parameters of at most `TINY` random values: an all-zero layer would hide all that lies behind it.

    Scales of normalizations get values from 0.5 to 1; biases N(0, 0.02²); matrices and kernels N(0, 1 / fan-in);
    the rest, such as LayerScale, class tokens and positions, N(0, 0.1²).
    """
    norms = {id(m.weight) for m in model.modules() if isinstance(getattr(m, "weight", None), Tensor) and _is_norm(m)}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not p.is_floating_point() or not p.numel() or float(p.min()) != float(p.max()) or p.abs().max() > TINY:
                continue
            if id(p) in norms:
                init.uniform_(p, 0.5, 1.0)
            else:
                init.normal_(p, std=_spread(name, p))


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _spread(name: str, p: Tensor) -> float:
    last = name.rpartition(".")[2]
    if "bias" in last and p.dim() < 2:
        return 0.02
    if "weight" in last and p.dim() > 1:
        return 1 / math.sqrt(p[0].numel())
    return 0.1


def settle(model: nn.Module, inputs: Inputs) -> None:
    """Take the statistics of every BatchNorm from these inputs, so that activations stay finite with depth."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.momentum = 1.0
        m.training = True
    with torch.no_grad():
        call(model, inputs)
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum
        m.training = False


def call(model: nn.Module, inputs: Inputs) -> object:
    """The model's output."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(inputs) if isinstance(inputs, Tensor) else model(*inputs)


def first_fitting(model: nn.Module, choices: list[Tensor]) -> Tensor:
    """The first of these inputs that the model can be called with. Raises InputError with the last refusal."""
    refusal: Exception | None = None
    for x in choices:
        try:
            with torch.no_grad():
                model.eval()(x)
        except Exception as error:  # models refuse sizes in their own ways
            refusal = error
        else:
            return x
    raise InputError(f"no input size fits; the last refusal: {type(refusal).__name__}: {refusal}")


def peak(output: Tensor) -> Tensor:
    """The explained score of each sample.

    The largest output; of several positions in order, the largest at the last one; of a map, the mean over its
    positions of the class with the largest mean.
    """
    if output.dim() == 1:
        return output
    if output.dim() == 3:
        output = output[:, -1]
    return output.flatten(2).mean(2).amax(1) if output.dim() > 2 else output.max(1).values
