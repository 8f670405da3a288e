"""Every rule on hard numbers equals its plain definition: tiny parts beside large ones, sums of zero, rectified layers.

However a rule is computed (one forward for both signs, prepared weights, z read from the rectifier behind the layer), what
it gives is the definition in `plain.py`, in float64 to 1e-9. In float32 to 2e-5 of the largest relevance: sums of up to 40 terms,
each rounded by 6e-8, through two layers; the definitions add numbers of one sign, so that nothing in them multiplies it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import layers
import plain
import relprop
from checks import check_same_map
from nets import Net
from relprop import rules
from relprop.composites import Composite, family, path

BOUNDS = {torch.float64: 1e-9, torch.float32: 2e-5}
TYPES = list(BOUNDS)
AFFINE = family("affine")
CASES: list[tuple[str, dict[str, Any]]] = [
    ("zero", {}),
    *(("epsilon", {"epsilon": 0.3, "epsilon_mode": mode}) for mode in ("rms", "std", "absolute")),
    *(("gamma", {"epsilon": 0.3, "epsilon_mode": mode}) for mode in ("rms", "std", "absolute")),
    ("gamma", {"gamma": 1e3}),
    ("gamma", {"gamma": 1e3, "epsilon": 0.1}),
    ("alpha_beta", {}),
    ("alpha_beta", {"alpha": 1.5, "beta": 0.5}),
    ("alpha_beta", {"alpha": 0.0, "beta": -1.0}),
    ("z_plus", {}),
    *(("power", {"epsilon": 0.3, "epsilon_mode": mode}) for mode in ("rms", "std", "absolute")),
    ("power", {"power": 3, "epsilon": 0.1}),
    ("w_square", {}),
    ("flat", {}),
    ("z_box", {"low": -2.5, "high": 2.0}),
]
SIGNED = [("gamma", {"epsilon": 0.0}), ("gamma", {"gamma": 1e3, "epsilon": 0.1}), ("alpha_beta", {}), ("z_plus", {})]
# What reads z, or its scale, of a layer behind which a rectifier may stand.
READING = [CASES[1], CASES[2], CASES[4], CASES[14], ("gamma", {"gamma": 1e3, "epsilon": 0.1}), ("alpha_beta", {})]
WEIGHTED = ("linear", "conv2d_stride_padding", "conv2d_depthwise", "conv_transpose2d_all")

Case = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Branch:
    """A net with its own input and initial relevance, all of whose layers have one rule; what is expected of it.

    `expected(x, R)`: the results of its layers from the top, of which the last gives the relevance of the input.
    """

    net: nn.Module
    x: Tensor
    case: Case
    expected: Callable[[Tensor, Tensor, Case], list[plain.Result]]
    about: object = ""


class Abreast(nn.Module):
    """Nets side by side, each with its own input: one capture for all of them."""

    def __init__(self, nets: list[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, *xs: Tensor) -> Tensor:
        return torch.cat([net(x).flatten(1) for net, x in zip(self.nets, xs, strict=True)], 1)


def values(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def layer_rule(case: Case) -> Callable[..., Any]:
    return functools.partial(getattr(rules, case[0]), **case[1])


def check_branches(branches: list[Branch], dtype: torch.dtype = torch.float64, R: Tensor | None = None) -> None:
    """Every branch has the relevance expected, to the bound of the type, and its layers kept what they should."""
    model = Abreast([copy.deepcopy(b.net) for b in branches]).to(dtype)
    xs = tuple(b.x.to(dtype) for b in branches)
    sizes = [net(x).flatten(1).shape[1] for net, x in zip(model.nets, xs, strict=True)]
    R = values(len(xs[0]), sum(sizes), seed=3) if R is None else R.repeat(1, len(branches))
    R = R.to(dtype)
    pairs = [(AFFINE & (path(f"nets.{i}") | path(f"nets.{i}.*")), layer_rule(b.case)) for i, b in enumerate(branches)]
    e = relprop.explain(model, xs if len(xs) > 1 else xs[0], R, Composite(pairs), ledger=True)
    maps = e.relevance if len(xs) > 1 else (e.relevance,)
    for i, (b, got, r) in enumerate(zip(branches, maps, R.split(sizes, 1), strict=True)):
        expected = b.expected(xs[i], r, b.case)
        about = (b.about, b.case, dtype)
        if expected[-1].relevance.any():
            check_same_map(got, expected[-1].relevance, BOUNDS[dtype], about)
        else:
            assert not got.any(), about
        entries = [o for o in e.ledger.by_op if f"{o.module}.".startswith(f"nets.{i}.")]
        check_kept(entries, expected, r, BOUNDS[dtype], about)
    assert e.ledger.closes()


def check_kept(entries: list[Any], expected: list[plain.Result], R: Tensor, rtol: float, about: object) -> None:
    """What the layers of a branch kept, to `rtol` of all relevance that was handed out in it."""
    moved = sum(float(r.relevance.abs().sum()) for r in expected) + float(R.abs().sum())
    for account in ("bias", "epsilon", "residual"):
        got = torch.stack([getattr(o, account).double() for o in entries]).sum(0)
        error = float((got - torch.stack([getattr(r, account) for r in expected]).sum(0)).abs().max())
        assert error <= rtol * moved, (about, account, error)


def of_one_layer(layer: nn.Module, shape: tuple[int, ...]) -> Callable[[Tensor, Tensor, Case], list[plain.Result]]:
    def expected(x: Tensor, R: Tensor, case: Case) -> list[plain.Result]:
        dtype = x.dtype  # of a float32 model the weights as they were rounded
        return [plain.relevance(case[0], plain.table(copy.deepcopy(layer).to(dtype), shape), x, R, **case[1])]

    return expected


def branch(layer: nn.Module, a: Tensor, case: Case, *, nonneg: bool = False, about: object = "") -> Branch:
    """One layer; `nonneg`: a ReLU before it, and inputs that are."""
    net = nn.Sequential(nn.ReLU(), layer) if nonneg else layer
    return Branch(net, a.abs().clamp(max=1.9) if nonneg else a, case, of_one_layer(layer, tuple(a.shape[1:])), about)


# The definitions themselves, by hand


def test_the_plain_definitions_by_hand() -> None:
    """Contributions 3 and −1, bias 2: z = 4."""
    t = plain.Table([[3.0, -0.5]], [2.0], (2,))
    a, R = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0]])

    def given(rule: str, **options: Any) -> list[float]:
        r = plain.relevance(rule, t, a, R, **options)
        return [*r.relevance.flatten().tolist(), float(r.bias), float(r.epsilon), float(r.residual)]

    assert given("zero") == [3, -1, 2, 0, 0]
    assert given("epsilon", epsilon=1.0) == [1.5, -0.5, 1, 2, 0]  # rms of one output: z itself
    assert given("gamma", gamma=1.0, epsilon=0.0) == pytest.approx([24 / 9, -4 / 9, 16 / 9, 0, 0])
    assert given("alpha_beta") == pytest.approx([24 / 5, -4, 16 / 5, 0, 0])
    assert given("z_plus") == pytest.approx([12 / 5, 0, 8 / 5, 0, 0])
    assert given("power", epsilon=0.0) == pytest.approx([36 / 14, 4 / 14, 16 / 14, 0, 0])
    assert given("w_square") == pytest.approx([36 / 9.25, 1 / 9.25, 0, 0, 0])
    assert given("flat") == [2, 2, 0, 0, 0]
    assert given("z_box", low=-1.0, high=3.0) == pytest.approx([4 * 6 / 6.5, 4 * 0.5 / 6.5, 0, 0, 0])
    none = plain.Table([[3.0, 0.5]], [0.0], (2,))
    lost = plain.relevance("alpha_beta", none, a, R)
    assert [*lost.relevance.flatten().tolist(), float(lost.residual)] == [6, 2, -4]


# Every rule on every kind of layer


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("name", WEIGHTED)
def test_rules_equal_their_definitions(name: str, nonneg: bool, dtype: torch.dtype) -> None:
    layer, a = layers.build(name), values(2, *layers.WEIGHTED[name][1]).clamp(-2.4, 1.9)
    check_branches([branch(layer, a, case, nonneg=nonneg) for case in CASES], dtype)


# αβ, γ and z⁺ where one sign is small beside the other

RATIOS = (1e-4, 1e-7, 1e-12, 0.0)


def lopsided(a: Tensor, ratio: float, flip: bool) -> nn.Linear:
    """Contributions of one sign, but for those of inputs 1 and 4, which have the other, smaller by `ratio`."""
    layer = nn.Linear(a.shape[1], 4, bias=False).double()
    size = torch.rand(4, a.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(4)) + 0.5
    size[:, [1, 4]] *= -ratio
    with torch.no_grad():
        layer.weight.copy_(size * a[0].sign() * (-1 if flip else 1))
    return layer


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("nonneg", [True, False])
@pytest.mark.parametrize("case", SIGNED, ids=["gamma", "gamma 1000", "alpha_beta", "z_plus"])
def test_a_part_far_smaller_than_the_other(case: Case, nonneg: bool, dtype: torch.dtype) -> None:
    """Or none at all: what should go to it is then the residual."""
    signs = torch.ones(8, dtype=torch.float64) if nonneg else torch.tensor([1, -1, -1, 1, 1, -1, 1, -1]).double()
    a = (values(3, 8).abs() + 0.1) * signs
    check_branches(
        [
            branch(lopsided(a, ratio, flip), a, case, nonneg=nonneg, about=(ratio, "positive" if flip else "negative"))
            for ratio in RATIOS
            for flip in (False, True)
        ],
        dtype,
    )


def positive_convolution(ratio: float) -> nn.Conv2d:
    """One of its 8 weights is negative, and small."""
    layer = nn.Conv2d(2, 3, 2, padding=1).double()
    with torch.no_grad():
        layer.weight.copy_(values(3, 2, 2, 2).abs() + 0.05)
        layer.weight[:, 1, 0, 1] *= -ratio
        layer.bias.copy_(torch.tensor([0.2, 0.0, 0.3]))
    return layer


@pytest.mark.parametrize("dtype", TYPES)
def test_a_convolution_with_hardly_any_negative_weights(dtype: torch.dtype) -> None:
    a = values(2, 2, 4, 3)
    check_branches(
        [branch(positive_convolution(r), a, case, nonneg=True, about=r) for r in RATIOS for case in SIGNED], dtype
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("nonneg", [True, False])
def test_a_sample_without_any_activation(nonneg: bool, dtype: torch.dtype) -> None:
    a = values(3, 6).clamp(-2.4, 1.9)
    a[1] = 0.0
    torch.manual_seed(5)
    ls = (nn.Linear(6, 5, bias=True).double(), nn.Linear(6, 5, bias=False).double())
    check_branches([branch(layer, a, case, nonneg=nonneg) for layer in ls for case in CASES], dtype)


# ε: zeros, signs of zero, sums that cancel, samples of other sizes


@pytest.mark.parametrize("dtype", TYPES)
def test_stabilizers_of_zeros_and_of_samples_of_other_sizes(dtype: torch.dtype) -> None:
    """Whole numbers: sums cancel to 0 exactly, as they do by hand."""
    layer = nn.Linear(4, 3, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -1, 2, 0], [-1, 1, -2, 3], [1, 1, 1, 1]]))
    a = torch.tensor([[2.0, 2, 0, 1], [-0.0, -0.0, -0.0, -0.0], [1, 3, 1, -1], [-4, -2, 1, 0]]).double()
    a[3] *= 2.0**10
    assert (layer(a)[[0, 2]] == 0).any(1).all()
    cases = [
        (rule, {"epsilon": 0.25, "epsilon_mode": mode})
        for rule in ("epsilon", "gamma", "power")
        for mode in ("rms", "std", "absolute")
    ]
    branches = [branch(layer, a, case) for case in cases]
    check_branches(branches, dtype, torch.tensor([[3.0, -1, 2]] * 4))
    for i in range(4):  # no sample sees another
        alone = [Branch(b.net, b.x[i : i + 1], b.case, b.expected) for b in branches]
        check_branches(alone, dtype, torch.tensor([[3.0, -1, 2]]))


# Layers behind which a rectifier stands, or something that is none


def two_layers(act: Callable[[Tensor], Tensor], first: nn.Module, a: Tensor, case: Case, *, also: str = "") -> Branch:
    """layer → act → linear; `also`: what else the layer's values go to. The activation's f(0) is 0."""

    def behind(z: Tensor) -> Tensor:
        h = act(z)
        h = torch.cat([h, z if also == "values" else act(z)], 1) if also else h
        return h.flatten(1)

    first = copy.deepcopy(first)
    with torch.no_grad():
        first.weight *= 3.0  # beyond what relu6 and hardtanh let through
        width = behind(first(a)).shape[1]
    head = nn.Linear(width, 3).double()
    net = Net(lambda m, x: m.head(behind(m.first(x))), first=first, head=head)

    def expected(x: Tensor, R: Tensor, case: Case) -> list[plain.Result]:
        rule, options = case
        h = behind(first(x)).detach()
        top = plain.relevance(rule, plain.table(head, (width,)), h, R, **options)
        passed = top.relevance.unflatten(1, (2, -1)).sum(1) if also else top.relevance
        return [top, plain.relevance(rule, plain.table(first, tuple(x.shape[1:])), x, passed, **options)]

    return Branch(net, a, case, expected, also)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu twice": lambda z: F.relu(F.relu(z)),
    "relu in place": lambda z: F.relu_(z.clone()),
    "clamp": lambda z: z.clamp(min=0),
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "hardtanh from 0": lambda z: F.hardtanh(z, 0.0, 0.5),
    "threshold": lambda z: F.threshold(z, 0.4, 0.0),
    "leaky_relu": lambda z: F.leaky_relu(z, 0.1),
    "gelu": F.gelu,
    "abs": torch.abs,
    "relu of the negative": lambda z: F.relu(-z),
    "relu of twice": lambda z: F.relu(2 * z),
    "relu of a view": lambda z: F.relu(z.flatten(1)),
}


def firsts() -> list[tuple[nn.Module, Tensor]]:
    torch.manual_seed(6)
    return [
        (nn.Linear(6, 5).double(), values(3, 6)),
        (nn.Conv2d(2, 3, 2, stride=2).double(), values(3, 2, 4, 4)),
    ]


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_layers_before_activations(act: str) -> None:
    """The scale of ε is that of the layer's own values, of both signs and however large."""
    check_branches([two_layers(ACTIVATIONS[act], layer, a, case) for layer, a in firsts() for case in READING])


