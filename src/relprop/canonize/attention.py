"""Attention in its plain form: softmax as one op, masks that say nothing of the input as `is_causal` or constants.

A written mask costs its memory and, on a GPU, the flash kernel; Hugging Face's language models hand over one even where
every token may see all that come before it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from .. import ops
from ..captured import Captured
from ..samples import batch_dim
from .edit import attach, calls, constant, replace

MASK, CAUSAL = 3, 5  # arguments of scaled_dot_product_attention


def plain_masks(captured: Captured) -> list[str]:
    """Evaluate each mask that depends on sizes alone, and write it as plainly as it can be."""
    module, found = captured.module, 0
    for node in calls(module.graph, "scaled_dot_product_attention"):
        args = list(node.args) + [None, 0.0, False][len(node.args) - MASK :]
        mask: Any = args[MASK]
        value = _value(module, mask) if isinstance(mask, fx.Node) else None
        if value is None:
            continue
        plain = _plain(value)
        if plain is value and mask.op == "get_attr":
            continue
        args[MASK] = attach(module, node, f"mask_{node.name}", plain) if isinstance(plain, Tensor) else None
        args[CAUSAL] = args[CAUSAL] or plain is True
        replace(node, node.target, tuple(args), dict(node.kwargs))
        module.graph.erase_node(node)  # it may draw random numbers, so that it is not taken for dead code
        found += 1
    return [f"{found} attention mask(s) that depend on sizes alone computed once"] if found else []


def written_softmax(captured: Captured) -> list[str]:
    """exp(x) / Σ exp(x), with or without its largest entry subtracted, as the softmax it is."""
    found = 0
    for node in calls(captured.module.graph, "div"):
        above, below = node.args[:2]
        if not (_is(above, "exp") and _is(below, "sum") and below.args[0] is above and len(below.args) == 3):  # type: ignore[union-attr]
            continue
        x, (dims, keepdim) = above.args[0], below.args[1:]  # type: ignore[union-attr]
        if not keepdim or len(dims) != 1 or below.kwargs:  # type: ignore[arg-type, union-attr]
            continue
        replace(node, torch.ops.aten.softmax.int, (x, dims[0]))  # type: ignore[index]
        found += 1
    for node in calls(captured.module.graph, "softmax"):
        x = node.args[0]
        if _is(x, "sub") and _is_largest(x.args[1], x.args[0], node.args[1]):  # type: ignore[union-attr]
            node.args = (x.args[0], *node.args[1:])  # type: ignore[union-attr]
            found += 1
    return [f"{found} softmax written plainly"] if found else []


def _is_largest(node: Any, x: Any, dim: Any) -> bool:
    """Whether a node is the largest entry of x along the dimension, which a softmax does not depend on."""
    while _is(node, "detach"):
        node = node.args[0]
    if not (_is(node, "amax") and node.args[0] is x and len(node.args) > 2 and node.args[2]):
        return False
    rank = x.meta["val"].dim()
    return [d % rank for d in node.args[1]] == [dim % rank]


def _is(node: Any, name: str) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and ops.name(node.target) == name


def _plain(mask: Tensor) -> Tensor | bool:
    """True for a causal mask, False for one that allows everything, else the mask."""
    allowed = mask if mask.dtype == torch.bool else mask == 0
    if bool(allowed.all()):
        return False
    forbids = mask.dtype == torch.bool or bool((mask[~allowed] <= torch.finfo(mask.dtype).min).all())
    square = mask.shape[-1] == mask.shape[-2]
    return True if forbids and square and torch.equal(allowed, torch.ones_like(allowed).tril()) else mask


def _value(module: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """The value of a node if it depends on constants and sizes alone, and is the same for every sample."""
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
    if not isinstance(value, Tensor) or value.dim() < 2:
        return None
    if batch_dim(node) is None:
        return value
    return value[:1] if batch_dim(node) == 0 and bool((value == value[:1]).all()) else None


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
