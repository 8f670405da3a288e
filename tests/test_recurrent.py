"""Recurrent networks: equal to input × gradient with held gates, accounted for to the last digit, in any arrangement."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._decomp import decompositions
from torch.overrides import TorchFunctionMode

import relprop
from checks import check_same_map, check_sums_to
from nets import Net
from recurrent_nets import (
    ARITHMETIC,
    PLAIN,
    Arithmetic,
    Read,
    States,
    by_gradient,
    make,
    step_of,
    unrolled,
    weights_of,
)
from relprop import composites, rules
from relprop.composites import Composite, family
from relprop.errors import CaptureError, CompositeError

RTOL = 1e-10
GATES = ("signal", "half")
RNN_RELU = partial(nn.RNN, nonlinearity="relu")
WIDE = {"num_layers": 2, "bidirectional": True}

# network, what is read of it, where its initial states come from, the options `gate` and `residual`
CASES: dict[str, tuple[Any, dict[str, Any], str, str, str]] = {
    "lstm": (nn.LSTM, WIDE, "yhc", "given", "signal"),
    "lstm, half": (nn.LSTM, WIDE, "yh", "held", "half"),
    "lstm, projected": (nn.LSTM, {"proj_size": 2, **WIDE}, "yhc", "given", "signal"),
    "lstm, no bias": (nn.LSTM, {"bias": False, **WIDE}, "yc", "zero", "signal"),
    "lstm, magnitude": (nn.LSTM, WIDE, "yhc", "given", "signal, magnitude"),
    "lstm, no bias, magnitude": (nn.LSTM, {"bias": False, **WIDE}, "yc", "zero", "signal, magnitude"),
    "gru, magnitude": (nn.GRU, WIDE, "yh", "given", "half, magnitude"),
    "gru": (nn.GRU, WIDE, "yh", "given", "half"),
    "gru, no bias": (nn.GRU, {"bias": False, **WIDE}, "y", "zero", "signal"),
    "rnn": (nn.RNN, {}, "h", "held", "signal"),
    "rnn, relu, no bias": (RNN_RELU, {"bias": False, **WIDE}, "yh", "zero", "half"),
}


def explained(model: nn.Module, inputs: Any, shares: str = "signal", epsilon: float = 0.0) -> relprop.Explanation:
    """By the recipe epsilon; `shares`: the option `gate` and, behind a comma, how memories share."""
    gate, _, residual = shares.partition(", ")
    recipe = composites.get("epsilon", gate=gate, epsilon=epsilon)
    if residual:  # of the memories alone, not of sums beside them
        rule = partial(rules.recurrent, gate=gate, residual=residual, epsilon=epsilon)
        recipe = Composite([(family("recurrent"), rule)], required=False) + recipe
    e = relprop.explain(model, inputs, 0, recipe, ledger=True)
    assert e.ledger.closes(1e-9)
    return e


@pytest.mark.parametrize("case", CASES)
def test_a_network_is_input_times_gradient_of_the_same_with_held_gates(case: str) -> None:
    """Without biases, moreover, the inputs get the score."""
    kind, options, use, start, shares = CASES[case]
    net = make(kind, **options)
    model, oracle = Read(net, use, start).eval(), Read(net, use, start, ARITHMETIC[shares])
    inputs = model.inputs()
    check_same_map(oracle(*inputs), model(*inputs), RTOL)
    e = explained(model, inputs, shares)
    for got, expected in zip(e.relevance, by_gradient(oracle, inputs), strict=True):
        check_same_map(got, expected, RTOL, case)
    if not net.bias:
        check_sums_to(sum(r.flatten(1).sum(1) for r in e.relevance), e.score, 1e-9)


# by hand


def test_two_steps_of_one_lstm_unit_by_hand() -> None:
    """Gates of 0 inputs are ½: c_1 = ½ tanh(x_1), c_2 = ½ c_1 + ½ tanh(x_2), h_2 = ½ tanh(c_2); R shares as c_2 does."""
    net = nn.LSTM(1, 1, batch_first=True).double()
    for p in net.parameters():
        nn.init.zeros_(p)
    net.weight_ih_l0.data[2] = 1.0
    model = Net(lambda m, x: m.net(x)[0][:, -1], net=net)
    x1, x2 = 0.3, -1.1
    c1 = 0.5 * math.tanh(x1)
    c2 = 0.5 * c1 + 0.5 * math.tanh(x2)
    h2 = 0.5 * math.tanh(c2)
    x = torch.tensor([[[x1], [x2]]], dtype=torch.float64)
    expected = torch.tensor([[[0.5 * c1 / c2 * h2], [0.5 * math.tanh(x2) / c2 * h2]]], dtype=torch.float64)
    check_same_map(explained(model, x).relevance, expected, RTOL)
    # half: o takes h_2 / 2 and then i and g, f and c_1 share equally; gates of 0 pre-activation keep theirs as bias
    half = expected * torch.tensor([[[0.125], [0.25]]])
    e = explained(model, x, "half")
    check_same_map(e.relevance, half, RTOL)
    check_sums_to(e.ledger.bias, h2 - half.sum((1, 2)), RTOL)


@pytest.mark.parametrize("mode", ["absolute", "rms", "std"])
def test_epsilon_of_a_plain_cell_by_hand(mode: str) -> None:
    """R_{x_t} = x_t w / (z_t + e_t) R_{h_t}, R_{h_1} = h_1 u / (z_2 + e_2) R_{h_2}; e relative to z_1, z_2 of a sample."""
    w, u, x = 0.7, -0.4, torch.tensor([[0.5, -1.5], [1.0, 2.0]], dtype=torch.float64)
    net = nn.RNN(1, 1, bias=False, batch_first=True).double()
    net.weight_ih_l0.data.fill_(w), net.weight_hh_l0.data.fill_(u)
    expected, left = torch.zeros(2, 2).double(), []
    for b, (x1, x2) in enumerate(x.tolist()):
        z1 = w * x1
        h1 = math.tanh(z1)
        z2 = w * x2 + u * h1
        mean = (z1 + z2) / 2
        scale = {
            "absolute": 1.0,
            "rms": math.sqrt((z1**2 + z2**2) / 2),
            "std": math.sqrt(((z1 - mean) ** 2 + (z2 - mean) ** 2) / 2),
        }[mode]
        e1, e2 = (math.copysign(0.25 * scale, z) for z in (z1, z2))
        R1 = h1 * u / (z2 + e2) * math.tanh(z2)
        expected[b, 0], expected[b, 1] = x1 * w / (z1 + e1) * R1, x2 * w / (z2 + e2) * math.tanh(z2)
        left.append(e2 / (z2 + e2) * math.tanh(z2) + e1 / (z1 + e1) * R1)
    model = Net(lambda m, x: m.net(x)[0][:, -1], net=net)
    e = relprop.explain(model, x.unsqueeze(-1), 0, "epsilon", epsilon=0.25, epsilon_mode=mode, ledger=True)
    check_same_map(e.relevance.squeeze(-1), expected, RTOL)
    check_sums_to(e.ledger.epsilon, torch.tensor(left, dtype=torch.float64), RTOL)


# cells, and cells written by the user


class Loop(nn.Module):
    """A cell of torch.nn run over time by the user's own loop, or written out in an arithmetic."""

    def __init__(self, cell: Any, k: Arithmetic | None = None) -> None:
        super().__init__()
        self.cell, self.k = cell, k

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        states: States = (h, 0.5 * h) if isinstance(self.cell, nn.LSTMCell) else (h,)
        for t in range(x.shape[1]):
            if self.k is not None:
                states = step_of(self.cell)(self.k, x[:, t], states, weights_of(self.cell))
            elif isinstance(self.cell, nn.LSTMCell):
                states = self.cell(x[:, t], states)
            else:
                states = (self.cell(x[:, t], states[0]),)
        return sum(s for s in states)


