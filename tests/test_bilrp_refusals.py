"""Joint relevance: rules that allow one way alone, bad input; and the product neurons of the chapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from checks import check_same_map, check_sums_to
from embeddings import bert, dense, drawn
from refusals import refuse
from relprop import rules
from relprop.bilrp import PairExplainer, bilrp, product_neuron
from relprop.composites import Composite, everything, family
from relprop.errors import CaptureError, CompositeError, InputError, NonFiniteError, RelpropError, RuleError
from relprop.ops import Family
from relprop.rules import Call, registry, rule

NET, X, X2 = dense(4, 7, 6), drawn(3, 4), drawn(3, 4, seed=5)

# rules that are not linear in the relevance that arrives


@pytest.fixture
def winners() -> Iterator[Composite]:
    """A rule of a user's own that gives relevance to the largest contributions of whatever sign: not linear in R."""
    before = dict(registry._RULES)

    @rule(Family.ACTIVATION, conserves=False, source="the test")
    def passing_positive(R: Tensor, f: Call) -> Tensor:
        """R_a = max(0, R)"""
        return R.relu()

    yield Composite([(family("activation"), passing_positive), (everything, rules.zero)])
    registry._RULES.clear()
    registry._RULES.update(before)


def test_a_rule_that_is_not_linear_is_noticed(winners: Composite) -> None:
    with pytest.raises(RuleError, match="not linear") as e:
        bilrp(NET, X, X2, winners, way="tokens")
    assert 'way="units"' in str(e.value)


def test_the_remedy_and_the_default_give_its_joint_relevance(winners: Composite) -> None:
    """Two layers: what arrives at the hidden ReLU is a_k w_km / z_m φ_m; only its positive part passes."""
    first, second = (layer.weight.detach() for layer in NET if isinstance(layer, nn.Linear))

    def units(x: Tensor) -> Tensor:
        hidden = (x @ first.T).relu()
        terms = hidden[:, None] * second  # (B, E, K); they sum to z_m, and φ_m is max(0, z_m)
        arrives = torch.where(terms.sum(2, keepdim=True) > 0, terms, 0.0).relu()
        z = x @ first.T
        return torch.einsum("bmk,bkj,kj->mbj", arrives / z[:, None], x[:, None].expand(-1, len(first), -1), first)

    expected = torch.einsum("mbi,mbj->bij", units(X), units(X2))
    net = nn.Sequential(*NET)
    wide = PairExplainer(net, X, X2, winners, way="units")(X, X2)
    check_same_map(wide.relevance, expected, rtol=1e-10)
    chosen = bilrp(net, X, X2, winners)  # 4 cells, 6 units: cell by cell would be cheaper
    check_same_map(chosen.relevance, expected, rtol=1e-10)
    assert chosen.cost.way == "units"
    assert chosen.cost.tokens < chosen.cost.units
    assert "not linear" in chosen.notes[0]


def test_under_inference_mode_relevance_is_found_unit_by_unit() -> None:
    expected = bilrp(NET, X, X2, "epsilon", way="units").relevance
    with torch.inference_mode():
        joint = bilrp(NET, X, X2, "epsilon")
        with pytest.raises(RuleError, match=r"inference_mode forbids: use torch\.no_grad, or way='units'"):
            bilrp(NET, X, X2, "epsilon", way="tokens")
    check_same_map(joint.relevance, expected, rtol=1e-12)
    assert joint.cost.way == "units"
    assert "inference_mode" in joint.notes[0]
    with torch.no_grad():
        assert bilrp(NET, X, X2, "epsilon", way="tokens").notes == ()


@pytest.mark.parametrize("way", ["units", "tokens"])
def test_half_precision_is_explained_in_float32(way: Any) -> None:
    net = dense(4, 7, 6).bfloat16()
    x, x2 = X.bfloat16(), X2.bfloat16()
    joint = bilrp(net, x, x2, "epsilon", way=way)
    expected = bilrp(dense(4, 7, 6).bfloat16().double(), x.double(), x2.double(), "epsilon")
    assert joint.relevance.dtype is joint.score.dtype is torch.float32
    check_same_map(joint.relevance, expected.relevance, rtol=0.02)  # bfloat16 has 8 binary digits


# bad input


