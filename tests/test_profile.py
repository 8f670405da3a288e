"""`relprop.profiling`: what it counts against closed forms, that nothing is counted twice or left out, what it refuses."""

from __future__ import annotations

import json
import math
from collections import Counter as Tally
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import relprop
from relprop.errors import CaptureError, CompositeError, InputError, TargetError
from relprop.profiling import Profile, Row, machine, profile
from relprop.profiling.counter import Counted, Counter
from relprop.profiling.fold import OTHER
from relprop.profiling.machine import Machine
from relprop.profiling.table import number, unit
from unchanged import unchanged

FLOAT = 4  # bytes


@pytest.fixture(autouse=True)
def peaks_are_measured_in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on how fast the machine is."""
    monkeypatch.setattr(machine, "SECONDS", 0.0)
    monkeypatch.setattr(machine, "SIZES", {"cpu": (8, 1, 1024)})


class Net(nn.Module):
    """Convolution, a sum of two branches, a view and a linear layer; (B, 2, 6, 5) to (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.head = nn.Linear(4 * 6 * 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.head((h + torch.relu(h)).flatten(1))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 8)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.words(ids))[0][:, -1])


class Unrolled(nn.Module):
    """A loop over the samples: captured for one sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(row) for row in x])


def rows(p: Profile) -> dict[str, Row]:
    return {row.node: row for row in p.rows}


def of(p: Profile, op: str) -> Row:
    (row,) = [row for row in p.rows if row.op == op]
    return row


BATCH = 7
CONV = 2 * BATCH * 4 * 6 * 5 * 2 * 3 * 3  # a multiply-add for each output, input channel and tap
HEAD = 2 * BATCH * 120 * 3


@cache
def net() -> Profile:
    return profile(Net(), torch.randn(BATCH, 2, 6, 5), "epsilon", repeats=1)


def test_arithmetic_of_layers_is_the_closed_form() -> None:
    p = net()
    for op, flops in (("conv2d", CONV), ("linear", HEAD)):
        row = of(p, op)
        assert (row.forward.flops, row.backward.flops, row.gradient.flops) == (flops, flops, flops)
        assert row.flops == 2 * flops
    assert p.total.flops == p.call.flops == p.program.flops == 2 * (CONV + HEAD)
    assert p.gradient.flops == 2 * (CONV + HEAD)  # forward, and back to the input


def test_a_rule_that_runs_the_layer_twice_more_costs_that() -> None:
    """αβ on signed activations: two parts of the forward and two of the way back, or what saves some of it."""
    layer = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    p = profile(layer, torch.randn(3, 6), "alpha_beta", repeats=1)
    for row in p.rows:
        if row.op == "linear":
            assert row.backward.flops > row.forward.flops
            assert row.backward.flops % row.forward.flops == 0
            assert row.gradient.flops == row.forward.flops


def test_bytes_of_elementwise_ops_and_views_are_known() -> None:
    p = net()
    values = BATCH * 4 * 6 * 5
    assert of(p, "add").forward.moved == of(p, "add").forward.needed == 3 * values * FLOAT
    assert of(p, "relu").forward.moved == of(p, "relu").forward.needed == 2 * values * FLOAT
    view = next(row for row in p.rows if row.rule == "move")
    assert view.moved == 0
    assert view.limit == 0
    read = BATCH * 120 + 3 * 120 + 3
    assert of(p, "linear").forward.moved == (read + BATCH * 3) * FLOAT


def test_a_step_is_charged_what_its_kernels_move_and_its_limit_what_one_kernel_needs() -> None:
    for row in net().rows:
        assert 0 <= row.both.needed <= row.moved
    step = of(net(), "conv2d").backward
    values = BATCH * 4 * 6 * 5
    assert step.moved > step.needed >= values * FLOAT  # at least the relevance that arrives


def test_rows_add_up() -> None:
    p = net()
    total = p.total
    for get in (lambda r: r.seconds, lambda r: r.flops, lambda r: r.moved, lambda r: r.limit, lambda r: r.lost):
        assert math.isclose(sum(map(get, p.rows)), get(total), rel_tol=1e-9)
        assert math.isclose(sum(map(get, p.kinds)), get(total), rel_tol=1e-9)
    assert total.count == len(p.rows) == sum(row.count for row in p.kinds)
    assert [row.lost for row in p.rows] == sorted((row.lost for row in p.rows), reverse=True)
    assert all(row.seconds > 0 for row in p.rows if row.rule)
    assert min(p.call.seconds, p.program.seconds, p.gradient.seconds) > 0


@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus", "auto"])
def test_every_op_of_the_model_is_one_row_with_its_rule(composite: str) -> None:
    x = torch.randn(3, 2, 6, 5)
    explainer = relprop.Explainer(Net(), x, composite)
    ops = [n.name for n in explainer._any.captured.module.graph.nodes if n.op == "call_function"]
    p = profile(Net(), x, composite, repeats=1)
    assert Tally(row.node for row in p.rows) == Tally([*ops, OTHER])
    assert {row["node"]: (row["module"], row["op"], row["rule"]) for row in explainer.rules} == {
        row.node: (row.module, row.op, row.rule) for row in p.rows if row.rule
    }


def test_work_for_the_target_is_no_ops() -> None:
    other = rows(net())[OTHER]
    assert other.flops == 0
    assert other.forward.seconds == 0
    assert other.seconds > 0


def test_torchs_own_counter_agrees() -> None:
    model, x = Net(), torch.randn(4, 2, 6, 5)
    for composite in ("epsilon", "epsilon_plus", "epsilon_alpha2_beta1"):
        p = profile(model, x, composite, repeats=1)
        explainer = relprop.Explainer(model, x, composite)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            explainer(x)
        assert p.total.flops == p.call.flops == counter.get_total_flops()


def test_recurrent_kernels_are_counted_too() -> None:
    p = profile(Tokens(), torch.randint(50, (5, 9)), repeats=1)
    steps = 2 * 5 * 9 * 4 * 6 * (8 + 6)
    assert of(p, "lstm_layer").forward.flops == steps
    assert of(p, "lstm_layer").backward.flops == steps  # the transposed matrices, once
    assert p.total.flops == p.call.flops
    assert p.gradient.flops > p.call.flops  # torch's kernel computes the gradient of the weights as well
    assert any("embedding" in note for note in p.notes)
    looked_up = 5 * 9 * 8 * FLOAT
    assert of(p, "embedding").forward.moved == 2 * looked_up + 5 * 9 * 8  # rows read and written, the ids (int64)


def test_a_graph_for_one_sample_is_run_for_each() -> None:
    x = torch.randn(6, 5)
    p = profile(Unrolled(), x, "epsilon", torch.tensor([0, 1, 2, 3, 0, 1]), repeats=1)
    assert p.samples == 6
    assert p.total.flops == p.call.flops == 6 * 2 * (2 * 5 * 4)
    assert of(p, "linear").forward.flops == 6 * 2 * 5 * 4


def test_the_limit_follows_from_the_peaks() -> None:
    p = net()
    for row in p.rows:
        for cost in (row.forward, row.backward):
            if row.op in ("conv2d", "linear", "add", "relu"):
                arithmetic = cost.flops / p.peaks["float32"]
                assert cost.limit == pytest.approx(max(arithmetic, cost.needed / p.bandwidth))
        assert row.share * row.seconds == pytest.approx(row.limit)
        assert row.lost == pytest.approx(row.seconds - row.limit)
        assert row.excess == row.backward.seconds - row.gradient.seconds


def test_arithmetic_is_held_against_the_peak_of_its_own_precision() -> None:
    bench = Machine(torch.device("cpu"))
    bench.peaks = {torch.float32: 1e9, torch.bfloat16: 4e9}
    bench._bandwidth = 1e9
    work = Counted(Tally({torch.float32: 2_000_000, torch.bfloat16: 4_000_000}), moved=10**9, needed=1000)
    assert bench.limit(work) == pytest.approx(3e-3)
    assert bench.limit(Counted(needed=5_000_000)) == pytest.approx(5e-3)


N = 1000
STILL: list[tuple[str, Callable[[], Any], int]] = [
    ("add", lambda: torch.ones(N) + torch.ones(N), 2 * N + 3 * N),
    ("square", lambda: (x := torch.ones(N)) * x, N + 2 * N),  # x is read once
    ("in place", lambda: torch.ones(N).add_(torch.ones(N)), 2 * N + 3 * N),
    ("overwritten", lambda: torch.ones(N).copy_(torch.ones(N)), 2 * N + 2 * N),
    ("views", lambda: torch.ones(N).view(10, 100).t()[1:].detach(), N),
    ("not written", lambda: torch.empty(N), 0),
    ("expanded", lambda: torch.ones(1).expand(N) + torch.ones(N), 1 + N + 1 + 2 * N),
    ("number", lambda: torch.ones(N).sum().item(), N + N + 1 + 1),
    ("gather", lambda: torch.ones(N, 3).index_select(0, torch.zeros(2, dtype=torch.int32)), 3 * N + 2 + 6 + 2 + 6),
]


@pytest.mark.parametrize(("what", "run", "floats"), STILL, ids=[s[0] for s in STILL])
def test_bytes_moved(what: str, run: Callable[[], Any], floats: int) -> None:
    with Counter() as counter:
        run()
    assert counter.total.moved == FLOAT * floats


def test_a_stretch_needs_what_goes_in_and_comes_out() -> None:
    a, b, c = (torch.ones(N) for _ in range(3))
    with Counter() as counter:
        counter.begin()
        inner = a + b
        work = counter.end([inner * c, inner[:10]])
    assert work.moved == 6 * N * FLOAT
    assert work.needed == (3 * N + N + 10) * FLOAT
    with Counter() as counter:
        counter.begin()
        parts = torch.stack([a[:800] + 1, a[200:] + 1])
        work = counter.end(parts)
    assert work.needed == (N + 1600) * FLOAT  # both views of `a`, but no more of it than it holds


def test_under_inference_mode_the_same_is_counted() -> None:
    x, layer = torch.randn(3, 4, 6), nn.Linear(6, 5)
    with torch.inference_mode(), Counter() as counter:
        layer(x)
    assert counter.total.flops == {torch.float32: 2 * 12 * 6 * 5}


def test_the_model_and_the_random_numbers_stay_as_they_were() -> None:
    model, x = Net().train(), torch.randn(2, 2, 6, 5, requires_grad=True)
    state = torch.get_rng_state()
    with unchanged(model):
        profile(model, x, repeats=1)
    assert x.grad is None
    assert torch.equal(state, torch.get_rng_state())


def test_options_reach_the_rules() -> None:
    p = profile(Net(), torch.rand(2, 2, 6, 5), "epsilon_gamma_box", low=0.0, high=1.0, gamma=0.5, repeats=1)
    assert of(p, "conv2d").rule == "z_box"


def test_half_precision_is_counted_apart() -> None:
    p = profile(Net(), torch.randn(BATCH, 2, 6, 5), "epsilon", precision="bf16", repeats=1)
    assert set(p.peaks) == {"bfloat16"}  # all arithmetic of layers
    assert p.total.flops == p.call.flops == 2 * (CONV + HEAD)


def test_values_computed_again_are_work_of_the_way_back() -> None:
    deep = nn.Sequential(*(layer for _ in range(9) for layer in (nn.Linear(6, 6), nn.ReLU())))
    plain, again = (profile(deep, torch.randn(5, 6), "epsilon", checkpoint=c, repeats=1) for c in (False, True))
    assert again.total.forward.flops == plain.total.forward.flops == plain.total.backward.flops
    assert again.total.backward.flops > plain.total.backward.flops
    assert again.total.flops == again.call.flops


def test_json_holds_all_of_it() -> None:
    p = net()
    read = json.loads(p.to_json())
    assert [row["node"] for row in read["rows"]] == [row.node for row in p.rows]
    assert sum(row["forward"]["flops"] + row["backward"]["flops"] for row in read["rows"]) == read["call"]["flops"]
    assert read["total"]["lost"] == p.total.lost
    assert read["peaks"] == p.peaks


def test_the_print_shows_the_rows_asked_for_in_order() -> None:
    p = net()
    whole = p.text(100)
    assert all(f"\n{row.node} " in whole for row in p.rows)
    assert "more)" not in whole
    assert str(p) == p.text()
    for order in ("lost", "excess", "time"):
        table = p.text(2, order).split("\n\n")[2].splitlines()
        shown = sorted(p.rows, key=lambda row: -{"lost": row.lost, "excess": row.excess, "time": row.seconds}[order])
        assert [line.split()[0] for line in table[1:3]] == [row.node for row in shown[:2]]
        assert table[3].startswith(f"({len(p.rows) - 2} more)")
        assert table[4].startswith("all")
    ratio = f"{p.call.seconds / p.gradient.seconds:.2f} × the plain gradient's"
    assert ratio in whole
    with pytest.raises(InputError, match=r"order='speed'.*lost, excess, time"):
        p.text(order="speed")


def test_numbers_in_print() -> None:
    assert [number(x) for x in (12345.6, 123.45, 1.2345, 0.12345)] == ["12,346", "123.5", "1.23", "0.123"]
    assert [unit(1.5e-3, "s"), unit(204800, "FLOP"), unit(5e10, "B/s")] == ["1.50 ms", "204.8 kFLOP", "50.0 GB/s"]
    assert unit(0, "B") == "0.000 B"


def test_what_is_refused() -> None:
    x = torch.randn(2, 2, 6, 5)
    with pytest.raises(CompositeError, match="nonsense"):
        profile(Net(), x, "nonsense")
    with pytest.raises(CompositeError, match="gamme"):
        profile(Net(), x, "gamma", gamme=1)
    with pytest.raises((CaptureError, InputError), match=r"\(2, 5, 6, 5\)"):
        profile(Net(), torch.randn(2, 5, 6, 5))
    with pytest.raises(CaptureError, match=r"not an nn\.Module"):
        profile(torch.relu, x)  # type: ignore[arg-type]
    for repeats in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="repeats"):
            profile(Net(), x, repeats=repeats)  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="one target"):
        profile(Net(), x, target=[0, 1])
    with pytest.raises(TargetError, match="out of range"):
        profile(Net(), x, target=3)
    for option in ("compile", "max_batch"):
        with pytest.raises(InputError, match=f"^{option}: "):
            profile(Net(), x, **{option: True})