CELLS = {
    "lstm": nn.LSTMCell,
    "lstm, no bias": partial(nn.LSTMCell, bias=False),
    "gru": nn.GRUCell,
    "rnn": nn.RNNCell,
    "rnn, relu": partial(nn.RNNCell, nonlinearity="relu"),
}


@pytest.mark.parametrize(
    ("name", "gate", "written"),
    [
        ("lstm", "half", False),
        ("lstm", "half", True),
        ("lstm", "signal", True),
        ("lstm, no bias", "signal", False),
        ("gru", "signal", False),
        ("gru", "signal", True),
        ("gru", "half", True),
        ("rnn", "signal", False),
        ("rnn, relu", "signal", False),
    ],
)
def test_cells_and_cells_written_by_hand(name: str, gate: str, written: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    cell = CELLS[name](3, 4).double()
    for p in cell.parameters():
        p.data = torch.randn(p.shape, generator=generator).double()
    inputs = tuple(torch.randn(s, generator=generator).double() for s in ((2, 2, 3), (2, 4)))
    expected = by_gradient(Loop(cell, ARITHMETIC[gate]), inputs)
    model = Loop(cell, PLAIN if written else None).eval()
    for got, wanted in zip(explained(model, inputs, gate).relevance, expected, strict=True):
        check_same_map(got, wanted, RTOL, name)


def test_a_cell_without_initial_states() -> None:
    cell = nn.LSTMCell(3, 4).double()
    model = Net(lambda m, x: m.cell(x)[1], cell=cell)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).double()
    w = weights_of(cell)
    zero = torch.zeros(2, 4).double()
    oracle = Net(lambda m, x: step_of(cell)(ARITHMETIC["signal"], x, (zero, zero), w)[1])
    check_same_map(explained(model, x).relevance, by_gradient(oracle, (x,))[0], RTOL)


