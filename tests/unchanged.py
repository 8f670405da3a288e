"""A model before and after: everything that explaining it must leave as it was, compared bit for bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as globals_of_modules


class Same:
    """Equal only to the very same object; holds it, so that its address is not given away."""

    def __init__(self, thing: object) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.thing is self.thing

    __hash__ = None  # type: ignore[assignment]


def bits(t: Tensor) -> Any:
    """The bytes of a tensor, NaN and negative zero included; nothing for one without storage."""
    return None if t.is_meta else t.detach().clone().cpu().reshape(-1).view(torch.uint8).tolist()


def _tensor(t: Tensor) -> tuple[Any, ...]:
    version = None if t.is_inference() else t._version
    return Same(t), t.data_ptr(), version, t.requires_grad, Same(t.grad), bits(t)


def _module(module: nn.Module) -> dict[str, Any]:
    """Training flag, hooks, parameters, children and every other attribute, by identity."""
    return {
        k: {key: Same(v) for key, v in value.items()} if isinstance(value, dict) else Same(value)
        for k, value in vars(module).items()
    }


def picture(model: nn.Module, *inputs: Tensor) -> dict[str, Any]:
    """All there is to compare, by a name for messages."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    seen: dict[str, Any] = {f"tensor {name}": _tensor(t) for name, t in named}
    seen |= {f"input {i}": _tensor(t) for i, t in enumerate(inputs)}
    for name, module in model.named_modules(remove_duplicate=False):
        seen |= {f"module {name!r}: {k}": v for k, v in _module(module).items()}
    seen["keys of state_dict"] = list(model.state_dict())
    seen["random state of torch"] = bits(torch.get_rng_state())
    seen["random state of Python"] = random.getstate()
    seen["gradient mode"] = torch.is_grad_enabled()
    seen["default type"] = torch.get_default_dtype()
    hooks = {k: v for k, v in vars(globals_of_modules).items() if k.startswith("_global_") and isinstance(v, dict)}
    return seen | {k: {key: Same(f) for key, f in v.items()} for k, v in hooks.items()}


@contextmanager
def unchanged(model: nn.Module, *inputs: Tensor) -> Iterator[None]:
    """Fail if the model, the inputs or the random number generators differ after the block."""
    before = picture(model, *inputs)
    yield
    after = picture(model, *inputs)
    changed = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    if changed:
        raise AssertionError(f"changed: {', '.join(changed)}")
