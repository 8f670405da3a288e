"""Rules one after the other: two layers with a ReLU between them, and what the graph knows of signs.

After a ReLU the rules may take shorter paths, because inputs are known to be non-negative and relevance to arrive at
positive values only. These tests go through such paths, and through networks in which they must not be taken.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dense
import relprop
from checks import check_same_map
from relprop import composites, rules
from relprop.composites import Composite, path

RTOL = 1e-9
BATCH = 3


def dense_pair() -> tuple[nn.Sequential, tuple[int, ...]]:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double(), (6,)


def conv_pair() -> tuple[nn.Sequential, tuple[int, ...]]:
    torch.manual_seed(4)
    first = nn.Conv2d(2, 4, 3, stride=2, padding=1)
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(4, 3, 2, groups=1)).double(), (2, 6, 5)


PAIRS = {"linear": dense_pair, "conv2d": conv_pair}
OracleRule = Callable[..., Tensor]
RECIPES = {"lrp_zero": "zero"}  # the recipe of the same name as its rule, otherwise


def chained(
    net: nn.Sequential, x: Tensor, R: Tensor, upper: Callable[..., Tensor], lower: Callable[..., Tensor]
) -> Tensor:
    """Layer - ReLU - layer by the oracle: the ReLU passes relevance."""
    first, _, last = net
    hidden = torch.relu(first(x)).detach()
    R = upper(dense.dense(last, tuple(hidden.shape[1:])), hidden, R)
    return lower(dense.dense(first, tuple(x.shape[1:])), x, R)


@pytest.mark.parametrize(("pair", "bias"), [("linear", "absorb"), ("conv2d", "share")])
@pytest.mark.parametrize("name", ["lrp_zero", "epsilon", "gamma", "alpha_beta", "z_plus", "w_square"])
def test_uniform_recipe_on_two_layers(pair: str, bias: str, name: str) -> None:
    net, shape = PAIRS[pair]()
    x = torch.randn(BATCH, *shape, dtype=torch.float64)
    R = torch.randn_like(net(x)).detach()
    rule = functools.partial(dense.RULES[RECIPES.get(name, name)], bias=bias)
    actual = relprop.explain(net, x, target=R, composite=name, bias=bias).relevance
    check_same_map(actual, chained(net, x, R, rule, rule), rtol=RTOL)


@pytest.mark.parametrize("upper", ["flat", "w_square", "z_box", "gamma"])
@pytest.mark.parametrize("lower", ["gamma", "alpha_beta", "z_plus", "power"])
def test_two_rules_on_two_layers(upper: str, lower: str) -> None:
    # flat, w^2 and zB give relevance to hidden neurons that are zero: what lies below must take it.
    net, shape = conv_pair() if upper == "flat" else dense_pair()
    x = torch.randn(BATCH, *shape, dtype=torch.float64)
    R = torch.randn_like(net(x)).detach()
    options = {"low": -0.5, "high": float(net[:2](x).detach().max()) + 1.0} if upper == "z_box" else {}
    pairs = [(path("2"), functools.partial(getattr(rules, upper), **options)), (path("0"), lower)]
    actual = relprop.explain(net, x, target=R, composite=Composite(pairs) + composites.get("epsilon")).relevance
    expected = chained(net, x, R, functools.partial(dense.RULES[upper], **options), dense.RULES[lower])
    check_same_map(actual, expected, rtol=RTOL)


def test_the_chapters_gamma_rule_on_hidden_layers() -> None:
    net, shape = dense_pair()
    net = nn.Sequential(nn.ReLU(), *net)  # all inputs of layers are >= 0
    x = torch.randn(BATCH, *shape, dtype=torch.float64)
    R = (
        torch.rand(BATCH, 4, dtype=torch.float64) * torch.relu(net(x)).detach()
    )  # relevance where the output is positive
    actual = relprop.explain(net, x, target=R, composite="gamma", gamma=0.5, epsilon=0.0).relevance
    rule = functools.partial(dense.chapter_gamma, gamma=0.5)
    check_same_map(actual, chained(net[1:], torch.relu(x), R, rule, rule), rtol=RTOL)


# Ways to make the output of a ReLU signed again, which a wrong analysis of signs would overlook: the input h of the
# next layer from a = relu(x), x and a negative vector v, and the relevance of x from the relevance of h.
MASK = torch.tensor([True, True, False, True, False, True])
SIGNED_AGAIN: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    # ε is relative to the summand that depends on the input, a >= 0
    "buffer": (
        lambda a, x, v: a + v,
        lambda R, h, a, v: R * a / (h + dense.stabilizer(a, 1e-6, "rms") * torch.where(h >= 0, 1.0, -1.0)),
    ),
    # Sums of functions of one entry are one activation, which passes relevance.
    "alpha": (lambda a, x, v: torch.add(a, torch.relu(-x), alpha=-2), lambda R, h, a, v: R),
    "difference": (lambda a, x, v: a - torch.relu(-x), lambda R, h, a, v: R),
    "roll": (lambda a, x, v: torch.add(a, a.roll(1, 1), alpha=-2), lambda R, h, a, v: of_rolled(R, h, a)),
    "pad": (lambda a, x, v: F.pad(a[:, 1:], (0, 1), value=-0.5), lambda R, h, a, v: F.pad(R[:, :-1], (1, 0))),
    "cat": (
        lambda a, x, v: torch.cat([a[:, 2:], v[:2].expand(a.shape[0], 2)], 1),
        lambda R, h, a, v: F.pad(R[:, :-2], (2, 0)),
    ),
    "scale": (lambda a, x, v: a * v, lambda R, h, a, v: R),
    "where": (lambda a, x, v: torch.where(MASK, a, v), lambda R, h, a, v: R * MASK),
    "fill": (lambda a, x, v: a.masked_fill(MASK, -1.0), lambda R, h, a, v: R * ~MASK),
}


def of_rolled(R: Tensor, h: Tensor, a: Tensor) -> Tensor:
    """Relevance of a from that of h = a - 2 roll(a)."""
    s = R / (h + dense.stabilizer(h, 1e-6, "rms"))
    return a * s + (-2 * a.roll(1, 1) * s).roll(-1, 1)


class SignedAgain(nn.Module):
    """A linear layer whose input went through a ReLU and is signed nevertheless."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.linear = nn.Linear(6, 4)
        self.register_buffer("v", -torch.rand(6) - 0.1)

    def hidden(self, x: Tensor) -> Tensor:
        return SIGNED_AGAIN[self.how][0](torch.relu(x), x, self.v)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.hidden(x))


@pytest.mark.parametrize("how", SIGNED_AGAIN)
@pytest.mark.parametrize("name", ["gamma"])
def test_the_path_for_non_negative_inputs_is_not_taken_for_signed_ones(how: str, name: str) -> None:
    torch.manual_seed(6)
    net = SignedAgain(how).double().eval()
    x = torch.randn(BATCH, 6, dtype=torch.float64)
    R = torch.randn(BATCH, 4, dtype=torch.float64)
    composite = Composite([(path("linear"), name)]) + composites.get("epsilon")
    actual = relprop.explain(net, x, target=R, composite=composite).relevance
    hidden = net.hidden(x)
    R = dense.RULES[name](dense.dense(net.linear, (6,)), hidden, R)
    check_same_map(actual, SIGNED_AGAIN[how][1](R, hidden, torch.relu(x), net.v), rtol=RTOL)