# in networks


def test_between_other_layers_and_with_any_batch_size() -> None:
    net = make(nn.GRU, bidirectional=True)
    model = Net(
        lambda m, x: m.head(m.net(torch.relu(m.embed(x)))[0].mean(1)),
        embed=nn.Linear(5, 3), net=net, head=nn.Linear(8, 2),
    )  # fmt: skip
    x = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    explainer = relprop.Explainer(model, x[:3], "epsilon")
    whole = explainer(x, target=1, ledger=True)
    assert whole.ledger.closes(1e-9)
    for i in range(6):
        check_same_map(whole.relevance[i : i + 1], explainer(x[i : i + 1], target=1).relevance, 1e-9)


def test_time_first_and_more_rows_than_samples() -> None:
    """Time first; and sequences of each sample's four patches, merged with the batch."""
    net, x = make(nn.LSTM), torch.randn(2, 4, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    first = nn.LSTM(3, 4).double()
    first.load_state_dict(net.state_dict())
    patches = Net(lambda m, x: m.net(x.flatten(0, 1))[0][:, -1].unflatten(0, (-1, 4)).sum(1), net=net)
    turned = Net(lambda m, x: m.net(x.flatten(0, 1).transpose(0, 1))[0][-1].unflatten(0, (-1, 4)).sum(1), net=first)
    oracle = Net(
        lambda m, x: unrolled(ARITHMETIC["signal"], net, x, (torch.zeros(1, len(x), 4).double(),) * 2)[0][:, -1]
    )
    expected = by_gradient(oracle, (x.flatten(0, 1),))[0].unflatten(0, (2, 4))
    for model in (patches, turned):
        check_same_map(explained(model, x).relevance, expected, 1e-9)


def test_tokens_get_relevance() -> None:
    embedding, net = nn.Embedding(10, 3).double(), make(nn.GRU)
    model = Net(lambda m, ids: m.net(m.embedding(ids))[1][0], embedding=embedding, net=net)
    ids = torch.tensor([[1, 5, 2, 5], [7, 7, 0, 3]])
    zero = torch.zeros(1, 2, 4).double()
    oracle = Net(lambda m, x: unrolled(ARITHMETIC["signal"], net, x, (zero,))[1][0][0])
    (expected,) = by_gradient(oracle, (embedding(ids).detach(),))
    check_same_map(explained(model, ids).relevance, expected.sum(-1), RTOL)


def test_a_sequence_that_is_no_input_keeps_its_share_as_bias() -> None:
    net = make(nn.GRU, bias=False)
    x = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0)).double().expand(2, -1, -1)
    h = torch.randn(2, 4, generator=torch.Generator().manual_seed(1)).double()
    states = Net(lambda m, h: m.net(x[:1].expand(len(h), -1, -1), h[None])[1][0], net=net)
    oracle = Net(lambda m, x, h: unrolled(ARITHMETIC["signal"], net, x, (h[None],))[1][0][0])
    of_x, of_h = by_gradient(oracle, (x, h))
    e = explained(states, h)
    check_same_map(e.relevance, of_h, RTOL)
    check_sums_to(e.ledger.bias, of_x.sum((1, 2)), 1e-9)


