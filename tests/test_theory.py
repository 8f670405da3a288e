"""Root points and Taylor terms against the chapter's definitions, written out here neuron by neuron."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
from checks import check_same_map
from relprop import theory
from relprop.errors import CompositeError, InputError, TheoryError
from relprop.rules import registry

SAMPLES, J, K = 5, 7, 6
LOW, HIGH = -1.0, 2.0
RULES: list[tuple[str, dict[str, Any]]] = [
    ("zero", {}),
    ("zero", {"bias": "ignore"}),
    ("epsilon", {"epsilon": 0.25}),
    ("epsilon", {"epsilon": 0.25, "bias": "ignore"}),
    ("gamma", {}),
    ("gamma", {"gamma": 2.0, "bias": "ignore"}),
    ("gamma", {"gamma": 0.5, "epsilon": 0.1}),
    ("z_plus", {}),
    ("z_plus", {"bias": "ignore"}),
    ("w_square", {}),
    ("w_square", {"bias": "absorb"}),
    ("z_box", {"low": LOW, "high": HIGH}),
]
IDS = [f"{rule}-{'-'.join(map(str, p.values()))}" for rule, p in RULES]
ON_HINGE = ("zero", "gamma", "z_plus", "w_square", "z_box")


def neurons(*, bias: str = "both", signed: bool = False, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs in [0, HIGH] (or [LOW, HIGH]), weights and biases of a layer of which some neurons are not active."""
    g = torch.Generator().manual_seed(seed)
    a = torch.rand(SAMPLES, J, generator=g, dtype=torch.float64) * (HIGH - LOW if signed else HIGH)
    a = a + LOW if signed else a.masked_fill(a < 0.4, 0.0)  # as a ReLU leaves them
    w = torch.randn(J, K, generator=g, dtype=torch.float64)
    b = torch.randn(K, generator=g, dtype=torch.float64)
    return a, w, {"both": b, "negative": -b.abs(), "none": torch.zeros_like(b)}[bias]


