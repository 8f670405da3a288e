"""Recurrent networks and cells: each layer and direction becomes one call with one output (relprop.recurrence)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from .. import recurrence
from ..captured import Captured
from ..errors import CaptureError
from ..graph import value, where
from ..ops import name as op_name
from ..samples import symbolic
from .edit import before, calls

aten = torch.ops.aten

LAYERS = {
    "lstm": recurrence.lstm_layer,
    "gru": recurrence.gru_layer,
    "rnn_tanh": recurrence.rnn_tanh_layer,
    "rnn_relu": recurrence.rnn_relu_layer,
}


def open_layers(captured: Captured) -> list[str]:
    """nn.LSTM, nn.GRU, nn.RNN and their cells, of any number of layers and directions, as calls of one layer each."""
    graph = captured.module.graph
    networks, cells = calls(graph, *LAYERS), calls(graph, *(f"{kind}_cell" for kind in LAYERS))
    for node in networks:
        _check(captured, node)
        _open_network(node)
    for node in cells:
        _open_cell(node)
    for node in (*networks, *cells):  # torch counts networks as random (their dropout): they would stay as dead code
        for reader in list(node.users):
            graph.erase_node(reader)
        graph.erase_node(node)
    count = len(networks) + len(cells)
    return [f"{count} recurrent network(s) opened into layers"] if count else []


def _check(captured: Captured, node: fx.Node) -> None:
    """Refuse packed sequences, and a batch that stands where time should."""
    if str(node.target).endswith(".data"):
        raise CaptureError(f"{where(node)}: {recurrence.PACKED}")
    x, batch_first = value(node.args[0]), bool(node.args[8])  # type: ignore[arg-type]
    steps, samples = (x.shape[1], x.shape[0]) if batch_first else x.shape[:2]
    batch = 1 if captured.single else captured.batch
    if symbolic(steps) or (not symbolic(samples) and steps == batch and samples % batch):
        raise CaptureError(
            f"{where(node)} reads the samples of the batch as steps in time, one after the other: the first dimension "
            "of every input is the batch. Give the network batch_first=True, or write x.transpose(0, 1) in front of it"
        )


@dataclass
class _Outputs:
    """What a network gives: the last layer's states over time, and of each layer and direction the last state."""

    over_time: fx.Node
    last: tuple[list[fx.Node], list[fx.Node]]


def _open_network(node: fx.Node) -> None:
    x, states, weights, biases, layers, _, _, bidirectional, batch_first = node.args
    states = list(states) if isinstance(states, (list, tuple)) else [states]
    if batch_first:
        x = _add(node, aten.transpose.int, x, 0, 1)
    readers = {n.args[1]: n for n in node.users if op_name(n.target) == "getitem"}
    outputs = _layers(node, x, states, list(weights), bool(biases), int(layers), bool(bidirectional), 2 in readers)  # type: ignore[arg-type]
    for index, reader in readers.items():
        if index == 0:
            new = outputs.over_time
            new = _add(node, aten.transpose.int, new, 0, 1) if batch_first else new
        else:
            new = _add(node, aten.stack.default, outputs.last[int(index) - 1], 0)  # type: ignore[arg-type]
        reader.replace_all_uses_with(new)


def _layers(
    node: fx.Node,
    x: Any,
    states: list[Any],
    weights: list[Any],
    biases: bool,
    layers: int,
    bidirectional: bool,
    cells: bool,
) -> _Outputs:
    kind = op_name(node.target)
    directions = 2 if bidirectional else 1
    each = len(weights) // (layers * directions)
    last: tuple[list[fx.Node], list[fx.Node]] = ([], [])
    for layer in range(layers):
        hidden = []
        for d in range(directions):
            k = layer * directions + d
            start = [_add(node, aten.select.int, s, 0, k) for s in states]
            own = _named(kind, weights[k * each : (k + 1) * each], biases)
            h, c = _layer(node, kind, x, start, own, d == 1, cells)
            hidden.append(h)
            last[0].append(_add(node, aten.select.int, h, 0, 0 if d == 1 else value(h).shape[0] - 1))
            last[1].extend(c)
        x = _add(node, aten.cat.default, hidden, -1) if bidirectional else hidden[0]
    return _Outputs(x, last)


def _named(kind: str, weights: list[Any], biases: bool) -> list[Any]:
    """Weights of a layer in the order of its function's arguments, None for those it does not have."""
    matrices, rest = weights[:2], weights[2:]
    vectors = rest[:2] if biases else [None, None]
    projection = [rest[-1] if len(rest) % 2 else None] if kind == "lstm" else []
    return [*matrices, *vectors, *projection]


def _layer(
    node: fx.Node, kind: str, x: Any, start: list[Any], weights: list[Any], reverse: bool, cells: bool
) -> tuple[fx.Node, list[fx.Node]]:
    """The hidden states of one layer and direction, and (if read) its last cell state."""
    steps, batch = value(x).shape[:2]
    width, gated = (value(weights[1]).shape[i] for i in (1, 0))
    v = value(x)
    if kind != "lstm":
        return before(node, LAYERS[kind], (x, *start, *weights, reverse), v.new_empty((steps, batch, width))), []
    shape = (steps + 1, batch, gated // 4) if cells else (steps, batch, width)
    y = before(node, LAYERS[kind], (x, *start, *weights, reverse, cells), v.new_empty(shape))
    if not cells:
        return y, []
    hidden = _add(node, aten.slice.Tensor, y, 0, 0, steps)
    if width < gated // 4:
        hidden = _add(node, aten.slice.Tensor, hidden, 2, 0, width)
    return hidden, [_add(node, aten.select.int, y, 0, steps)]


def _open_cell(node: fx.Node) -> None:
    """A cell is a layer of one step."""
    kind = op_name(node.target).removesuffix("_cell")
    x, states, *weights = node.args
    states = list(states) if isinstance(states, (list, tuple)) else [states]
    weights = [*weights, *[None] * (4 - len(weights))]
    readers = {n.args[1]: n for n in node.users if op_name(n.target) == "getitem"} if kind == "lstm" else {}
    own = _named(kind, [w for w in weights if w is not None], weights[2] is not None)
    hidden, cells = _layer(node, kind, _add(node, aten.unsqueeze.default, x, 0), states, own, False, 1 in readers)
    h = _add(node, aten.select.int, hidden, 0, 0)
    if kind != "lstm":
        node.replace_all_uses_with(h)
    for index, reader in readers.items():
        reader.replace_all_uses_with(h if index == 0 else cells[0])


def _add(node: fx.Node, op: Any, *args: Any) -> fx.Node:
    """A call in front of the node, its value computed from those of its arguments."""
    return before(node, op, args, op(*fx.map_arg(tuple(args), value)))
