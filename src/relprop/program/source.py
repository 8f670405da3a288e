"""Program to Python text: one line a value, readable, and a file that runs by itself."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import fx

from .. import ops, rules, targets
from .writer import item, zeros

HEADER = '''"""Relevance program of {model}, written by relprop.

`program(weights, {inputs}, target=None)` returns the output, the score of each sample, the target it chose, the
relevance of the inputs, that of recorded inner values, and ledger rows. `weights` holds the tensors named below:
`torch.save(explainer.program.state_dict(), "program.pt")` writes them.

    python program.py program.pt inputs.pt      # inputs.pt: a tensor, or a list of tensors
"""

import operator
import sys

import torch
import torch.nn.functional as F
from torch import device, inf, nan  # noqa: F401  (constants below may name them)

from relprop import ops, rules, targets
from relprop.rules import Call

aten = torch.ops.aten

'''

FOOTER = """

if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python program.py program.pt inputs.pt")
    state = torch.load(sys.argv[1], weights_only=True)
    given = torch.load(sys.argv[2], weights_only=True)
    with torch.no_grad():
        output, score, target, relevance, *_ = program(state, *(given if isinstance(given, (list, tuple)) else [given]))
    print("target", target.tolist(), "score", score.tolist())
    print("sum of relevance", [float(r.sum()) for r in relevance])
"""


def source(program: fx.GraphModule, model: str) -> str:
    """The text of a program."""
    graph = program.graph
    inputs = [n.name for n in graph.find_nodes(op="placeholder") if n.name != "target"]
    inline = {n: _call(n, {}) for n in graph.nodes if n.target is rules.Call}
    lines = [f"def program(weights, {', '.join(inputs)}, target=None):"]
    for node in graph.nodes:
        if node.op == "get_attr":
            lines.append(f'    {node.name} = weights["{node.target}"]')
        elif node.op == "call_function" and node not in inline:
            lines.append(f"    {node.name} = {_call(node, inline)}")
        elif node.op == "output":
            lines.append(f"    return {_text(node.args[0], inline)}")
    return HEADER.format(model=model, inputs=", ".join(inputs)) + "\n".join(lines) + "\n" + FOOTER


def _call(node: fx.Node, inline: dict[fx.Node, str]) -> str:
    if node.target is item:
        return f"{_text(node.args[0], inline)}[{node.args[1]}]"
    if node.target is zeros:
        value, output = (_text(a, inline) for a in node.args)
        dtype = f"torch.promote_types({output}.dtype, torch.float32)"
        return f"torch.zeros({value}.shape, dtype={dtype}, device={value}.device)"
    args = [_text(a, inline) for a in node.args] + [f"{k}={_text(v, inline)}" for k, v in node.kwargs.items()]
    return f"{_name(node.target)}({', '.join(args)})"


def _name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return str(target) if str(target).startswith("aten.") else f"torch.ops.{target}"
    module, name = getattr(target, "__module__", ""), getattr(target, "__name__", "")
    if target is rules.Call:
        return "Call"
    if target is targets.initial:
        return "targets.initial"
    if module == ops.__name__ or ops.FUNCTIONS.get(name) is target:
        return f"ops.{name}"
    if module.startswith(rules.__name__) and getattr(rules, name, None) is target:
        return f"rules.{name}"
    if module == "torch.nn.functional":
        return f"F.{name}"
    if module in ("_operator", "operator"):
        return f"operator.{name}"
    if getattr(torch, name, None) is target:
        return f"torch.{name}"
    return f"rules.get({name!r})[0].function"  # a user's own rule, declared under its name


def _text(value: Any, inline: dict[fx.Node, str]) -> str:
    if isinstance(value, fx.Node):
        return inline.get(value, value.name)
    if isinstance(value, (list, fx.immutable_collections.immutable_list)):
        return f"[{', '.join(_text(v, inline) for v in value)}]"
    if isinstance(value, tuple):
        return f"({', '.join(_text(v, inline) for v in value)}{',' if len(value) == 1 else ''})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {_text(v, inline)}" for k, v in value.items()) + "}"
    if isinstance(value, slice):
        return f"slice({', '.join(_text(v, inline) for v in (value.start, value.stop, value.step))})"
    if isinstance(value, torch.Tensor):
        return f"torch.tensor({value.tolist()}, dtype={value.dtype})"
    if callable(value) and not isinstance(value, (type, torch.dtype)):
        return _name(value)
    if isinstance(value, torch.device):
        return f"torch.device({str(value)!r})"
    return re.sub(r"^<.*>$", "None", repr(value))
