"""The top layer: log-odds, margin and probability of a class, against the chapter's layers written out.

The oracle builds section 10.3.1 of Montavon et al. 2019 as it stands: a layer of all differences z_cc' put on top of
the model, the reverse log-sum-exp over them in decimal numbers, min-take-most, and LRP-0 from every difference down on
its own, which on affine layers, ReLU and max-pooling is gradient × input. It knows no softmax and no shortcut.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import relprop
from checks import check_same_map
from nets import Net, convolutional, dense, gradient_times_input, images, rows
from relprop.composites import Composite
from relprop.errors import NonFiniteError, TargetError
from relprop.targets import LogOdds, Margin, Probability, initial

RTOL = 1e-9

MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "MLP": (dense, lambda: rows(5)),
    "CNN": (convolutional, lambda: images(5)),
}


# By hand


def difference_layer(c: int, classes: int) -> nn.Linear:
    """z ↦ (z_c − z_c') for all c' ≠ c, in their order: weights 1 and −1."""
    layer = nn.Linear(classes, classes - 1, bias=False).double()
    rivals = [k for k in range(classes) if k != c]
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, c] = 1.0
        for row, k in enumerate(rivals):
            layer.weight[row, k] = -1.0
    return layer


def pooled(differences: list[float]) -> tuple[float, list[float]]:
    """η = −log Σ exp(−z_cc') of one sample, and the shares exp(−z_cc') / Σ exp(−z_cc''); 60 digits, no overflow."""
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = 60, 10**15, -(10**15)
        terms = [(-Decimal(d)).exp() for d in differences]
        total = sum(terms, Decimal(0))
        return float(-total.ln()), [float(t / total) for t in terms]


def two_layers(model: nn.Module, x: Tensor, c: int) -> tuple[Tensor, Tensor, Tensor]:
    """Relevance of the input, the score, and R_cc' (samples, rivals), by min-take-most and LRP-0 on everything."""
    with torch.no_grad():
        z = model(x)
        layer = difference_layer(c, z.shape[1])
        differences = layer(z)
    stacked = nn.Sequential(model, layer)
    taken = [pooled(d) for d in differences.tolist()]
    score = torch.tensor([eta for eta, _ in taken], dtype=torch.float64)
    share = torch.tensor([p for _, p in taken], dtype=torch.float64)
    R_pairs = differences * share
    R = torch.zeros_like(x)
    for k in range(differences.shape[1]):
        (of_one,) = gradient_times_input(stacked, (x,), k)  # LRP-0 with R = z_cc' to begin with
        R += of_one * (R_pairs[:, k] / differences[:, k]).reshape(-1, *[1] * (x.dim() - 1))
    return R, score, R_pairs


@pytest.mark.parametrize("name", MODELS)
def test_log_odds_are_the_two_extra_layers(name: str) -> None:
    model, x = MODELS[name][0](), MODELS[name][1]()
    classes = model(x).shape[1]
    e = relprop.explain(model, x, [LogOdds(c) for c in range(classes)], "lrp_zero", ledger=True)
    for c in range(classes):
        R, score, R_pairs = two_layers(model, x, c)
        check_same_map(e.relevance[c], R, RTOL, c)
        torch.testing.assert_close(e.score[c], score, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(e.ledger[c].residual, score - R_pairs.sum(1), rtol=1e-9, atol=1e-12)
        assert e.ledger[c].closes()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("lower", ["gamma", "z_plus", "epsilon"])
def test_any_rules_below_two_layers_of_lrp_zero(name: str, lower: str) -> None:
    """The difference layer really put on top, explained from R_cc' by LRP-0 there and in the last dense layer."""
    model, x = MODELS[name][0](), MODELS[name][1]()
    last = "5" if name == "CNN" else "2"
    plain = [(last, relprop.rules.zero)]
    on_top = [(f"0.{last}", relprop.rules.zero), ("1", relprop.rules.zero)]
    rest = relprop.composites.get(lower)
    for c in (0, 2):
        _, score, R_pairs = two_layers(model, x, c)
        stacked = nn.Sequential(model, difference_layer(c, model(x).shape[1]))
        expected = relprop.explain(stacked, x, R_pairs, Composite(on_top) + rest)
        e = relprop.explain(model, x, LogOdds(c), Composite(plain) + rest)
        check_same_map(e.relevance, expected.relevance, RTOL)
        torch.testing.assert_close(e.score, score, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_without_biases_it_is_input_times_the_gradient_of_the_log_odds(name: str) -> None:
    """And ΣR = η + H, with H the entropy of the rivals among themselves."""
    model, x = MODELS[name][0](), MODELS[name][1]()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.bias.data.zero_()
            m.running_mean.zero_()
        elif getattr(m, "bias", None) is not None:
            m.bias.data.zero_()
    e = relprop.explain(model, x, LogOdds(1), "lrp_zero")
    at = x.clone().requires_grad_()
    P = model(at).softmax(1)
    odds = (P[:, 1] / (1 - P[:, 1])).log()
    (slope,) = torch.autograd.grad(odds.sum(), at)
    check_same_map(e.relevance, x * slope, RTOL)
    torch.testing.assert_close(e.score, odds.detach(), rtol=1e-9, atol=1e-12)
    rivals = torch.cat([P[:, :1], P[:, 2:]], 1).detach()
    rivals = rivals / rivals.sum(1, keepdim=True)
    entropy = -(rivals * rivals.log()).sum(1)
    torch.testing.assert_close(e.relevance.flatten(1).sum(1), e.score + entropy, rtol=1e-9, atol=1e-12)


def test_the_class_and_its_rivals_in_numbers() -> None:
    """z = (4, 3, 0): z_cc' = (1, 4), exp(−z_cc') = 0.36788 and 0.018316, shares 0.952574 and 0.047426."""
    R, score, resolved = initial(torch.tensor([[4.0, 3.0, 0.0]]).double(), LogOdds(0))
    assert R.tolist()[0] == pytest.approx([4.0, -0.952574 * 3, 0.0], abs=1e-5)
    assert score.item() == pytest.approx(-math.log(0.36788 + 0.018316), abs=1e-4)
    assert resolved.c.tolist() == [0]


@given(
    z=st.lists(st.floats(-50, 50), min_size=2, max_size=12),
    c=st.integers(0, 11),
    shift=st.floats(-20, 20),
)
@settings(max_examples=100, deadline=None)
def test_properties_of_log_odds(z: list[float], c: int, shift: float) -> None:
    """η + H is what is handed out, 0 ≤ H ≤ log of the number of rivals; a shift of all outputs changes no score."""
    c %= len(z)
    logits = torch.tensor([z], dtype=torch.float64)
    R, score, _ = initial(logits, LogOdds(c))
    eta, p = pooled([z[c] - v for k, v in enumerate(z) if k != c])
    entropy = -math.fsum(v * math.log(v) for v in p if v > 0)
    assert score.item() == pytest.approx(eta, rel=1e-12, abs=1e-12)
    assert R.sum().item() - score.item() == pytest.approx(entropy, rel=1e-9, abs=1e-10)
    assert -1e-10 <= entropy <= math.log(len(z) - 1) + 1e-10
    assert initial(logits + shift, LogOdds(c))[1].item() == pytest.approx(eta, rel=1e-9, abs=1e-9)


# Numbers at the ends of their range

EXTREME: dict[str, list[float]] = {
    "sure": [40.0, 0.0, -3.0],
    "lost": [-200.0, 100.0, 90.0],
    "huge and close": [10000.0, 9999.0, 9998.5],
    "huge and far": [30000.0, -30000.0, 16384.0],
    "equal": [5.0, 5.0, 5.0],
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("case", EXTREME)
def test_extreme_outputs(case: str, dtype: torch.dtype) -> None:
    """P is 1 or 0 to any of these precisions in most cases; the log-odds are exact. Half precision in float32."""
    logits = torch.tensor([EXTREME[case]], dtype=dtype)
    z = logits[0].tolist()
    R, score, _ = initial(logits, LogOdds(0))
    eta, p = pooled([z[0] - z[1], z[0] - z[2]])
    assert R.dtype == score.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    close = {"rel": 1e-12 if dtype == torch.float64 else 1e-6, "abs": 1e-30}
    assert score.item() == pytest.approx(eta, **close)
    assert R[0].tolist() == pytest.approx([z[0], -p[0] * z[1], -p[1] * z[2]], **close)


def test_outputs_of_1e30() -> None:
    R, score, _ = initial(torch.tensor([[1e30, -1e30, 0.0]]), LogOdds(0))
    assert score.item() == pytest.approx(1e30)
    assert R.tolist()[0] == pytest.approx([1e30, 0.0, 0.0])


@pytest.mark.parametrize("target", [LogOdds(0), Probability(0)])
def test_log_odds_beyond_the_range_of_numbers_are_refused(target: Any) -> None:
    with pytest.raises(TargetError, match=r"3e\+38 exceed what torch.float32 holds.*float64"):
        initial(torch.tensor([[3e38, -3e38]]), target)
    assert initial(torch.tensor([[3e38, -3e38]]).double(), target)[1].isfinite().all()


def test_outputs_that_are_not_finite_are_told_as_such() -> None:
    model = Net(lambda m, x: m.map(x) / (x.sum(1, keepdim=True) - 3), map=nn.Linear(3, 4))
    with pytest.raises(NonFiniteError, match="output is not finite"):
        relprop.explain(model, torch.ones(2, 3).double(), LogOdds(0))


def test_two_classes_leave_nothing_over() -> None:
    z = torch.tensor([[2.0, -1.5], [300.0, 301.0]], dtype=torch.float64)
    R, score, _ = initial(z, LogOdds(torch.tensor([0, 1])))
    assert R.tolist() == [[2.0, 1.5], [-300.0, 301.0]]
    assert score.tolist() == [3.5, 1.0]


# Margin and probability


@pytest.mark.parametrize("name", MODELS)
def test_a_margin_is_a_contrast_with_the_largest_rival(name: str) -> None:
    model, x = MODELS[name][0](), MODELS[name][1]()
    z = model(x).detach()
    c = torch.arange(len(x)) % z.shape[1]
    rival = torch.tensor(
        [max((k for k in range(z.shape[1]) if k != c[i]), key=lambda k: z[i, k]) for i in range(len(x))]
    )
    e = relprop.explain(model, x, [Margin(c), Margin(c, rival), Margin(), Margin(2, 0)], "lrp_zero", ledger=True)
    pairs = [(c, rival), (c, rival), tuple(z.topk(2).indices.T), (torch.tensor(2), torch.tensor(0))]
    for k, (a, b) in enumerate(pairs):
        (of_a,), (of_b,) = (gradient_times_input(model, (x,), i.expand(len(x))) for i in (a, b))
        check_same_map(e.relevance[k], of_a - of_b, RTOL)
        expected = z.gather(1, a.expand(len(x))[:, None]) - z.gather(1, b.expand(len(x))[:, None])
        torch.testing.assert_close(e.score[k], expected[:, 0], rtol=1e-12, atol=1e-12)
        assert e.target[k].rival.tolist() == b.expand(len(x)).tolist()
        assert not e.ledger[k].residual.abs().max() > 1e-12
        assert e.ledger[k].closes()


def test_a_strong_rival_makes_log_odds_the_margin() -> None:
    """With outputs times 100, the share of the largest rival is 1 to rounding."""
    z = 100 * torch.tensor([[1.0, 3.0, 2.0, -1.0], [0.5, 0.0, -2.0, 1.5]], dtype=torch.float64)
    for c in range(4):
        odds, margin = initial(z, LogOdds(c)), initial(z, Margin(c))
        torch.testing.assert_close(odds[0], margin[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(odds[1], margin[1], rtol=1e-12, atol=1e-12)


def test_a_probability_starts_from_its_first_order_terms() -> None:
    z = torch.tensor([[1.0, 3.0, 2.0, -1.0], [0.5, 0.0, -2.0, 1.5]], dtype=torch.float64, requires_grad=True)
    for c in range(4):
        R, score, _ = initial(z, Probability(c))
        P = z.softmax(1)
        (slope,) = torch.autograd.grad(P[:, c].sum(), z)
        torch.testing.assert_close(R, z * slope, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(score, P[:, c], rtol=1e-12, atol=0)
        factor = (P[:, c] * (1 - P[:, c]))[:, None]
        torch.testing.assert_close(R, factor * initial(z, LogOdds(c))[0], rtol=1e-12, atol=1e-14)


def test_a_probability_that_rounds_to_one_still_has_a_map() -> None:
    """z = (30, 0) in float32: P is 1, 1 − P = exp(−30) / (1 + exp(−30))."""
    R, score, _ = initial(torch.tensor([[30.0, 0.0]]), Probability(0))
    assert score.item() == 1.0
    assert R[0, 0].item() == pytest.approx(30 * math.exp(-30), rel=1e-5)


def test_a_probability_books_what_it_does_not_hand_out() -> None:
    model, x = dense(), rows(4)
    e = relprop.explain(model, x, Probability(1), "lrp_zero", ledger=True)
    P, z = model(x).softmax(1).detach(), model(x).detach()
    start = (z * P[:, 1:2] * (torch.tensor([0.0, 1.0, 0.0]) - P)).sum(1)
    torch.testing.assert_close(e.ledger.residual, P[:, 1] - start, rtol=1e-9, atol=1e-12)
    assert e.ledger.closes()
