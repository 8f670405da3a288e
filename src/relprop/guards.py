"""What is refused before a model is captured, and the words for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .captured import InputSpec
from .errors import CaptureError, InputError, NonFiniteError
from .values import finite


def check_model(model: Any) -> None:
    """Refuse what is no module."""
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise CaptureError(f"model is a {kind}, not an nn.Module; wrap the function in a module's forward")


def check_inputs(tensors: list[Tensor], spec: InputSpec) -> None:
    """Refuse empty batches, NaN and infinity, by the name of the argument."""
    for t, name in zip(tensors, spec.names, strict=True):
        if t.layout != torch.strided:
            raise InputError(f"{name} has the layout {t.layout}; pass {name}.to_dense()")
        if t.dim() == 0 or t.shape[0] == 0:
            raise InputError(f"{name} has shape {tuple(t.shape)}: the first dimension counts samples, at least one")
        if t.is_floating_point() and not finite(t):
            bad = int((~torch.isfinite(t)).sum())
            raise NonFiniteError(f"{name} holds {bad} NaN or infinite values; clean or mask the input first")


def check_weights(model: nn.Module) -> None:
    """Refuse NaN in the parameters and floating point buffers, and infinity in the parameters, by name."""
    for name, t in [*model.named_parameters(), *model.named_buffers()]:
        if not t.is_floating_point() or not t.numel():
            continue
        if bool(torch.isfinite(t.detach().sum())):
            continue  # one pass over the weights: a sum of finite values may overflow, one of others is never finite
        # a buffer may hold ±∞ on purpose: a mask of attention, the bounds of a range
        good = torch.isfinite(t.detach()) if isinstance(t, nn.Parameter) else ~torch.isnan(t.detach())
        if not bool(good.all()):
            raise NonFiniteError(
                f"the weight {name!r} of {type(model).__name__} holds NaN or infinity; reload or retrain the model"
            )


def check_devices(model: nn.Module, tensors: list[Tensor], spec: InputSpec, *, anywhere: bool = False) -> None:
    """Refuse inputs that lie on none of the model's devices; `anywhere`: the model itself moves them to its own."""
    devices = {p.device for p in model.parameters()} | {b.device for b in model.buffers()}
    if torch.device("meta") in devices:
        raise InputError("the model's weights are on the meta device and have no values: load them first")
    for t, name in zip(tensors, spec.names, strict=True):
        if t.is_meta:
            raise InputError(f"{name} is on the meta device and has no values; pass {name}.to('cpu') with values")
        if devices and t.device not in devices and not anywhere:
            there = ", ".join(sorted(map(str, devices)))
            raise InputError(f"{name} is on {t.device}, the model on {there}; pass {name}.to({there!r})")


def type_remedy(model: nn.Module, tensors: list[Tensor]) -> str:
    """A remedy where the inputs' types differ from the weights'."""
    weights = {p.dtype for p in model.parameters() if p.is_floating_point()}
    tokens = (torch.int64, torch.int32)
    odd = [t.dtype for t in tensors if weights and t.dtype not in weights and t.dtype not in tokens]
    return (
        f". The weights are {weights.pop()}, an input is {odd[0]}: convert it with .to(...) as in training"
        if odd
        else ""
    )
