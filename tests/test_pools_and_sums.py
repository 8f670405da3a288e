"""Max-pooling, residual sums, branches and shared layers equal explicit loops and formulas written by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import dense
import relprop
import windows
from checks import check_same_map

RTOL = 1e-9
BATCH, CHANNELS = 3, 2
MODULES = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
SIZES = {1: (11,), 2: (8, 7), 3: (5, 4, 5)}
GEOMETRIES = {
    "plain": {"kernel": 2, "stride": 2},
    "overlapping": {"kernel": 3, "stride": 1},
    "gaps": {"kernel": 2, "stride": 3},
    "padding": {"kernel": 3, "stride": 2, "padding": 1},
    "dilation": {"kernel": 2, "stride": 1, "dilation": 2},
    "ceil_mode": {"kernel": 3, "stride": 2, "ceil_mode": True},
    "all": {"kernel": 2, "stride": 3, "padding": 1, "dilation": 2, "ceil_mode": True},
}


def pool(dims: int, geometry: str) -> nn.Module:
    return MODULES[dims](**{("kernel_size" if key == "kernel" else key): v for key, v in GEOMETRIES[geometry].items()})


def images(dims: int) -> Tensor:
    torch.manual_seed(dims)
    return torch.randn(BATCH, CHANNELS, *SIZES[dims], dtype=torch.float64)


def windows_of(layer: nn.Module, x: Tensor, geometry: str) -> list[list[int]]:
    """The oracle's windows, after checking that they are those of the layer."""
    places = windows.windows(tuple(x.shape[2:]), **GEOMETRIES[geometry])
    flat = x.flatten(2)
    check_same_map(torch.stack([flat[..., place].amax(-1) for place in places], -1), layer(x).flatten(2), rtol=0)
    return places


# Every geometry in two dimensions, those with borders in the others.
SHAPES = [(2, geometry) for geometry in GEOMETRIES] + [(n, g) for n in (1, 3) for g in ("padding", "ceil_mode", "all")]


@pytest.mark.parametrize(("dims", "geometry"), SHAPES)
def test_the_winner_takes_all_and_ties_share_equally(dims: int, geometry: str) -> None:
    layer, x = pool(dims, geometry), images(dims)
    x[:, 1] = (1.5 * x[:, 1]).round()  # few distinct values in the second channel, so many ties
    R = torch.randn_like(layer(x))
    actual = relprop.explain(layer, x, target=R, composite="epsilon").relevance
    check_same_map(actual, windows.winner(x, R, windows_of(layer, x, geometry)), rtol=RTOL)


@pytest.mark.parametrize(("dims", "geometry"), [*((2, geometry) for geometry in GEOMETRIES), (1, "all"), (3, "all")])
def test_max_pooling_as_a_sum_of_its_window(dims: int, geometry: str) -> None:
    layer, x = pool(dims, geometry), images(dims)
    R = torch.randn_like(layer(x))
    options = {"epsilon": 0.1, "epsilon_mode": "rms" if dims == 2 else "absolute"}
    actual = relprop.explain(layer, x, target=R, composite="epsilon", max_pool="sum", **options).relevance
    f = windows.total(CHANNELS, SIZES[dims], windows_of(layer, x, geometry))
    check_same_map(actual, dense.epsilon(f, x, R, **options), rtol=RTOL)


@pytest.mark.parametrize("rule", ["flat", "w_square", "z_plus", "gamma"])
def test_max_pooling_as_a_sum_takes_the_rules_of_sums(rule: str) -> None:
    layer, x = pool(2, "padding"), images(2)
    R = torch.randn_like(layer(x))
    composite = relprop.Composite([(relprop.composites.family("max_pool"), rule)])
    actual = relprop.explain(layer, x, target=R, composite=composite).relevance
    f = windows.total(CHANNELS, SIZES[2], windows_of(layer, x, "padding"))
    check_same_map(actual, dense.RULES[rule](f, x, R), rtol=RTOL)


