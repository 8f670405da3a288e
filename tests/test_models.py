"""Whole networks without a line of user code: the ledger closes per sample and per op, in float64 and in float32."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import relprop
from networks import CifarResNet, Shared, TwoInputs, UNet

torchvision = pytest.importorskip("torchvision")

# one of each family, the smallest; `relprop coverage --zoo torchvision` runs all variants
FAMILIES = {
    "alexnet": 80, "vgg11": 48, "vgg11_bn": 48, "resnet18": 48, "resnet50": 48, "resnext50_32x4d": 48,
    "densenet121": 48, "googlenet": 48, "inception_v3": 96, "mobilenet_v2": 48, "mobilenet_v3_small": 48,
    "squeezenet1_1": 48, "shufflenet_v2_x0_5": 48, "mnasnet0_5": 48, "efficientnet_b0": 48, "regnet_x_400mf": 48,
    "regnet_y_400mf": 48,
}  # fmt: skip


def settle(model: nn.Module, x: Tensor) -> nn.Module:
    """Random BatchNorm parameters, with running statistics of the data: activations keep their scale with depth."""
    model.eval()
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.momentum = 1.0
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, 0.0, 0.1)
            m.train()
    with torch.no_grad():
        model(x)
    return model.train()


def assert_closes(explainer: relprop.Explainer, x: object, rtol: float) -> None:
    """Raise unless every account closes and relevance is finite and not all zero."""
    e = explainer(x, ledger=True)  # type: ignore[arg-type]
    assert float(e.ledger.error.max()) <= rtol
    assert e.ledger.closes(rtol)
    torch.testing.assert_close(e.ledger.total, e.ledger.score, rtol=100 * rtol, atol=rtol * float(e.score.abs().max()))
    for r in torch.utils._pytree.tree_leaves(e.relevance):
        assert torch.isfinite(r).all()
        assert r.abs().max() > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_torchvision_families(name: str) -> None:
    torch.manual_seed(0)
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, weights=None, **extra)
    size = FAMILIES[name]
    model = settle(model, torch.randn(4, 3, size, size))
    x = torch.randn(2, 3, size, size)
    assert_closes(relprop.Explainer(model, x, "auto"), x, 1e-3)
    x = x.double()
    explainer = relprop.Explainer(model.double(), x, "epsilon")
    assert_closes(explainer, x, 1e-9)
    assert_closes(explainer, x[:1], 1e-9)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = model.eval()(x)
    torch.testing.assert_close(explainer(x).output, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


OWN = {
    "cifar_resnet": (lambda: CifarResNet(2), torch.randn(2, 3, 32, 32)),
    "unet": (UNet, torch.randn(2, 3, 16, 16)),
    "two_inputs": (TwoInputs, {"image": torch.randn(2, 1, 6, 6), "vector": torch.randn(2, 5)}),
    "shared": (Shared, torch.randn(2, 6)),
    "lenet": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
        ),
        torch.randn(2, 1, 28, 28),
    ),
    "conv1d": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 8, 5, stride=2, dilation=2), nn.BatchNorm1d(8), nn.LeakyReLU(0.1), nn.MaxPool1d(2),
            nn.Conv1d(8, 4, 3, groups=2, padding="same"), nn.ELU(), nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(8, 2),
        ),
        torch.randn(2, 3, 40),
    ),
    "conv3d": (
        lambda: nn.Sequential(
            nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.GELU(), nn.MaxPool3d(2), nn.Conv3d(4, 4, 2), nn.SiLU(),
            nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3),
        ),
        torch.randn(2, 1, 6, 6, 6),
    ),
    "norms": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Mish(), nn.Conv2d(8, 8, 3), nn.InstanceNorm2d(8, affine=True),
            nn.Hardswish(), nn.Flatten(), nn.LayerNorm(128), nn.Linear(128, 3),
        ),
        torch.randn(2, 3, 8, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("composite", ["epsilon", "auto", "alpha_beta", "epsilon_plus_flat", "deep_taylor"])
@pytest.mark.parametrize("name", OWN)
def test_architectures_users_write(name: str, composite: str) -> None:
    torch.manual_seed(0)
    make, x = OWN[name]
    model = make()
    assert_closes(relprop.Explainer(model, x, composite), x, 1e-3)
    wide = torch.utils._pytree.tree_map(lambda t: t.double(), x)
    assert_closes(relprop.Explainer(model.double(), wide, composite), wide, 1e-9)