def arriving(a: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Relevance of either sign at the active neurons."""
    g = torch.Generator().manual_seed(99)
    R = torch.randn(SAMPLES, K, generator=g, dtype=torch.float64)
    active = a @ w + b > 0
    assert active.any()
    assert not active.all()
    return torch.where(active, R, 0.0)


def numerator(rule: str, a: float, w: float, p: dict[str, Any]) -> float:
    """What the table of appendix 10.A has over the fraction, for one connection and a_j >= 0."""
    plus, minus = max(0.0, w), min(0.0, w)
    return {
        "zero": a * w,
        "epsilon": a * w,
        "gamma": a * (w + p.get("gamma", 0.25) * plus),
        "z_plus": a * plus,
        "w_square": w * w,
        "z_box": a * w - LOW * plus - HIGH * minus,
    }[rule]


def message(rule: str, a: Tensor, w: Tensor, b: float, R: float, p: dict[str, Any]) -> list[float]:
    """One neuron's messages, as the double sums of the papers read."""
    n = [numerator(rule, float(x), float(y), p) for x, y in zip(a, w, strict=True)]
    of_bias = b * b if rule == "w_square" else numerator(rule, 1.0, b, p)
    absorbed = p.get("bias", "ignore" if rule in ("w_square", "z_box") else "absorb") == "absorb"
    total = sum(n) + (of_bias if absorbed else 0.0)
    total += math.copysign(p.get("epsilon", 0.0), total)
    return [x / total * R for x in n]


# first-order terms are messages


@pytest.mark.parametrize(("rule", "parameters"), RULES, ids=IDS)
@pytest.mark.parametrize("bias", ["both", "negative", "none"])
def test_terms_are_the_messages_of_the_papers_and_of_relprop(rule: str, parameters: dict[str, Any], bias: str) -> None:
    a, w, b = neurons(bias=bias)
    R = arriving(a, w, b)
    expansion = theory.check_rule(rule, a, w, b, R, **parameters)
    assert expansion.error < 1e-9
    expected = torch.zeros(SAMPLES, J, K, dtype=torch.float64)
    for i in range(SAMPLES):
        for k in range(K):
            if R[i, k]:
                sent = message(rule, a[i], w[:, k], float(b[k]), float(R[i, k]), parameters)
                expected[i, :, k] = torch.tensor(sent, dtype=torch.float64)
    check_same_map(expansion.terms, expected, rtol=1e-9)


@pytest.mark.parametrize(("rule", "parameters"), RULES, ids=IDS)
def test_terms_are_the_slope_of_the_relevance_model_times_the_way(rule: str, parameters: dict[str, Any]) -> None:
    """∇R̂ by autograd half way to the root point, where the neuron is active; with R̂(ã) they sum to R̂(a)."""
    a, w, b = neurons(bias="both")
    R = arriving(a, w, b)
    c, at = theory.modulation(a, w, b, R), theory.root(rule, a, w, b, **parameters)
    check_same_map(theory.relevance_model(a, w, b, c), R, rtol=1e-12)
    terms, of_bias = theory.first_order_terms(a, w, b, c, at)
    middle = (a[..., None] + at.point) / 2
    half = (1 + at.bias) / 2
    middle.requires_grad_()
    half.requires_grad_()
    value = torch.relu((middle * w).sum(1) + half * b) * c
    slope, slope_0 = torch.autograd.grad(value.sum(), (middle, half))
    check_same_map(terms, (a[..., None] - at.point) * slope, rtol=1e-12)
    torch.testing.assert_close(of_bias, (1 - at.bias) * slope_0, rtol=1e-12, atol=1e-12)
    model_at_root = torch.relu((at.point * w).sum(1) + at.bias * b) * c
    torch.testing.assert_close(theory.zero_order_term(w, b, c, at), model_at_root)
    check_same_map(model_at_root + terms.sum(1) + of_bias, R, rtol=1e-9)


@pytest.mark.parametrize("rule", ["zero", "epsilon", "gamma", "z_plus", "w_square", "z_box"])
def test_inputs_of_either_sign(rule: str) -> None:
    a, w, b = neurons(signed=True)
    box = {"low": torch.full((J,), LOW), "high": HIGH} if rule == "z_box" else {}
    theory.check_rule(rule, a, w, b, arriving(a, w, b), **box)


def test_the_relevance_model_is_zero_where_the_neuron_is_off() -> None:
    found = theory.relevance_model(
        torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0, -3.0], [-1.0, 1.0]]), None, torch.ones(1, 2)
    )
    assert found.tolist() == [[2.0, 0.0]]


def test_float32_layers_and_rules_given_as_functions() -> None:
    layer = nn.Linear(J, K)
    a = torch.rand(SAMPLES, J)
    R = torch.relu(layer(a)).detach()
    expansion = theory.check_rule(relprop.rules.epsilon, a, layer.weight.T, layer.bias, R, epsilon=0.5)
    assert expansion.terms.dtype == torch.float64


def test_a_rule_that_computes_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    a, w, b = neurons()
    R = arriving(a, w, b)
    wrong = dataclasses.replace(registry._RULES["gamma"], function=lambda R, f, **p: relprop.rules.zero(R, f))
    wrong = dataclasses.replace(wrong, function=_with_signature(wrong.function))
    monkeypatch.setitem(registry._RULES, "gamma", wrong)
    with pytest.raises(TheoryError, match=r"gamma: neuron \d of sample \d sends .* root point are .* they differ by"):
        theory.check_rule("gamma", a, w, b, R)


def _with_signature(function: Any) -> Any:
    def gamma(R: Tensor, f: Any, *, gamma: float = 0.25, epsilon: float = 0.0, bias: str = "absorb") -> Any:
        return function(R, f)

    return gamma


def test_a_root_point_elsewhere_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from relprop.theory import roots

    a, w, b = neurons()
    monkeypatch.setitem(roots.DIRECTIONS, "zero", roots.DIRECTIONS["gamma"])
    monkeypatch.setattr(roots, "settled", _with_gamma(roots.settled))
    with pytest.raises(TheoryError, match="zero: neuron"):
        theory.check_rule("zero", a, w, b, arriving(a, w, b))


