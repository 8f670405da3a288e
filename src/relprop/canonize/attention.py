"""Masks of fused attention that say nothing of the input: causal ones as `is_causal`, others as constants.

A written mask costs its memory and, on a GPU, the flash kernel; Hugging Face's language models hand over one even where
every token may see all that come before it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from ..captured import Captured
from .edit import attach, calls, constant, replace

MASK, DROPOUT, CAUSAL = 3, 4, 5


def plain_masks(captured: Captured) -> list[str]:
    """Evaluate each mask that depends on sizes alone, and write it as plainly as it can be."""
    module, found = captured.module, 0
    for node in calls(module.graph, "scaled_dot_product_attention"):
        args = list(node.args) + [None, 0.0, False][len(node.args) - MASK :]
        mask = args[MASK]
        value = _value(module, mask) if isinstance(mask, fx.Node) and mask.op != "get_attr" else None
        if value is None or not bool((value == value[:1]).all()):
            continue
        value = value[:1]
        causal = bool(torch.equal(_allowed(value), torch.ones_like(_allowed(value)).tril()))
        square = value.shape[-1] == value.shape[-2]
        if bool(_allowed(value).all()):
            args[MASK] = None
        elif causal and square and _is_plain(value):
            args[MASK], args[CAUSAL] = None, True
        else:
            args[MASK] = attach(module, node, f"mask_{node.name}", value)
        replace(node, node.target, tuple(args), dict(node.kwargs))
        found += 1
    return [f"{found} attention mask(s) that depend on sizes alone computed once"] if found else []


def _allowed(mask: Tensor) -> Tensor:
    """Where attention is allowed without a bias."""
    return mask if mask.dtype == torch.bool else mask == 0


def _is_plain(mask: Tensor) -> bool:
    """Whether what is not allowed is forbidden, rather than given a bias."""
    if mask.dtype == torch.bool:
        return True
    return bool((mask[mask != 0] <= torch.finfo(mask.dtype).min).all())


def _value(module: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """The value of a node, at the batch size of capture, if it depends on constants and sizes alone."""
    inside: set[fx.Node] = set()
    stack = [node]
    while stack:
        current = stack.pop()
        if current in inside:
            continue
        if current.op == "placeholder":
            return None
        inside.add(current)
        stack += [] if _is_size(current) else current.all_input_nodes
    known: dict[fx.Node, Any] = {}
    for n in node.graph.nodes:
        if n in inside:
            known[n] = _run(module, n, known)
    value = known[node]
    return value if isinstance(value, Tensor) and value.dim() == 4 and len(value) > 0 else None


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (torch.SymInt, int))


def _run(module: fx.GraphModule, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    if node.op == "get_attr":
        return constant(module, node)
    if _is_size(node):
        size = node.meta["val"]
        return size.node.hint if isinstance(size, torch.SymInt) else size
    args, kwargs = torch.fx.map_arg((node.args, dict(node.kwargs)), known.__getitem__)
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]
