"""The random nets A and B of the fixture as torch modules, and their maps by the dense oracle.

Conventions of the published implementation, found by reproducing its maps: all parameters as stored [in, out] and
[h, w, in, out]; max-pooling gives relevance to the maximum, except under flat and w^2, where it is uniform over the
window; sum-pooling is (window sum) / sqrt(h w), epsilon being added to the raw window sum.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dense
import windows

FIXTURE = Path(__file__).parent / "fixtures" / "lrp_toolbox_random.npz"
NETS = ("A", "B")
# Name in the fixture -> rule and its parameters.
RULES: dict[str, tuple[str, dict[str, object]]] = {
    "simple": ("zero", {}),
    "eps0.01": ("epsilon", {"epsilon": 0.01, "epsilon_mode": "absolute"}),
    "eps0.5": ("epsilon", {"epsilon": 0.5, "epsilon_mode": "absolute"}),
    "ab2": ("alpha_beta", {"alpha": 2, "beta": 1}),
    "ab1": ("alpha_beta", {"alpha": 1, "beta": 0}),
    "ab0": ("alpha_beta", {"alpha": 0, "beta": -1}),
    "flat": ("flat", {}),
    "ww": ("w_square", {}),
}
UNIFORM_POOL = ("flat", "ww")


def load(key: str) -> Tensor:
    """An array of the fixture; images are turned from NHWC to NCHW."""
    with np.load(FIXTURE) as file:
        array = torch.from_numpy(file[key])
    return array.permute(0, 3, 1, 2).contiguous() if array.dim() == 4 and "_W_" not in key else array


def linear(net: str, name: str) -> nn.Linear:
    """The fixture's fully connected layer."""
    weight = load(f"{net}_W_{name}")
    layer = nn.Linear(*weight.shape, dtype=torch.float64)
    layer.load_state_dict({"weight": weight.T, "bias": load(f"{net}_b_{name}")})
    return layer


def convolution(net: str, name: str) -> nn.Conv2d:
    """The fixture's convolution."""
    weight = load(f"{net}_W_{name}").permute(3, 2, 0, 1)
    stride = tuple(load(f"{net}_stride_{name}").tolist())
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), stride, dtype=torch.float64)
    layer.load_state_dict({"weight": weight, "bias": load(f"{net}_b_{name}")})
    return layer


class SumPool(nn.Module):
    """Window sum over sqrt(h w), windows of 2 x 2 at stride 1."""

    def forward(self, x: Tensor) -> Tensor:
        return window_sum(x) / 2.0


class FlattenHWC(nn.Module):
    """Flattens with the channels innermost."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def window_sum(x: Tensor) -> Tensor:
    """Raw sums of the 2 x 2 windows at stride 1."""
    return F.avg_pool2d(x, 2, 1, divisor_override=1)


def build(net: str) -> nn.Sequential:
    """Net A (convolutional) or B (dense) of the fixture, in evaluation mode."""
    if net == "B":
        layers = [linear("B", "00_Linear"), nn.Tanh(), linear("B", "02_Linear"), nn.ReLU(), linear("B", "04_Linear")]
    else:
        layers = [
            convolution("A", "00_Convolution"), nn.ReLU(), nn.MaxPool2d(2, 2),
            convolution("A", "03_Convolution"), nn.Tanh(), SumPool(), FlattenHWC(),
            linear("A", "07_Linear"), nn.ReLU(), linear("A", "09_Linear"),
        ]  # fmt: skip
    return nn.Sequential(*layers).eval()


def oracle_map(net: str, rule: str) -> Tensor:
    """The map of the fixture's `rule`, layer by layer through the double sums of the dense oracle."""
    name, parameters = RULES[rule]
    R, a = load(f"{net}_R_init"), load(f"{net}_x")
    steps: list[tuple[nn.Module, Tensor]] = []
    for layer in build(net):
        steps.append((layer, a))
        a = layer(a).detach()
    for layer, a in reversed(steps):
        R = _step(layer, a, R, lambda f, a, R: dense.RULES[name](f, a, R, **parameters), rule in UNIFORM_POOL)
    return R


def _step(layer: nn.Module, a: Tensor, R: Tensor, rule: Callable[..., Tensor], uniform_pool: bool) -> Tensor:
    if isinstance(layer, (nn.ReLU, nn.Tanh)):
        return R
    if isinstance(layer, FlattenHWC):
        return R.reshape(len(a), a.shape[2], a.shape[3], a.shape[1]).permute(0, 3, 1, 2)
    sizes = tuple(a.shape[2:])
    if isinstance(layer, nn.MaxPool2d):
        places = windows.windows(sizes, 2, 2)
        if uniform_pool:
            return dense.flat(windows.total(a.shape[1], sizes, places), a, R)
        return windows.winner(a, R, places)
    operation = window_sum if isinstance(layer, SumPool) else layer
    return rule(dense.dense(operation, tuple(a.shape[1:])), a, R)
