"""Ops with several outputs, and variants of one op, as plain ops with one output."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from .. import ops
from ..adjoints import per_dim
from ..captured import Captured
from .edit import before, calls, replace

aten = torch.ops.aten


def single_outputs(captured: Captured) -> list[str]:
    """`split`, `unbind`, `max(dim)`, `topk`, `var_mean`, adaptive max-pooling, ...: each output by an op of its own."""
    changed = False
    for node in calls(captured.module.graph, "getitem"):
        source, index = node.args
        if isinstance(source, fx.Node) and source.op == "call_function" and _rewrite(node, source, index):  # type: ignore[arg-type]
            changed = True
    return [""] if changed else []


def _rewrite(node: fx.Node, source: fx.Node, index: int) -> bool:
    short, args = ops.name(source.target), source.args
    x: Any = args[0]
    if short in ("split", "split_with_sizes", "chunk"):
        dim = source.kwargs.get("dim", args[2] if len(args) > 2 else 0)
        sizes = [v.shape[dim] for v in source.meta["val"]]
        replace(node, aten.slice.Tensor, (x, dim, sum(sizes[:index]), sum(sizes[: index + 1])))
    elif short == "unbind":
        replace(node, aten.select.int, (x, args[1] if len(args) > 1 else 0, index))
    elif short == "max" and index == 0:
        replace(node, aten.amax.default, (x, [args[1]], *args[2:]))
    elif short == "var_mean":
        rest = dict(source.kwargs)
        dims, keep = args[1] if len(args) > 1 else None, rest.get("keepdim", False)
        if index == 0:
            replace(node, aten.var.correction, (x, dims), rest)
        else:
            replace(node, aten.mean.dim, (x, dims, keep))
    elif short in ("topk", "sort") and index == 0:
        dim = args[{"topk": 2, "sort": 1}[short]] if len(args) > {"topk": 2, "sort": 1}[short] else -1
        order = before(node, operator.getitem, (source, 1), source.meta["val"][1])
        replace(node, aten.gather.default, (x, dim, order))
    elif short.startswith("adaptive_max_pool") and index == 0:
        replace(node, ops.adaptive_max_pool, (x, args[1]))
    else:
        return False
    return True


def open_copies(captured: Captured) -> list[str]:
    """`copy(y, x)`, what remains of an assignment to a part of a tensor: x in the shape and type of y."""
    nodes = calls(captured.module.graph, "copy")
    for node in nodes:
        y, x = node.args[0].meta["val"], node.args[1]  # type: ignore[union-attr]
        value: Tensor = x.meta["val"]  # type: ignore[union-attr]
        if value.dtype != y.dtype:
            x = before(node, aten.to.dtype, (x, y.dtype), value.to(y.dtype))
        if value.shape != y.shape:
            sizes = [-1 if a is b or a == b else b for a, b in zip(value.shape[-y.dim() :], y.shape, strict=False)]
            lead = list(y.shape[: y.dim() - value.dim()])
            x = before(node, aten.expand.default, (x, [*lead, *sizes]), y)
        node.replace_all_uses_with(x)  # type: ignore[arg-type]
    return [""] if nodes else []


def open_variants(captured: Captured) -> list[str]:
    """Ops that are others in disguise: `type_as`, `concatenate`, sums with a product of matrices."""
    graph = captured.module.graph
    joined = calls(graph, "concat", "concatenate")
    for node in joined:
        node.target = aten.cat.default
    cast = calls(graph, "type_as")
    for node in cast:
        replace(node, aten.to.dtype, (node.args[0], node.meta["val"].dtype))
    scaled = calls(graph, "addcmul")
    for node in scaled:
        c, a, b = node.args[:3]
        product = before(node, aten.mul.Tensor, (a, b), node.meta["val"])
        replace(node, aten.add.Tensor, (c, product), {"alpha": node.kwargs.get("value", 1)})
    sums = calls(graph, "baddbmm") + [n for n in calls(graph, "addmm") if n.args[0].op != "get_attr"]  # type: ignore[union-attr]
    for node in sums:
        _open_sum(node)
    return [""] if joined or cast or scaled or sums else []


def _open_sum(node: fx.Node) -> None:
    """β c + α a b as a product and a sum."""
    c, a, b = node.args[:3]
    alpha, beta = node.kwargs.get("alpha", 1), node.kwargs.get("beta", 1)
    product = before(node, aten.matmul.default, (a, b), node.meta["val"])
    if alpha != 1:
        product = before(node, aten.mul.Tensor, (product, alpha), node.meta["val"])
    if beta == 0:
        node.replace_all_uses_with(product)
    elif beta == 1:
        replace(node, aten.add.Tensor, (c, product))
    else:
        scaled = before(node, aten.mul.Tensor, (c, beta), c.meta["val"])  # type: ignore[union-attr]
        replace(node, aten.add.Tensor, (scaled, product))


def plain_convolutions(captured: Captured) -> list[str]:
    """Convolutions with padding "same" or "valid": numbers instead of words, where both sides are padded equally."""
    changed = [_numeric_padding(n) for n in calls(captured.module.graph, "conv1d", "conv2d", "conv3d") if is_worded(n)]
    return [""] if any(changed) else []


def is_worded(node: fx.Node) -> bool:
    """Whether a convolution's padding is a word."""
    return str(node.target).endswith(".padding")


def _numeric_padding(node: fx.Node) -> bool:
    args = [*node.args, *[None] * (7 - len(node.args))]
    w = args[1].meta["val"]  # type: ignore[union-attr]
    dims = w.dim() - 2
    dilation: Any = per_dim(args[5] or 1, dims)
    total = [d * (k - 1) if args[4] == "same" else 0 for d, k in zip(dilation, w.shape[2:], strict=True)]
    if any(t % 2 for t in total):
        return False
    target = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}[dims]
    halves = [t // 2 for t in total]
    replace(node, target, (args[0], args[1], args[2], args[3] or [1] * dims, halves, dilation, args[6] or 1))
    return True


def open_glu(captured: Captured) -> list[str]:
    """`glu(x)` as what it is: one half of the channels times the sigmoid of the other."""
    nodes = calls(captured.module.graph, "glu")
    for node in nodes:
        x: Any = node.args[0]
        dim: Any = node.args[1] if len(node.args) > 1 else -1
        whole: Tensor = x.meta["val"]
        n, val = whole.shape[dim] // 2, node.meta["val"]
        a = before(node, aten.slice.Tensor, (x, dim, 0, n), val)
        b = before(node, aten.slice.Tensor, (x, dim, n, 2 * n), val)
        replace(node, aten.mul.Tensor, (a, before(node, aten.sigmoid.default, (b,), val)))
    return [f"{len(nodes)} gated linear unit(s) opened"] if nodes else []
