"""One recurrent layer by its rule: equal to input × gradient with held gates, every account closed, in each direction."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from checks import check_same_map, check_sums_to
from recurrent_nets import ARITHMETIC, Arithmetic, make, step_of, weights_of
from relprop import ops, rules
from relprop.rules import Call

RTOL = 1e-10
GATES = ("signal", "half")
SHARES = tuple((gate, residual) for gate in GATES for residual in ("epsilon", "magnitude"))
KINDS = {
    "lstm": nn.LSTM,
    "lstm, projected": partial(nn.LSTM, proj_size=2),
    "gru": nn.GRU,
    "rnn": nn.RNN,
    "rnn, relu": partial(nn.RNN, nonlinearity="relu"),
}


def call(kind: str, *, scale: float = 1.0, bias: bool = True, reverse: bool = False) -> Call:
    """A layer's call with all its operands live: x (5, 3, 3), states (3, ·); with its ledger."""
    net = make(KINDS[kind], bias=bias).requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    sizes = [(5, 3, 3), (3, net.proj_size or 4)] + [(3, 4)] * isinstance(net, nn.LSTM)
    operands = [scale * torch.randn(s, generator=generator).double() for s in sizes]
    weights = [getattr(net, f"{n}_l0", None) for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")]
    names = {"gru": "gru_layer", "rnn": "rnn_tanh_layer", "rnn, relu": "rnn_relu_layer"}
    name = names.get(kind, "lstm_layer")
    rest = [weights[4], reverse, True] if isinstance(net, nn.LSTM) else [reverse]
    args = (*operands, *weights[:4], *rest)
    live = tuple(range(len(operands)))
    y = ops.FUNCTIONS[name](*args)
    return Call(name, args, y, live=live, batch=1, batches=(1, 0, 0)[: len(live)], ledger=True)


def arriving(f: Call) -> Tensor:
    """Relevance of the hidden states and the last cell state; none of the zeros that projected states are padded with."""
    R = torch.randn(f.y.shape, generator=torch.Generator().manual_seed(3)).double()
    steps, width = len(f.a), f.operands[1].shape[1]
    R[:steps, :, width:] = 0
    return R


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shares", SHARES, ids=", ".join)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_input_times_gradient_of_the_same_with_held_gates(
    kind: str, shares: tuple[str, str], reverse: bool
) -> None:
    gate, residual = shares
    arithmetic = ARITHMETIC[gate + ", magnitude" * (residual == "magnitude")]
    for bias in (True, False):
        f = call(kind, bias=bias, reverse=reverse)
        R = torch.where(f.y == 0, 0.0, arriving(f))  # units at 0 have none above the next layer
        leaves = tuple(a.clone().requires_grad_() for a in f.operands)
        y = by_steps(arithmetic, kind, make(KINDS[kind], bias=bias), leaves, reverse)
        check_same_map(y.detach(), f.y, RTOL)
        gradients = torch.autograd.grad((y * R / torch.where(f.y == 0, 1.0, f.y)).sum(), leaves)
        out = rules.recurrent(R, f, gate=gate, residual=residual, epsilon=0.0)
        for got, a, g in zip(out, leaves, gradients, strict=True):
            check_same_map(got, a.detach() * g, RTOL, kind)


def by_steps(k: Arithmetic, kind: str, net: Any, operands: tuple[Tensor, ...], reverse: bool) -> Tensor:
    """The value of `call` written out: hidden states over time and, of an LSTM, the last cell state."""
    x, states = operands[0], operands[1:]
    rows: list[Tensor] = [x] * len(x)
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        states = step_of(net)(k, x[t], states, weights_of(net, "_l0"))
        rows[t] = states[0]
    if len(states) > 1:
        rows = [nn.functional.pad(h, (0, states[1].shape[1] - h.shape[1])) for h in rows] + [states[1]]
    return torch.stack(rows)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shares", SHARES, ids=", ".join)
@pytest.mark.parametrize("kind", KINDS)
def test_every_account_of_a_layer_closes(kind: str, shares: tuple[str, str], reverse: bool) -> None:
    gate, residual = shares
    for epsilon, mode in ((0.0, "rms"), (0.3, "rms"), (0.3, "std"), (0.3, "absolute")):
        f = call(kind, reverse=reverse)
        R = arriving(f)
        out = rules.recurrent(R, f, gate=gate, residual=residual, epsilon=epsilon, epsilon_mode=mode)
        arrived, *accounts = rules.kept(R, f, *out)
        check_sums_to(torch.stack(accounts).sum(0), arrived, 1e-9)
        assert float(f.kept["bias"].abs().min()) > 1e-6
        assert "residual" not in f.kept or float(f.kept["residual"].abs().max()) == 0
        taken = f.kept.get("epsilon", torch.zeros(1))
        assert (float(taken.abs().min()) > 1e-6) is (epsilon > 0)


@pytest.mark.parametrize("shares", SHARES, ids=", ".join)
@pytest.mark.parametrize("kind", KINDS)
def test_what_arrives_at_a_sum_of_zero_is_residual(kind: str, shares: tuple[str, str]) -> None:
    """Inputs and states of 0 without biases: every sum is 0, so that what arrives there is lost, and named."""
    gate, residual = shares
    f = call(kind, scale=0.0, bias=False)
    R = arriving(f).abs()
    out = rules.recurrent(R, f, gate=gate, residual=residual, epsilon=0.0)
    arrived, *accounts = rules.kept(R, f, *out)
    assert all(float(r.abs().max()) == 0 for r in out)
    check_sums_to(torch.stack(accounts).sum(0), arrived, RTOL)
    assert float(f.kept["residual"].min()) > 0.4 * float(arrived.min())


@pytest.mark.parametrize("reverse", [False, True])
def test_a_layer_is_the_native_network(reverse: bool) -> None:
    net = make(nn.LSTM, bidirectional=True, proj_size=2)
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    y, (h, c) = net(x.transpose(0, 1))
    w = [
        getattr(net, n + "_l0" + "_reverse" * reverse)
        for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    ]
    zero = torch.zeros(2, 2).double(), torch.zeros(2, 4).double()
    got = ops.lstm_layer(x, *zero, *w, reverse, True)
    assert got.shape == (6, 2, 4)
    check_same_map(got[:5, :, :2], y.transpose(0, 1)[..., 2 * reverse : 2 * reverse + 2], RTOL)
    check_same_map(got[5], c[int(reverse)], RTOL)
    assert got[:5, :, 2:].abs().max() == 0
    check_same_map(ops.lstm_layer(x, *zero, *w, reverse)[0 if reverse else -1], h[int(reverse)], RTOL)
