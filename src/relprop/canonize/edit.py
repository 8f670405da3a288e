"""Small edits of fx graphs the passes share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from .. import ops
from ..graph import module_path


def calls(graph: fx.Graph, *names: str) -> list[fx.Node]:
    """The calls of ops with these short names, in order."""
    return [n for n in graph.nodes if n.op == "call_function" and ops.name(n.target) in names]


def replace(node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> fx.Node:
    """Put another call in the node's place, with its value, module path and source line."""
    graph = node.graph
    with graph.inserting_after(node):
        new = graph.call_function(target, args, kwargs or {})
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    new.args, new.kwargs = args, kwargs or {}  # the replacement may use the node itself
    return new


def before(node: fx.Node, target: Any, args: tuple[Any, ...], val: Any = None) -> fx.Node:
    """A new call in front of the node, in the same module and line."""
    with node.graph.inserting_before(node):
        new = node.graph.call_function(target, args)
    new.meta = {k: v for k, v in node.meta.items() if k != "val"}
    if val is not None:
        new.meta["val"] = val
    return new


def constant(module: fx.GraphModule, node: Any) -> Tensor | None:
    """The tensor behind a parameter or buffer node, None for any other."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    found: Any = module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found if isinstance(found, Tensor) else None


def attach(module: fx.GraphModule, place: fx.Node, name: str, tensor: Tensor) -> fx.Node:
    """A new constant of the graph, as a node in front of `place`."""
    name = name.replace(".", "_")
    while hasattr(module, name):
        name += "_"
    module.register_buffer(name, tensor.detach())
    with place.graph.inserting_before(place):
        node = place.graph.get_attr(name)
    node.meta["val"] = tensor.detach()
    return node


def absorb(node: fx.Node, other: fx.Node) -> None:
    """Remember that `node` now computes what the module of `other` did, so that its path still names it."""
    paths = (*node.meta.get("relprop_absorbed", ()), module_path(other), *other.meta.get("relprop_absorbed", ()))
    node.meta["relprop_absorbed"] = tuple(p for p in paths if p)
