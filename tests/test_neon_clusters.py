"""Clusters as networks: the estimators' own decisions, and relevance by sums written by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import datasets
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestCentroid
from torch import Tensor, nn

import relprop
from checks import check_same_map, check_sums_to
from relprop import neon
from relprop.errors import InputError, TargetError

SAME = 1e-9
SETS = {
    "iris": datasets.load_iris(return_X_y=True),
    "wine": datasets.load_wine(return_X_y=True),
    "breast_cancer": datasets.load_breast_cancer(return_X_y=True),
    "digits": datasets.load_digits(return_X_y=True),
}


def tensor(x: Any) -> Tensor:
    return torch.tensor(np.asarray(x), dtype=torch.float64)


def margins(x: np.ndarray, centres: np.ndarray, beta: float | None) -> np.ndarray:
    """f_c = smin_k≠c (‖x − μ_k‖² − ‖x − μ_c‖²), cluster by cluster."""
    d = pairwise_distances(x, centres) ** 2
    out = np.zeros_like(d)
    for c in range(len(centres)):
        h = np.delete(d, c, 1) - d[:, [c]]
        out[:, c] = h.min(1) if beta is None else -np.log(np.exp(-beta * h).sum(1)) / beta
    return out


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
def test_kmeans_is_the_same_function(name: str, kind: Any) -> None:
    x, _ = SETS[name]
    estimator = kind(5, n_init=2, random_state=0).fit(x)
    network = neon.neuralize(estimator)
    scores = network(tensor(x)).numpy()
    check_same_map(tensor(scores), tensor(margins(x, estimator.cluster_centers_, None)), rtol=SAME)
    assert (scores.argmax(1) == estimator.predict(x)).all()
    soft = neon.neuralize(estimator, beta=0.01)(tensor(x)).numpy()
    assert (soft.argmax(1) == estimator.predict(x)).all()
    nearest = neon.neuralize(estimator, output="outlierness")(tensor(x))
    check_same_map(nearest, tensor(estimator.transform(x).min(1, keepdims=True) ** 2), rtol=SAME)
    assert (network.features_in, network.names) == (x.shape[1], None)


def midpoints(x: Tensor, centres: Tensor, c: int, beta: float | None) -> tuple[float, Tensor]:
    """f_c and R_i = Σ_k R_k (x_i − m_i) w_i / Σ_i (x_i − m_i) w_i for one sample."""
    rivals = [k for k in range(len(centres)) if k != c]
    terms = [(x - (centres[c] + centres[k]) / 2) * 2 * (centres[c] - centres[k]) for k in rivals]
    h = [float(t.sum()) for t in terms]
    if beta is None:
        return min(h), terms[h.index(min(h))]
    p = [math.exp(-beta * v) for v in h]
    f = -math.log(sum(p)) / beta
    return f, sum((q / sum(p) * t for q, t in zip(p, terms, strict=True)), torch.zeros_like(x))  # of R_k = p_k h_k


@pytest.mark.parametrize("beta", [None, 0.3])
def test_relevance_of_kmeans_is_the_midpoint_rule(beta: float | None) -> None:
    x, _ = SETS["wine"]
    x = (x - x.mean(0)) / x.std(0)
    estimator = KMeans(4, n_init=2, random_state=0).fit(x)
    centres, some = tensor(estimator.cluster_centers_), tensor(x[::25])
    e = relprop.explain(neon.neuralize(estimator, beta=beta), some, target=2, composite="lrp_zero", ledger=True)
    by_hand = [midpoints(row, centres, 2, beta) for row in some]
    check_same_map(e.score, tensor([f for f, _ in by_hand]), rtol=SAME)
    check_same_map(e.relevance, torch.stack([R for _, R in by_hand]), rtol=SAME)
    check_sums_to(e.relevance.sum(1) + e.ledger.residual, e.score, rtol=SAME)
    assert bool((e.ledger.residual.abs() < 1e-9).all() if beta is None else (e.ledger.residual < 0).all())
    assert e.ledger.closes()


@pytest.mark.parametrize("composite", ["auto", "epsilon"])
def test_ordinary_recipes_change_no_more_than_their_epsilon(composite: str) -> None:
    x, _ = SETS["iris"]
    estimator = KMeans(3, n_init=2, random_state=0).fit(x)
    exact = relprop.explain(estimator, x, composite="lrp_zero")
    e = relprop.explain(estimator, x, composite=composite, ledger=True)
    check_same_map(e.relevance, exact.relevance, rtol=1e-4)
    assert e.ledger.closes()
    assert (e.target.numpy() == estimator.predict(x)).all()  # the arg-max is explained


# NearestCentroid


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("options", [{}, {"metric": "manhattan"}, {"shrink_threshold": 0.2}, {"priors": "empirical"}])
def test_nearest_centroid_predicts_the_same(name: str, options: dict[str, Any]) -> None:
    x, y = SETS[name]
    keep = x.std(0) > 0
    x = x[:, keep] if "shrink_threshold" in options else x
    with np.errstate(all="ignore"):
        estimator = _fitted(options, x, y)
    scores = neon.neuralize(estimator)(tensor(x)).numpy()
    clear = np.sort(scores, 1)[:, -1] > 1e-9  # of a tie, anyone may win
    assert clear.mean() > 0.95  # medians of iris are equal in many features
    assert (estimator.classes_[scores.argmax(1)][clear] == estimator.predict(x)[clear]).all()


def _fitted(options: dict[str, Any], x: np.ndarray, y: np.ndarray) -> NearestCentroid:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pixels that are 0 in all digits
        return NearestCentroid(**options).fit(x, y)


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer"])
@pytest.mark.parametrize("priors", ["uniform", "empirical"])
def test_nearest_centroid_has_the_same_decision_function(name: str, priors: str) -> None:
    x, y = SETS[name]
    estimator = _fitted({"priors": priors}, x, y)
    network = neon.neuralize(estimator, output="decision")
    expected = estimator.decision_function(x)
    expected = expected[:, None] if expected.ndim == 1 else expected
    check_same_map(network(tensor(x)), tensor(expected), rtol=SAME)
    e = relprop.explain(network, tensor(x[:4]), composite="lrp_zero", ledger=True)
    assert e.ledger.closes()
    assert bool((e.ledger.bias.abs() > 1e-3).all()) is (priors == "empirical" or len(set(y)) > 2)


def test_relevance_of_a_manhattan_centroid_is_by_absolute_values() -> None:
    x, y = SETS["iris"]
    estimator = _fitted({"metric": "manhattan"}, x, y)
    e = relprop.explain(estimator, x[::30], target=1, composite="lrp_zero")
    centres, some = tensor(estimator.centroids_), tensor(x[::30])
    for b, row in enumerate(some):
        d = (row - centres).abs()
        k = min((0, 2), key=lambda k: float(d[k].sum() - d[1].sum()))
        check_same_map(e.relevance[b], d[k] - d[1], rtol=SAME)


# Tables, targets, deep features


def test_tables_arrays_lists_and_tensors_give_the_same() -> None:
    table = datasets.load_iris(as_frame=True).data
    estimator = KMeans(3, n_init=2, random_state=0).fit(table)
    explainer = relprop.Explainer(estimator, table, "epsilon")
    assert explainer.model.names == tuple(table.columns)
    expected = explainer(table).relevance
    assert (expected.dtype, expected.shape) == (torch.float64, (150, 4))
    for X in (table.to_numpy(), table.to_numpy()[::-1][::-1], table.to_numpy().tolist(), tensor(table)):
        assert torch.equal(explainer(X).relevance, expected)
    single = tensor(table).float()
    check_same_map(explainer(single).relevance, expected, rtol=1e-5)
    labels = estimator.predict(table)
    assert torch.equal(explainer(table, target=labels).relevance, expected)
    assert torch.equal(explainer(table[:5], target=np.int64(1)).relevance, explainer(table[:5], target=1).relevance)
    two = explainer(table[:5], target=[np.int64(1), labels[:5]]).relevance
    assert torch.equal(two[1], expected[:5])
    with pytest.raises(InputError, match=r"sepal width.*fitted on 'sepal length"):
        explainer(table[table.columns[[1, 0, 2, 3]]])


def test_a_cluster_out_of_range_is_an_error() -> None:
    x, _ = SETS["iris"]
    estimator = KMeans(3, n_init=1, random_state=0).fit(x)
    with pytest.raises(TargetError, match="target 3 is out of range: the model has 3 outputs"):
        relprop.explain(estimator, x, target=3)
    with pytest.raises(TargetError, match="array of <U"):
        relprop.explain(estimator, x, target=np.array(["setosa"] * len(x)))


def test_one_cluster_has_no_rival() -> None:
    x, _ = SETS["iris"]
    estimator = KMeans(1, n_init=1, random_state=0).fit(x)
    with pytest.raises(InputError, match="outlierness"):
        neon.neuralize(estimator)
    expected = ((x - x.mean(0)) ** 2)[:5]
    e = relprop.explain(neon.neuralize(estimator, output="outlierness"), tensor(x[:5]), composite="lrp_zero")
    check_same_map(e.relevance, tensor(expected), rtol=SAME)


def features() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 6), nn.ReLU()]
    return nn.Sequential(*layers).double().eval()


def test_deep_clusters_and_the_estimator_on_features_agree() -> None:
    net, images = features(), tensor(SETS["digits"][0][:60]).view(-1, 1, 8, 8) / 16
    with torch.no_grad():
        embedded = net(images).numpy()
    estimator = KMeans(3, n_init=2, random_state=0).fit(embedded)
    deep = neon.DeepClustering(net, estimator.cluster_centers_)
    on = neon.OnFeatures(net, estimator)
    check_same_map(deep(images), tensor(margins(embedded, estimator.cluster_centers_, None)), rtol=SAME)
    e = relprop.explain(deep, images[:6], composite="lrp_zero", ledger=True, record=("features",))
    check_same_map(relprop.explain(on, images[:6], composite="lrp_zero").relevance, e.relevance, rtol=SAME)
    assert e.ledger.closes()
    centres = tensor(estimator.cluster_centers_)
    for b in range(6):
        _, R = midpoints(tensor(embedded[b]), centres, int(e.target[b]), None)
        check_same_map(e.recorded["features"][b], R, rtol=SAME)


def test_a_head_takes_the_precision_of_its_network_and_leaves_the_given_one() -> None:
    net, images = features().float(), torch.tensor(SETS["digits"][0][:60], dtype=torch.float32).view(-1, 1, 8, 8) / 16
    embedded = net(images).detach()
    given = neon.neuralize(KMeans(3, n_init=2, random_state=0).fit(embedded.numpy()))
    e = relprop.explain(neon.OnFeatures(net, given), images[:6], ledger=True)
    assert (e.relevance.dtype, e.ledger.closes()) == (torch.float32, True)
    assert given(embedded.double()).dtype is torch.float64
    check_same_map(e.output, given(embedded[:6].double()), rtol=1e-4)


def test_a_deep_one_class_head_explains_the_distance_to_its_centre() -> None:
    net, images = features(), tensor(SETS["digits"][0][:6]).view(-1, 1, 8, 8) / 16
    with torch.no_grad():
        embedded = net(images)
    centre = torch.linspace(-1, 1, 6, dtype=torch.float64)[None]
    deep = neon.DeepOneClass(net, centre)
    e = relprop.explain(deep, images, composite="lrp_zero", ledger=True, record=("features",))
    check_same_map(e.recorded["features"], (embedded - centre) ** 2, rtol=SAME)
    check_same_map(e.output, ((embedded - centre) ** 2).sum(1, keepdim=True), rtol=SAME)
    assert e.ledger.closes()
    with pytest.raises(InputError, match="6 features, the points have 5"):
        neon.DeepOneClass(net, torch.zeros(2, 5))(images)


def test_heads_that_nothing_can_be_made_of() -> None:
    with pytest.raises(InputError, match=r"one centroid alone.*DeepOneClass"):
        neon.DeepClustering(features(), [[0.0] * 6])
    with pytest.raises(InputError, match="a object is no estimator with fit"):
        neon.OnFeatures(features(), object())


def off(z: float) -> tuple[nn.Module, Tensor]:
    """A ReLU unit that is on, φ = 1, and one that is off by z; the point u = (3, 1) is √5 away."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU()).double()
    net[0].weight.data = torch.tensor([[1.0, 0.0], [0.5, z - 0.5]], dtype=torch.float64)
    return neon.DeepOneClass(net, [[3.0, 1.0]]), torch.ones(1, 2, dtype=torch.float64)


def test_relevance_of_units_that_are_off_explodes_but_with_gamma() -> None:
    """LRP-0: R = (4, 0) of the unit that is on, and 1 · w_i / z of the one that is off; γ keeps it below the score."""
    z = -1e-5
    model, x = off(z)
    by_hand = torch.tensor([[4 + 0.5 / z, (z - 0.5) / z]], dtype=torch.float64)
    check_same_map(relprop.explain(model, x, composite="lrp_zero").relevance, by_hand, rtol=1e-6)
    bounded = relprop.explain(model, x, composite="gamma").relevance
    check_sums_to(bounded.sum(1), tensor([5.0]), rtol=1e-3)
    assert float(bounded.abs().max()) <= 5
