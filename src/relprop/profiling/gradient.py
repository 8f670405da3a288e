"""The yardstick: the plain gradient, forward and back to the explained inputs, of the whole model and op by op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from ..capture import clone
from ..captured import Captured
from ..choice import Choice
from ..graph import Reading, is_float
from ..targets import Target, initial

# Calls a function that a node's name belongs to, and gives its result: to count or time it.
Around = Callable[[str, Callable[[], Any]], Any]


class Gradient:
    """Output and gradient of the model's score: forward, and backward to the explained inputs alone.

    Of a copy of the model in evaluation mode, its parameters as they are; where tokens are explained, which have no
    gradient, of the captured graph down to their embedding. `whole` says which.
    """

    def __init__(self, model: nn.Module, captured: Captured, reading: Reading) -> None:
        self.captured = captured
        self.whole = all(is_float(n) for n in captured.explained)
        self.model = clone(model) if self.whole else _with_leaves(captured.module, leaves(reading), reading.output)

    def __call__(self, tensors: list[Tensor], target: Target) -> list[Tensor]:
        """The gradient of the score for each of what it is taken at; a graph for one sample is run for each."""
        found: list[Tensor] = []
        for portion in [tensors] if self.whole else self.captured.portions(tensors):
            with torch.enable_grad():
                output, inputs = self._forward(portion)
            start = initial(output.detach(), target)[0].to(output.dtype)
            found += torch.autograd.grad(output, inputs, start, allow_unused=True)
        return found

    def _forward(self, tensors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The explained output, and the tensors whose gradient is asked for."""
        if not self.whole:
            output, inputs = self.model(*tensors)
            return output, inputs
        nodes = zip(self.captured.inputs, tensors, strict=True)
        given = [_free(t) if n in self.captured.explained else t for n, t in nodes]
        result = self.captured.spec.call(self.model, tuple(given))
        output = Choice()(result, [t.shape[0] for t in tensors], type(self.model).__name__)
        return output, [t for t in given if t.requires_grad]


def leaves(reading: Reading) -> list[fx.Node]:
    """Where the gradient ends: explained floating point inputs, and what is computed first from explained integers."""
    return [
        n for n in reading.graph.nodes
        if n in reading.reached and is_float(n)
        and (n in reading.explained or not any(m in reading.live and is_float(m) for m in n.all_input_nodes))
    ]  # fmt: skip


def _with_leaves(root: fx.GraphModule, ends: list[fx.Node], output: fx.Node) -> fx.GraphModule:
    """The graph returning its output and the leaves, from which the gradient starts anew."""
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    marked = []
    for node in root.graph.nodes:
        if node.op == "output":
            continue
        made[node] = graph.node_copy(node, made.__getitem__)
        if node in ends:
            made[node] = graph.call_function(_free, (made[node],))
            marked.append(made[node])
    graph.output((made[output], tuple(marked)))
    graph.eliminate_dead_code()
    return fx.GraphModule(root, graph, "PlainGradient")


class OpGradients(fx.Interpreter):
    """Runs a graph and takes each op's own gradient, to those of its operands that depend on the explained inputs.

    `measure` is called with the op's node name and the function that computes its gradient.
    """

    def __init__(
        self, module: fx.GraphModule, reading: Reading, measure: Callable[[str, Callable[[], Any]], Any]
    ) -> None:
        super().__init__(module)
        self.carriers = {n.name for n in reading.live if is_float(n)}
        self.measure = measure

    def run_node(self, n: fx.Node) -> Any:
        sources = [m for m in n.all_input_nodes if m.name in self.carriers]
        if n.op != "call_function" or not sources:
            with torch.no_grad():
                return super().run_node(n)
        made = {m: pytree.tree_map_only(Tensor, _free, self.env[m]) for m in sources}
        before = {m: self.env[m] for m in sources}
        self.env.update(made)
        with torch.enable_grad():
            result = super().run_node(n)
        self.env.update(before)
        ends = [t for t in pytree.tree_leaves(list(made.values())) if isinstance(t, Tensor) and t.requires_grad]
        outputs = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor) and t.requires_grad]
        if ends and outputs:
            ones = [torch.ones_like(t) for t in outputs]
            self.measure(n.name, lambda: torch.autograd.grad(outputs, ends, ones, allow_unused=True))
        return pytree.tree_map_only(Tensor, Tensor.detach, result)


def _free(x: Tensor) -> Tensor:
    return x.detach().requires_grad_(x.is_floating_point())
