"""Recurrent layers: LRP through time after the native forward, one small product with the weights a step.

All hidden states are known, so one batched product gives the gates of all steps again. Cells then differ in their
numbers alone (`Cell`), and one walk backward over time serves them all. With s_t the relevance of a step's sum over its
value (the sum is c_t in an LSTM, h_t in a GRU, the pre-activation in a plain cell), R_t what arrives at h_t from above:

    R_{h_t} = R_t + h_t ⊙ Uᵀ (v_{t+1} ⊙ s_{t+1})
    s_t     = (share · R_{h_t} + k_{t+1} ⊙ s_{t+1}) / (sum_t + e)
    R_{x_t} = x_t ⊙ Wᵀ (u_t ⊙ s_t)

k_t: what the state before contributes to the sum. u_t, v_t: what the candidate (and, by the half rule, the gates)
contribute to it, over their pre-activations + e; they differ in a GRU, where the reset gate weighs U h + b' alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CompositeError
from ..ops import Family, name
from .call import Call
from .denominator import Denominator
from .registry import rule

GATES = ("signal", "half")
RESIDUALS = ("epsilon", "magnitude")


@rule(
    Family.RECURRENT,
    source="Arras et al. 2017 (gate='signal'); Achtibat et al. 2024, uniform rule for products (gate='half')",
)
def recurrent(
    R: Tensor,
    f: Call,
    *,
    gate: str = "signal",
    residual: str = "epsilon",
    epsilon: float = 1e-6,
    epsilon_mode: str = "rms",
) -> Tensor | tuple[Tensor, ...]:
    """R_{c_t−1} = f_t c_t−1 / (c_t + ε) R_{c_t}, R_{g_t} = i_t g_t / (c_t + ε) R_{c_t}, then W x_t + U h_t−1 by LRP-ε

    `gate`: of a product of gate and signal the "signal" takes all, or each factor "half"; a sigmoid gate then passes
    its part above σ(0) = ½ on, the rest counts as bias. ε is relative to the rms (or std) over all steps of a sample,
    of c, of h, and of those pre-activations that carry relevance. What an initial state has that is no input is bias.
    `residual`: how a memory (c of an LSTM, h of a GRU) shares between what it was and what is new: "epsilon" as above,
    or "magnitude", |f_t c_t−1| / (|f_t c_t−1| + |i_t g_t|) and the rest: shares between 0 and 1 with gate="signal". The
    pre-activations, and with them a plain RNN, remain sums by LRP-ε, which can amplify.
    """
    for option, given, choices in (("gate", gate, GATES), ("residual", residual, RESIDUALS)):
        if given not in choices:
            raise CompositeError(f"{option}={given!r}: it is one of {', '.join(choices)}")
    layer = Layer(f, R, gate == "half", residual == "magnitude", epsilon, epsilon_mode)
    cell = CELLS[name(f.op)](layer)
    return _deliver(layer, cell, _walk(layer, cell))


# A memory's denominator, and its two signals.
Memory = tuple[Denominator, Tensor, Tensor]


class Layer:
    """The call in the order its steps are computed in, whatever its direction, and the relevance that arrives."""

    def __init__(self, f: Call, R: Tensor, half: bool, bounded: bool, epsilon: float, mode: str) -> None:
        self.f, self.half, self.bounded, self.epsilon, self.mode = f, half, bounded, epsilon, mode
        lstm = name(f.op) == "lstm_layer"
        x, *self.states = f.args[: 3 if lstm else 2]
        self.w_ih, self.w_hh, self.b_ih, self.b_hh, *rest = f.args[3 if lstm else 2 :]
        self.w_hr: Tensor | None = rest.pop(0) if lstm else None
        self.reverse = bool(rest[0])
        steps, width = x.shape[0], self.w_hh.shape[1]
        self.size = width if self.w_hr is None else self.w_hr.shape[1]
        self.x, self.h, self.R = (self.turned(t) for t in (x, f.y[:steps, :, :width], R[:steps, :, :width]))
        self.R_last = R[steps] if len(R) > steps else None  # of the last cell state
        self.before = torch.cat([self.states[0].unsqueeze(0), self.h[:-1]])

    def turned(self, t: Tensor) -> Tensor:
        """From the order of the input to that of the steps, and back."""
        return t.flip(0) if self.reverse else t

    def rows(self, w: Tensor, gates: slice) -> Tensor:
        """The rows of weights, or of a bias, for some of the gates."""
        return w[gates.start * self.size : gates.stop * self.size]

    def of_input(self, gates: slice) -> Tensor:
        """W x_t + b, gate by gate in the last dimension."""
        return self._affine(self.x, self.w_ih, self.b_ih, gates)

    def of_state(self, gates: slice) -> Tensor:
        """U h_t−1 + b', gate by gate in the last dimension."""
        return self._affine(self.before, self.w_hh, self.b_hh, gates)

    def _affine(self, a: Tensor, w: Tensor, b: Tensor | None, gates: slice) -> Tensor:
        return F.linear(a, self.rows(w, gates), None if b is None else self.rows(b, gates))

    def over(self, z: Tensor) -> Denominator:
        """z + e, with e relative to z over all steps of a sample."""
        return Denominator(z, self.epsilon, self.mode, self.f.batch)

    def memory(self, total: Tensor, keep: Tensor, old: Tensor, add: Tensor, new: Tensor) -> Memory:
        """What a memory keep · old + add · new is divided by, and its signals old and new as they take their shares."""
        if not self.bounded:
            return self.over(total), old, new
        old, new = old.abs(), new.abs()
        return Denominator(torch.addcmul(add * new, keep, old), sign=1), old, new

    def taken(self, d: Denominator, R: Tensor) -> None:
        """Book what of the relevance e took, and what was lost where z + e is 0."""
        for account, amount in zip(("epsilon", "residual"), d.amounts(R, d.under(R)), strict=True):
            if amount is not None:
                self.book(account, amount)

    def book(self, account: str, amount: Tensor) -> None:
        """Add to an account of the call; dimension 1 of the amount counts samples."""
        total = self.f.sum(amount)
        self.f.kept[account] = self.f.kept[account] + total if account in self.f.kept else total