@pytest.mark.parametrize("also", ["values", "a second relu"])
def test_a_layer_read_by_a_relu_and_by_something_else(also: str) -> None:
    check_branches([two_layers(F.relu, layer, a, case, also=also) for layer, a in firsts() for case in READING])


def test_initial_relevance_where_a_rectified_output_is_zero() -> None:
    """The user's own relevance may stand where the ReLU is silent: it arrives at a negative value and is shared there."""
    layer, x = firsts()[0]
    assert (layer(x) < 0).any()
    alone = of_one_layer(layer, (6,))
    check_branches([Branch(nn.Sequential(layer, nn.ReLU()), x, case, alone) for case in READING])


def test_a_layer_used_twice() -> None:
    """The same weights before a ReLU and on its output: one call has signed inputs, the other not."""
    torch.manual_seed(9)
    inner = nn.Linear(6, 6).double()
    t = plain.table(inner, (6,))

    def expected(x: Tensor, R: Tensor, case: Case) -> list[plain.Result]:
        top = plain.relevance(case[0], t, F.relu(inner(x)).detach(), R, **case[1])
        return [top, plain.relevance(case[0], t, x, top.relevance, **case[1])]

    net = Net(lambda m, x: m.inner(F.relu(m.inner(x))), inner=inner)
    check_branches([Branch(net, values(3, 6), case, expected) for case in READING])
