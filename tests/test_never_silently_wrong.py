"""Networks on which an explanation was once wrong without a word: now right, or refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop
from nets import Net
from relprop import rules
from relprop.errors import CaptureError, InputError, RuleError, TargetError


def rows(count: int = 3) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(count, 6, dtype=torch.float64)


def net(how: Callable[..., Tensor], **modules: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return Net(how, **modules).double()


def check_is_gradient_times_input(model: nn.Module, x: Tensor) -> None:
    """LRP-0 of output 0 equals gradient × input, and the ledger closes for every sample and op."""
    e = relprop.explain(model, x, 0, "lrp_zero", ledger=True)
    y = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(y)[:, 0].sum(), y)
    torch.testing.assert_close(e.relevance, gradient * x, rtol=1e-9, atol=1e-9 * float((gradient * x).abs().max()))
    assert e.ledger.closes()


def test_complex_values_are_refused_and_not_taken_for_constants() -> None:
    model = net(lambda m, x: m.head(F.relu(x + torch.fft.fft(x).real)), head=nn.Linear(6, 2))
    with pytest.raises(RuleError, match="fft_fft"):
        relprop.explain(model, rows(), 0)


def test_tokens_are_followed_through_moves_and_refused_through_arithmetic() -> None:
    tokens = torch.tensor([[1, 4, 2, 0, 7], [3, 3, 5, 9, 8]])
    table, head = nn.Embedding(10, 6), nn.Linear(6, 2)

    def how(m: Any, t: Tensor) -> Tensor:
        return m.head(m.table(t.view(-1, 5)).mean(1) + m.table(t.flip(1)[:, :2]).sum(1))

    e = relprop.explain(net(how, table=table, head=head), tokens, 1, "lrp_zero", ledger=True)
    assert e.ledger.closes()
    part = table.weight[tokens] @ head.weight[1]  # what each token adds to the logit where it stands
    expected = part / 5 + torch.cat([torch.zeros(2, 3, dtype=part.dtype), part[:, 3:]], 1)
    torch.testing.assert_close(e.relevance, expected.detach(), rtol=1e-9, atol=1e-12)
    model = net(lambda m, t: m.head(m.table(t).mean(1) + m.table((t + 1) % 10)[:, 0]), table=table, head=head)
    with pytest.raises(RuleError, match="computed from the tokens"):
        relprop.explain(model, tokens, 0)
    plain = net(lambda m, t: m.head(F.relu(m.table(t)).mean(1)), table=nn.Embedding(10, 6), head=nn.Linear(6, 2))
    e = relprop.explain(plain, torch.randint(0, 10, (3, 5)), 0, "lrp_zero", ledger=True)
    assert e.relevance.shape == (3, 5)
    assert e.ledger.closes()


@pytest.mark.parametrize("rows_of_w", [2, 3, 5])
def test_a_dimension_as_large_as_the_batch_at_capture(rows_of_w: int) -> None:
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.w = nn.Parameter(torch.randn(rows_of_w, 6, dtype=torch.float64))
            self.v = nn.Parameter(torch.randn(6, 6, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return (self.w @ F.relu(self.v @ x.T)).T

    check_is_gradient_times_input(Transposed(), rows(4))
    together = relprop.explain(Transposed(), rows(4), 0, "epsilon", epsilon=0.5).relevance
    alone = [relprop.explain(Transposed(), x[None], 0, "epsilon", epsilon=0.5).relevance for x in rows(4)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)


def test_a_batch_in_second_place_or_merged_keeps_its_accounts() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 7, 5, dtype=torch.float64)
    layers = {"a": nn.Linear(5, 6), "b": nn.Linear(6, 2)}

    def second(m: Any, x: Tensor) -> Tensor:
        return m.b(F.relu(m.a(x.transpose(0, 1)))).transpose(0, 1).mean(1)

    def merged(m: Any, x: Tensor) -> Tensor:
        return m.b(F.relu(m.a(x.reshape(-1, 5)))).reshape(-1, 7, 2).mean(1)

    def interleaved(m: Any, x: Tensor) -> Tensor:
        return m.b(F.relu(m.a(x.transpose(0, 1).reshape(-1, 5)))).reshape(7, -1, 2).mean(0)

    def torn(m: Any, x: Tensor) -> Tensor:
        return m.b(F.relu(m.a(x.transpose(0, 1)).reshape(2, -1, 6))).sum((0, 1)) + 0 * x.sum((1, 2), keepdim=True)[:, 0]

    for how in (second, merged, interleaved):
        model = net(how, **layers)
        check_is_gradient_times_input(model, x)
        together = relprop.explain(model, x, 0, "epsilon", epsilon=0.5).relevance  # ε by the rms of each sample alone
        alone = [relprop.explain(model, row[None], 0, "epsilon", epsilon=0.5).relevance for row in x]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)
    with pytest.raises(CaptureError, match="influence each other"):
        relprop.explain(net(torn, **layers), x[:2], 0)


class ByBatch(nn.Module):
    """Takes another way for three samples than for other numbers of them, so that no graph is for any batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.v = nn.Linear(5, 6), nn.Linear(6, 2), nn.Linear(4, 6)
        self.double()

    def forward(self, x: Tensor, v: Tensor) -> Tensor:
        y = self.a(x) if int(x.shape[0]) == 3 else self.a(x) * 1.0
        return self.b(F.relu(y) + self.v(v)).mean(1)


