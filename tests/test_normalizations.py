"""Normalizations in every spelling: their statistic is held, so the relevance is that of the affine map at the input."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dense
import relprop
from agreement import check_agrees
from checks import check_same_map
from held import normalized, random_weights
from nets import Net

EPS = 1e-5
Function = Callable[[Tensor], Tensor]
W = torch.linspace(0.6, -1.7, 6, dtype=torch.float64)
B = torch.linspace(-0.4, 0.9, 6, dtype=torch.float64).cos()


def sequences() -> Tensor:
    """(3 samples, 4 places, 6 channels)."""
    return torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(8))


def images() -> Tensor:
    """(2 samples, 6 channels, 4, 5), of a mean that is not 0."""
    return torch.randn(2, 6, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(9)) + 0.3


def between(f: Function, dim: int) -> Net:
    """linear (1 × 1 convolution), the function, linear (1 × 1 convolution) to 3 classes in dimension `dim`."""
    first, last = (nn.Linear(6, 6), nn.Linear(6, 3)) if dim == -1 else (nn.Conv2d(6, 6, 1), nn.Conv2d(6, 3, 1))
    model = Net(lambda m, x: m.last(f(m.first(x))).movedim(dim, -1), first=first, last=last)
    random_weights(model, 1)
    return model


def check(f: Function, held: Function, x: Tensor, dim: int = -1, recipe: str = "lrp_zero") -> None:
    """The relevance of f between two linear maps is x ∂/∂x with `held` in its place."""
    check_agrees(between(f, dim), between(held, dim), x, recipe=recipe)


# Over channels of a sequence

LAYER_NORM: dict[str, Function] = {
    "function": lambda x: F.layer_norm(x, (6,), W, B),
    "without scale and shift": lambda x: F.layer_norm(x, (6,)) * W + B,
    "mean and var": lambda x: (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, keepdim=True, correction=0) + EPS) * W + B,
    "divided by sqrt": lambda x: (x - x.mean(-1, True)) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + EPS) * W + B,
    "var_mean": lambda x: (x - torch.var_mean(x, -1, correction=0, keepdim=True)[1]) / torch.sqrt(torch.var_mean(x, -1, correction=0, keepdim=True)[0] + EPS) * W + B,
    "mean of squares of the centred": lambda x: centred(x) * (centred(x).pow(2).mean(-1, keepdim=True) + EPS).rsqrt() * W + B,
    "E x² − (E x)²": lambda x: centred(x) / ((x * x).mean(-1, True) - x.mean(-1, True) ** 2 + EPS) ** 0.5 * W + B,
}  # fmt: skip
RMS_NORM: dict[str, Function] = {
    "rsqrt": lambda x: W * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)),
    "function": lambda x: F.rms_norm(x, (6,), W, EPS),
    "divided by sqrt": lambda x: x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * W,
    "reciprocal": lambda x: x * torch.sqrt(x.square().mean(-1, keepdim=True) + EPS).reciprocal() * W,
    "power of −1/2": lambda x: x * (x.square().sum(-1, keepdim=True) / 6 + EPS).pow(-0.5) * W,
    "1 over": lambda x: x * (1.0 / torch.sqrt((x**2).mean(-1, keepdim=True) + EPS)) * W,
    "scale joined with the statistic": lambda x: x * (torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * W),
    "squared norm": lambda x: x * torch.rsqrt(x.norm(2, dim=-1, keepdim=True).pow(2) / 6 + EPS) * W,
}
L2: dict[str, Function] = {
    "F.normalize": lambda x: F.normalize(x, dim=-1),
    "norm": lambda x: x / x.norm(dim=-1, keepdim=True),
    "linalg": lambda x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-12),
    "sqrt of the sum of squares": lambda x: x / x.pow(2).sum(-1, keepdim=True).sqrt(),
    "rsqrt of the sum of squares": lambda x: x * (x * x).sum(-1, keepdim=True).rsqrt(),
    "expand_as": lambda x: x / x.norm(p=2, dim=-1, keepdim=True).expand_as(x),
    "unsqueeze": lambda x: x / x.norm(p=2, dim=-1).unsqueeze(-1),
}
L1: dict[str, Function] = {
    "F.normalize": lambda x: F.normalize(x, p=1.0, dim=-1),
    "sum of absolute values": lambda x: x / x.abs().sum(-1, keepdim=True),
}


def centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


@pytest.mark.parametrize("spelling", LAYER_NORM)
def test_layer_norm(spelling: str) -> None:
    check(LAYER_NORM[spelling], lambda x: normalized(x, (-1,)) * W + B, sequences())


@pytest.mark.parametrize("spelling", RMS_NORM)
def test_rms_norm(spelling: str) -> None:
    check(RMS_NORM[spelling], lambda x: normalized(x, (-1,), centre=False) * W, sequences())


@pytest.mark.parametrize("recipe", ["cp_lrp", "attnlrp"])
@pytest.mark.parametrize("norm", ["layer norm", "RMS norm"])
def test_the_recipes_of_attention_hold_the_statistic(norm: str, recipe: str) -> None:
    if norm == "layer norm":
        check(LAYER_NORM["divided by sqrt"], lambda x: normalized(x, (-1,)) * W + B, sequences(), recipe=recipe)
    else:
        check(RMS_NORM["rsqrt"], lambda x: normalized(x, (-1,), centre=False) * W, sequences(), recipe=recipe)


@pytest.mark.parametrize("spelling", L2)
def test_normalization_to_length_1(spelling: str) -> None:
    check(L2[spelling], lambda x: x / x.square().sum(-1, keepdim=True).sqrt().detach(), sequences())


@pytest.mark.parametrize("spelling", L1)
def test_normalization_by_the_sum_of_absolute_values(spelling: str) -> None:
    check(L1[spelling], lambda x: x / x.abs().sum(-1, keepdim=True).detach(), sequences())


def test_a_learned_length_and_a_square_root_of_the_width() -> None:
    """ScaleNorm, g √d x / |x|, and the RMSNorm of code that computes it so."""
    check(
        lambda x: F.normalize(x, dim=-1) * math.sqrt(6) * W,
        lambda x: x / x.square().mean(-1, True).sqrt().detach() * W,
        sequences(),
    )


# Over images

GROUPS: dict[str, tuple[int, Function]] = {
    "group_norm": (2, lambda x: F.group_norm(x, 2, W, B)),
    "group_norm, one group": (1, lambda x: F.group_norm(x, 1, W, B)),
    "group_norm, a group a channel": (6, lambda x: F.group_norm(x, 6, W, B)),
    "instance_norm": (6, lambda x: F.instance_norm(x, weight=W, bias=B)),
    "group norm, written out": (2, lambda x: grouped(x, 2)),
    "instance norm, written out": (6, lambda x: spatial(x)),
}


def per_channel(x: Tensor) -> Tensor:
    return x * W[:, None, None] + B[:, None, None]


def grouped(x: Tensor, groups: int) -> Tensor:
    g = x.reshape(x.shape[0], groups, -1)
    g = (g - g.mean(-1, keepdim=True)) / torch.sqrt(g.var(-1, correction=0, keepdim=True) + EPS)
    return per_channel(g.reshape(x.shape))


def spatial(x: Tensor) -> Tensor:
    mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
    return per_channel((x - mean) * torch.rsqrt(var + EPS))


@pytest.mark.parametrize("spelling", GROUPS)
def test_group_and_instance_norm(spelling: str) -> None:
    groups, f = GROUPS[spelling]

    def held(x: Tensor) -> Tensor:
        return per_channel(normalized(x.unflatten(1, (groups, -1)), (2, 3, 4)).flatten(1, 2))

    check(f, held, images(), 1)


CHANNELS_FIRST: dict[str, Function] = {
    "permuted": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (6,), W, B).permute(0, 3, 1, 2),
    "written out": lambda x: per_channel((x - x.mean(1, keepdim=True)) / torch.sqrt((x - x.mean(1, keepdim=True)).pow(2).mean(1, keepdim=True) + EPS)),
}  # fmt: skip


@pytest.mark.parametrize("spelling", CHANNELS_FIRST)
def test_layer_norm_over_channels_of_images(spelling: str) -> None:
    check(CHANNELS_FIRST[spelling], lambda x: per_channel(normalized(x, (1,))), images(), 1)


def test_global_response_normalization() -> None:
    """y = γ x · n + β + x with n the norm of a channel by the mean of the norms (Woo et al. 2023)."""

    def response(x: Tensor) -> Tensor:
        g = torch.norm(x, p=2, dim=(2, 3), keepdim=True)
        return g / (g.mean(dim=1, keepdim=True) + 1e-6)

    w, b = W[:, None, None], B[:, None, None]
    check(lambda x: w * (x * response(x)) + b + x, lambda x: w * (x * response(x).detach()) + b + x, images(), 1)


# Heads that compare directions

CLASSES = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(10))
COSINE: dict[str, Function] = {
    "linear of normalized": lambda x: 10.0 * F.linear(F.normalize(x, dim=-1), F.normalize(CLASSES, dim=-1)),
    "matmul of quotients": lambda x: 10.0 * ((x / x.norm(dim=-1, keepdim=True)) @ (CLASSES / CLASSES.norm(dim=-1, keepdim=True)).T),
    "cosine_similarity": lambda x: 10.0 * F.cosine_similarity(x[..., None, :], CLASSES, dim=-1),
    "divided by both": lambda x: 10.0 * (x @ CLASSES.T) / (x.norm(dim=-1, keepdim=True) * CLASSES.norm(dim=-1)),
}  # fmt: skip


@pytest.mark.parametrize("spelling", COSINE)
def test_a_head_of_cosines_holds_the_length(spelling: str) -> None:
    def held(x: Tensor) -> Tensor:
        unit = CLASSES / CLASSES.square().sum(1, keepdim=True).sqrt()
        return 10.0 * (x / x.square().sum(-1, keepdim=True).sqrt().detach()) @ unit.T

    model, oracle = (Net(lambda m, x, f=f: f(m.first(x)), first=nn.Linear(6, 6)) for f in (COSINE[spelling], held))
    random_weights(model, 2)
    random_weights(oracle, 2)
    check_agrees(model, oracle, sequences())


def test_the_cosine_of_two_inputs_is_shared_equally() -> None:
    def unit(x: Tensor, *, hold: bool) -> Tensor:
        n = x.square().sum(-1, keepdim=True).sqrt()
        return x / (n.detach() if hold else n)

    def held(m: Net, x: Tensor, y: Tensor) -> Tensor:
        a, b = unit(m.first(x), hold=True), unit(m.first(y), hold=True)
        return ((a.detach() * b + a * b.detach()) / 2).sum(-1, keepdim=True)

    model = Net(
        lambda m, x, y: (unit(m.first(x), hold=False) * unit(m.first(y), hold=False)).sum(-1, keepdim=True),
        first=nn.Linear(6, 6, bias=False),
    )
    random_weights(model, 3)
    x, y = sequences(), sequences().flip(1)
    check_agrees(model, lambda x, y: held(model, x, y), x, y, target=0, conserves=True)


# Normalized weights are weights


def standardized(w: Tensor) -> Tensor:
    """(w − mean) / σ over each filter (Qiao et al. 2019)."""
    return (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), correction=0, keepdim=True) + 1e-5)


WEIGHTS: dict[str, Callable[[], nn.Module]] = {
    "standardized": lambda: Net(lambda m, x: F.conv2d(x, standardized(m.conv.weight), m.conv.bias), conv=nn.Conv2d(6, 4, 3)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 4, 3)),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(6, 4, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS)
def test_normalized_weights(name: str) -> None:
    """γ, which reads the weights' signs, on a convolution whose weights are computed: the double sum of the paper."""
    torch.manual_seed(4)
    conv, x = WEIGHTS[name]().double().eval(), images()
    e = relprop.explain(nn.Sequential(conv, nn.Flatten()), x, 5, "gamma", gamma=0.5, epsilon=0.0, ledger=True)
    R = torch.zeros_like(conv(x))
    R.flatten(1)[:, 5] = conv(x).flatten(1)[:, 5].detach()
    layer = dense.dense(lambda a: conv(a), tuple(x.shape[1:]))
    check_same_map(e.relevance, dense.gamma(layer, x, R.detach(), gamma=0.5, epsilon=0.0).detach(), rtol=1e-9)
    assert e.ledger.closes()
