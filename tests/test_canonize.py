"""Every rewriting of the graph: it applies where it is exact, it does not apply where it is not, and says what it did."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop
from checks import check_same_map
from nets import Net, gradient_times_input, randomized, rows
from relprop.errors import RelpropError

SAME = 1e-12


def ops_of(explainer: relprop.Explainer) -> list[str]:
    return [row["op"] for row in explainer.rules]


def notes_of(explainer: relprop.Explainer) -> str:
    return "; ".join(explainer.rules.notes)


def explained(model: nn.Module, x: Tensor, composite: str = "epsilon") -> tuple[relprop.Explainer, relprop.Explanation]:
    """The model explained, after checking that its function is unchanged and the ledger closes."""
    explainer = relprop.Explainer(model, x, composite)
    e = explainer(x, ledger=True)
    check_same_map(e.output, model(x).detach(), rtol=SAME)
    assert e.ledger.closes(1e-9)
    return explainer, e


def inputs(*shape: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, *shape, dtype=torch.float64)


def sequential(*layers: nn.Module) -> nn.Sequential:
    """The layers, and three classes on top."""
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3)).double().eval()


def ready(model: nn.Module, x: Tensor) -> nn.Module:
    """Lazy layers made, with random weights that are the same at every call."""
    torch.manual_seed(2)
    with torch.no_grad():
        model(x)
        for p in model[-1].parameters():
            nn.init.normal_(p)
    return model


# BatchNorm

FOLDED: dict[str, tuple[Callable[[], list[nn.Module]], tuple[int, ...], str]] = {
    "after linear": (lambda: [nn.Linear(4, 5), randomized(nn.BatchNorm1d(5)), nn.ReLU()], (4,), "before"),
    "after linear without bias": (
        lambda: [nn.Linear(4, 5, bias=False), randomized(nn.BatchNorm1d(5)), nn.ReLU()], (4,), "before"),
    "after conv1d": (lambda: [nn.Conv1d(2, 4, 3, stride=2), randomized(nn.BatchNorm1d(4)), nn.ReLU()], (2, 9), "before"),
    "after conv2d": (
        lambda: [nn.Conv2d(2, 4, 3, padding=1, groups=2), randomized(nn.BatchNorm2d(4)), nn.ReLU()], (2, 5, 4), "before"),
    "after conv3d": (lambda: [nn.Conv3d(2, 4, 2), randomized(nn.BatchNorm3d(4)), nn.ReLU()], (2, 3, 3, 3), "before"),
    "after conv2d, not affine": (
        lambda: [nn.Conv2d(2, 4, 3), randomized(nn.BatchNorm2d(4, affine=False)), nn.ReLU()], (2, 5, 4), "before"),
    "after conv2d, large eps": (
        lambda: [nn.Conv2d(2, 4, 3), randomized(nn.BatchNorm2d(4, eps=0.3)), nn.ReLU()], (2, 5, 4), "before"),
    "after conv_transpose1d": (
        lambda: [nn.ConvTranspose1d(4, 6, 3, groups=2, bias=False), randomized(nn.BatchNorm1d(6)), nn.ReLU()],
        (4, 5), "before"),
    "after conv_transpose2d": (
        lambda: [nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), randomized(nn.BatchNorm2d(6)), nn.ReLU()],
        (4, 3, 3), "before"),
    "after conv_transpose3d": (
        lambda: [nn.ConvTranspose3d(2, 3, 2), randomized(nn.BatchNorm3d(3)), nn.ReLU()], (2, 2, 2, 2), "before"),
    "before linear": (lambda: [nn.ReLU(), randomized(nn.BatchNorm1d(4)), nn.Linear(4, 5), nn.Tanh()], (4,), "after"),
    "before conv1d": (lambda: [nn.ReLU(), randomized(nn.BatchNorm1d(2)), nn.Conv1d(2, 3, 3), nn.Tanh()], (2, 9), "after"),
    "before conv2d, groups": (
        lambda: [nn.ReLU(), randomized(nn.BatchNorm2d(4)), nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.Tanh()],
        (4, 5, 4), "after"),
    "before conv3d, valid, not affine": (
        lambda: [nn.ReLU(), randomized(nn.BatchNorm3d(2, affine=False)), nn.Conv3d(2, 3, 2, padding="valid"), nn.Tanh()],
        (2, 3, 3, 3), "after"),
}  # fmt: skip


@pytest.mark.parametrize("where", FOLDED)
def test_batch_norm_is_folded_where_that_is_exact(where: str) -> None:
    build, shape, side = FOLDED[where]
    torch.manual_seed(3)
    model = ready(sequential(*build()), x := inputs(*shape))
    explainer, _ = explained(model, x)
    assert "scale_shift" not in ops_of(explainer)
    assert f"1 BatchNorm(s) folded into the layer {side}" in notes_of(explainer)


def test_a_folded_batch_norm_counts_as_part_of_its_layer() -> None:
    torch.manual_seed(3)
    conv, norm = nn.Conv2d(2, 4, 3, padding=1, bias=False), randomized(nn.BatchNorm2d(4, eps=0.1))
    model = ready(sequential(conv, norm, nn.ReLU()), x := inputs(2, 5, 4))
    scale = norm.weight / torch.sqrt(norm.running_var + 0.1)
    by_hand = nn.Conv2d(2, 4, 3, padding=1).double()
    by_hand.weight.data = (conv.weight * scale[:, None, None, None]).detach()
    by_hand.bias.data = (norm.bias - norm.running_mean * scale).detach()
    expected = relprop.explain(nn.Sequential(by_hand, *model[2:]), x, composite="gamma").relevance
    check_same_map(relprop.explain(model, x, composite="gamma").relevance, expected, rtol=SAME)
    composite = relprop.Composite([("1", "gamma"), (relprop.composites.everything, "epsilon")])
    rules = [row["rule"] for row in relprop.Explainer(model, x, composite).rules]
    assert rules[0] == "gamma"  # the path of the BatchNorm still names the layer it went into


def twice(m: Net, x: Tensor) -> Tensor:
    y = m.conv(x)
    return (F.relu(m.norm(y)) + y).flatten(1)


KEPT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv, relu, norm": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), randomized(nn.BatchNorm2d(4))), (2, 5, 4)),
    "conv used twice": (
        lambda: Net(twice, conv=nn.Conv2d(2, 4, 3, padding=1), norm=randomized(nn.BatchNorm2d(4))), (2, 5, 4)),
    "norm used twice": (
        lambda: Net(lambda m, x: (m.a(y := m.norm(F.relu(x))) + m.b(y)), norm=randomized(nn.BatchNorm2d(2)),
                    a=nn.Conv2d(2, 4, 3), b=nn.Conv2d(2, 4, 3)), (2, 5, 4)),
    "norm, padded conv": (
        lambda: nn.Sequential(nn.ReLU(), randomized(nn.BatchNorm2d(2)), nn.Conv2d(2, 4, 3, padding=1)), (2, 5, 4)),
    "norm, conv padded by a word": (
        lambda: nn.Sequential(nn.ReLU(), randomized(nn.BatchNorm2d(2)), nn.Conv2d(2, 4, 3, padding="same")), (2, 5, 4)),
    "norm, circular conv": (
        lambda: nn.Sequential(nn.ReLU(), randomized(nn.BatchNorm2d(2)),
                              nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular")), (2, 5, 4)),
    "norm, pooling, conv": (
        lambda: nn.Sequential(nn.ReLU(), randomized(nn.BatchNorm2d(2)), nn.AvgPool2d(2), nn.Conv2d(2, 4, 2)), (2, 5, 4)),
    "norm, conv_transpose": (
        lambda: nn.Sequential(nn.ReLU(), randomized(nn.BatchNorm2d(2)), nn.ConvTranspose2d(2, 4, 3)), (2, 3, 3)),
    "linear on rows, norm": (lambda: nn.Sequential(nn.Linear(4, 5), randomized(nn.BatchNorm1d(2))), (2, 4)),
    "norm, linear on rows": (
        lambda: nn.Sequential(nn.ReLU(), randomized(nn.BatchNorm1d(2)), nn.Linear(4, 5)), (2, 4)),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_batch_norm_stays_an_op_of_its_own_where_folding_would_change_the_function(case: str) -> None:
    build, shape = KEPT[case]
    torch.manual_seed(3)
    model = ready(sequential(build(), nn.ReLU()), x := inputs(*shape))
    explainer, e = explained(model, x, "lrp_zero")
    assert ops_of(explainer).count("scale_shift") == 1
    check_same_map(e.relevance, gradient_times_input(model, (x,))[0], rtol=1e-9)


def test_a_layer_called_twice_is_folded_for_each_call() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        return F.relu(m.second(m.conv(F.relu(m.first(m.conv(x)))))).mean((2, 3))

    torch.manual_seed(3)
    conv, norms = nn.Conv2d(2, 2, 3, padding=1), [randomized(nn.BatchNorm2d(2)) for _ in range(2)]
    model, x = Net(forward, conv=conv, first=norms[0], second=norms[1]), inputs(2, 5, 4)
    explainer, e = explained(model, x, "lrp_zero")
    assert ops_of(explainer).count("conv2d") == 2
    check_same_map(e.relevance, gradient_times_input(model, (x,))[0], rtol=1e-9)


class DenseLayer(nn.Module):
    """Pre-activation: norm, relu, conv on everything so far (Huang et al. 2017)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = randomized(nn.BatchNorm2d(channels))
        self.conv = nn.Conv2d(channels, 2, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.conv(F.relu(self.norm(torch.cat(features, 1))))


def test_a_densely_connected_net() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        features = [m.stem(x)]
        features.append(m.one(features))
        features.append(m.two(features))
        return m.head(F.relu(m.norm(torch.cat(features, 1))).mean((2, 3)))

    torch.manual_seed(3)
    model = Net(
        forward, stem=nn.Conv2d(2, 2, 3), one=DenseLayer(2), two=DenseLayer(4), norm=randomized(nn.BatchNorm2d(6)),
        head=nn.Linear(6, 3),
    )  # fmt: skip
    explainer, e = explained(model, x := inputs(2, 6, 6), "lrp_zero")
    assert ops_of(explainer).count("scale_shift") == 3
    check_same_map(e.relevance, gradient_times_input(model, (x,))[0], rtol=1e-9)


def test_batch_norm_without_running_statistics_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)).double()
    with pytest.raises(RelpropError, match=r"(?s)batch_norm.*module '1'") as e:
        relprop.explain(model, rows(), composite="epsilon")
    assert "ACTIVATION" not in str(e.value)  # a wrong remedy is worse than none
    assert re.search("running|statistic", str(e.value))


