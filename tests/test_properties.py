"""Invariants on random networks: the ledger closes, maps scale with the input, samples do not see each other."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import relprop
from checks import check_same_map, check_sums_to

# Capturing takes most of a second on a slow machine and more at the first call, so no deadline and few examples.
few = settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "leaky": nn.LeakyReLU, "elu": nn.ELU}
POOLS = {"none": nn.Identity, "max": lambda: nn.MaxPool2d(2), "average": lambda: nn.AvgPool2d(2, ceil_mode=True)}
RECIPES = {
    "lrp_zero": {},
    "epsilon": {"epsilon": 0.1},
    "gamma": {},
    "alpha_beta": {"alpha": 2, "beta": 1},
    "z_plus": {},
    "w_square": {},
    "flat": {},
    "epsilon_plus": {},
    "epsilon_gamma_box": {"low": -4.0, "high": 4.0},
    "epsilon_alpha2_beta1_flat": {},
    "montavon2019": {"low": -4.0, "high": 4.0},
}


@st.composite
def dense_nets(
    draw: st.DrawFn, bias: bool | None = None, activations: tuple[str, ...] = tuple(ACTIVATIONS)
) -> nn.Module:
    """Two to four linear layers of random widths."""
    widths = draw(st.lists(st.integers(2, 7), min_size=3, max_size=5))
    torch.manual_seed(draw(st.integers(0, 10**6)))
    has_bias = draw(st.booleans()) if bias is None else bias
    layers: list[nn.Module] = []
    for n, m in itertools.pairwise(widths):
        layers += [nn.Linear(n, m, bias=has_bias), ACTIVATIONS[draw(st.sampled_from(activations))]()]
    return nn.Sequential(*layers[:-1]).double().eval()


@st.composite
def conv_nets(
    draw: st.DrawFn, bias: bool | None = None, activations: tuple[str, ...] = tuple(ACTIVATIONS)
) -> nn.Module:
    """One or two convolutions of random geometry on images [3, 9, 8], perhaps normalized and pooled, then linear."""
    torch.manual_seed(draw(st.integers(0, 10**6)))
    has_bias = draw(st.booleans()) if bias is None else bias
    layers: list[nn.Module] = []
    channels = 3
    for _ in range(draw(st.integers(1, 2))):
        out, groups = draw(st.integers(1, 2)) * channels, draw(st.sampled_from([1, channels]))
        kernel, stride, padding = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(0, 1))
        layers.append(nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=has_bias))
        if has_bias and draw(st.booleans()):
            layers.append(randomized(nn.BatchNorm2d(out)))
        layers.append(ACTIVATIONS[draw(st.sampled_from(activations))]())
        channels = out
    layers += [POOLS[draw(st.sampled_from(sorted(POOLS)))](), nn.Flatten(), nn.LazyLinear(4, bias=has_bias)]
    net = nn.Sequential(*layers).double().eval()
    net(torch.zeros(1, 3, 9, 8, dtype=torch.float64))
    return net


def randomized(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """A BatchNorm that looks trained."""
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return norm


def compare(actual: Tensor, expected: Tensor) -> None:
    """The maps agree; networks in which no neuron is active are of no interest."""
    assume(bool(expected.abs().max() > 0))
    check_same_map(actual, expected, rtol=1e-9)


nets = st.one_of(dense_nets(), conv_nets())


def sample(net: nn.Module, batch: int) -> Tensor:
    """Random inputs of the shape the net takes, within the box of the recipes above."""
    first = net[0]  # type: ignore[index]
    shape = (first.in_features,) if isinstance(first, nn.Linear) else (first.in_channels, 9, 8)
    return torch.randn(batch, *shape, dtype=torch.float64).clamp(-3.9, 3.9)


def recipe(name: str) -> dict[str, object]:
    """The recipe and its options as keyword arguments."""
    return {"composite": name, **RECIPES[name]}


def per_sample(R: Tensor) -> Tensor:
    """Sums over everything but the batch."""
    return R.flatten(1).sum(1)


@few
@given(net=nets, name=st.sampled_from(sorted(RECIPES)))
def test_the_ledger_closes(net: nn.Module, name: str) -> None:
    x = sample(net, 3)
    e = relprop.explain(net, x, ledger=True, **recipe(name))
    output = net(x).detach()
    check_same_map(e.output, output, rtol=1e-12)
    check_sums_to(e.score, output.max(1).values, rtol=1e-12)
    ledger = e.ledger
    check_sums_to(ledger.score, e.score, rtol=1e-12)
    check_sums_to(ledger.input, per_sample(e.relevance), rtol=1e-9)
    check_closes(ledger, e.relevance)
    assert ledger.closes(rtol=1e-9)


def check_closes(ledger: relprop.Ledger, relevance: Tensor) -> None:
    """The accounts sum to the score, to the precision of the largest of them."""
    accounts = torch.stack([ledger.input, ledger.bias, ledger.epsilon, ledger.residual])
    scale = torch.maximum(accounts.abs().max(0).values, relevance.abs().flatten(1).sum(1))
    error = ((accounts.sum(0) - ledger.score).abs() / scale.clamp(min=ledger.score.abs())).max().item()
    if error > 1e-9:
        raise AssertionError(
            f"the accounts sum to {accounts.sum(0).tolist()}, not to {ledger.score.tolist()}: {ledger}"
        )


@few
@given(net=st.one_of(dense_nets(bias=False, activations=("relu",)), conv_nets(bias=False, activations=("relu",))))
def test_without_biases_the_inputs_get_the_whole_score(net: nn.Module) -> None:
    x = sample(net, 3)
    e = relprop.explain(net, x, composite="lrp_zero")
    check_sums_to(per_sample(e.relevance), e.score, rtol=1e-9)


@few
@given(
    net=st.one_of(dense_nets(bias=False, activations=("relu",)), conv_nets(bias=False, activations=("relu",))),
    name=st.sampled_from(["lrp_zero", "epsilon", "gamma", "alpha_beta", "z_plus", "w_square", "flat", "epsilon_plus"]),
    factor=st.sampled_from([1e-5, 0.5, 3.0, 1e4]),
)
def test_maps_of_nets_without_biases_scale_with_the_input(net: nn.Module, name: str, factor: float) -> None:
    x = sample(net, 2)
    explainer = relprop.Explainer(net, x, **recipe(name))
    compare(explainer(factor * x, target=1).relevance, factor * explainer(x, target=1).relevance)


@few
@given(net=nets, name=st.sampled_from(sorted(RECIPES)))
def test_a_sample_does_not_see_its_batch(net: nn.Module, name: str) -> None:
    x = sample(net, 4)
    target = torch.arange(4) % 2
    explainer = relprop.Explainer(net, x, **recipe(name))
    together = explainer(x, target=target).relevance
    alone = torch.cat([explainer(x[i : i + 1], target=target[i : i + 1]).relevance for i in range(4)])
    compare(alone, together)
    single = relprop.explain(net, x[2:3], target=target[2:3], **recipe(name)).relevance
    compare(single, together[2:3])


@few
@given(net=nets, name=st.sampled_from(sorted(RECIPES)), order=st.permutations(range(4)))
def test_a_permuted_batch_gives_the_permuted_maps(net: nn.Module, name: str, order: list[int]) -> None:
    x = sample(net, 4)
    explainer = relprop.Explainer(net, x, **recipe(name))
    compare(explainer(x[order]).relevance, explainer(x).relevance[order])


class ReadsItsBatch(nn.Module):
    """A model whose Python code turns the batch size into a number, which fixes it at capture."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones(2, dtype=x.dtype).expand(len(x), 2)], 1)


def test_a_model_that_reads_its_batch_size_takes_every_batch() -> None:
    x = torch.randn(4, 3, dtype=torch.float64)
    explainer = relprop.Explainer(ReadsItsBatch(), x[:3], composite="epsilon")
    for batch in (3, 2, 1, 4):
        relevance = explainer(x[:batch], target=1).relevance
        check_same_map(relevance, x[:batch] * torch.tensor([0.0, 1.0, 0.0]), rtol=1e-12)


@pytest.mark.parametrize("name", ["epsilon", "gamma", "alpha_beta", "w_square", "epsilon_gamma_box"])
def test_relevance_is_linear_in_the_initial_relevance(name: str) -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 7 * 6, 5)).double()
    x = sample(net, 2)
    explainer = relprop.Explainer(net, x, **recipe(name))
    one, two = torch.randn(2, 2, 5, dtype=torch.float64)
    separately = 2 * explainer(x, target=one).relevance - 3 * explainer(x, target=two).relevance
    check_same_map(explainer(x, target=2 * one - 3 * two).relevance, separately, rtol=1e-9)
