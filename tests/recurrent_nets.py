"""Recurrent networks written out step by step, in an arithmetic of one's choice.

With `PLAIN` arithmetic a network is the function of torch's own. With `SIGNAL` or `HALF` it has the same values, but the
gradient times the input is LRP (ε = 0): what takes nothing is detached, a tanh is its ratio to its argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

States = tuple[Tensor, ...]


@dataclass(frozen=True)
class Arithmetic:
    """How a gate weighs a signal, what a gate and a tanh are, and what a memory adds up to."""

    product: Callable[[Tensor, Tensor], Tensor]
    sigmoid: Callable[[Tensor], Tensor]
    tanh: Callable[[Tensor], Tensor]
    relu: Callable[[Tensor], Tensor]
    total: Callable[[Tensor, Tensor], Tensor] = torch.add


def _ratio(f: Callable[[Tensor], Tensor], at_zero: float = 0.0) -> Callable[[Tensor], Tensor]:
    """f(0) + ((f(z) − f(0)) / z) z with the ratio held: relevance passes but for the part of f(0)."""
    return lambda z: at_zero + ((f(z) - at_zero) / z).detach() * z


PLAIN = Arithmetic(torch.mul, torch.sigmoid, torch.tanh, torch.relu)
SIGNAL = Arithmetic(lambda gate, s: gate.detach() * s, torch.sigmoid, _ratio(torch.tanh), _ratio(torch.relu))
HALF = Arithmetic(
    lambda gate, s: 0.5 * (gate.detach() * s + gate * s.detach()),
    _ratio(torch.sigmoid, 0.5),
    _ratio(torch.tanh),
    _ratio(torch.relu),
)


def _bounded(old: Tensor, new: Tensor) -> Tensor:
    """old + new, of which each gives its magnitude over the sum of the two: a held factor times |old| + |new|."""
    size = old.abs() + new.abs()
    held = (torch.where(size == 0, 0.0, old + new) / torch.where(size == 0, 1.0, size)).detach()
    return held * size


# By the options `gate` and `residual`.
ARITHMETIC = {"signal": SIGNAL, "half": HALF}
ARITHMETIC |= {f"{gate}, magnitude": replace(k, total=_bounded) for gate, k in ARITHMETIC.items()}


def lstm_step(k: Arithmetic, x: Tensor, states: States, w: dict[str, Tensor]) -> States:
    """(h, c) of the next step; gates i, f, g, o."""
    h, c = states
    i, f, g, o = (x @ w["weight_ih"].T + w["bias_ih"] + h @ w["weight_hh"].T + w["bias_hh"]).chunk(4, -1)
    c = k.total(k.product(k.sigmoid(f), c), k.product(k.sigmoid(i), k.tanh(g)))
    h = k.product(k.sigmoid(o), k.tanh(c))
    return (h @ w["weight_hr"].T if "weight_hr" in w else h), c


def gru_step(k: Arithmetic, x: Tensor, states: States, w: dict[str, Tensor]) -> States:
    """(h,) of the next step; gates r, z, n."""
    (h,) = states
    xr, xz, xn = (x @ w["weight_ih"].T + w["bias_ih"]).chunk(3, -1)
    hr, hz, hn = (h @ w["weight_hh"].T + w["bias_hh"]).chunk(3, -1)
    z = k.sigmoid(xz + hz)
    n = k.tanh(xn + k.product(k.sigmoid(xr + hr), hn))
    return (k.total(k.product(1 - z, n), k.product(z, h)),)


def rnn_step(k: Arithmetic, x: Tensor, states: States, w: dict[str, Tensor], relu: bool = False) -> States:
    """(h,) of the next step."""
    (h,) = states
    z = x @ w["weight_ih"].T + w["bias_ih"] + h @ w["weight_hh"].T + w["bias_hh"]
    return (k.relu(z) if relu else k.tanh(z),)


def step_of(net: Any) -> Callable[..., States]:
    """The step of a network or a cell of torch.nn."""
    kind = type(net).__name__.removesuffix("Cell")
    if kind == "RNN":
        relu = net.nonlinearity == "relu"
        return lambda *args: rnn_step(*args, relu=relu)
    return {"LSTM": lstm_step, "GRU": gru_step}[kind]


def weights_of(net: Any, suffix: str = "") -> dict[str, Tensor]:
    """A layer's weights by name; biases that it does not have are 0."""
    found = {n: getattr(net, n + suffix) for n in ("weight_ih", "weight_hh", "weight_hr") if hasattr(net, n + suffix)}
    for n in ("bias_ih", "bias_hh"):
        found[n] = getattr(net, n + suffix) if net.bias else torch.zeros(len(found["weight_hh"])).to(found["weight_hh"])
    return found