def _with_gamma(settled: Any) -> Any:
    def changed(rule: Any, parameters: Any) -> Any:
        declared, full = settled(rule, parameters)
        return declared, full | {"gamma": 1.0}

    return changed


# the points


def test_root_points_by_hand() -> None:
    """Contributions 3 and −1, so a_k = 2."""
    a, w = torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0], [-1.0]])
    by_hand = {
        ("zero", ()): (0.0, 0.0),
        ("epsilon", (("epsilon", 0.5),)): (0.2, 0.2),  # 0.5 / 2.5 of a
        ("gamma", (("gamma", 1.0),)): (0.2, 0.6),  # t = 2 / (6 − 1), direction (2, 1)
        ("z_plus", ()): (1 / 3, 1.0),  # t = 2 / 3, direction (1, 0)
        ("w_square", ()): (0.4, 1.2),  # t = 2 / 10, direction (3, −1)
        ("z_box", (("low", -1.0), ("high", 2.0))): (3 / 7, 9 / 7),  # t = 2 / 7, direction (2, −1)
    }
    for (rule, parameters), expected in by_hand.items():
        point = theory.root(rule, a, w, **dict(parameters)).point.flatten()
        torch.testing.assert_close(point, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=1e-15)


def test_the_bias_neuron_by_hand() -> None:
    """Contributions 3 and −2 and bias 1: z = 2. γ = 1 favours the bias as it favours other positive contributions."""
    a, w, b = torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0], [-2.0]]), torch.tensor([1.0])
    at = theory.root("gamma", a, w, b, gamma=1.0)  # t = 2 / (6 − 2 + 2)
    torch.testing.assert_close(at.point.flatten(), torch.tensor([1 / 3, 2 / 3]).double(), rtol=1e-7, atol=0)
    torch.testing.assert_close(at.bias.flatten(), torch.tensor([1 / 3]).double(), rtol=1e-7, atol=0)
    held = theory.root("gamma", a, w, b, gamma=1.0, bias="ignore")  # t = 2 / (6 − 2)
    assert held.point.flatten().tolist() == [0.0, 0.5]
    assert held.bias.flatten().tolist() == [1.0]


@pytest.mark.parametrize("rule", ON_HINGE)
@pytest.mark.parametrize("bias", ["both", "negative"])
def test_root_points_lie_on_the_hinge(rule: str, bias: str) -> None:
    a, w, b = neurons(bias=bias)
    box = {"low": LOW, "high": HIGH} if rule == "z_box" else {}
    at = theory.root(rule, a, w, b, **box)
    active = a @ w + b > 0
    z = (at.point * w).sum(1) + at.bias * b
    assert z[active].abs().max() < 1e-13
    still = at.point == a[..., None]
    assert still.transpose(1, 2)[~active].all()  # inactive neurons have nothing to move for


@pytest.mark.parametrize(("gamma", "bias"), [(0.25, "absorb"), (3.0, "absorb"), (1.0, "ignore")])
def test_gammas_root_point_lies_on_its_line(gamma: float, bias: str) -> None:
    """a − ã is t · a ⊙ (1 + γ 1[w ≥ 0]), with one t a neuron."""
    a, w, b = neurons(bias="negative")
    at = theory.root("gamma", a, w, b, gamma=gamma, bias=bias)
    line = a[..., None] * torch.where(w >= 0, 1 + gamma, 1.0)
    t = (a[..., None] - at.point) / line
    seen = (line > 0) & (a @ w + b > 0)[:, None]
    t = torch.where(seen, t, torch.nan)
    spread = torch.where(seen, (t - t.nanmean(1, keepdim=True)).abs(), 0.0)
    assert spread.max() < 1e-14
    assert t.nan_to_num(0.0).max() > 0.1