class Cell:
    """A layer's numbers for the walk: (T, B, H), of several gates side by side (T, B, gates · H).

    `sum`, `carry` (k) and `share` make s. The pre-activations of `gates` get `into` ⊙ s (u), of which the state before
    gets `reset` times (v / u; None: 1). `ends`: the last gate weighs the new state, so that its part is of R_h, not s.
    `constant` times s, and `end_constant` times R_h, is what the value ½ of sigmoid gates at 0 takes. `projected`: the
    output before the projection, and the denominator of h.
    """

    def __init__(self, gates: slice, total: Denominator, carry: Tensor | None = None, share: float = 1.0) -> None:
        self.gates, self.sum, self.carry, self.share = gates, total, carry, share
        self.into: Tensor | None = None
        self.reset: Tensor | None = None
        self.ends = False
        self.constant: Tensor | None = None
        self.end_constant: Tensor | None = None
        self.projected: tuple[Tensor, Denominator] | None = None
        self.parts: tuple[Tensor, Denominator] | None = None  # what `into` is the quotient of, for the ledger

    def gives(self, parts: Tensor, z: Denominator, ledger: bool) -> None:
        """u = parts / (z + e)."""
        self.into = parts / z.value
        self.parts = (parts, z) if ledger else None

    def sources(self, s: Tensor, R: Tensor) -> Tensor:
        """What the parts of the gates are parts of, side by side: s, and R_h for a gate that ends the step."""
        count = self.gates.stop - self.gates.start
        return s if count == 1 else torch.cat([*[s] * (count - 1), R if self.ends else s], -1)


