"""Relevance that has outgrown the output by a million is told, with the caller's line; below that nothing is said."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
from nets import Net
from relprop.errors import AmplifiedWarning


class Cancelling(nn.Module):
    """z = Σ x over pairs of inputs that nearly cancel, then once more: R_i = x_i / z · output by LRP-0."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = nn.Linear(2, 3, bias=False).double()
        nn.init.ones_(self.sum.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.sum(x)


def pair(rest: float) -> Tensor:
    """One sample with Σ|x| = 2 − rest and Σ x = rest: amplified by (2 − rest) / (3 rest) of three equal outputs."""
    return torch.tensor([[1.0, rest - 1.0]], dtype=torch.float64)


@pytest.mark.parametrize("options", [{}, {"ledger": True}, {"target": [0, 1]}, {"target": 2}])
def test_a_map_a_million_times_the_output_is_told(options: dict[str, Any]) -> None:
    with pytest.warns(AmplifiedWarning, match="up to epsilon=1, with epsilon_mode='absolute'") as found:
        e = relprop.explain(Cancelling(), pair(1e-8), composite="lrp_zero", **options)
    assert torch.allclose(e.relevance, pair(1e-8).expand_as(e.relevance), rtol=1e-12)
    assert [w.filename for w in found] == [__file__], "the line of the caller"
    assert f"{(2 - 1e-8) / 3e-8:.0e} times" in str(found[0].message)


@pytest.mark.parametrize("x", [pair(1e-5), pair(0.5), pair(0.5).zero_()])
def test_nothing_is_said_of_other_maps(x: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        relprop.explain(Cancelling(), x, composite="lrp_zero")


def test_the_remedies_of_the_message_work() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        e = relprop.explain(Cancelling(), pair(1e-8), composite="epsilon", epsilon=1.0, epsilon_mode="absolute")
        assert e.relevance.abs().sum() < 1e-7  # x / (1 + 1e-8) · 1e-8
        branches = Net(lambda m, x: torch.relu(x[:, :1]) - torch.relu(-x[:, 1:]))
        R = relprop.explain(branches, pair(1e-8), composite="epsilon", residual="magnitude").relevance
        assert R.abs().sum().item() == pytest.approx(1e-8, rel=1e-3)
    with pytest.warns(AmplifiedWarning):
        relprop.explain(branches, pair(1e-8), composite="epsilon", epsilon=1e-12)


@pytest.mark.parametrize("options", [{}, {"target": [0, 1]}, {"ledger": True}, {"max_batch": 2}])
def test_one_sample_among_others_is_told(options: dict[str, Any]) -> None:
    x = torch.cat([pair(0.5), 1e9 * pair(0.5), pair(1e-8)])
    with pytest.warns(AmplifiedWarning, match="7e\\+07 times"):
        relprop.explain(Cancelling(), x, composite="lrp_zero", **options)


def test_many_targets_are_not_added_up() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        relprop.explain(Cancelling(), pair(1e-6), [0, 1, 2] * 3, "lrp_zero")


def test_of_a_pair_the_callers_line_is_named_and_orthogonal_embeddings_are_no_reason() -> None:
    with pytest.warns(AmplifiedWarning) as found:
        relprop.bilrp(Cancelling(), pair(1e-8), pair(0.5), "lrp_zero", ledger=True)
    assert {w.filename for w in found} == {__file__}
    turn = nn.Linear(2, 2, bias=False).double()
    nn.init.eye_(turn.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        relprop.bilrp(turn, torch.tensor([[1.0, 1e-9]]).double(), torch.tensor([[1e-9, 1.0]]).double(), "lrp_zero")


def test_a_target_larger_than_the_output_is_what_counts() -> None:
    x, R = pair(0.5), torch.full((1, 3), 1e9, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        e = relprop.explain(Cancelling(), x, target=R, composite="lrp_zero")
    assert e.relevance.sum().item() == pytest.approx(3e9)


def test_a_sum_too_large_for_its_type_is_told_too() -> None:
    """Σ|R| of float32 numbers near the largest there is."""
    model, x = nn.Linear(2, 1, bias=False), torch.tensor([[2.5e38, -2.5e38]])
    nn.init.ones_(model.weight)
    model.weight.data[0, 1] = 1 - 1e-7
    with pytest.warns(AmplifiedWarning, match="inf times"):
        e = relprop.explain(model, x, composite="lrp_zero")
    assert bool(e.relevance.isfinite().all())


def test_the_remedy_works_for_a_recurrent_network_too() -> None:
    torch.manual_seed(1)
    net = nn.RNN(2, 16, batch_first=True).double()
    for p in net.parameters():
        p.data.mul_(4)
    model, x = Net(lambda m, x: m.net(x)[0][:, -1], net=net), torch.randn(8, 120, 2).double()
    with pytest.warns(AmplifiedWarning):
        relprop.explain(model, x, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        relprop.explain(model, x, 0, epsilon=1.0)
