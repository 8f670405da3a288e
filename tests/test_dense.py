"""The oracle is itself checked: against numbers worked out by hand, and against a published implementation.

If these pass, a disagreement in the other tests is a fault of the package and not of the oracle.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import dense
import windows
from checks import check_same_map
from dense import Dense
from toolbox import NETS, RULES, load, oracle_map


def doubles(*values: float) -> Tensor:
    """One row in float64."""
    return torch.tensor([values], dtype=torch.float64)


# One output, z = 3 * 1 + 1 * (-2) + 2 * 0.25 + 0.5 = 2, so a w = (3, -2, 0.5) and b = 0.5; relevance 4.
ONE = Dense(doubles(3.0, 1.0, 2.0), doubles(0.5)[0], torch.Size((3,)))
A = doubles(1.0, -2.0, 0.25)
R = doubles(4.0)
# The same weights and input, but the bias makes z = 1.5 - 2 = -0.5 (b = -2), for the rules that look at the sign.
LOW = Dense(ONE.weight, doubles(-2.0)[0], ONE.shape)

BY_HAND = [
    (dense.zero(ONE, A, R), [3 / 2 * 4, -2 / 2 * 4, 0.5 / 2 * 4]),
    (dense.zero(ONE, A, R, bias="ignore"), [3 / 1.5 * 4, -2 / 1.5 * 4, 0.5 / 1.5 * 4]),
    (dense.zero(ONE, A, R, bias="share"), [(3 + 1 / 6) / 2 * 4, (-2 + 1 / 6) / 2 * 4, (0.5 + 1 / 6) / 2 * 4]),
    (dense.epsilon(ONE, A, R, 0.5, "absolute"), [3 / 2.5 * 4, -2 / 2.5 * 4, 0.5 / 2.5 * 4]),
    (dense.epsilon(ONE, A, R, 0.5, "rms"), [3 / 3 * 4, -2 / 3 * 4, 0.5 / 3 * 4]),
    (dense.epsilon(ONE, A, R, 0.5, "std"), [3 / 2 * 4, -2 / 2 * 4, 0.5 / 2 * 4]),
    (dense.epsilon(LOW, A, R, 0.5, "absolute"), [3 / -1 * 4, -2 / -1 * 4, 0.5 / -1 * 4]),
    # z > 0: numerators 3.75, -2, 0.625, bias 0.625; z < 0 (b = -2): 3, -2.5, 0.5, bias -2.5.
    (dense.gamma(ONE, A, R, 0.25, 0.0), [3.75 / 3 * 4, -2 / 3 * 4, 0.625 / 3 * 4]),
    (dense.gamma(LOW, A, R, 0.25, 0.0), [3 / -1.5 * 4, -2.5 / -1.5 * 4, 0.5 / -1.5 * 4]),
    # positive parts 3, 0.5 and the bias 0.5 of 4; the negative part -2 alone.
    (dense.alpha_beta(ONE, A, R, 2, 1), [2 * 3 / 4 * 4, -4, 2 * 0.5 / 4 * 4]),
    (dense.alpha_beta(LOW, A, R, 2, 1), [2 * 3 / 3.5 * 4, -2 / 4 * 4, 2 * 0.5 / 3.5 * 4]),
    (dense.alpha_beta(ONE, A, R, 2, 1, bias="ignore"), [2 * 3 / 3.5 * 4, -4, 2 * 0.5 / 3.5 * 4]),
    (dense.z_plus(ONE, A, R), [3 / 4 * 4, 0, 0.5 / 4 * 4]),
    (dense.power(ONE, A, R, 2, 0.0), [9 / 13.5 * 4, 4 / 13.5 * 4, 0.25 / 13.5 * 4]),
    (dense.flat(ONE, A, R), [4 / 3, 4 / 3, 4 / 3]),
    (dense.w_square(ONE, A, R), [9 / 14 * 4, 1 / 14 * 4, 4 / 14 * 4]),
    (dense.w_square(ONE, A, R, bias="absorb"), [9 / 14.25 * 4, 1 / 14.25 * 4, 4 / 14.25 * 4]),
    # all weights positive: x w - l w = (x + 3) w = 12, 1, 6.5
    (dense.z_box(ONE, A, R, -3.0, 2.0), [12 / 19.5 * 4, 1 / 19.5 * 4, 6.5 / 19.5 * 4]),
]


@pytest.mark.parametrize(("actual", "expected"), BY_HAND)
def test_a_neuron_worked_out_by_hand(actual: Tensor, expected: list[float]) -> None:
    check_same_map(actual, doubles(*expected), rtol=1e-14)


def test_z_box_takes_the_upper_bound_where_weights_are_negative() -> None:
    layer = Dense(doubles(2.0, -1.0), doubles(0.0)[0], torch.Size((2,)))
    actual = dense.z_box(layer, doubles(0.5, 0.25), R, low=doubles(0.0, -1.0), high=doubles(1.0, 2.0))
    # 0.5 * 2 - 0 * 2 = 1 and 0.25 * -1 - 2 * -1 = 1.75
    check_same_map(actual, doubles(1 / 2.75 * 4, 1.75 / 2.75 * 4), rtol=1e-14)


def test_the_chapters_gamma_is_the_general_one_on_activations_of_relu() -> None:
    torch.manual_seed(0)
    layer = dense.dense(nn.Linear(6, 4, dtype=torch.float64), (6,))
    a = torch.rand(3, 6, dtype=torch.float64)
    z = a @ layer.weight.T + layer.bias
    relevance = torch.relu(z) * torch.rand_like(z)  # as after a ReLU: only z > 0 carries relevance
    general = dense.gamma(layer, a, relevance, gamma=0.25, epsilon=0.0)
    check_same_map(general, dense.chapter_gamma(layer, a, relevance, gamma=0.25), rtol=1e-13)


def test_the_matrix_of_a_convolution_by_loops() -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2, dtype=torch.float64)
    layer = dense.dense(conv, (4, 9))
    expected = torch.zeros(6, 5, 4, 9, dtype=torch.float64)
    for o in range(6):
        for t in range(5):
            for i in range(2):  # input channels of the group of o
                for tap in range(3):
                    at = 2 * t - 2 + 2 * tap
                    if 0 <= at < 9:
                        expected[o, t, 2 * (o // 3) + i, at] = conv.weight[o, i, tap]
    check_same_map(layer.weight, expected.reshape(30, 36).detach(), rtol=1e-15)
    check_same_map(layer.bias, conv.bias.detach().repeat_interleave(5), rtol=1e-15)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel": 2, "stride": 2},
        {"kernel": 3, "stride": 2, "padding": 1},
        {"kernel": 2, "stride": 1, "dilation": 2},
        {"kernel": 3, "stride": 2, "ceil_mode": True},
        {"kernel": 3, "stride": 3, "padding": 1, "ceil_mode": True},
    ],
)
def test_windows_are_those_of_torch(options: dict[str, int]) -> None:
    a = torch.randn(1, 1, 8, 7)
    pooled = nn.functional.max_pool2d(
        a, options["kernel"], options["stride"], options.get("padding", 0), options.get("dilation", 1),
        options.get("ceil_mode", False),
    )  # fmt: skip
    places = windows.windows((8, 7), **options)
    check_same_map(torch.stack([a.reshape(-1)[place].max() for place in places]), pooled.reshape(-1), rtol=0)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("rule", RULES)
def test_the_published_maps_by_double_sums(net: str, rule: str) -> None:
    expected = load(f"{net}_R_{rule}")
    check_same_map(oracle_map(net, rule), expected, rtol=1e-11)
