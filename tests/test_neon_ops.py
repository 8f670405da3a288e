"""The operations of neuralized models, and what their rules do with relevance, against sums written by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import relprop
from checks import check_same_map, check_sums_to
from nets import Net
from relprop import composites, pooling, rules
from relprop.neon import distances
from relprop.rules import Call

RTOL = 1e-9
POINTS = 5
WIDTH = 4


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X, U, LOG_W = numbers(3, WIDTH), numbers(POINTS, WIDTH, seed=1), numbers(POINTS, seed=2)
LOG_W[3] = -math.inf  # takes no part


def outlier(beta: float | None, *, by_terms: bool = True) -> nn.Module:
    """o(x) = smin_j ‖x − u_j‖² in modules whose values can be recorded; with the terms of each distance, or without."""
    parts: dict[str, nn.Module] = {
        "differences": distances.Differences(U),
        "squares": distances.Squared(),
        "total": distances.Total(),
        "pool": distances.SoftMin(beta, LOG_W),
    }
    if not by_terms:
        parts = {"total": distances.SquaredDistances(U), "pool": parts["pool"]}
    net = nn.Sequential()
    for name, module in parts.items():
        net.add_module(name, module)
    return net.double()


def shares(h: list[float], log_w: list[float], beta: float | None) -> list[float]:
    """w_k exp(−β h_k) / Σ, or 1 over the number of minima, one by one."""
    if beta is None:
        least = min(v for v, w in zip(h, log_w, strict=True) if w > -math.inf)
        hits = [float(v == least and w > -math.inf) for v, w in zip(h, log_w, strict=True)]
        return [v / sum(hits) for v in hits]
    weights = [math.exp(w - beta * v) for v, w in zip(h, log_w, strict=True)]
    return [w / sum(weights) for w in weights]


def squared(x: Tensor, u: Tensor) -> float:
    return sum((float(a) - float(b)) ** 2 for a, b in zip(x, u, strict=True))


def by_hand(beta: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """o, R_j = p_j o and R_i = Σ_j (x_i − u_ji)² / h_j R_j, in loops."""
    o, R, onto = torch.zeros(len(X), 1).double(), torch.zeros(len(X), POINTS).double(), torch.zeros_like(X)
    for b, x in enumerate(X):
        h = [squared(x, u) for u in U]
        p = shares(h, LOG_W.tolist(), beta)
        if beta is None:
            o[b, 0] = sum(v * s for v, s in zip(h, p, strict=True))
        else:
            o[b, 0] = -math.log(sum(math.exp(w - beta * v) for v, w in zip(h, LOG_W.tolist(), strict=True))) / beta
        for j in range(POINTS):
            R[b, j] = p[j] * o[b, 0]
            for i in range(WIDTH):
                onto[b, i] += (X[b, i] - U[j, i]) ** 2 / h[j] * R[b, j]
    return o, R, onto


@pytest.mark.parametrize("by_terms", [True, False])
@pytest.mark.parametrize("beta", [0.7, None])
def test_relevance_of_a_pool_over_distances(beta: float | None, by_terms: bool) -> None:
    o, R, onto = by_hand(beta)
    e = relprop.explain(outlier(beta, by_terms=by_terms), X, composite="lrp_zero", ledger=True, record=("total",))
    check_same_map(e.output, o, rtol=RTOL)
    check_same_map(e.recorded["total"], R, rtol=RTOL)
    check_same_map(e.relevance, onto, rtol=RTOL)
    assert e.ledger.closes()
    check_sums_to(e.relevance.sum(1), e.score, rtol=RTOL)


def test_distances_to_many_points_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "PART", 2 * WIDTH)  # two points at a time: three parts
    assert len(list(pooling._parts(U))) == 3
    test_relevance_of_a_pool_over_distances(0.7, by_terms=False)
    near = X + 1e-7  # of near points no digit is lost
    expected = torch.tensor([[squared(a, b) for b in X] for a in near], dtype=torch.float64)
    assert torch.allclose(pooling.squared_distances(near, X), expected, rtol=1e-14, atol=0)


def test_what_the_stabilizer_of_a_distance_took_is_booked() -> None:
    net = nn.Sequential(distances.SquaredDistances(U), distances.SoftMin(0.7, LOG_W)).double()
    e = relprop.explain(net, X, composite="epsilon", epsilon=0.5, epsilon_mode="absolute", ledger=True)
    _, R, _ = by_hand(0.7)
    h = torch.tensor([[squared(x, u) for u in U] for x in X], dtype=torch.float64)
    check_sums_to(e.ledger.epsilon, (R * 0.5 / (h + 0.5)).sum(1), rtol=RTOL)
    assert e.ledger.closes()


BOX = {"low": -9.0, "high": 9.0}


@pytest.mark.parametrize("name", composites.names())
def test_every_recipe_keeps_min_take_most_and_the_point_takes_nothing(name: str) -> None:
    options = BOX if name in ("montavon2019", "epsilon_gamma_box") else {}
    o, R, onto = by_hand(0.7)
    net = outlier(0.7, by_terms=name in ("gamma", "excitation_backprop"))
    e = relprop.explain(net, X, composite=name, ledger=True, record=("total",), **options)
    check_same_map(e.recorded["total"], R, rtol=RTOL)
    # sums of squares have terms of one sign: every rule of sums but for the size of its ε
    check_same_map(e.relevance, onto, rtol=0.02 if name == "binder2016" else 1e-5)
    assert e.ledger.closes()
    check_same_map(e.output, o, rtol=RTOL)


def test_equal_minima_share() -> None:
    h = torch.tensor([[1.0, 2.0, 1.0, 0.5]]).double()
    excluded = torch.tensor([0.0, 0.0, 0.0, -math.inf]).double()
    pool = Net(lambda net, x: pooling.soft_min(x, excluded))
    assert relprop.explain(pool, h).relevance.tolist() == [[0.5, 0.0, 0.5, 0.0]]


def test_a_soft_minimum_of_large_distances_is_finite() -> None:
    h = torch.tensor([[1e5, 1e5 + 1.0]]).double()
    expected = 1e5 - math.log(1 + math.exp(-2.0)) / 2
    assert float(pooling.soft_min(h, beta=2.0)) == pytest.approx(expected, rel=1e-14)
    e = relprop.explain(Net(lambda net, x: pooling.soft_min(x, beta=2.0)), h)
    p = 1 / (1 + math.exp(-2.0))
    check_same_map(e.relevance, torch.tensor([[p * expected, (1 - p) * expected]], dtype=torch.float64), rtol=RTOL)


def test_the_pool_tends_to_the_minimum() -> None:
    h = numbers(4, 6, seed=3).abs()
    check_same_map(pooling.soft_min(h, beta=1e4), pooling.soft_min(h), rtol=1e-3)
    check_same_map(pooling.soft_min(h, numbers(6), 1e7), h.amin(1), rtol=1e-6)


# Contrasts of groups


def test_contrasts_share_by_terms_of_either_group() -> None:
    t, bias = numbers(2, 3, WIDTH, seed=4), numbers(3, 3, seed=5)
    net = Net(lambda net, x: pooling.contrasts(x, bias).flatten(1))
    R = numbers(2, 9, seed=6)
    expected, z = torch.zeros_like(t), torch.zeros(2, 3, 3).double()
    taken = torch.zeros(2).double()
    for b in range(2):
        for c in range(3):
            for k in range(3):
                z[b, c, k] = float(t[b, k].sum()) - float(t[b, c].sum()) + float(bias[c, k])
                s = R[b, 3 * c + k] / z[b, c, k]
                taken[b] += bias[c, k] * s
                for i in range(WIDTH):
                    expected[b, k, i] += t[b, k, i] * s
                    expected[b, c, i] -= t[b, c, i] * s
    e = relprop.explain(net, t, R, composite="lrp_zero", ledger=True)
    check_same_map(e.output.view(2, 3, 3), z, rtol=RTOL)
    check_same_map(e.relevance, expected, rtol=RTOL)
    check_same_map(e.ledger.bias, taken, rtol=RTOL)
    assert e.ledger.closes()


def test_contrasts_of_squared_distances_are_the_midpoint_rule() -> None:
    """w · (x − m) with w = 2 (μ_c − μ_k), m = (μ_c + μ_k) / 2 shares by w_i (x_i − m_i)."""
    centres = numbers(3, WIDTH, seed=7)
    net = nn.Sequential(distances.Differences(centres), distances.Squared(), distances.Evidence(3)).double()
    e = relprop.explain(net, X, target=1, composite="lrp_zero")
    expected = torch.zeros_like(X)
    for b, x in enumerate(X):
        w = [2 * (centres[1] - centres[k]) for k in (0, 2)]
        m = [(centres[1] + centres[k]) / 2 for k in (0, 2)]
        h = [float((w[i] * (x - m[i])).sum()) for i in (0, 1)]
        nearest = h.index(min(h))
        assert float(e.score[b]) == pytest.approx(min(h), rel=RTOL)
        expected[b] = w[nearest] * (x - m[nearest])
    check_same_map(e.relevance, expected, rtol=RTOL)


def test_centred_times_a_weight_is_the_midpoint_rule() -> None:
    w, m = numbers(WIDTH, seed=8), numbers(WIDTH, seed=9)
    net = Net(lambda net, x: (pooling.centred(x, m) * w).sum(1, keepdim=True))
    check_same_map(relprop.explain(net, X, composite="lrp_zero").relevance, (X - m) * w, rtol=RTOL)


def test_shifted_books_its_constant() -> None:
    constant = numbers(WIDTH, seed=10)
    net = Net(lambda net, x: pooling.shifted(x, constant))
    for name in ("lrp_zero", "auto", "excitation_backprop"):
        e = relprop.explain(net, X, target=X + constant, composite=name, epsilon=0.0, ledger=True)
        kept = name == "excitation_backprop"  # by default it ignores biases, in weighted layers and averages alone
        check_same_map(e.relevance, X, rtol=RTOL)
        check_sums_to(e.ledger.bias, constant.sum().expand(len(X)), rtol=RTOL)
        assert e.ledger.closes(), kept


def test_relevance_of_the_smallest_goes_back_to_its_place() -> None:
    h = torch.tensor([[4.0, 1.0, 3.0, 2.0], [0.5, 9.0, 7.0, 8.0]]).double()
    net = Net(lambda net, x: pooling.smallest(x, 3))
    e = relprop.explain(net, h, target=torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]).double(), ledger=True)
    assert e.output.tolist() == [[1.0, 2.0, 3.0], [0.5, 7.0, 8.0]]
    assert e.relevance.tolist() == [[0.0, 1.0, 3.0, 2.0], [10.0, 0.0, 20.0, 30.0]]
    assert e.ledger.closes()


# What torch asks of an operation of one's own

INFINITE = torch.tensor([[0.0, -math.inf], [-math.inf, 0.0]]).double()
CALLS: dict[str, tuple[Callable[..., Tensor], tuple[object, ...]]] = {
    "centred": (torch.ops.relprop.centred.default, (numbers(3, 1, 4), numbers(2, 4))),
    "squared_distances": (torch.ops.relprop.squared_distances.default, (numbers(3, 4), numbers(5, 4, seed=1))),
    "contrasts": (torch.ops.relprop.contrasts.default, (numbers(3, 2, 4), numbers(2, 2))),
    "contrasts, no bias": (torch.ops.relprop.contrasts.default, (numbers(3, 2, 4), None)),
    "shifted": (torch.ops.relprop.shifted.default, (numbers(3, 4), numbers(4))),
    "shifted, no constant": (torch.ops.relprop.shifted.default, (numbers(3, 4), None)),
    "soft_min": (torch.ops.relprop.soft_min.default, (numbers(3, 2, 4), numbers(2, 4), 1.5, False)),
    "soft_min, no weights": (torch.ops.relprop.soft_min.default, (numbers(3, 4), None, 1.5, True)),
    "soft_min, rivals": (torch.ops.relprop.soft_min.default, (numbers(3, 2, 2), INFINITE, 1.5, True)),
    "minimum": (torch.ops.relprop.soft_min.default, (numbers(3, 4), None, math.inf, False)),
    "smallest": (torch.ops.relprop.smallest.default, (numbers(3, 4), 2)),
}


@pytest.mark.parametrize("call", CALLS)
def test_derivatives_and_shapes(call: str) -> None:
    op, args = CALLS[call]
    leaves = [a.clone().requires_grad_(not a.isinf().any()) if isinstance(a, Tensor) else a for a in args]
    torch.library.opcheck(
        op, tuple(leaves), test_utils=("test_schema", "test_autograd_registration", "test_faketensor")
    )
    assert torch.autograd.gradcheck(op, leaves)
    assert torch.autograd.gradgradcheck(op, leaves)


def test_the_program_text_runs_by_itself() -> None:
    explainer = relprop.Explainer(outlier(0.7), X, "lrp_zero")
    scope: dict[str, object] = {"__name__": "program"}
    exec(explainer.code, scope)
    output, _, _, (R,), *_ = scope["program"](explainer.program.state_dict(), X)  # type: ignore[operator]
    o, _, onto = by_hand(0.7)
    check_same_map(output, o, rtol=RTOL)
    check_same_map(R, onto, rtol=RTOL)


def test_several_targets_and_chunks_agree() -> None:
    centres = numbers(3, WIDTH, seed=7)
    net = nn.Sequential(distances.Differences(centres), distances.Squared(), distances.Evidence(3, 2.0)).double()
    whole = relprop.explain(net, X, target=[0, 1, 2], composite="lrp_zero")
    z = pooling.contrasts((X[:, None] - centres).square())
    z = z.masked_fill(torch.eye(3, dtype=torch.bool), math.inf)
    shares = torch.softmax(-2 * z, -1) * z.nan_to_num(posinf=0.0)  # R_ck = p_ck z_ck
    parts = relprop.explain(net, X, target=[0, 1, 2], composite="lrp_zero", max_batch=2)
    check_same_map(parts.relevance, whole.relevance, rtol=RTOL)
    check_sums_to(whole.relevance.sum(2).flatten(), shares.sum(-1).T.flatten(), rtol=RTOL)


def test_rules_map_over_relevance() -> None:
    """Under torch.func.vmap, which explains many outputs by one pass, they give what a loop gives."""
    own = torch.ops.relprop
    t, h, seeds = numbers(3, POINTS, WIDTH, seed=11), numbers(3, POINTS, seed=12), numbers(2, 3, POINTS, seed=13)
    d = pooling.squared_distances(X, U)
    calls = {
        "distance": (rules.distance, Call(own.squared_distances.default, (X, U), d), seeds),
        "contrast": (rules.contrast, Call(own.contrasts.default, (t, None), pooling.contrasts(t)), numbers(2, 3, 5, 5)),
        "take_most": (rules.take_most, Call(own.soft_min.default, (h, None, 1.5, False), None), seeds[..., 0]),
        "take_most of differences": (
            rules.take_most,
            Call(own.soft_min.default, (h, None, 1.5, True), pooling.soft_min(h, beta=1.5)),
            seeds[..., 0],
        ),
        "move": (rules.move, Call(own.smallest.default, (h, 2), pooling.smallest(h, 2)), seeds[..., :2]),
    }
    for name, (rule, f, R) in calls.items():
        each = torch.stack([rule(r, f) for r in R])
        check_same_map(torch.func.vmap(lambda r, f=f, rule=rule: rule(r, f))(R), each, rtol=RTOL, about=name)