def unfit(number: float) -> Tensor:
    x = X.clone()
    x[1, 2] = number
    return x


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = dense(4, 6)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.net(x + y)


IMAGE = drawn(1, 1, 6, 8)
POSITIONS, NARROW, TWO, BERT = nn.Linear(4, 6).double(), dense(4, 5), Two(), bert()
SCORE, SOFTMAX = nn.Sequential(dense(4, 1), nn.Flatten(0)), nn.Sequential(dense(4, 6), nn.Softmax(1))
IMAGES = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
VIDEOS = nn.Sequential(nn.Conv3d(1, 2, 1), nn.Flatten()).double()
REFUSED: dict[str, tuple[type[Exception], list[str], Callable[[], object]]] = {
    "scores at every position": (InputError, ["x: Linear", r"\(B, 5, 6\)", "no embedding", r"\(B, E\)"], lambda: bilrp(POSITIONS, drawn(2, 5, 4), drawn(2, 5, 4))),
    "one number a sample": (InputError, [r"\(B\)", "no embedding"], lambda: bilrp(SCORE, X, X2)),
    "probabilities": (InputError, ["softmax", "the layer before"], lambda: bilrp(SOFTMAX, X, X2)),
    "embeddings of different sizes": (InputError, ["different sizes", "6 for x", "5 for x2"], lambda: bilrp((NET, NARROW), X, X2)),
    "three models": (InputError, ["3 modules", "one, or two"], lambda: bilrp((NET, NET, NET), X, X2)),
    "no model": (CaptureError, ["str", "nn.Module"], lambda: bilrp("resnet18", X, X2)),
    "one of them no model": (CaptureError, ["function", "nn.Module"], lambda: bilrp((NET, lambda x: x), X, X2)),
    "a text": (InputError, ["str"], lambda: bilrp(NET, "a text", X2)),
    "a text on the other side": (InputError, ["str"], lambda: bilrp(NET, X, "a text")),
    "other numbers of samples": (InputError, ["x holds 3 samples", "x2 2", "row i"], lambda: bilrp(NET, X, X2[:2])),
    "features the model does not take": (InputError, ["cannot be called", r"\(3, 3\)"], lambda: bilrp(NET, X, X2[:, :3])),
    "NaN": (NonFiniteError, ["1 NaN"], lambda: bilrp(NET, unfit(torch.nan), X2)),
    "infinity on the other side": (NonFiniteError, ["infinite"], lambda: bilrp(NET, X, unfit(torch.inf))),
    "an unknown similarity": (InputError, ["similarity='euclidean'", "dot", "cosine"], lambda: bilrp(NET, X, X2, similarity="euclidean")),
    "an unknown way": (InputError, ["way='fast'", "tokens", "units"], lambda: bilrp(NET, X, X2, way="fast")),
    "the cosine of a zero vector": (InputError, ["x2", "sample 1", "zero", "similarity='dot'"], lambda: bilrp(NET, X, X2 * torch.tensor([[1.0], [0.0], [1.0]]), similarity="cosine")),
    "an option of execution": (CompositeError, ["compile", "leave it out"], lambda: bilrp(NET, X, X2, compile=True)),
    "an unknown recipe": (CompositeError, ["'epsilom'"], lambda: bilrp(NET, X, X2, "epsilom")),
    "features to be pooled": (InputError, ["pool=2", "without neighbours", "callable"], lambda: bilrp(NET, X, X2, pool=2)),
    "cells that do not cover the image": (InputError, ["x has 6 x 8 pixels", "4 x 4", "1, 2"], lambda: bilrp(IMAGES, IMAGE, IMAGE, pool=4)),
    "cells of half pixels": (InputError, ["pool=1.5", "size of a cell"], lambda: bilrp(IMAGES, IMAGE, IMAGE, pool=1.5)),
    "cells of nothing": (InputError, ["pool=0", "size of a cell"], lambda: bilrp(IMAGES, IMAGE, IMAGE, pool=0)),
    "a pool for three sides": (InputError, ["two entries"], lambda: bilrp(IMAGES, IMAGE, IMAGE, pool=[2, 2, 2])),
    "positions that do not divide": (InputError, ["4 positions", "of 3", "1, 2, 4"], lambda: bilrp(BERT, drawn(1, 4, 8), drawn(1, 4, 8), pool=3)),
    "a pool that takes absolute values": (InputError, ["not linear"], lambda: bilrp(NET, X, X2, pool=lambda R: R.abs())),
    "a pool that loses the batch": (InputError, [r"shape \(4,\)", "a row for each of 3"], lambda: bilrp(NET, X, X2, pool=lambda R: R.sum(0))),
    "a pool that fails": (InputError, ["pool fails", r"\(3, 4\)"], lambda: bilrp(NET, X, X2, pool=lambda R: R.reshape(3, 3))),
    "too many pairs": (InputError, ["1 x 16900 x 16900", "pool=8"], lambda: bilrp(IMAGES, drawn(1, 1, 130, 130), drawn(1, 1, 130, 130))),
    "videos": (InputError, [r"\(1, 1, 2, 4, 4\)", "give pool", "callable"], lambda: bilrp(VIDEOS, drawn(1, 1, 2, 4, 4), drawn(1, 1, 2, 4, 4))),
    "two explained inputs": (InputError, ["2 inputs", "wrap the model"], lambda: bilrp(TWO, (X, X2), (X2, X))),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_words(case: str) -> None:
    error, words, call = REFUSED[case]
    assert issubclass(error, RelpropError)
    refuse(error, words, call, NET, X, X2)


def test_an_unknown_sample_is_refused() -> None:
    joint = bilrp(NET, X, X2, "lrp_zero")
    refuse(InputError, ["sample=3", "0 to 2"], lambda: joint.top(1, sample=3), NET)
    refuse(InputError, ["ledger=True"], joint.ledger.closes, NET)


def test_a_program_that_cannot_be_mapped_runs_pass_by_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.func.vmap refuses is computed one pass after another, with the same result."""
    expected = {way: bilrp(NET, X, X2, "epsilon", way=way).relevance for way in ("units", "tokens")}

    def refusing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Batching rule not implemented for aten::own")

    real = torch.autograd.grad

    def unbatched(*args: Any, is_grads_batched: bool = False, **options: Any) -> Any:
        return refusing() if is_grads_batched else real(*args, **options)

    monkeypatch.setattr(torch.func, "vmap", refusing)
    monkeypatch.setattr(torch.autograd, "grad", unbatched)
    for way, R in expected.items():
        check_same_map(bilrp(NET, X, X2, "epsilon", way=way).relevance, R, rtol=1e-12)


# product neurons


def neurons_by_hand(x: Tensor, y: Tensor, w: Tensor, v: Tensor, R: Tensor) -> Tensor:
    """R_ij = Σ_k x_i y_j w_ik v_jk / Σ_ij x_i y_j w_ik v_jk · R_k, in loops over i, j and k."""
    out = torch.zeros(len(x), len(y), dtype=torch.float64)
    for k in range(len(R)):
        terms = [[float(x[i] * y[j] * w[i, k] * v[j, k]) for j in range(len(y))] for i in range(len(x))]
        whole = sum(map(sum, terms))
        for i in range(len(x)):
            for j in range(len(y)):
                out[i, j] += terms[i][j] / whole * float(R[k])
    return out


def test_product_neurons_by_loops() -> None:
    x, y, w, v = drawn(2, 4), drawn(2, 3, seed=1), drawn(4, 6, seed=2), drawn(3, 6, seed=3)
    R = drawn(2, 6, seed=4)
    got = product_neuron(x, y, w, v, R)
    for s in range(2):
        check_same_map(got[s], neurons_by_hand(x[s], y[s], w, v, R[s]), rtol=1e-10)
        check_same_map(product_neuron(x[s], y[s], w, v, R[s]), got[s], rtol=1e-12)
    check_sums_to(got.sum((1, 2)), R.sum(1), rtol=1e-9)


def test_product_neurons_start_from_their_activation() -> None:
    """a_k = max(0, x · w_k) · max(0, y · v_k): a neuron with two negative factors has a product, but no activation."""
    x, y = torch.tensor([1.0, 2.0]).double(), torch.tensor([3.0, 1.0]).double()
    w = torch.tensor([[1.0, -1.0, 1.0], [1.0, -1.0, 0.5]]).double()
    v = torch.tensor([[1.0, -1.0, -1.0], [0.0, 0.0, 0.0]]).double()
    # neuron 0: (1 + 2)(3) = 9, neuron 1: both factors negative, neuron 2: the second is
    assert product_neuron(x, y, w, v).tolist() == [[3.0, 0.0], [6.0, 0.0]]


def test_product_neurons_are_bilrp_on_one_layer_of_each_side() -> None:
    one, two = dense(4, 6), dense(3, 6, seed=2)
    x, y = drawn(2, 4), drawn(2, 3, seed=5)
    joint = bilrp((one, two), x, y, "lrp_zero")
    w, v = (net[0].weight.detach().T for net in (one, two))
    check_same_map(product_neuron(x, y, w, v), joint.relevance, rtol=1e-12)
    check_sums_to(joint.score, (one(x) * two(y)).sum(1).detach(), rtol=1e-12)


ONES = torch.ones
BAD_NEURONS: dict[str, tuple[list[str], tuple[Any, ...]]] = {
    "no tensor": (["x is a list"], ([1.0], ONES(1), ONES(1, 1), ONES(1, 1))),
    "whole numbers": (["y is a torch.int64"], (ONES(1), ONES(1).long(), ONES(1, 1), ONES(1, 1))),
    "NaN": (["w holds NaN"], (ONES(1), ONES(1), ONES(1, 1) * torch.nan, ONES(1, 1))),
    "other numbers of features": ([r"x \(2,\)", "do not fit", r"w \(I, K\)"], (ONES(2), ONES(1), ONES(1, 1), ONES(1, 1))),
    "other numbers of neurons": ([r"v \(1, 2\)", "do not fit"], (ONES(1), ONES(1), ONES(1, 1), ONES(1, 2))),
    "other numbers of samples": ([r"x \(2, 1\), y \(3, 1\)", "do not fit"], (ONES(2, 1), ONES(3, 1), ONES(1, 1), ONES(1, 1))),
    "relevance of other neurons": ([r"R \(2,\)", "do not fit"], (ONES(1), ONES(1), ONES(1, 1), ONES(1, 1), ONES(2))),
    "weights for one neuron": ([r"w \(1,\)", "needed are"], (ONES(1), ONES(1), ONES(1), ONES(1, 1))),
    "relevance from nowhere": (["neuron 1 of sample 0", "denominator", "R = 0"], (ONES(1), ONES(1), torch.tensor([[1.0, 0.0]]), ONES(1, 2), ONES(2))),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_NEURONS)
def test_bad_product_neurons_are_refused_in_words(case: str) -> None:
    words, arguments = BAD_NEURONS[case]
    refuse(InputError, words, lambda: product_neuron(*arguments), NET)


def test_cells_that_are_no_sums_are_refused() -> None:
    net, whole = nn.Sequential(*NET), bilrp(nn.Sequential(*NET), X, X2, "lrp_zero").relevance
    with pytest.raises(InputError, match=r"counts an entry of the relevance 0.5 times \(an average\?\)"):
        bilrp(net, X, X2, pool=lambda R: R.unflatten(1, (2, 2)).mean(2))
    with pytest.raises(InputError, match="counts an entry of the relevance 2 times"):
        bilrp(net, X, X2, pool=lambda R: torch.cat([R, R], 1))
    M = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])  # float32
    halves = whole.unflatten(2, (2, 2)).sum(3).unflatten(1, (2, 2)).sum(2)
    for pool in (lambda R: R.unflatten(1, (2, 2)).sum(2), lambda R: R.to(M) @ M):
        check_same_map(bilrp(net, X, X2, "lrp_zero", pool=pool).relevance.double(), halves, 1e-5)
    check_same_map(bilrp(net, X, X2, "lrp_zero", pool=lambda R: R[:, :2]).relevance, whole[:, :2, :2], 1e-9)


def test_product_neurons_take_tensors_of_one_type() -> None:
    x, w = torch.rand(2, 3), torch.rand(3, 1)
    with pytest.raises(InputError, match=r"one type; these are torch.float32, torch.float64"):
        product_neuron(x.double(), x, w, w)


def test_a_number_of_pairs_is_positive() -> None:
    joint = bilrp(nn.Sequential(*NET), X, X2)
    for count in (-1, 0, 2.5, True):
        with pytest.raises(InputError, match="how many pairs"):
            joint.top(count)
