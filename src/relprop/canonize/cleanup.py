"""Ops that do nothing go; what depends on parameters alone becomes a constant."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, fx

from .. import ops
from ..captured import Captured
from ..graph import is_random
from .edit import attach, calls, constant

IDENTITIES = (
    "clone", "alias", "contiguous", "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout",
    "lift_fresh_copy", "positive", "identity",
)  # fmt: skip


def drop_identities(captured: Captured) -> list[str]:
    """Remove dropout in evaluation mode, copies, whole slices, and conversions to the type a value already has."""
    graph, removed = captured.module.graph, 0
    for node in calls(graph, "_assert_tensor_metadata"):
        graph.erase_node(node)
    for node in calls(graph, *IDENTITIES, "to", "_to_copy", "slice"):
        source: Any = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or not node.users:
            continue
        converts = ops.name(node.target) in ("to", "_to_copy")
        if converts and _kind(source) != _kind(node):
            continue
        if ops.name(node.target) == "slice" and not _is_whole(node):
            continue
        if "dropout" in ops.name(node.target) and len(node.args) > 2 and node.args[2] is True:
            continue  # random on purpose: found by the check of capture
        node.replace_all_uses_with(source)
        removed += 1
    return [f"{removed} identities removed"] if removed else []


def _kind(node: fx.Node) -> tuple[torch.dtype, torch.device]:
    """What a conversion changes: the type of a value, and the device it is on (of a model split over several)."""
    v = node.meta["val"]
    return v.dtype, v.device


def _is_whole(node: fx.Node) -> bool:
    """Whether a slice is x[:]."""
    start, end, step = (node.args[i] if len(node.args) > i else None for i in (2, 3, 4))
    return start in (0, None) and end in (None, sys.maxsize) and step in (1, None)


def fold_constants(captured: Captured) -> list[str]:
    """Evaluate once what depends on parameters and numbers alone: weight_norm, parametrizations, positions, masks."""
    module = captured.module
    known: dict[fx.Node, Tensor] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            tensor = constant(module, node)
            if tensor is not None:
                known[node] = tensor
        elif node.op == "call_function" and not is_random(node) and all(n in known for n in node.all_input_nodes):
            value = _evaluate(node, known)
            if isinstance(value, (Tensor, tuple, list)):
                known[node] = value  # type: ignore[assignment]
    folded = [
        n for n in known if n.op != "get_attr" and isinstance(known[n], Tensor) and any(u not in known for u in n.users)
    ]
    for node in folded:
        new = attach(module, node, f"constant_{node.name}", known[node].detach())
        new.meta = {**node.meta, "val": known[node], "relprop_source": _source(node)}
        node.replace_all_uses_with(new)
    return [f"{len(folded)} constant(s) computed once"] if folded else []


def _source(node: fx.Node) -> str:
    """The parameter a constant comes from, '' for one made of numbers."""
    while node.all_input_nodes:
        node = node.all_input_nodes[0]
    return str(node.target) if node.op == "get_attr" else ""


def _evaluate(node: fx.Node, known: dict[fx.Node, Tensor]) -> Any:
    def load(x: fx.Node) -> Any:
        return known[x]

    args = torch.fx.map_arg(node.args, load)
    kwargs = torch.fx.map_arg(node.kwargs, load)
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]
