"""Maps of zennit, an independent implementation, on networks without BatchNorm, in float32.

zennit's conventions: an absolute epsilon of 1e-6 in epsilon rules, also on average pools; its other rules add a
stabilizer to denominators that the papers do not have, which is set so small here that it cannot matter.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import relprop
from checks import check_same_map

zennit_attribution = pytest.importorskip("zennit.attribution")
zennit_composites = pytest.importorskip("zennit.composites")

STABILIZER = 1e-12
LOW, HIGH = -3.0, 3.0
EPSILON = {"epsilon": 1e-6, "epsilon_mode": "absolute"}


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 5))


def lenet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(8 * 2 * 2, 12), nn.Tanh(), nn.Linear(12, 5),
    )  # fmt: skip


def vgg() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(48, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5),
    )  # fmt: skip


NETS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "mlp": (mlp, (12,)),
    "lenet": (lenet, (1, 16, 16)),
    "vgg": (vgg, (3, 16, 16)),
}


def composite_of_zennit(name: str) -> object:
    """zennit's composite; in the maps that are given an epsilon, it is that of averages and of the gamma rule too."""
    z, epsilon = zennit_composites, EPSILON["epsilon"]
    if name == "epsilon":
        return z.LayerMapComposite([*z.layer_map_base(epsilon), (z.Linear, z.Epsilon(epsilon))])
    if name == "excitation_backprop":  # relprop, as the paper, leaves biases out of the denominators
        return z.ExcitationBackprop(stabilizer=STABILIZER, zero_params=["bias"])
    averages = (z.AvgPool, z.Norm(epsilon))
    if name == "epsilon_gamma_box":
        low, high, layers = torch.tensor(LOW), torch.tensor(HIGH), [averages, (z.Convolution, z.Gamma(0.25, epsilon))]
        return z.EpsilonGammaBox(low, high, epsilon=epsilon, stabilizer=STABILIZER, layer_map=layers)
    return z.COMPOSITES[name](epsilon=epsilon, stabilizer=STABILIZER, layer_map=[averages])


def options_of_relprop(name: str) -> dict[str, object]:
    box = {"low": LOW, "high": HIGH} if name == "epsilon_gamma_box" else {}
    return {"composite": name, **box, **({} if name == "excitation_backprop" else EPSILON)}


def map_of_zennit(model: nn.Module, x: Tensor, name: str, R: Tensor) -> Tensor:
    with zennit_attribution.Gradient(model, composite_of_zennit(name)) as attributor:
        return attributor(x, R)[1].detach()


RECIPES = [
    "epsilon",
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_gamma_box",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "excitation_backprop",
]


# Not compared: zennit boxes the first convolution only, relprop the first layer; and in excitation backprop zennit
# shares average pools by the epsilon rule, relprop by z+, which differs on the signed activations of this LeNet.
# The rules of convolutions are not compared again on a net without any.
NOT_COMPARED = {("mlp", "epsilon_gamma_box"), ("lenet", "excitation_backprop")}
NOT_COMPARED |= {("mlp", name) for name in ("epsilon_plus", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat")}


@pytest.mark.parametrize(("net", "name"), [(n, r) for n in NETS for r in RECIPES if (n, r) not in NOT_COMPARED])
def test_zennit_gives_the_same_map(net: str, name: str) -> None:
    build, shape = NETS[net]
    torch.manual_seed(5)
    model = build().eval()
    x = torch.randn(4, *shape).clamp(LOW, HIGH)
    R = torch.rand(4, 5)
    expected = map_of_zennit(model, x, name, R)
    check_same_map(relprop.explain(model, x, target=R, **options_of_relprop(name)).relevance, expected, rtol=1e-5)