def test_every_recipe_takes_the_options_and_a_composite_the_rule() -> None:
    net = make(nn.LSTM)
    model = Net(lambda m, x: m.net(x)[0][:, -1], net=net)
    (x,) = Read(net).inputs()
    found = []
    for shares, residual in (("half", "epsilon"), ("half, magnitude", "magnitude")):
        oracle = Net(
            lambda m, x, k=shares: unrolled(ARITHMETIC[k], net, x, (torch.zeros(1, len(x), 4).double(),) * 2)[0][:, -1]
        )
        (expected,) = by_gradient(oracle, (x,))
        own = Composite([(family("recurrent"), partial(rules.recurrent, gate="half", residual=residual, epsilon=0.0))])
        check_same_map(relprop.explain(model, x, 0, own).relevance, expected, RTOL)
        for recipe in ("auto", "epsilon"):
            options = {"gate": "half", "residual": residual, "epsilon": 0.0}
            check_same_map(relprop.explain(model, x, 0, recipe, **options).relevance, expected, RTOL)
        found.append(expected)
    check_same_map(relprop.explain(model, x, 0, "auto", gate="half", epsilon=0.0).relevance, found[1], RTOL)
    assert float((found[0] - found[1]).abs().max()) > 1e-3
    for option, choices in (("gate", "signal, half"), ("residual", "epsilon, magnitude")):
        with pytest.raises(CompositeError, match=f"{option}='all': it is one of {choices}"):
            relprop.explain(model, x, 0, [(family("recurrent"), partial(rules.recurrent, **{option: "all"}))])


def test_the_program_names_the_layers_and_runs_by_itself() -> None:
    model = Read(make(nn.LSTM, num_layers=2), "yc").eval()
    (x,) = model.inputs()
    explainer = relprop.Explainer(model, x)
    assert explainer.code.count("= ops.lstm_layer(") == explainer.code.count("rules.recurrent(") == 2
    assert "aten.lstm" not in explainer.code
    scope: dict[str, Any] = {"__name__": "program"}
    exec(compile(explainer.code, "program.py", "exec"), scope)
    out = scope["program"](explainer.program.state_dict(), x, torch.zeros(3, dtype=torch.long))
    check_same_map(out[3][0].detach(), explainer(x, target=0).relevance, RTOL)
    compiled = torch.compile(explainer.program, fullgraph=True, backend="eager")
    check_same_map(compiled(x, torch.zeros(3, dtype=torch.long))[3][0].detach(), out[3][0].detach(), RTOL)


def test_relevance_can_be_differentiated_and_mapped_over_targets() -> None:
    model = Read(make(nn.GRU)).eval().requires_grad_(False)
    (x,) = model.inputs()
    explainer = relprop.Explainer(model, x, "epsilon", gate="half")
    leaf, direction = x.clone().requires_grad_(), torch.randn_like(x)
    (g,) = torch.autograd.grad(explainer(leaf, target=0).relevance.square().sum(), leaf)
    up, down = (explainer(x + t * direction, target=0).relevance.square().sum() for t in (1e-6, -1e-6))
    assert float((g * direction).sum()) == pytest.approx(float(up - down) / 2e-6, rel=1e-4)
    both = explainer(x, target=[0, 1]).relevance
    check_same_map(both[1], explainer(x, target=1).relevance, RTOL)


def test_half_precision_is_carried_in_float32() -> None:
    model = Read(make(nn.LSTM)).eval().bfloat16()
    (x,) = model.inputs()
    e = relprop.explain(model, x.bfloat16(), 0, "epsilon", ledger=True)
    assert e.relevance.dtype == torch.float32
    assert e.ledger.closes()


# what cannot be


