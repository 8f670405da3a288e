"""Dropout, final probabilities, activations of torch.nn, and activations written out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop
from checks import check_same_map
from nets import Net, dense, rows

SAME = 1e-12

# Dropout and the end of the network


def test_dropout_is_gone() -> None:
    drop = [nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.FeatureAlphaDropout(0.5), nn.Identity()]
    model = nn.Sequential(nn.Linear(4, 4), *drop, nn.Linear(4, 3)).double().train()
    explainer = relprop.Explainer(model, rows(), "epsilon")
    assert [r["op"] for r in explainer.rules] == ["linear", "linear"]
    expected = relprop.explain(nn.Sequential(model[0], model[-1]), rows(), composite="epsilon").relevance
    check_same_map(explainer(rows()).relevance, expected, rtol=SAME)


FINAL: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda z: F.softmax(z, 1),
    "log_softmax": lambda z: F.log_softmax(z, -1),
    "sigmoid": torch.sigmoid,
    "log_sigmoid": F.logsigmoid,
    "softmax, log": lambda z: torch.log(F.softmax(z, 1)),
    "sigmoid, log": lambda z: torch.sigmoid(z).log(),
}


@pytest.fixture(scope="module")
def logits() -> relprop.Explanation:
    return relprop.explain(dense(), rows(), target=torch.tensor([0, 2, 1]), composite="epsilon")


@pytest.mark.parametrize("end", FINAL)
def test_final_probabilities_are_explained_at_their_logits(end: str, logits: relprop.Explanation) -> None:
    model = Net(lambda m, x: FINAL[end](m.net(x)), net=dense())
    explainer = relprop.Explainer(model, rows(), "epsilon")
    e = explainer(rows(), target=logits.target, ledger=True)
    check_same_map(e.relevance, logits.relevance, rtol=SAME)
    check_same_map(e.output, model(rows()).detach(), rtol=SAME)  # what the model returns
    check_same_map(e.score, logits.score, rtol=SAME)  # what is explained
    assert e.ledger.closes()
    assert torch.equal(explainer(rows()).target, dense()(rows()).argmax(1))
    last = list(explainer.rules)[-1]
    assert last["op"] == end.split(", ")[-1]
    assert "logits" in last["why"]
    assert "logits" in str(explainer.rules)


def test_a_softmax_inside_the_network_is_not_final() -> None:
    model = Net(lambda m, x: m.head(F.softmax(m.net(x), 1)), net=dense(), head=nn.Linear(3, 3))
    explainer = relprop.Explainer(model, rows(), "epsilon")
    assert "softmax" in [r["op"] for r in explainer.rules if r["rule"] != "(none)"]
    assert "logits" not in str(explainer.rules)
    assert explainer(rows(), ledger=True).ledger.closes()


# Activations written out. All are branches of one network, so that it is captured once; each is a target of its own.

X = torch.tensor([[-4.0, -2.5, -0.7, -0.1], [0.2, 0.6, 1.3, 3.5]], dtype=torch.float64)
R = torch.tensor([[1.0, -2.0, 0.5, 3.0], [-1.5, 2.5, 4.0, -0.25]], dtype=torch.float64)
Function = Callable[[Tensor], Tensor]


def explained(functions: dict[str, Function]) -> dict[str, tuple[Tensor, relprop.Ledger]]:
    """Relevance and ledger of each function for the initial relevance R of its own output."""
    branches = Net(lambda m, x: torch.cat([f(x) for f in functions.values()], 1))
    targets = list(
        torch.block_diag(*[torch.ones(1, 4)] * len(functions)).double()[:, None] * R.repeat(1, len(functions))
    )
    e = relprop.explain(branches, X, target=targets, composite="lrp_zero", ledger=True)
    return dict(zip(functions, zip(e.relevance, e.ledger, strict=True), strict=True))


def new_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def softshrink(x: Tensor) -> Tensor:
    return torch.where(x > 0.05, x - 0.05, torch.where(x < -0.05, x + 0.05, torch.zeros_like(x)))


THROUGH_ZERO: dict[str, Function] = {
    "tanhshrink": F.tanhshrink,
    "softsign": F.softsign,
    "softshrink": lambda x: F.softshrink(x, 0.05),
    "softshrink, written out": softshrink,
    "hardshrink": lambda x: F.hardshrink(x, 0.05),
    "swish, written out": lambda x: x * torch.sigmoid(x),
    "swish with a slope": lambda x: x * torch.sigmoid(1.702 * x),
    "new gelu, written out": new_gelu,
    "gelu, written out": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "hard-swish, written out": lambda x: x * F.relu6(x + 4.5) / 6.0,
    "mish, written out": lambda x: x * torch.tanh(F.softplus(x)),
    "leaky relu, written out": lambda x: torch.maximum(x, 0.1 * x),
    "clipped": lambda x: torch.clamp(x, -1.0, 1.0),
    "x - x³ / 6": lambda x: x - x**3 / 6.0,
}
NOT_THROUGH_ZERO: dict[str, Function] = {
    "sigmoid + 1": lambda x: torch.sigmoid(x) + 1.0,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "exp": torch.exp,
    "cos": torch.cos,
    "x² + x + 2": lambda x: x * x + x + 2.0,
    "1 - x": lambda x: 1.0 - x,
    "threshold": lambda x: F.threshold(x, 0.5, 2.0),
    "clamp from below": lambda x: x.clamp(min=0.5),
}


@pytest.fixture(scope="module")
def through_zero() -> dict[str, tuple[Tensor, relprop.Ledger]]:
    return explained(THROUGH_ZERO)


@pytest.fixture(scope="module")
def not_through_zero() -> dict[str, tuple[Tensor, relprop.Ledger]]:
    return explained(NOT_THROUGH_ZERO)


@pytest.mark.parametrize("name", THROUGH_ZERO)
def test_activations_through_zero_pass_relevance_on(
    name: str, through_zero: dict[str, tuple[Tensor, relprop.Ledger]]
) -> None:
    relevance, ledger = through_zero[name]
    check_same_map(relevance, R, rtol=SAME)
    assert ledger.closes(1e-12)
    assert not ledger.bias.any()
    assert not ledger.residual.any()


@pytest.mark.parametrize("name", NOT_THROUGH_ZERO)
def test_what_an_activation_gives_at_zero_counts_as_a_bias(
    name: str, not_through_zero: dict[str, tuple[Tensor, relprop.Ledger]]
) -> None:
    relevance, ledger = not_through_zero[name]
    y, origin = NOT_THROUGH_ZERO[name](X), NOT_THROUGH_ZERO[name](torch.zeros_like(X))
    check_same_map(relevance, (y - origin) / y * R, rtol=1e-9)
    check_same_map(ledger.bias, (origin / y * R).sum(1), rtol=1e-9)
    assert ledger.closes()


@pytest.mark.parametrize(
    ("f", "at_zero"),
    [(lambda x: torch.log(1.0 + torch.exp(x)), math.log(2.0)), (lambda x: 1.0 / (1.0 + torch.exp(-x)), 0.5)],
    ids=["softplus", "sigmoid"],
)
def test_a_step_with_a_pole_at_zero_is_part_of_a_larger_function(f: Function, at_zero: float) -> None:
    e = relprop.explain(Net(lambda m, x: f(x)), X, target=R, composite="lrp_zero", ledger=True)
    check_same_map(e.relevance, (f(X) - at_zero) / f(X) * R, rtol=1e-9)
    assert e.ledger.closes()


# Activations of torch.nn: conv -> activation -> flatten -> linear, again as branches of one network

ACTIVATIONS: list[nn.Module] = [
    nn.CELU(0.5), nn.ELU(), nn.GELU(), nn.GELU("tanh"), nn.Hardshrink(0.2), nn.Hardswish(), nn.Hardtanh(),
    nn.Hardtanh(-0.5, 0.3), nn.LeakyReLU(0.1), nn.Mish(), nn.PReLU(4, 0.3), nn.ReLU(), nn.ReLU6(), nn.RReLU(), nn.SELU(),
    nn.SiLU(), nn.Softshrink(0.2), nn.Softsign(), nn.Tanh(), nn.Tanhshrink(), nn.ReLU(inplace=True),
]  # fmt: skip
OFFSET: list[nn.Module] = [
    nn.Hardsigmoid(), nn.LogSigmoid(), nn.Sigmoid(), nn.Softplus(), nn.Softplus(2.0, 1.0), nn.Threshold(0.1, -0.5),
    nn.Threshold(-0.2, 0.7),
]  # fmt: skip
COUPLED: list[nn.Module] = [nn.GLU(1), nn.Softmax(1), nn.Softmax2d(), nn.Softmin(1), nn.LogSoftmax(1)]
ALL = [*ACTIVATIONS, *OFFSET, *COUPLED]


class Branches(nn.Module):
    """One logit an activation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv = nn.Conv2d(2, 4, 3, bias=False)
        self.activations = nn.ModuleList(ALL)
        sizes = [32 if isinstance(a, nn.GLU) else 64 for a in ALL]
        self.heads = nn.ModuleList(
            [nn.Linear(n, 1, bias=a not in ACTIVATIONS) for n, a in zip(sizes, ALL, strict=True)]
        )
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        branches = zip(self.activations, self.heads, strict=True)
        return torch.cat([head(f(self.conv(x)).flatten(1)) for f, head in branches], 1)


@pytest.fixture(scope="module")
def ledgers() -> list[relprop.Ledger]:
    x = torch.linspace(-2, 2, 3 * 2 * 36, dtype=torch.float64).cos().view(3, 2, 6, 6)
    model = Branches()
    e = relprop.explain(model, x, target=list(range(len(ALL))), composite="epsilon", ledger=True)
    check_same_map(e.output, model.eval()(x).detach(), rtol=SAME)
    check_same_map(e.score.T, e.output, rtol=SAME)
    return e.ledger


@pytest.mark.parametrize("activation", ALL, ids=str)
def test_every_activation_of_torch_closes_the_ledger(activation: nn.Module, ledgers: list[relprop.Ledger]) -> None:
    ledger = ledgers[ALL.index(activation)]
    assert ledger.closes(1e-9)
    assert (ledger.total - ledger.score).abs().max() <= 1e-9 * ledger.score.abs().max()
    if activation in ACTIVATIONS:  # f(0) = 0, no bias: nothing is kept but by the stabilizer
        assert not ledger.bias.any()
        assert not ledger.residual.any()