def test_code_that_fixes_the_batch_is_explained_sample_by_sample() -> None:
    x, v = torch.randn(4, 7, 5, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)
    explainer = relprop.Explainer(ByBatch(), (x[:3], v), "lrp_zero")
    for inputs in (x[:3], x):  # v is shared by all samples, and gets the sum of their relevance
        e = explainer((inputs, v), [0, 1], ledger=True, record="a")
        assert all(ledger.closes() for ledger in e.ledger)
        for k in range(2):
            y, w = (t.clone().requires_grad_() for t in (inputs, v))
            gradients = torch.autograd.grad(ByBatch()(y, w)[:, k].sum(), (y, w))
            for R, a, g in zip(e.relevance, (inputs, v), gradients, strict=True):
                torch.testing.assert_close(R[k], a * g, rtol=1e-9, atol=1e-12)
        assert e.recorded["a"].shape == (2, len(inputs), 7, 6)


def test_inputs_all_samples_share_and_samples_scored_against_each_other() -> None:
    def scores(m: Any, x: Tensor, t: Tensor) -> Tensor:
        return F.relu(m.a(x)) @ F.relu(m.b(t)).T

    model = net(scores, a=nn.Linear(5, 6), b=nn.Linear(4, 6))
    x, t = torch.randn(2, 5, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    together = relprop.explain(model, (x, t), 1, "epsilon", ledger=True)
    assert together.ledger.closes()
    alone = [relprop.explain(model, (row[None], t), 1, "epsilon", ledger=True) for row in x]
    assert all(e.ledger.closes() for e in alone)
    torch.testing.assert_close(together.relevance[0], torch.cat([e.relevance[0] for e in alone]), rtol=1e-12, atol=0)
    torch.testing.assert_close(together.relevance[1], alone[0].relevance[1] + alone[1].relevance[1])
    with pytest.raises(
        CaptureError, match="influence each other"
    ):  # two captions for two images: one for each, or all?
        relprop.explain(model, (x, t[:2]), 1, "epsilon")


def test_rsub_with_a_factor() -> None:
    check_is_gradient_times_input(
        net(lambda m, x: m.head(F.relu(m.a(torch.rsub(x, 1.0, alpha=2.0)))), a=nn.Linear(6, 6), head=nn.Linear(6, 2)),
        rows(),
    )


def mlp() -> nn.Module:
    torch.manual_seed(0)
    sizes = [6, 20, 20, 3]
    layers = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1]).double()


CASES: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "a bias shared out above": (mlp, partial(relprop.composites.get, "gamma", bias="share", epsilon=0.0)),
    "flat above": (mlp, lambda: relprop.Composite([("4", rules.flat)]) + relprop.composites.get("gamma", epsilon=0.0)),
    "an initial relevance on rectified outputs": (lambda: nn.Sequential(*mlp(), nn.ReLU()), partial(relprop.composites.get, "gamma", epsilon=0.0)),
    "a value read by a rectifier and another function": (
        lambda: net(lambda m, x: m.head(F.relu(h := m.a(x)) + torch.sigmoid(h) * torch.tanh(h)), a=nn.Linear(6, 6), head=nn.Linear(6, 3)),
        partial(relprop.composites.get, "gamma", epsilon=0.0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_gammas_short_path_is_taken_only_where_it_is_the_rule(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The map with the short path for rectified neurons equals the map without it."""
    make, recipe = CASES[case]
    torch.manual_seed(2)
    R, model = torch.randn(3, 3, dtype=torch.float64), make()
    quick = relprop.explain(model, rows(), R, recipe()).relevance
    original = rules.Call.__init__

    def without(self: rules.Call, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **{**kwargs, "rectified": False})

    monkeypatch.setattr(rules.Call, "__init__", without)
    plain = relprop.explain(model, rows(), R, recipe()).relevance
    torch.testing.assert_close(quick, plain, rtol=1e-9, atol=1e-12)


def test_gates_are_known_in_every_spelling() -> None:
    spellings: list[Callable[[Tensor], Tensor]] = [
        torch.sigmoid, F.hardsigmoid, lambda z: 2 * torch.sigmoid(z), lambda z: F.relu6(z + 3) / 6,
        lambda z: (z / 6 + 0.5).clamp(0, 1),
    ]  # fmt: skip
    for gate in spellings:
        model = net(lambda m, x, gate=gate: m.head(x * gate(m.g(x))), g=nn.Linear(6, 6), head=nn.Linear(6, 2))
        table = relprop.Explainer(model, rows()).rules
        assert [r["rule"] for r in table if r["op"] == "mul"][-1] == "signal"


def test_refusals_of_odd_inputs_and_targets() -> None:
    model = mlp()
    explainer = relprop.Explainer(model, rows())
    with pytest.raises(InputError, match="from_numpy"):
        explainer(rows().numpy())
    with pytest.raises(InputError, match="to_dense"):
        relprop.explain(model, rows().to_sparse())
    with pytest.raises(TargetError, match="logits"):
        explainer(rows(), lambda z: torch.log(-z.abs()[:, 0]))


def test_samples_that_influence_each_other_are_refused_in_a_batch() -> None:
    model = net(lambda m, x: m.head(x + F.relu(m.a(x)).flip(0)), a=nn.Linear(6, 6), head=nn.Linear(6, 2))
    with pytest.raises(CaptureError, match="influence each other"):
        relprop.explain(model, rows(), 0)
    explainer = relprop.Explainer(model, rows(1))
    assert explainer(rows(1), 0, ledger=True).ledger.closes()
    with pytest.raises(CaptureError, match="influence each other"):
        explainer(rows(), 0)
