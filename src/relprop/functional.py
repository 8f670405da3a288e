"""An exported graph made functional without tracing it a second time, where that is plain to see.

torch.export records in-place ops, dropout that does nothing and reshapes in many spellings; its own decomposition
removes them by running the whole graph through the tracer again, which takes longer than the export. Most graphs need
no more than the few rewritings here, and the others are left to it: a graph counts as plain only if every op in it
either is known to return a new value, or is one of those written here.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from . import ops

aten = torch.ops.aten

# Ops that hand on their input where they draw nothing, by the position of `train`.
DROPOUTS = {aten.dropout.default: 2, aten.dropout_.default: 2}
KEPT = (aten.contiguous.default,)  # removed in canonization
RESHAPES = (aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int)


class _NotPlain(Exception):
    """The graph needs torch's own decomposition."""


def make_functional(module: fx.GraphModule) -> bool:
    """Rewrite in place to ops without side effects; False, and the graph half rewritten, where that is not plain.

    The function is that of the graph as recorded: an in-place op becomes its functional form if what it writes to is
    a new value that nothing else shares its memory with, and later readers read the result.
    """
    try:
        for node in list(module.graph.nodes):
            if node.op == "call_function":
                _rewrite(node)
            elif node.op not in ("placeholder", "get_attr", "output"):
                return False
    except _NotPlain:
        return False
    return True


def _rewrite(node: fx.Node) -> None:
    target: Any = node.target
    if isinstance(node.meta.get("val"), (int, float, bool, torch.SymInt)):
        return  # a size, and what is computed from sizes
    if not isinstance(target, torch._ops.OpOverload):
        if target is not operator.getitem:
            raise _NotPlain  # a higher-order op: a region with its own gradient mode, a branch
    elif target in DROPOUTS:
        if list(node.args[DROPOUTS[target] :]) != [False]:
            raise _NotPlain
        _become(node, node.args[0])
    elif target in RESHAPES:
        _reshape(node)
    elif target is aten.chunk.default:
        dim: Any = node.args[2] if len(node.args) > 2 else 0
        node.target, node.args = aten.split.Tensor, (node.args[0], node.meta["val"][0].shape[dim], dim)
    elif target is aten.batch_norm.default:
        _batch_norm(node)
    elif ops.name(target) == "to":
        _convert(node)
    elif target._schema.is_mutable:
        _in_place(node)
    elif _composite(target) and target not in KEPT and (_aliases(target) or ops.lookup(target) is None):
        raise _NotPlain  # torch may write it as other ops


def _become(node: fx.Node, other: Any) -> None:
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)


def _composite(target: Any) -> bool:
    """Whether torch defines the op by others, so that its schema need not tell the truth about shared memory."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), "CompositeImplicitAutograd"))


def _aliases(target: Any) -> bool:
    return any(r.alias_info is not None for r in target._schema.returns)


def _is_new(node: Any) -> bool:
    """Whether a node's value shares its memory with no other."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return False
    target: Any = node.target
    if target is operator.getitem:  # of a BatchNorm: other ops with several outputs may return views
        return isinstance(node.args[0], fx.Node) and _is_new(node.args[0])
    plain = isinstance(target, torch._ops.OpOverload) and not target._schema.is_mutable and not _aliases(target)
    return plain and (not _composite(target) or ops.lookup(target) is not None)


def _in_place(node: fx.Node) -> None:
    """`y = relu_(x)` becomes `y = relu(x)`, and what read x later reads y."""
    x: Any = node.args[0]
    target = _functional(node.target)
    tensors = [n.meta.get("val") for n in node.all_input_nodes]
    one_type = all(isinstance(v, Tensor) and v.dtype == x.meta["val"].dtype for v in tensors)
    if target is None or not _is_new(x) or not one_type:
        raise _NotPlain
    if not all(_is_new(user) for user in x.users if user < node):
        raise _NotPlain  # a view of x: it would see the change
    node.target = target
    x.replace_all_uses_with(node, delete_user_cb=lambda user: node < user)


def _functional(target: Any) -> Any:
    """The op that returns what an in-place op writes, None where relprop does not know it."""
    schema = target._schema
    name = schema.name.removeprefix("aten::")
    written = [i for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write]
    if not name.endswith("_") or name.startswith("_") or written != [0]:
        return None
    found = getattr(getattr(aten, name[:-1], None), target._overloadname, None)
    same = found is not None and [a.name for a in found._schema.arguments] == [a.name for a in schema.arguments]
    return found if same and ops.lookup(found) is not None and _plain_return(found) else None


def _plain_return(target: Any) -> bool:
    return not target._schema.is_mutable and not _aliases(target) and len(target._schema.returns) == 1


def _reshape(node: fx.Node) -> None:
    """Every spelling as `reshape` to the sizes the value had; an open size is read from the input it is that of."""
    sizes = _sizes(node)
    if sizes is None:
        if node.target is not aten.reshape.default:
            raise _NotPlain
        return  # a product of an open size: as written
    node.target, node.args, node.kwargs = aten.reshape.default, (node.args[0], sizes), {}


def _sizes(node: fx.Node) -> list[Any] | None:
    sizes: list[Any] = []
    for n in node.meta["val"].shape:
        number = n if isinstance(n, int) else _open_size(node.graph, n)
        if number is None:
            return None
        sizes.append(number)
    return sizes


def _open_size(graph: fx.Graph, size: Any) -> fx.Node | None:
    """The node that reads an open size from an input: the one there is, or a new one."""
    for place in graph.find_nodes(op="placeholder"):
        value = place.meta.get("val")
        for d, n in enumerate(value.shape if isinstance(value, Tensor) else ()):
            if isinstance(n, torch.SymInt) and n.node.expr == size.node.expr:
                return _reader(graph, place, d, n)
    return None


def _reader(graph: fx.Graph, place: fx.Node, d: int, size: Any) -> fx.Node:
    for user in place.users:
        if user.target is aten.sym_size.int and user.args[1] == d:
            return user
    with graph.inserting_after(graph.find_nodes(op="placeholder")[-1]):
        node = graph.call_function(aten.sym_size.int, (place, d))
    node.meta["val"] = size
    return node


def _convert(node: fx.Node) -> None:
    """`to(...)` as a copy in the type and on the device its value had; nothing where it had those before."""
    source: Any = node.args[0]
    old, new = source.meta["val"], node.meta["val"]
    if {"copy", "memory_format"} & {k for k, v in node.kwargs.items() if v} or True in node.args[1:]:
        raise _NotPlain
    changes = {k: getattr(new, k) for k in ("dtype", "device") if getattr(new, k) != getattr(old, k)}
    if not changes:
        _become(node, source)
        return
    node.target, node.args, node.kwargs = aten._to_copy.default, (source,), changes


def _batch_norm(node: fx.Node) -> None:
    """BatchNorm with running statistics, by the name torch's decomposition has for it: no statistic is written."""
    x, weight, bias, mean, var, training, momentum, eps = node.args[:8]
    if training is not False or mean is None or var is None:
        raise _NotPlain
    graph, val = node.graph, node.meta["val"]
    with graph.inserting_before(node):
        made = graph.call_function(
            aten._native_batch_norm_legit_no_training.default, (x, weight, bias, mean, var, momentum, eps)
        )
        first = graph.call_function(operator.getitem, (made, 0))
    made.meta = {**node.meta, "val": (val, val.new_empty(0), val.new_empty(0))}
    first.meta = dict(node.meta)
    _become(node, first)
