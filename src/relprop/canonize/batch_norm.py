"""BatchNorm in evaluation is y = scale · x + shift per channel: folded where that is exact, else an op of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from .. import ops
from ..captured import Captured
from ..ops import Family
from .edit import absorb, attach, calls, constant, replace

aten = torch.ops.aten
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


def as_scale_shift(captured: Captured) -> list[str]:
    """Every BatchNorm with running statistics becomes `scale_shift`: scale = γ / √(σ² + ε), shift = β − μ · scale."""
    module, found = captured.module, 0
    for item in calls(module.graph, "getitem"):
        node: Any = item.args[0]
        if not isinstance(node, fx.Node) or ops.name(node.target) != "_native_batch_norm_legit_no_training":
            continue
        weight, bias, mean, var = (constant(module, a) for a in node.args[1:5])
        if mean is None or var is None or item.args[1] != 0:
            continue
        work = torch.promote_types(var.dtype, torch.float32)
        scale = (var.to(work) + float(node.args[6])).rsqrt()  # type: ignore[arg-type]
        scale = scale if weight is None else scale * weight.to(work)
        shift = -mean.to(work) * scale
        shift = shift if bias is None else shift + bias.to(work)
        dtype = item.meta["val"].dtype
        new = replace(item, ops.scale_shift, (node.args[0],))
        new.args = (
            node.args[0],
            attach(module, new, f"{node.name}_scale", scale.to(dtype)),
            attach(module, new, f"{node.name}_shift", shift.to(dtype)),
        )
        found += 1
    return [f"{found} BatchNorm(s) read as scale and shift"] if found else []


def fold(captured: Captured) -> list[str]:
    """Fold each `scale_shift` into the weighted layer it alone follows, or that alone follows it without padding."""
    module, after, ahead, left = captured.module, 0, 0, 0
    for norm in calls(module.graph, "scale_shift"):
        if _fold_after(module, norm):
            after += 1
        elif _fold_before(module, norm):
            ahead += 1
        else:
            left += 1
    return [
        f"{count} BatchNorm(s) {what}"
        for count, what in (
            (after, "folded into the layer before"),
            (ahead, "folded into the layer after"),
            (left, "kept as an affine op of their own"),
        )
        if count
    ]


def _layer(module: fx.GraphModule, node: Any) -> tuple[Tensor, Tensor | None] | None:
    """Weights and bias of a convolution or linear layer whose parameters are constants."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return None
    row = ops.lookup(node.target)
    if row is None or row.family is not Family.AFFINE or row.weight != 1 or row.bias != 2:
        return None
    weight, bias = constant(module, node.args[1]), node.args[2] if len(node.args) > 2 else None
    tensor = constant(module, bias)
    return None if weight is None or (bias is not None and tensor is None) else (weight, tensor)


def _fold_after(module: fx.GraphModule, norm: fx.Node) -> bool:
    """y = scale (W a + b) + shift."""
    layer: Any = norm.args[0]
    found = _layer(module, layer)
    # a linear layer on more than (batch, features) has its features last, BatchNorm its channels second
    if found is None or len(layer.users) > 1 or (ops.name(layer.target) == "linear" and layer.meta["val"].dim() != 2):
        return False
    (w, b), (scale, shift) = found, (constant(module, a) for a in norm.args[1:])
    assert scale is not None
    assert shift is not None
    transposed = ops.name(layer.target) in TRANSPOSED
    if transposed:  # (in, out / groups, ...): the groups' output channels follow each other
        groups = layer.args[6] if len(layer.args) > 6 else 1
        split = w.view(groups, w.shape[0] // groups, *w.shape[1:])
        factors = scale.view(groups, 1, -1, *[1] * (w.dim() - 2))
        weight = (split * factors).view(w.shape)
    else:
        weight = w * scale.view(-1, *[1] * (w.dim() - 1))
    bias = shift if b is None else shift + b * scale
    _put(module, layer, weight, bias)
    absorb(layer, norm)
    layer.meta["val"] = norm.meta["val"]
    norm.replace_all_uses_with(layer)
    return True


def _fold_before(module: fx.GraphModule, norm: fx.Node) -> bool:
    """W (scale a + shift) + b, for a layer without padding (the border would not be shifted)."""
    users = list(norm.users)
    layer: Any = users[0] if len(users) == 1 else None
    found = _layer(module, layer)
    if found is None or layer.args[0] is not norm:
        return False
    short = ops.name(layer.target)
    if short in TRANSPOSED or (short == "linear" and norm.meta["val"].dim() != 2):
        return False
    padding: Any = layer.args[4] if short != "linear" and len(layer.args) > 4 else 0
    if any(padding) if isinstance(padding, (list, tuple)) else padding:  # a word is "same" here
        return False
    (w, b), (scale, shift) = found, (constant(module, a) for a in norm.args[1:])
    assert scale is not None
    assert shift is not None
    groups: Any = layer.args[6] if short != "linear" and len(layer.args) > 6 else 1
    tail = [1] * (w.dim() - 2)
    # output channel o of group g sees input channels g · C/G ...
    rows = scale.view(groups, -1).repeat_interleave(w.shape[0] // groups, 0)
    moved = shift.view(groups, -1).repeat_interleave(w.shape[0] // groups, 0)
    bias = (w * moved.view(*moved.shape, *tail)).flatten(1).sum(1)
    _put(module, layer, w * rows.view(*rows.shape, *tail), bias if b is None else bias + b)
    absorb(layer, norm)
    layer.args = (norm.args[0], *layer.args[1:])
    return True


def _put(module: fx.GraphModule, layer: fx.Node, weight: Tensor, bias: Tensor) -> None:
    base = str(layer.args[1].target) if isinstance(layer.args[1], fx.Node) else layer.name
    base = base.removesuffix("weight").strip("._") or layer.name
    layer.args = (
        layer.args[0],
        attach(module, layer, f"{base}_weight_folded", weight),
        attach(module, layer, f"{base}_bias_folded", bias),
        *layer.args[3:],
    )