def _lstm(layer: Layer) -> Cell:
    """sum = c = f c₋ + i g, h = o tanh(c): tanh passes; o takes nothing, or half."""
    gates = slice(0, 4 if layer.half or layer.w_hr is not None else 3)
    z = layer.of_input(gates) + layer.of_state(gates)
    z_i, z_f, z_g, *z_o = z.chunk(gates.stop, -1)
    i, f, g = torch.sigmoid(z_i), torch.sigmoid(z_f), torch.tanh(z_g)
    c = _cell_states(f, i * g, layer.states[1])
    before = torch.cat([layer.states[1].unsqueeze(0), c[:-1]])
    total, before, g = layer.memory(c, f, before, i, g)
    if layer.half:
        o = torch.sigmoid(z_o[0])
        cell = Cell(gates, total, 0.5 * f * before, 0.5)
        parts = (0.5 * (i - 0.5) * g, 0.5 * (f - 0.5) * before, 0.5 * i * g, 0.5 - 0.25 / o)
        cell.gives(torch.cat(parts, -1), layer.over(z), layer.f.ledger)
        cell.ends, cell.constant, cell.end_constant = True, 0.25 * (g + before), 0.25 / o
    else:
        cell = Cell(slice(2, 3), total, f * before)
        cell.gives(i * g, layer.over(z_g), layer.f.ledger)
    if layer.w_hr is not None:
        cell.projected = torch.sigmoid(z_o[0]) * torch.tanh(c), layer.over(layer.h)
    return cell


def _cell_states(f: Tensor, new: Tensor, c: Tensor) -> Tensor:
    """c_t = f_t c_t−1 + i_t g_t for all t."""
    states = []
    for forget, i_g in zip(f.unbind(0), new.unbind(0), strict=True):
        c = torch.addcmul(i_g, forget, c)
        states.append(c)
    return torch.stack(states)


def _gru(layer: Layer) -> Cell:
    """sum = h = (1 − z) n + z h₋, n = tanh(W x + b + r (U h₋ + b')): r and z take nothing, or half."""
    z_x, z_h, before = layer.of_input(slice(0, 3)), layer.of_state(slice(0, 3)), layer.before
    (r_x, s_x, n_x), (r_h, s_h, n_h) = (t.chunk(3, -1) for t in (z_x, z_h))
    r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(s_x + s_h)
    z_n = n_x + r * n_h
    total, before, n = layer.memory(layer.h, z, before, 1 - z, torch.tanh(z_n))
    if not layer.half:
        cell = Cell(slice(2, 3), total, z * before)
        cell.gives((1 - z) * n, layer.over(z_n), layer.f.ledger)
        cell.reset = r
        return cell
    cell = Cell(slice(0, 3), total, 0.5 * z * before)
    below = layer.over(torch.cat([r_x + r_h, s_x + s_h, z_n], -1))
    n_part = 0.5 * (1 - z) * n
    gated = n_h * n_part / below.value[..., 2 * layer.size :]  # times r: what the product r (U h₋ + b') gets of s
    parts = (0.5 * (r - 0.5) * gated, 0.5 * (z - 0.5) * (before - n), n_part)
    cell.gives(torch.cat(parts, -1), below, layer.f.ledger)
    cell.reset = torch.cat((torch.ones_like(r), torch.ones_like(r), 0.5 * r), -1)
    cell.constant = 0.25 * (before + n + gated)
    return cell


def _plain(layer: Layer) -> Cell:
    """sum = the pre-activation, h = tanh or max(0, ·) of it, which passes."""
    return Cell(slice(0, 1), layer.over(layer.of_input(slice(0, 1)) + layer.of_state(slice(0, 1))))


CELLS = {"lstm_layer": _lstm, "gru_layer": _gru, "rnn_tanh_layer": _plain, "rnn_relu_layer": _plain}