def test_lrp_0_and_epsilon_are_the_chapters_formulas() -> None:
    a, w, b = neurons()
    z = a @ w + b
    at = theory.root("zero", a, w, b).point.transpose(1, 2)[z > 0]
    assert torch.equal(at, torch.zeros_like(at))
    at = theory.root("epsilon", a, w, b, epsilon=0.3).point
    expected = (0.3 / (z.clamp(min=0) + 0.3))[:, None] * a[..., None]
    check_same_map(at, expected, rtol=1e-13)


def test_gamma_becomes_z_plus() -> None:
    a, w, b = neurons()
    check_same_map(theory.root("gamma", a, w, b, gamma=1e9).point, theory.root("z_plus", a, w, b).point, rtol=1e-6)


# distance


def test_lrp_0_is_farthest_and_epsilon_and_gamma_are_nearer() -> None:
    a, w, b = neurons()
    active = a @ w + b > 0
    of = {
        name: theory.root(rule, a, w, b, **p).distance(a)[active]
        for name, rule, p in [
            ("zero", "zero", {}), ("epsilon 0.1", "epsilon", {"epsilon": 0.1}), ("epsilon 1", "epsilon", {"epsilon": 1.0}),
            ("gamma 0.25", "gamma", {}), ("gamma 1", "gamma", {"gamma": 1.0}), ("z_plus", "z_plus", {}),
        ]
    }  # fmt: skip
    norm = torch.linalg.vector_norm(a, dim=1)[:, None].expand(-1, K)[active]
    torch.testing.assert_close(of["zero"], norm)
    for nearer, farther in [
        ("epsilon 0.1", "zero"), ("epsilon 1", "epsilon 0.1"), ("gamma 0.25", "zero"), ("gamma 1", "gamma 0.25"),
        ("z_plus", "gamma 1"),
    ]:  # fmt: skip
        assert (of[nearer] < of[farther]).all(), (nearer, farther)


def test_gamma_is_no_nearer_where_all_contributions_are_positive() -> None:
    a, w, _ = neurons()
    zero, gamma = (theory.root(rule, a, w.abs()).distance(a) for rule in ("zero", "gamma"))
    torch.testing.assert_close(gamma, zero)


def test_the_root_point_of_w_square_is_the_nearest_on_the_hinge() -> None:
    """At distance z / ‖w‖, that of a plane."""
    a, w, b = neurons()
    z = (a @ w + b).clamp(min=0)
    nearest = theory.root("w_square", a, w, b).distance(a)
    torch.testing.assert_close(nearest, z / torch.linalg.vector_norm(w, dim=0))
    for rule in ("zero", "gamma", "z_plus", "z_box"):
        p = {"low": LOW, "high": HIGH} if rule == "z_box" else {"bias": "ignore"}
        assert (theory.root(rule, a, w, b, **p).distance(a) >= nearest - 1e-12).all()


# domain


@pytest.mark.parametrize("rule", ["zero", "epsilon", "gamma", "z_plus"])
def test_root_points_are_activations(rule: str) -> None:
    """ã ⪰ 0, for any bias that is part of the expansion, and for biases <= 0 that are held."""
    p = {"epsilon": 0.2} if rule == "epsilon" else {}
    for seed in range(5):
        a, w, b = neurons(seed=seed)
        theory.check_domain(theory.root(rule, a, w, b, **p))
        theory.check_domain(theory.root(rule, a, w, -b.abs(), bias="ignore", **p))


def test_held_positive_biases_push_root_points_out_of_the_domain() -> None:
    a, w, b = neurons()
    with pytest.raises(TheoryError, match=r"sample \d, neuron \d: input \d of the root point is -.* bias='absorb'"):
        theory.check_domain(theory.root("zero", a, w, b.abs() + 1, bias="ignore"))


