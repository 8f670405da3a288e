"""Models placed by accelerate (`device_map`, offloading) as plain modules: found by what their hooks hold.

accelerate replaces the `forward` of a module by one that first brings its weights and inputs to a device. A copy of
such a model, as capture makes it, gets its own forward back, the offloaded weights as parameters, and plain moves of
tensors between devices, which the graph records. Nothing of the user's model is written to, hooks included.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .errors import CaptureError

# What distinguishes a hook that places a module from hooks that compute: attributes of accelerate's AlignDevicesHook.
PLACING = ("execution_device", "io_same_device", "offload", "weights_map", "place_submodules")
# Methods that accelerate replaces on an instance by ones that warn; they hold the user's model.
WARNING = ("to", "cuda", "npu", "xpu", "mlu", "sdaa", "musa")


def is_placed(model: nn.Module) -> bool:
    """Whether any of the modules is placed by a hook: its inputs may then lie on any device."""
    return any(_placing(module) for module in model.modules())


def shared_hooks(model: nn.Module) -> list[Any]:
    """The hooks that a copy need not own: they hold offloaded weights, and are taken off the copy unused."""
    return [hook for module in model.modules() for hook in _placing(module)]


def without_hooks(model: nn.Module) -> nn.Module:
    """A copied model whose placing hooks are replaced by moves of tensors, and its offloaded weights loaded."""
    for path, module in list(model.named_modules()):
        hooks = _placing(module)
        if not hooks:
            continue
        _restore(module)
        for hook in hooks:
            if hook.offload:
                _load(module, hook, path)
            if hook.execution_device is not None:
                _move(module, hook)
    return model


def _hooks(module: nn.Module) -> Iterator[Any]:
    hook = vars(module).get("_hf_hook")
    if hook is not None:
        yield from hook.hooks if hasattr(hook, "hooks") else [hook]


def _placing(module: nn.Module) -> list[Any]:
    return [hook for hook in _hooks(module) if all(hasattr(hook, name) for name in PLACING)]


def _restore(module: nn.Module) -> None:
    """Give a module its own forward back; hooks that do not place it stay part of the function."""
    own = vars(module)
    others = [hook for hook in _hooks(module) if not all(hasattr(hook, name) for name in PLACING)]
    if others:
        own["_hf_hook"] = copy.copy(own["_hf_hook"])
        own["_hf_hook"].hooks = tuple(others)
    else:
        forward = own.pop("_old_forward", None)
        own.pop("_hf_hook")
        own.pop("forward", None)
        if forward is not None and getattr(forward, "__func__", None) is not type(module).forward:
            own["forward"] = forward
    for name in WARNING:
        own.pop(name, None)


def _load(module: nn.Module, hook: Any, path: str) -> None:
    """Put the weights that lie elsewhere, on disk or in another memory, into the copied module."""
    deep = hook.place_submodules
    for name, old in [*module.named_parameters(recurse=deep), *module.named_buffers(recurse=deep)]:
        if not old.is_meta:
            continue
        try:
            value = hook.weights_map[name]
        except (KeyError, TypeError):
            raise CaptureError(
                f"the weight {path}.{name} is offloaded, and its hook does not know where; load the model without "
                "offloading (device_map=None, or accelerate.hooks.remove_hook_from_submodules(model))"
            ) from None
        dtype = old.dtype if value.is_floating_point() else value.dtype
        tensor = value.detach().to(device=_device(hook), dtype=dtype)
        owner, _, last = name.rpartition(".")
        place = module.get_submodule(owner)
        if last in place._parameters:
            place._parameters[last] = nn.Parameter(tensor, requires_grad=False)
        else:
            place._buffers[last] = tensor


def _device(hook: Any) -> torch.device:
    return torch.device("cpu" if hook.execution_device is None else hook.execution_device)


def _move(module: nn.Module, hook: Any) -> None:
    """Inputs go to the module's device, and its output back to theirs if the hook says so."""
    device, keep = _device(hook), hook.skip_keys or ()
    keep = (keep,) if isinstance(keep, str) else tuple(keep)
    origin: list[torch.device] = []

    def bring(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        there = [t.device for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        origin[:] = there[:1]
        rest = {k: v if k in keep else moved(v, device) for k, v in kwargs.items()}
        return moved(args, device), rest

    def back(_: nn.Module, args: Any, out: Any) -> Any:
        return moved(out, origin[0]) if origin else out

    module.register_forward_pre_hook(bring, with_kwargs=True)
    if hook.io_same_device:
        module.register_forward_hook(back)


def moved(tree: Any, device: torch.device) -> Any:
    """Every tensor of a tree on a device; those that are there already, and all else, as they are."""
    return pytree.tree_map_only(Tensor, lambda t: t if t.device == device else t.to(device), tree)