# Local response normalization

LRN: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    **{f"images, {n} channels": (nn.LocalResponseNorm(n, alpha=0.1, k=2.0), (5, 4, 3)) for n in (1, 2, 5)},
    "series": (nn.LocalResponseNorm(3, beta=0.5), (5, 7)),
    "volumes": (nn.LocalResponseNorm(4, k=0.5), (5, 2, 3, 2)),
    "features": (nn.LocalResponseNorm(3, alpha=1.0, beta=1.0), (5, 2)),
    "functional": (Net(lambda m, x: F.local_response_norm(x, 3, 1.0, 2.0, 0.5)), (5, 4, 3)),
}


@pytest.mark.parametrize("case", LRN)
def test_local_response_normalization_is_one_op(case: str) -> None:
    norm, shape = LRN[case]
    model = ready(sequential(norm), x := inputs(*shape))
    explainer, e = explained(model, x, "lrp_zero")
    assert ops_of(explainer)[0] == "local_response_norm"
    assert "1 local response normalization(s) recognized" in notes_of(explainer)
    # the identity rule: the relevance of its output, y w by LRP-0, is that of its input
    expected = norm(x).flatten(1) * model[-1].weight[e.target]
    check_same_map(e.relevance, expected.view_as(x).detach(), rtol=1e-9)