def test_z_box_root_points_lie_in_the_box_where_the_neuron_can_be_off() -> None:
    a, w, b = neurons(signed=True)
    inside, seen = theory.root("z_box", a, w, b, low=LOW, high=HIGH).point, 0
    off = (LOW * w.clamp(min=0) + HIGH * w.clamp(max=0)).sum(0) + b <= 0
    assert off.all()  # its corner of least activation
    theory.check_domain(theory.Root(inside, torch.ones(SAMPLES, K)), low=LOW, high=HIGH)
    always_on = b + 50.0
    for k in range(K):
        at = theory.root("z_box", a, w[:, [k]], always_on[[k]], low=LOW, high=HIGH)
        with pytest.raises(TheoryError, match=r"outside -1 \.\.\. 2"):
            theory.check_domain(at, low=LOW, high=HIGH)
        seen += 1
    assert seen == K


def test_w_square_leaves_the_domain_of_activations() -> None:
    a, w, b = neurons()
    with pytest.raises(TheoryError, match="root point"):
        theory.check_domain(theory.root("w_square", a, w, b))


# refusals


A, W = torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0], [-1.0]])


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (TheoryError, "flat has no root point: .* weight 0", lambda: theory.root("flat", A, W)),
        (TheoryError, "alpha=1, beta=0", lambda: theory.root("alpha_beta", A, W)),
        (TheoryError, "power has no root point", lambda: theory.root("power", A, W)),
        (TheoryError, "held has no root point", lambda: theory.root("held", A, W)),
        (TheoryError, "share", lambda: theory.root("zero", A, W, bias="share")),
        (TheoryError, "neuron 0 of sample 0 is active, but", lambda: theory.root("w_square", A, 0 * W, torch.ones(1))),
        (CompositeError, "no rule", lambda: theory.root("nothing", A, W)),
        (CompositeError, "no parameter gamma", lambda: theory.root("epsilon", A, W, gamma=1.0)),
        (CompositeError, "epsilon=-1", lambda: theory.root("epsilon", A, W, epsilon=-1.0)),
        (CompositeError, "absolute", lambda: theory.root("epsilon", A, W, epsilon_mode="rms")),
        (CompositeError, "needs low= and high=", lambda: theory.root("z_box", A, W)),
        (CompositeError, "low .* does not broadcast", lambda: theory.root("z_box", A, W, low=torch.zeros(3), high=2.0)),
        (InputError, "outside the box", lambda: theory.root("z_box", A, W, low=-1.0, high=0.5)),
        (InputError, "layer.weight.T", lambda: theory.root("zero", A, W.T)),
        (InputError, r"a is \(2,\); give \(samples, J\)", lambda: theory.root("zero", A[0], W)),
        (InputError, "one bias for each of the 1 neurons", lambda: theory.root("zero", A, W, torch.ones(2))),
        (InputError, "w holds NaN", lambda: theory.root("zero", A, W * torch.nan)),
        (InputError, "w holds complex", lambda: theory.root("zero", A, W + 1j)),
        (InputError, "a is a list that is no tensor", lambda: theory.root("zero", [[1.0], [1.0, 2.0]], W)),
        (InputError, "w is a NoneType that is no tensor", lambda: theory.root("zero", A, None)),
        (InputError, "is not active", lambda: theory.modulation(A, -W, None, torch.ones(1, 1))),
        (InputError, "R is ", lambda: theory.modulation(A, W, None, torch.ones(1, 2))),
        (InputError, "inactive at the root", lambda: theory.first_order_terms(A, W, None, torch.ones(1, 1), -A[..., None])),
        (InputError, "root points are", lambda: theory.first_order_terms(A, W, None, torch.ones(1, 1), A)),
        (InputError, "belong to inputs", lambda: theory.root("zero", A, W).distance(torch.ones(1, 3))),
    ],
)  # fmt: skip
def test_refusals(error: type[Exception], words: str, call: Any) -> None:
    with pytest.raises(error, match=words):
        call()


def test_points_of_ones_own() -> None:
    """A point on the hinge 3 a_1 = a_2 that no rule takes."""
    point = torch.tensor([[[0.5], [1.5]]])
    terms, of_bias = theory.first_order_terms(A, W, None, torch.ones(1, 1), point)
    assert terms.flatten().tolist() == [1.5, 0.5]
    assert of_bias.tolist() == [[0.0]]
