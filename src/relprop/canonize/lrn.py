"""Local response normalization as one op again, after export has taken it apart."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import fx

from .. import ops
from ..captured import Captured
from .edit import absorb, calls, replace


def recognize(captured: Captured) -> list[str]:
    """x / (k + α · mean over channels (x²))^β, the windowed mean as padded average pooling, becomes one call."""
    found = 0
    for division in calls(captured.module.graph, "div"):
        match = _match(division)
        if match is not None:
            new = replace(division, F.local_response_norm, (division.args[0], *match))
            absorb(new, division)
            found += 1
    return [f"{found} local response normalization(s) recognized"] if found else []


def _match(division: fx.Node) -> tuple[int, float, float, float] | None:
    """(size, alpha, beta, k) if the quotient is a local response normalization of its numerator."""
    x, node = division.args[0], division.args[1]
    power, beta = _step(node, "pow")
    plus, k = _step(power, "add")
    times, alpha = _step(plus, "mul")
    pool = _skip(times, "view", "squeeze", "reshape")
    if not _is(pool, "avg_pool2d", "avg_pool3d") or None in (beta, k, alpha):
        return None
    kernel, stride = list(pool.args[1]), list(pool.args[2]) if len(pool.args) > 2 else []
    if any(n != 1 for n in kernel[1:]) or any(n != 1 for n in stride) or not stride:
        return None
    pad, size = pool.args[0], kernel[0]
    if not _is(pad, "pad", "constant_pad_nd"):
        return None
    pads = list(pad.args[1])
    if pads[-2:] != [size // 2, (size - 1) // 2] or any(pads[:-2]):
        return None
    square = _skip(pad.args[0], "view", "unsqueeze", "reshape")
    if not (_is(square, "mul") and square.args[0] is x and square.args[1] is x):
        return None
    return size, float(alpha), float(beta), float(k)  # type: ignore[arg-type]


def _is(node: Any, *names: str) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and ops.name(node.target) in names


def _step(node: Any, name: str) -> tuple[Any, float | None]:
    """Operand and number of `operand (name) number`."""
    if not _is(node, name) or len(node.args) < 2 or not isinstance(node.args[1], (int, float)):
        return None, None
    return node.args[0], float(node.args[1])


def _skip(node: Any, *names: str) -> Any:
    while _is(node, *names):
        node = node.args[0]
    return node