def quotient(x: Tensor, of: Tensor, pads: tuple[int, ...], kernel: tuple[int, int, int]) -> Tensor:
    """x over a normalizer made of another tensor's squares, as F.local_response_norm would write it."""
    mean = F.avg_pool3d(F.pad((of * of).unsqueeze(1), pads), kernel, stride=1).squeeze(1)
    return (x / (mean * 0.1 + 1.0).pow(0.75)).flatten(1)


LOOKALIKES: dict[str, Callable[..., Tensor]] = {
    "another tensor below": lambda m, x: quotient(m.f(x), m.g(x), (0, 0, 0, 0, 1, 1), (3, 1, 1)),
    "a window over pixels": lambda m, x: quotient(y := m.f(x), y, (0, 0, 1, 1, 1, 1), (3, 3, 1)),
    "no square": lambda m, x: (x / (F.avg_pool1d(x.flatten(2).mT.abs(), 3, 1, 1).mT.view_as(x) + 1.0)).flatten(1),
}


@pytest.mark.parametrize("case", LOOKALIKES)
def test_what_looks_like_local_response_normalization_is_left_alone(case: str) -> None:
    torch.manual_seed(3)
    model = Net(LOOKALIKES[case], f=nn.Conv2d(2, 4, 1), g=nn.Conv2d(2, 4, 1))
    explainer, _ = explained(model, inputs(2, 4, 3))
    assert "local_response_norm" not in ops_of(explainer)