@pytest.mark.parametrize("layer", [nn.AdaptiveMaxPool2d((2, 3)), nn.AdaptiveMaxPool2d(1)], ids=["2x3", "global"])
def test_adaptive_max_pooling(layer: nn.Module) -> None:
    x = (images(2) * 1.5).round()
    R = torch.randn_like(layer(x))
    actual = relprop.explain(layer, x, target=R, composite="epsilon").relevance
    expected = torch.zeros_like(x)
    rows, columns = R.shape[2:]
    for i in range(rows):
        for j in range(columns):
            top, bottom = i * 8 // rows, -(-(i + 1) * 8 // rows)
            left, right = j * 7 // columns, -(-(j + 1) * 7 // columns)
            window = x[:, :, top:bottom, left:right]
            best = window == window.amax((2, 3), keepdim=True)
            shares = best.double() / best.sum((2, 3), keepdim=True)
            expected[:, :, top:bottom, left:right] += shares * R[:, :, i : i + 1, j : j + 1]
    check_same_map(actual, expected, rtol=RTOL)


def test_a_global_maximum_is_a_winner_too() -> None:
    class Largest(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.amax((2, 3))

    x = (images(2) * 1.5).round()
    R = torch.randn(BATCH, CHANNELS, dtype=torch.float64)
    best = x == x.amax((2, 3), keepdim=True)
    expected = best / best.sum((2, 3), keepdim=True) * R[:, :, None, None]
    check_same_map(relprop.explain(Largest(), x, target=R, composite="epsilon").relevance, expected, rtol=RTOL)


# Sums and branches. EPSILON is large so that leaving it out anywhere would show.
EPSILON = {"epsilon": 0.1, "epsilon_mode": "absolute"}


def stabilized(z: Tensor) -> Tensor:
    return z + dense.stabilizer(z.flatten(1), 0.1, "absolute").reshape(z.shape)


def rule(layer: nn.Module, a: Tensor, R: Tensor) -> Tensor:
    return dense.epsilon(dense.dense(layer, tuple(a.shape[1:])), a, R, **EPSILON)


class Net(nn.Module):
    """Two linear layers put together by `how`."""

    def __init__(self, how: Callable[..., Tensor], widths: tuple[int, int] = (5, 5)) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.f, self.g, self.how = nn.Linear(5, widths[0]), nn.Linear(5, widths[1]), how
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)


def explained(net: nn.Module, outputs: int = 5, **options: object) -> tuple[Tensor, Tensor, Tensor]:
    """Input, initial relevance and relprop's map."""
    torch.manual_seed(9)
    x, R = torch.randn(BATCH, 5, dtype=torch.float64), torch.randn(BATCH, outputs, dtype=torch.float64)
    return x, R, relprop.explain(net, x, target=R, composite="epsilon", **EPSILON, **options).relevance


def test_a_residual_sum_by_the_epsilon_rule() -> None:
    net = Net(lambda m, x: x + m.f(x))
    x, R, actual = explained(net, residual="epsilon")
    y = net.f(x).detach()
    s = R / stabilized(x + y)
    check_same_map(actual, x * s + rule(net.f, x, y * s), rtol=RTOL)


def test_a_residual_sum_by_magnitude() -> None:
    net = Net(lambda m, x: x + m.f(x))
    x, R, actual = explained(net, residual="magnitude")
    y = net.f(x).detach()
    s = R / (x.abs() + y.abs())
    check_same_map(actual, x.abs() * s + rule(net.f, x, y.abs() * s), rtol=RTOL)


def test_two_residual_blocks_one_after_the_other() -> None:
    net = Net(lambda m, x: m.g(torch.relu(x + m.f(x))) + (x + m.f(x)))
    x, R, actual = explained(net, residual="epsilon")
    y = net.f(x).detach()
    h = x + y
    a = torch.relu(h)
    z = net.g(a).detach()
    s = R / stabilized(z + h)
    upper = rule(net.g, a, z * s)
    # x + f(x) is computed twice, once for each branch of the outer sum.
    through = [part / stabilized(h) for part in (upper, h * s)]
    expected = sum(x * t + rule(net.f, x, y * t) for t in through)
    check_same_map(actual, expected, rtol=RTOL)


