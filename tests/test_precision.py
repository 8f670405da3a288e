"""precision="bf16": heavy ops in bfloat16, relevance in float32; near the map in float64, and every account closes to 1 %."""

from __future__ import annotations

import copy
import functools
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import relprop
import relprop.zoo
from checks import check_finite
from relprop.errors import InputError, RelpropError

CLOSES, COSINE = 1e-2, 0.999
# with random weights, ε and the residual sums of `auto` amplify what rounding does to the weights alone: see the trained one
IMAGE_RECIPES = ("epsilon_plus",)
SEQUENCE_RECIPES = ("epsilon", "cp_lrp", "attnlrp")


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3, 1 × 1 with BatchNorm and a skip, as in ResNet-50."""

    def __init__(self, before: int, inner: int, after: int, stride: int) -> None:
        super().__init__()
        sizes = ((before, inner, 1, 1), (inner, inner, 3, stride), (inner, after, 1, 1))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, k, s, k // 2, bias=False) for a, b, k, s in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b, _, _ in sizes)
        self.skip = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for i in range(3):
            h = self.norms[i](self.convs[i](h))
            h = F.relu(h) if i < 2 else h
        return F.relu(h + self.skip(x))


class Residual(nn.Module):
    """Four bottlenecks between a stem and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        widths = (16, 32, 32, 64, 64)
        self.blocks = nn.Sequential(
            *(Bottleneck(a, b // 2, b, 1 + i % 2) for i, (a, b) in enumerate(itertools.pairwise(widths)))
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu(self.norm(self.stem(x))), 2)
        return self.head(self.blocks(h).mean((2, 3)))


class Transformer(nn.Module):
    """Patches, a class token, positions and four blocks with fused attention, as in a ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 48, 8, 8)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 48)), nn.Parameter(torch.randn(1, 17, 48) * 0.02)
        block = nn.TransformerEncoderLayer(48, 4, 96, 0.0, F.gelu, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 4, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x).flatten(2).mT
        h = torch.cat([self.token.expand(len(h), -1, -1), h], 1) + self.positions
        return self.head(self.norm(self.blocks(h))[:, 0])


MODELS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "residual": (Residual, IMAGE_RECIPES),
    "transformer": (Transformer, SEQUENCE_RECIPES),
}
CASES = [(name, recipe) for name, (_, recipes) in MODELS.items() for recipe in recipes]
TARGETS = torch.tensor([1, 4])


def images() -> Tensor:
    """Smooth, as photographs are."""
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return F.interpolate(noise, size=(32, 32), mode="bicubic")


def made(name: str) -> nn.Module:
    """With statistics of BatchNorm as after training: those of its inputs."""
    torch.manual_seed(0)
    model = MODELS[name][0]()
    if isinstance(model, Residual):
        for block in model.blocks:  # branches that add to what they skip, rather than cancel it
            nn.init.constant_(block.norms[2].weight, 0.1)
    with torch.no_grad():
        for _ in range(30):
            model.train()(images())
    return model.eval()


@functools.cache
def exact(name: str, recipe: str, rounded: bool = False) -> Tensor:
    """The map in float64; `rounded`: of the model and the images as they are in bfloat16."""
    model, x = made(name), images()
    if rounded:
        model, x = model.bfloat16(), x.bfloat16()
    return relprop.explain(model.double(), x.double(), TARGETS, recipe).relevance


def check_near(e: relprop.Explanation, expected: Tensor) -> None:
    """float32, the direction of the exact map for every sample, about its length, and accounts that close."""
    assert e.relevance.dtype is torch.float32
    check_finite(e.relevance)
    got, wanted = e.relevance.double().flatten(1), expected.flatten(1)
    cosine = F.cosine_similarity(got, wanted)
    assert cosine.min() >= COSINE, cosine
    torch.testing.assert_close(got.norm(dim=1), wanted.norm(dim=1), rtol=0.05, atol=0.0)  # as far as the score is off
    check_closes(e)


def check_closes(e: relprop.Explanation) -> None:
    """Accounts are kept in float32; arrivals and departures agree, at every op and over all, to 1 % of the largest amount."""
    ledger = e.ledger
    for account in (ledger.input, ledger.bias, ledger.epsilon, ledger.residual, ledger.score):
        assert account.dtype is torch.float32
    assert ledger.closes(CLOSES)


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_near_the_map_in_float64(name: str, recipe: str) -> None:
    e = relprop.explain(made(name), images(), TARGETS, recipe, precision="bf16", ledger=True)
    check_near(e, exact(name, recipe))


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_a_model_in_bfloat16(name: str, recipe: str) -> None:
    e = relprop.explain(made(name).bfloat16(), images().bfloat16(), TARGETS, recipe, precision="bf16", ledger=True)
    check_near(e, exact(name, recipe, rounded=True))


@pytest.mark.parametrize("recipe", ["auto", "epsilon_plus"])
def test_a_trained_network_on_photos(recipe: str) -> None:
    names = sorted(relprop.zoo.samples())
    photos = torch.cat([relprop.zoo.sample(n) for n in names])
    net = relprop.zoo.cifar10_lrn().eval()
    e = relprop.explain(net, photos, None, recipe, precision="bf16", ledger=True)
    expected = relprop.explain(copy.deepcopy(net).double(), photos.double(), e.target, recipe).relevance
    cosine = F.cosine_similarity(e.relevance.double().flatten(1), expected.flatten(1))
    assert cosine.min() >= COSINE, cosine
    check_closes(e)


class Types(TorchDispatchMode):
    """Notes the types in which contractions compute."""

    HEAVY = ("convolution", "convolution_backward", "mkldnn_convolution", "mm", "addmm", "bmm", "baddbmm")

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        short = func.overloadpacket.__name__
        if short in self.HEAVY or "scaled_dot_product" in short:
            given = tree_flatten((args, kwargs or {}))[0]
            floats = {t.dtype for t in given if isinstance(t, Tensor) and t.dim() > 1 and t.is_floating_point()}
            self.seen[short] = self.seen.get(short, set()) | floats
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_heavy_ops_compute_in_bfloat16_and_nothing_does_without_the_option(name: str, recipe: str) -> None:
    model, x = made(name), images()
    for precision, wanted in (("bf16", torch.bfloat16), (None, torch.float32)):
        explain = relprop.Explainer(model, x, recipe, precision=precision)
        explain(x, TARGETS)
        with Types() as watch:
            explain(x, TARGETS)
        assert watch.seen
        for op, seen in watch.seen.items():  # the logsumexp of fused attention stays in float32
            assert seen == {wanted} or (
                "scaled_dot_product" in op and seen <= {wanted, torch.float32} and wanted in seen
            ), (precision, watch.seen)


def test_sums_of_relevance_do_not_stall() -> None:
    """4096 equal contributions: a sum in bfloat16 would stall at 256 of them."""
    model = nn.Linear(4096, 1, bias=False)
    nn.init.ones_(model.weight)
    e = relprop.explain(model, torch.ones(2, 4096), 0, "epsilon", precision="bf16", ledger=True)
    assert e.relevance.dtype is torch.float32
    torch.testing.assert_close(e.relevance.sum(1), torch.full((2,), 4096.0), rtol=5e-3, atol=0.0)
    check_closes(e)


def test_float64_models_keep_float64_without_the_option() -> None:
    model, x = nn.Linear(5, 3).double(), torch.randn(2, 5, dtype=torch.float64)
    e = relprop.explain(model, x, 1, "epsilon", epsilon=0.0)
    expected = x * model.weight[1]  # of a linear map, a_j w_jk
    assert e.relevance.dtype is torch.float64
    torch.testing.assert_close(e.relevance, expected.detach(), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_models_in_other_precisions_are_refused(dtype: torch.dtype) -> None:
    model, x = nn.Linear(5, 3).to(dtype), torch.randn(2, 5, dtype=dtype)
    with pytest.raises(InputError, match=r"computes in float(16|64): use model.float"):
        relprop.explain(model, x, 1, "epsilon", precision="bf16")


def test_the_model_is_unchanged() -> None:
    model = made("residual")
    before = {n: w.clone() for n, w in model.state_dict().items()}
    relprop.explain(model, images(), TARGETS, "epsilon_plus", precision="bf16")
    assert all(w.dtype is before[n].dtype and torch.equal(w, before[n]) for n, w in model.state_dict().items())


@pytest.mark.parametrize("bad", ["fp8", "float32", 16, torch.bfloat16, True, ""])
def test_another_precision_is_refused(bad: object) -> None:
    model, x = nn.Linear(3, 2), torch.randn(2, 3)
    for call in (relprop.explain, relprop.Explainer):
        with pytest.raises(RelpropError, match=r"precision=.*bf16"):
            call(model, x, precision=bad)