class Walk:
    """What the walk backward over time found, by step, and what reached the initial states."""

    def __init__(self) -> None:
        self.s: list[Tensor] = []
        self.outputs: list[Tensor] = []  # R_h
        self.inner: list[Tensor] = []  # R_h before the projection
        self.sums: list[Tensor] = []
        self.first: tuple[Tensor, Tensor | None]  # Uᵀ(v s) and k s of the first step

    def add(self, s: Tensor, output: Tensor, inner: Tensor, total: Tensor, *, ledger: bool, ends: bool) -> None:
        """One step; only what is asked for later is kept."""
        self.s.append(s)
        if ledger or ends:
            self.inner.append(inner)
        if ledger:
            self.outputs.append(output)
            self.sums.append(total)


def _walk(layer: Layer, cell: Cell) -> Walk:
    """s_t from the last step to the first."""
    walk, weights = Walk(), layer.rows(layer.w_hh, cell.gates)
    back = cell.into if cell.reset is None or cell.into is None else cell.into * cell.reset
    q, carried = None, layer.R_last
    for t in reversed(range(len(layer.h))):
        output = layer.R[t] if q is None else torch.addcmul(layer.R[t], layer.h[t], q)
        inner = output
        if cell.projected is not None and layer.w_hr is not None:
            inner = cell.projected[0][t] * ((output / cell.projected[1].value[t]) @ layer.w_hr)
        total = inner if cell.share == 1 else cell.share * inner
        total = total if carried is None else total + carried
        s = total / cell.sum.value[t]
        carried = None if cell.carry is None else cell.carry[t] * s
        v = cell.sources(s, inner)
        q = (v if back is None else back[t] * v) @ weights
        walk.add(s, output, inner, total, ledger=layer.f.ledger, ends=cell.ends)
    assert q is not None
    walk.first = q, carried
    return walk


def _deliver(layer: Layer, cell: Cell, walk: Walk) -> Tensor | tuple[Tensor, ...]:
    """Relevance of x and the initial states, and the accounts."""
    f, s = layer.f, _in_order(walk.s)
    below = cell.sources(s, _in_order(walk.inner) if cell.ends else s)
    u = below if cell.into is None else cell.into * below
    q, carried = walk.first
    got: list[Tensor] = [layer.turned(layer.x * (u @ layer.rows(layer.w_ih, cell.gates))), layer.states[0] * q]
    if len(layer.states) > 1 and carried is not None:  # an LSTM: to c_0
        got.append(carried)
    elif carried is not None:
        got[1] = got[1] + carried
    if f.ledger:
        _account(layer, cell, walk, s, u, below)
        for r in (r.reshape(-1, *r.shape[-2:]) for i, r in enumerate(got) if i not in f.live):
            layer.book("bias", r)
    out = tuple(r for i, r in enumerate(got) if i in f.live)
    return out if len(out) > 1 else out[0]


def _account(layer: Layer, cell: Cell, walk: Walk, s: Tensor, u: Tensor, below: Tensor) -> None:
    """What biases, the ½ of sigmoid gates, e and zero denominators took."""
    layer.taken(cell.sum, _in_order(walk.sums))
    if cell.projected is not None:
        layer.taken(cell.projected[1], _in_order(walk.outputs))
    if cell.parts is not None:
        layer.taken(cell.parts[1], cell.parts[0] * below)
    for b, amount in ((layer.b_ih, u), (layer.b_hh, u if cell.reset is None else u * cell.reset)):
        if b is not None:
            layer.book("bias", amount * layer.rows(b, cell.gates))
    if cell.constant is not None:
        layer.book("bias", cell.constant * s)
    if cell.end_constant is not None:
        layer.book("bias", cell.end_constant * _in_order(walk.inner))


def _in_order(steps: list[Tensor]) -> Tensor:
    """Steps of the walk, from the first to the last in time."""
    return torch.stack(steps[::-1])
