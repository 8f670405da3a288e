"""Joint relevance of two inputs: against sums written out by hand, both ways alike, accounts closed, refusals clear."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import relprop
import tiny_bert
from checks import check_same_map, check_sums_to
from embeddings import bert, dense, drawn
from held import RECIPES
from relprop import zoo
from relprop.bilrp import PairExplainer, api, bilrp, branch
from unchanged import unchanged

WAYS = ("units", "tokens")


def maps_of_units(net: nn.Sequential, x: Tensor) -> list[list[float]]:
    """LRP(φ_m, x)_i for every unit m: R_j = Σ_k a_j w_jk / (Σ_j a_j w_jk + b_k) R_k, loops over neurons (LRP-0)."""
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    weights = [layer.weight.tolist() for layer in linear]
    biases = [[0.0] * layer.out_features if layer.bias is None else layer.bias.tolist() for layer in linear]
    activations, sums = [x.tolist()], []
    for W, b in zip(weights, biases, strict=True):
        a = activations[-1]
        sums.append([sum(a_j * w_j for a_j, w_j in zip(a, w, strict=True)) + b_k for w, b_k in zip(W, b, strict=True)])
        activations.append([max(0.0, z) for z in sums[-1]])
    found = []
    for m, phi in enumerate(activations[-1]):
        R = [phi if k == m else 0.0 for k in range(len(activations[-1]))]
        for W, z, a in reversed(list(zip(weights, sums, activations, strict=False))):
            R = [sum(a_j * W[k][j] / z[k] * R_k for k, R_k in enumerate(R) if R_k) for j, a_j in enumerate(a)]
        found.append(R)
    return found


def joint_by_hand(one: nn.Sequential, two: nn.Sequential, x: Tensor, x2: Tensor) -> Tensor:
    """R_ii' = Σ_m LRP(φ_m, x)_i LRP(φ_m, x')_i' for every sample."""
    found = []
    for a, b in zip(x, x2, strict=True):
        A, B = maps_of_units(one, a), maps_of_units(two, b)
        found.append([[sum(A[m][i] * B[m][j] for m in range(len(A))) for j in range(len(b))] for i in range(len(a))])
    return torch.tensor(found, dtype=torch.float64)


# the definition


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_the_definition_neuron_by_neuron(way: Any, bias: bool) -> None:
    net, x, x2 = dense(4, 7, 6, bias=bias), drawn(3, 4), drawn(3, 4, seed=5)
    joint = bilrp(net, x, x2, "lrp_zero", way=way)
    check_same_map(joint.relevance, joint_by_hand(net, net, x, x2), rtol=1e-12)
    check_same_map(joint.score, (net(x) * net(x2)).sum(1).detach(), rtol=1e-12)
    check_same_map(joint.embeddings[1], net(x2).detach(), rtol=1e-12)
    assert joint.cost.way == way


@pytest.mark.parametrize("way", WAYS)
def test_two_embeddings_of_inputs_of_different_sizes(way: Any) -> None:
    one, two = dense(4, 5, 6), dense(3, 8, 6, seed=2)
    x, x2 = drawn(2, 4), drawn(2, 3, seed=5)
    joint = bilrp((one, two), x, x2, "lrp_zero", way=way)
    assert joint.relevance.shape == (2, 4, 3)
    check_same_map(joint.relevance, joint_by_hand(one, two, x, x2), rtol=1e-12)
    check_same_map(bilrp((two, one), x2, x, "lrp_zero", way=way).relevance, joint.relevance.mT, rtol=1e-12)


def test_a_linear_embedding_by_pen_and_paper() -> None:
    """φ = W x: R_ii' = x_i x'_i' (Wᵀ W)_ii'; with W = [[1, 2], [0, 3]], x = (1, 2), x' = (3, 1)."""
    net = nn.Linear(2, 2, bias=False).double()
    net.weight.data = torch.tensor([[1.0, 2.0], [0.0, 3.0]]).double()
    joint = bilrp(net, torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[3.0, 1.0]]).double(), "lrp_zero")
    expected = torch.tensor([[[3.0, 2.0], [12.0, 26.0]]]).double()  # Wᵀ W = [[1, 2], [2, 13]]
    check_same_map(joint.relevance, expected, rtol=1e-12)
    assert joint.score.tolist() == pytest.approx([43.0])  # φ = (5, 6), φ' = (5, 3)
    assert joint.marginals[0].tolist() == [pytest.approx([5.0, 38.0])]
    assert joint.marginals[1].tolist() == [pytest.approx([15.0, 28.0])]
    (first, second) = joint.top(2)
    assert first == ((1,), (1,), pytest.approx(26.0))
    assert second == ((1,), (0,), pytest.approx(12.0))


