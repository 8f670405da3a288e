"""Names of constants that take relevance: position and type embeddings, class tokens, added parameters."""

from __future__ import annotations

from torch import fx

from .graph import Reading, module_path
from .ops import Family, name


def held_summands(node: fx.Node, reading: Reading) -> str:
    """What a sum or a concatenation holds beside its live operands, by module or parameter path; '' if nothing."""
    role = reading.role(node)
    if role is None or not (role.family is Family.SUM or name(node.target) in ("cat", "stack")):
        return ""
    held = [n for n in node.all_input_nodes if n not in role.nodes]
    return ", ".join(dict.fromkeys(_origin(n, module_path(node)) for n in held))


def _origin(held: fx.Node, adding: str) -> str:
    """The first module on the way back from a held value that is not the adding one, or the parameter it comes from."""
    node = held
    while True:
        path = module_path(node)
        if path and path != adding:
            return path
        if not node.all_input_nodes:
            source = node.meta.get("relprop_source", str(node.target) if node.op == "get_attr" else "")
            return source.removeprefix("model.") or held.name
        node = node.all_input_nodes[0]