def unrolled(k: Arithmetic, net: nn.RNNBase, x: Tensor, states: States) -> tuple[Tensor, States]:
    """Outputs over time (B, T, ·) and last states of a network with batch_first=True, layer by layer, step by step."""
    step, steps, last = step_of(net), x.shape[1], []
    for layer in range(net.num_layers):
        sides = []
        for d in range(2 if net.bidirectional else 1):
            w = weights_of(net, f"_l{layer}{'_reverse' if d else ''}")
            now = tuple(s[layer * (2 if net.bidirectional else 1) + d] for s in states)
            out: list[Tensor] = [x] * steps
            for t in reversed(range(steps)) if d else range(steps):
                now = step(k, x[:, t], now, w)
                out[t] = now[0]
            last.append(now)
            sides.append(torch.stack(out, 1))
        x = torch.cat(sides, -1)
    return x, tuple(torch.stack(s) for s in zip(*last, strict=True))


class Read(nn.Module):
    """A recurrent network and two scores of what it gives: `use` names outputs: "y" over time, "h" and "c" at the end.

    `start`: initial states "zero", "given" (inputs h0, c0 of shape (B, layers, ·)) or "held" (parameters). With an
    arithmetic, the network is written out in it.
    """

    def __init__(self, net: nn.RNNBase, use: str = "y", start: str = "zero", k: Arithmetic | None = None) -> None:
        super().__init__()
        self.net, self.use, self.start, self.k = net, use, start, k
        self.lstm, rows = isinstance(net, nn.LSTM), net.num_layers * (2 if net.bidirectional else 1)
        out = net.proj_size or net.hidden_size
        generator = torch.Generator().manual_seed(7)
        self.widths = (out, net.hidden_size)[: 1 + self.lstm]
        self.held = nn.ParameterList(torch.randn(rows, 1, n, generator=generator).double() for n in self.widths)
        many = {"y": out * (2 if net.bidirectional else 1), "h": rows * out, "c": rows * net.hidden_size}
        self.heads = nn.ParameterDict({u: torch.randn(many[u], 2, generator=generator).double() for u in use})

    def states(self, x: Tensor, given: States) -> States:
        if self.start == "given":
            return tuple(s.transpose(0, 1) for s in given)
        held = tuple(p.expand(-1, x.shape[0], -1) for p in self.held)
        return held if self.start == "held" else tuple(torch.zeros_like(p) for p in held)

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        states = self.states(x, given)
        if self.k is not None:
            y, last = unrolled(self.k, self.net, x, states)
        elif self.start == "zero":
            y, last = self.net(x)
        else:
            y, last = self.net(x, tuple(s.contiguous() for s in states) if self.lstm else states[0].contiguous())
        last = last if isinstance(last, tuple) else (last,)
        found = {"y": y[:, -1] + y[:, 0]} | {n: s.transpose(0, 1).flatten(1) for n, s in zip("hc", last, strict=False)}
        return torch.stack([found[u] @ self.heads[u] for u in self.use]).sum(0)

    def inputs(self, batch: int = 3, steps: int = 4, seed: int = 1) -> tuple[Tensor, ...]:
        """Random inputs of a fitting shape."""
        generator = torch.Generator().manual_seed(seed)
        shapes = [(batch, steps, self.net.input_size)]
        if self.start == "given":
            shapes += [(batch, len(self.held[0]), n) for n in self.widths]
        return tuple(torch.randn(s, generator=generator).double() for s in shapes)


def make(kind: type[nn.RNNBase], *, inputs: int = 3, hidden: int = 4, seed: int = 0, **options: Any) -> Any:
    """A network of torch.nn in float64 with larger random weights than torch's, so that gates are not all near ½."""
    net = kind(inputs, hidden, batch_first=True, **options).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return net


def by_gradient(model: nn.Module, inputs: tuple[Tensor, ...], target: int = 0) -> tuple[Tensor, ...]:
    """Input times gradient of the target's score."""
    leaves = tuple(x.clone().requires_grad_() for x in inputs)
    score = model(*leaves)[:, target].sum()
    return tuple(x.detach() * g for x, g in zip(leaves, torch.autograd.grad(score, leaves), strict=True))