# both ways, on networks of every kind


class Encoder(nn.Module):
    """Positions of a sequence, averaged after a layer of any kind."""

    def __init__(self, layer: nn.Module, pick: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.layer, self.pick = layer, pick

    def forward(self, x: Tensor) -> Tensor:
        return self.pick(self.layer(x)).mean(1)


def photos() -> tuple[Tensor, Tensor]:
    return zoo.sample("horse").double(), zoo.sample("cat").double()


def pooled_network() -> nn.Module:
    """The network of the package up to its last convolution, averaged over positions: 128 units."""
    return nn.Sequential(zoo.cifar10_lrn().features, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()


class RowByRow(nn.Module):
    """A loop over the samples, which has a graph for one sample alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = dense(4, 7, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.net(row) for row in x])


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, Tensor], str, dict[str, Any]]] = {
    "dense, γ": (lambda: dense(4, 7, 6, bias=True), (drawn(3, 4), drawn(3, 4, seed=5)), "gamma", {}),
    "dense, αβ": (lambda: dense(4, 7, 6, bias=True), (drawn(3, 4), drawn(3, 4, seed=5)), "alpha_beta", {"alpha": 2.0}),
    "convolutions with LRN": (pooled_network, photos(), "auto", {"pool": 8}),
    "LRN by Taylor, box": (pooled_network, photos(), "epsilon_gamma_box", {"pool": 16, "lrn": "taylor", "low": -2.5, "high": 2.8}),
    "transformer": (bert, (drawn(2, 5, 8), drawn(2, 4, 8, seed=5)), "attnlrp", {}),
    "transformer of tokens": (bert, (torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5, 6, 7]])), "cp_lrp", {}),
    "LSTM": (lambda: Encoder(nn.LSTM(3, 6, batch_first=True), lambda y: y[0]).double(), (drawn(2, 4, 3), drawn(2, 6, 3, seed=5)), "auto", {}),
    "one sample at a time": (RowByRow, (drawn(3, 4), drawn(3, 4, seed=5)), "epsilon", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_both_ways_give_the_same(name: str) -> None:
    build, (x, x2), composite, options = NETWORKS[name]
    net = build().eval()
    with unchanged(net, x, x2):
        explain = PairExplainer(net, x, x2, composite, way="units", **options)
        units = explain(x, x2)
        explain.way = "tokens"
        tokens = explain(x, x2)
    check_same_map(tokens.relevance, units.relevance, rtol=1e-9)
    assert (tokens.cost.way, units.cost.way) == ("tokens", "units")
    assert tokens.notes == units.notes == ()
    width = units.embeddings[0].shape[1]
    if width < 16:  # Σ_m of the outer products of what `relprop.explain` gives for unit m
        both = zip(explain.explainers, (x, x2), strict=True)
        A, B = (single(v, list(range(width))).relevance for single, v in both)
        A, B = (r.sum(-1) if x.dim() == 3 else r for r in (A, B))
        check_same_map(tokens.relevance, torch.einsum("mbi,mbj->bij", A, B), rtol=1e-9)


def test_a_transformer_has_the_joint_relevance_of_the_oracle() -> None:
    """R_ii' with LRP(φ_m, x) = x ⊙ ∂φ_m / ∂x of the function in which tests/tiny_bert.py holds what is held."""
    net, x, x2 = bert(2), drawn(2, 5, 8), drawn(2, 4, 8, seed=5)
    weights, sizes = net.state_dict(), tiny_bert.Sizes()

    def units(v: Tensor) -> Tensor:
        v = v.clone().requires_grad_()
        phi = tiny_bert.held_bert(weights, sizes, v, RECIPES["cp_lrp"])
        grads = [torch.autograd.grad(phi[:, m].sum(), v, retain_graph=True)[0] for m in range(phi.shape[1])]
        return torch.stack([(v * g).sum(-1) for g in grads]).detach()

    expected = torch.einsum("mbi,mbj->bij", units(x), units(x2))
    check_same_map(bilrp(net, x, x2, "cp_lrp", epsilon=0, way="tokens").relevance, expected, rtol=1e-9)


def test_pairs_of_a_batch_do_not_know_each_other() -> None:
    net, x, x2 = dense(4, 7, 6, bias=True), drawn(3, 4), drawn(3, 4, seed=5)
    together = bilrp(net, x, x2, "gamma")
    for i in range(3):
        alone = bilrp(net, x[i : i + 1], x2[i : i + 1], "gamma")
        check_same_map(together.relevance[i : i + 1], alone.relevance, rtol=1e-12)
        check_same_map(together.marginals[1][i : i + 1], alone.marginals[1], rtol=1e-12)


def test_many_units_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, x2 = dense(4, 7, 6), drawn(3, 4), drawn(3, 4, seed=5)
    expected = joint_by_hand(net, net, x, x2)
    monkeypatch.setattr(branch, "TOGETHER", 2)
    monkeypatch.setattr(api, "LARGEST", 16 * 18 * 4)
    for way in WAYS:
        check_same_map(bilrp(net, x, x2, "lrp_zero", way=way).relevance, expected, rtol=1e-12)


# marginals and accounts


@pytest.mark.parametrize("way", WAYS)
def test_marginals_are_the_sums_where_relevance_is_conserved(way: Any) -> None:
    net, x, x2 = dense(4, 7, 6), drawn(3, 4), drawn(3, 4, seed=5)
    joint = bilrp(net, x, x2, "lrp_zero", way=way, ledger=True)
    check_same_map(joint.marginals[0], joint.relevance.sum(2), rtol=1e-10)
    check_same_map(joint.marginals[1], joint.relevance.sum(1), rtol=1e-10)
    check_sums_to(joint.relevance.sum((1, 2)), joint.score, rtol=1e-10)
    assert joint.ledger.closes()
    nothing = torch.stack([joint.ledger.first, joint.ledger.second, joint.ledger.neither])
    assert float(nothing.abs().max()) < 1e-10 * float(joint.score.abs().max())


def test_a_marginal_is_the_relevance_of_the_dot_product_with_the_other_held() -> None:
    net, x, x2 = dense(4, 7, 6, bias=True), drawn(3, 4), drawn(3, 4, seed=5)
    joint = bilrp(net, x, x2, "epsilon")
    held = net(x2).detach()
    e = relprop.explain(net, x, lambda phi: (phi * held).sum(1), "epsilon")
    check_same_map(joint.marginals[0], e.relevance, rtol=1e-12)
    check_same_map(joint.score, e.score, rtol=1e-12)


def test_what_biases_take_by_pen_and_paper() -> None:
    """φ = max(0, 2x + 1) at x = 1 is 3, of which x has 2; φ = 5 at x' = 2, of which x' has 4. 15 = 8 + 2 + 4 + 1."""
    net = dense(1, 1, bias=True)
    net[0].weight.data.fill_(2.0)
    net[0].bias.data.fill_(1.0)
    joint = bilrp(net, torch.tensor([[1.0]]).double(), torch.tensor([[2.0]]).double(), "lrp_zero", ledger=True)
    ledger = joint.ledger
    assert joint.relevance.tolist() == [[[pytest.approx(8.0)]]]
    assert [
        float(t) for t in (ledger.score, ledger.pairs, ledger.first, ledger.second, ledger.neither)
    ] == pytest.approx([15, 8, 2, 4, 1])
    assert [m.tolist() for m in joint.marginals] == [[[pytest.approx(10.0)]], [[pytest.approx(12.0)]]]
    assert ledger.of is not None
    assert [float(one.bias) for one in ledger.of] == pytest.approx([5.0, 3.0])
    assert ledger.closes()
    assert str(ledger).splitlines()[1].split() == ["0", "15", "8", "2", "4", "1"]


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_accounts_close_with_biases_and_epsilon(similarity: Any) -> None:
    net, x, x2 = dense(4, 7, 6, bias=True), drawn(3, 4), drawn(3, 4, seed=5)
    joint = bilrp(net, x, x2, "epsilon", epsilon=0.1, similarity=similarity, ledger=True)
    assert joint.ledger.closes()
    check_same_map(joint.ledger.total, joint.score, rtol=1e-12)
    lost = joint.marginals[0] - joint.relevance.sum(2)
    check_same_map(lost.sum(1), joint.ledger.first, rtol=1e-10)
    assert float(lost.abs().max()) > 1e-3  # there is something to account for


def test_accounts_that_do_not_agree_do_not_close() -> None:
    net, x, x2 = dense(4, 7, 6, bias=True), drawn(3, 4), drawn(3, 4, seed=5)
    ledger = bilrp(net, x, x2, "epsilon", ledger=True).ledger
    for name in ("score", "first", "neither"):
        wrong = ledger.__class__(**{**vars(ledger), name: getattr(ledger, name) + 0.1})
        assert not wrong.closes()
    assert ledger.closes()


def test_the_cosine_divides_by_norms_that_are_held() -> None:
    net, x, x2 = dense(4, 7, 6), drawn(3, 4), drawn(3, 4, seed=5)
    phi, phi2 = net(x).detach(), net(x2).detach()
    norms = phi.norm(dim=1) * phi2.norm(dim=1)
    joint = bilrp(net, x, x2, "lrp_zero", similarity="cosine")
    check_same_map(joint.score, torch.cosine_similarity(phi, phi2), rtol=1e-12)
    check_same_map(joint.relevance, joint_by_hand(net, net, x, x2) / norms[:, None, None], rtol=1e-12)
    check_sums_to(joint.relevance.sum((1, 2)), joint.score, rtol=1e-10)
    check_sums_to(joint.marginals[0].sum(1), joint.score, rtol=1e-10)
    three_times = bilrp(net, 3 * x, x2, "lrp_zero", similarity="cosine")  # no bias: φ(3 x) = 3 φ(x)
    check_same_map(three_times.relevance, joint.relevance, rtol=1e-10)


class Normalized(nn.Module):
    """An embedding of length 1, as sentence encoders give."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.net(x), dim=1)


def test_an_embedding_of_length_one_has_the_relevance_of_the_cosine() -> None:
    net, x, x2 = dense(4, 7, 6), drawn(3, 4), drawn(3, 4, seed=5)
    dot, cosine = bilrp(Normalized(net), x, x2, "lrp_zero"), bilrp(net, x, x2, "lrp_zero", similarity="cosine")
    check_same_map(dot.relevance, cosine.relevance, rtol=1e-9)
    check_same_map(dot.score, cosine.score, rtol=1e-12)


# features


def test_cells_of_images_hold_the_sum_over_pixels_and_channels() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 24, 5, bias=False)
    ).double()
    x, x2 = drawn(2, 2, 4, 6), drawn(2, 2, 4, 6, seed=5)
    A, B = (relprop.explain(net, v, list(range(5)), "epsilon").relevance.sum(2) for v in (x, x2))  # (5, 2, 4, 6)
    whole = torch.einsum("mbhw,mbpq->bhwpq", A, B)
    fine = bilrp(net, x, x2, "epsilon")
    check_same_map(fine.relevance, whole, rtol=1e-10)
    coarse = bilrp(net, x, x2, "epsilon", pool=(2, 3))
    assert coarse.relevance.shape == (2, 2, 2, 2, 2)
    for i, j, k, m in product(range(2), repeat=4):
        block = whole[:, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3, 2 * k : 2 * k + 2, 3 * m : 3 * m + 3]
        check_same_map(coarse.relevance[:, i, j, k, m], block.sum((1, 2, 3, 4)), rtol=1e-9)
    assert coarse.matrix.shape == (2, 4, 4)
    assert coarse.maps[0].shape == x.shape
    check_same_map(coarse.maps[0].sum(1).unfold(1, 2, 2).unfold(2, 3, 3).sum((3, 4)), coarse.marginals[0], rtol=1e-12)
    (place, place2, R), *_ = coarse.top(3, sample=1)
    assert float(coarse.relevance[(1, *place, *place2)]) == R
    assert abs(R) == float(coarse.relevance[1].abs().max())


def test_positions_are_summed_over_the_embedding_and_pooled() -> None:
    net, x, x2 = bert(), drawn(2, 6, 8), drawn(2, 4, 8, seed=5)
    explain = PairExplainer(net, x, x2, "cp_lrp")
    fine = explain(x, x2)
    assert fine.relevance.shape == (2, 6, 4)
    explain.pools = (3, 2)
    coarse = explain(x, x2)
    check_same_map(coarse.relevance, fine.relevance.reshape(2, 2, 3, 2, 2).sum((2, 4)), rtol=1e-9)
    own = bilrp(net, x, x2, "cp_lrp", pool=[lambda R: R[:, :2].sum(2), None])
    check_same_map(own.relevance, fine.relevance[:, :2], rtol=1e-9)
    assert own.kinds == ("own", "tokens")


def test_tokens_with_a_mask_are_one_feature_each() -> None:
    net, tokens = bert(), torch.tensor([[3, 1, 4, 1]])
    inputs = {"x": tokens, "keep": torch.tensor([[1, 1, 1, 0]])}
    joint = bilrp(net, inputs, {"x": tokens[:, :3]}, "cp_lrp", epsilon=0)
    alone = bilrp(net, tokens[:, :3], tokens[:, :3], "cp_lrp", epsilon=0)
    check_same_map(joint.relevance[:, :3], alone.relevance, rtol=1e-9)
    assert float(joint.relevance[:, 3].abs().max()) < 1e-12


# cost


def flops(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def test_the_cost_is_that_of_the_passes_it_says() -> None:
    """A dense network: a pass costs as many FLOPs as a forward pass of it, transposed or not."""
    net, x, x2 = dense(4, 7, 6), drawn(3, 4), drawn(3, 4, seed=5)
    one = flops(lambda: net(x))
    for way in WAYS:
        explain = PairExplainer(net, x, x2, "lrp_zero", way=way)
        cost = explain(x, x2).cost
        outer = 2 * 3 * 6 * 4 * 4 if way == "units" else 0  # Σ_m of the outer products
        assert flops(lambda e=explain: e(x, x2)) == (2 + 2 + cost.passes) * one + outer
    assert (cost.units, cost.tokens) == (12, 9)


def test_the_cheaper_way_is_taken() -> None:
    wide, narrow = dense(4, 9), dense(9, 4)
    by_cells, by_units = (
        bilrp(n, drawn(2, k), drawn(2, k, seed=5), "lrp_zero").cost for n, k in ((wide, 4), (narrow, 9))
    )
    assert (by_cells.way, by_cells.passes, by_cells.units) == ("tokens", 9, 18)
    assert (by_units.way, by_units.passes, by_units.tokens) == ("units", 8, 19)
    short = bilrp(
        (narrow, dense(1, 4)), drawn(2, 9), drawn(2, 1), "lrp_zero"
    ).cost  # of the two inputs, the one with fewer cells
    assert (short.way, short.passes) == ("tokens", 3)
    assert str(short) == "tokens: 3 passes (units: 8; fewer passes)"


def test_a_model_is_captured_once_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = []
    real = relprop.Explainer
    monkeypatch.setattr(api, "Explainer", lambda m, x, *a, **k: captured.append(tuple(x.shape)) or real(m, x, *a, **k))
    net = bert()
    explain = PairExplainer(net, drawn(2, 5, 8), drawn(2, 4, 8), "cp_lrp")
    explain(drawn(2, 5, 8, seed=3), drawn(2, 4, 8, seed=4))
    explain(drawn(1, 4, 8, seed=3), drawn(1, 5, 8, seed=4), ledger=True)
    assert captured == [(2, 5, 8), (2, 4, 8)]
    explain(drawn(1, 3, 8), drawn(1, 3, 8))
    assert captured[2:] == [(1, 3, 8)]


def test_weights_that_change_are_seen() -> None:
    net, x, x2 = dense(4, 7, 6), drawn(3, 4), drawn(3, 4, seed=5)
    explain = PairExplainer(net, x, x2, "lrp_zero")
    before = explain(x, x2)
    with torch.no_grad():
        net[0].weight.mul_(2)
    check_same_map(explain(x, x2).relevance, 4 * before.relevance, rtol=1e-12)