def test_a_difference() -> None:
    net = Net(lambda m, x: m.f(x) - m.g(x))
    x, R, actual = explained(net, residual="epsilon")
    y, z = net.f(x).detach(), net.g(x).detach()
    s = R / stabilized(y - z)
    check_same_map(actual, rule(net.f, x, y * s) + rule(net.g, x, -z * s), rtol=RTOL)


def test_a_sum_in_place_and_one_with_alpha() -> None:
    net = Net(lambda m, x: m.f(x).add_(m.g(x), alpha=3))
    x, R, actual = explained(net, residual="epsilon")
    y, z = net.f(x).detach(), 3 * net.g(x).detach()
    s = R / stabilized(y + z)
    check_same_map(actual, rule(net.f, x, y * s) + rule(net.g, x, z * s), rtol=RTOL)


def test_a_constant_summand_is_a_bias() -> None:
    constant = torch.tensor([1.0, -2.0, 0.5, 3.0, -0.25], dtype=torch.float64)
    net = Net(lambda m, x: m.f(x) + constant)
    x, R, actual = explained(net)
    y = net.f(x).detach()
    check_same_map(actual, rule(net.f, x, y * R / stabilized(y + constant)), rtol=RTOL)


def test_a_sum_that_broadcasts() -> None:
    net = Net(lambda m, x: m.f(x) + x.mean(1, keepdim=True))
    x, R, actual = explained(net, residual="epsilon")
    y, mean = net.f(x).detach(), x.mean(1, keepdim=True)
    s = R / stabilized(y + mean)
    of_mean = (mean * s).sum(1, keepdim=True)
    check_same_map(actual, rule(net.f, x, y * s) + x / 5 * of_mean / stabilized(mean), rtol=RTOL)


def test_a_concatenation_sends_each_part_home() -> None:
    net = Net(lambda m, x: torch.cat([m.f(x), x, m.g(x)], 1), widths=(3, 4))
    x, R, actual = explained(net, outputs=12)
    check_same_map(actual, rule(net.f, x, R[:, :3]) + R[:, 3:8] + rule(net.g, x, R[:, 8:]), rtol=RTOL)


def test_branches_of_an_inception_block() -> None:
    net = Net(lambda m, x: torch.stack([m.f(x), torch.tanh(m.g(x))], 1).mean(1))
    x, R, actual = explained(net)
    y, z = net.f(x).detach(), torch.tanh(net.g(x)).detach()
    s = R / stabilized((y + z) / 2)
    check_same_map(actual, rule(net.f, x, y / 2 * s) + rule(net.g, x, z / 2 * s), rtol=RTOL)


def test_a_layer_used_twice_gets_a_rule_for_each_use() -> None:
    net = Net(lambda m, x: m.f(torch.tanh(m.f(x))))
    x, R, actual = explained(net)
    a = torch.tanh(net.f(x)).detach()
    check_same_map(actual, rule(net.f, x, rule(net.f, a, R)), rtol=RTOL)


def test_a_value_used_twice_collects_both_relevances() -> None:
    net = Net(lambda m, x: torch.cat([m.g(m.f(x)), m.f(x)], 1))
    x, R, actual = explained(net, outputs=10)
    a = net.f(x).detach()
    check_same_map(actual, rule(net.f, x, rule(net.g, a, R[:, :5])) + rule(net.f, x, R[:, 5:]), rtol=RTOL)


def test_two_inputs_each_get_their_share() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(8)
            self.f, self.g = nn.Linear(5, 4), nn.Linear(3, 4)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.f(x) + self.g(y)

    net = Two().double().eval()
    torch.manual_seed(9)
    x, y, R = (torch.randn(BATCH, n, dtype=torch.float64) for n in (5, 3, 4))
    of_x, of_y = relprop.explain(net, (x, y), target=R, composite="epsilon", residual="epsilon", **EPSILON).relevance
    u, v = net.f(x).detach(), net.g(y).detach()
    s = R / stabilized(u + v)
    check_same_map(of_x, rule(net.f, x, u * s), rtol=RTOL)
    check_same_map(of_y, rule(net.g, y, v * s), rtol=RTOL)
