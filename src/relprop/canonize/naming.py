"""Values called after the user's modules, so that the program reads like the model."""

from __future__ import annotations

import re
from collections import Counter

from torch import fx

from .. import ops
from ..captured import Captured
from ..graph import module_class, module_path


def by_module(captured: Captured) -> None:
    """`layer1_0_conv1` for what the module `layer1.0.conv1` computes, `layer1_0_add` for an op of a larger module.

    Where there are several of one name all are numbered, so that the plain path never means one of them by accident.
    """
    nodes = [n for n in captured.module.graph.nodes if n.op not in ("placeholder", "output")]
    taken = {n.name for n in captured.inputs} | {"weights", "target", "start", "score", "resolved"}
    count = Counter(_name(n) for n in nodes)
    for node in nodes:
        base, i = _name(node), 1
        name = base if count[base] == 1 else f"{base}_1"
        while name in taken:
            i += 1
            name = f"{base}_{i}"
        taken.add(name)
        node.name = name


def _name(node: fx.Node) -> str:
    if node.op == "get_attr":
        return _word(str(node.target).removeprefix("model."), "w")
    op, path = ops.name(node.target), module_path(node)
    if not path or op in ("sym_size",):
        return _word(op, "v")
    leaf = module_class(node).startswith("torch.nn.modules.") and ".container." not in module_class(node)
    return _word(path if leaf else f"{path}_{op}", op)


def _word(text: str, prefix: str) -> str:
    word = re.sub(r"\W", "_", text)
    return word if word[:1].isalpha() else f"{prefix}_{word}"