@pytest.mark.parametrize("batch", [2, 4])
def test_a_batch_read_as_time_is_refused(batch: int) -> None:
    """batch_first=False, forgotten: the samples would be the steps of one sequence."""
    x = torch.randn(batch, 5, 3).double()
    model = Net(lambda m, x: m.net(x)[0][:, -1], net=nn.LSTM(3, 4))
    with pytest.raises(CaptureError, match="batch_first=True"):
        relprop.explain(model, x, 0)


@pytest.mark.parametrize("given", [False, True])
def test_a_packed_sequence_is_refused(given: bool) -> None:
    lengths, start = torch.tensor([4, 2]), (torch.zeros(1, 2, 4).double(),) * 2 if given else None

    def packed(m: Any, x: Tensor) -> Tensor:
        rows = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out = nn.utils.rnn.pad_packed_sequence(m.net(rows, start)[0], batch_first=True)[0]
        return out[torch.arange(len(x)), lengths - 1]

    with pytest.raises(CaptureError, match=r"output\[torch.arange\(len\(x\)\), lengths - 1\]"):
        relprop.explain(Net(packed, net=make(nn.LSTM)), torch.randn(2, 4, 3).double(), 0)


def test_the_advice_on_packed_sequences_works() -> None:
    """The padded tensor with each sample's last step gives each the relevance that it has alone, unpadded."""
    net, lengths = make(nn.LSTM), torch.tensor([4, 2])
    model = Net(lambda m, x, lengths: m.net(x)[0][torch.arange(len(x)), lengths - 1], net=net)
    oracle = Net(lambda m, x: unrolled(ARITHMETIC["signal"], net, x, (torch.zeros(1, 1, 4).double(),) * 2)[0][:, -1])
    (x,) = Read(net).inputs(batch=2)
    (relevance, none) = explained(model, (x, lengths)).relevance
    assert none is None
    for i, n in enumerate(lengths.tolist()):
        check_same_map(relevance[i : i + 1, :n], by_gradient(oracle, (x[i : i + 1, :n],))[0], 1e-9)
    assert relevance[1, 2:].abs().max() == 0


class Counting(TorchFunctionMode):
    """Counts calls of torch's functions."""

    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, RNN_RELU])
def test_capture_does_not_walk_through_the_steps(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mode, counts, plain = Counting(), [], decompositions._rnn_helper

    def counted(*args: Any) -> Any:
        with mode:
            return plain(*args)

    monkeypatch.setattr(decompositions, "_rnn_helper", counted)
    for steps in (5, 50):
        net = kind(3, 4, batch_first=True, num_layers=2, bidirectional=True).double()
        model, mode.calls = Net(lambda m, x: m.net(x)[0][:, -1], net=net), 0
        explained(model, torch.randn(2, steps, 3).double())
        counts.append(mode.calls)
        assert decompositions._rnn_helper is counted, "torch is not as it was"
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_memory_shared_by_magnitude_amplifies_nothing(kind: Any) -> None:
    """All gates ½ and nothing fed back: m_t = (m_t−1 + tanh(w x_t)) / 2, of which each step gets a share of one sign."""
    net = kind(1, 1, batch_first=True, bias=False).double()
    net.weight_ih_l0.data.zero_()[2] = 2.0
    net.weight_hh_l0.data.zero_()
    model = Net(lambda m, x: m.net(x)[0][:, -1], net=net)
    x = torch.randn(6, 60, 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    amounts = {}
    for shares in ("signal", "signal, magnitude"):
        e = explained(model, x, shares)
        amounts[shares] = e.relevance.abs().sum((1, 2)) / e.score.abs()
        check_sums_to(e.relevance.sum((1, 2)), e.score, 1e-9)
    check_same_map(amounts["signal, magnitude"], torch.ones(6).double(), 1e-12)
    assert float(amounts["signal"].max()) > 3
    m = torch.zeros(6).double()
    R = torch.zeros(6, 0).double()  # of the steps, for m_t of relevance 1: each step's share of the rest, by hand
    for new in torch.tanh(2 * x[..., 0]).unbind(1):
        share = new.abs() / (new.abs() + m.abs())
        R, m = torch.cat([R * (1 - share)[:, None], share[:, None]], 1), (m + new) / 2
    check_same_map(explained(model, x, "signal, magnitude").relevance[..., 0], R * model(x).detach(), 1e-10)
