"""Heavy ops in bfloat16: what autocast does at run time, written into the graph.

Each linear map, convolution, matrix product and fused attention gets its operands in bfloat16 and gives its value back
in float32; weights are converted once. Everything between them, and all relevance, stays float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from .. import ops
from ..captured import Captured
from ..errors import InputError
from ..graph import value, where
from ..ops import Family
from .edit import attach, constant

HEAVY = (Family.AFFINE, Family.ATTENTION)


def in_bfloat16(captured: Captured, explained: fx.Node) -> fx.Node:
    """Rewrite the graph; the node that is explained, afterwards."""
    graph, module = captured.module.graph, captured.module
    narrow: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        row = ops.lookup(node.target) if node.op == "call_function" else None
        if row is None or row.family not in HEAVY:
            continue
        if value(node).dtype not in (torch.float32, torch.bfloat16):
            kind = str(value(node).dtype).removeprefix("torch.")
            raise InputError(
                f'precision="bf16" is for models in float32 or bfloat16; {where(node)} computes in {kind}: use '
                "model.float()"
            )
        if not _single(node):
            continue
        with graph.inserting_before(node):
            for n in node.all_input_nodes:
                if _single(n) and n not in narrow:
                    narrow[n] = _weight(module, n) if n.op == "get_attr" else _cast(graph, n, node, torch.bfloat16)
        node.args = torch.fx.map_arg(node.args, lambda n: narrow.get(n, n))
        node.kwargs = torch.fx.map_arg(node.kwargs, lambda n: narrow.get(n, n))
        with graph.inserting_after(node):
            wide = _cast(graph, node, node, torch.float32)
        node.replace_all_uses_with(wide, delete_user_cb=lambda user, wide=wide: user is not wide)
        node.meta["val"] = value(node).to(torch.bfloat16)
        explained = wide if node is explained else explained
    graph.eliminate_dead_code()  # among it the parameters that were converted
    graph.lint()
    module.recompile()
    return explained


def _single(node: fx.Node) -> bool:
    v = value(node)
    return isinstance(v, Tensor) and v.dtype is torch.float32


def _cast(graph: fx.Graph, node: fx.Node, near: fx.Node, dtype: torch.dtype) -> fx.Node:
    """The node's value in another precision, recorded as part of the module that asks for it."""
    cast = graph.call_function(torch.ops.aten._to_copy.default, (node,), {"dtype": dtype})
    cast.name = f"{node.name}_{'half' if dtype is torch.bfloat16 else 'wide'}"
    kept = ("nn_module_stack", "stack_trace")
    cast.meta = {k: near.meta[k] for k in kept if k in near.meta} | {"val": value(node).to(dtype)}
    return cast


def _weight(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The parameter in bfloat16, kept among the program's weights."""
    held = constant(module, node)
    assert held is not None
    return attach(module, node, f"{node.name}_half", held.to(torch.bfloat16))
