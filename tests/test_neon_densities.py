"""Outlier detectors, densities and mixtures as networks: scikit-learn's own scores, and relevance written by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import datasets
from sklearn.covariance import EllipticEnvelope, EmpiricalCovariance
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.svm import OneClassSVM
from torch import Tensor

import relprop
from checks import check_same_map, check_sums_to
from relprop import neon
from relprop.errors import InputError

SAME = 1e-9
RAW = {
    "iris": datasets.load_iris().data,
    "wine": datasets.load_wine().data,
    "breast_cancer": datasets.load_breast_cancer().data,
    "digits": datasets.load_digits().data,
}
SETS = {name: (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1) for name, x in RAW.items()}
X = SETS["wine"]
SOME = X[::35] + 0.1  # no training samples


def tensor(x: Any) -> Tensor:
    return torch.tensor(np.asarray(x), dtype=torch.float64)


def column(x: Any) -> Tensor:
    return tensor(x)[:, None]


def spread(x: np.ndarray, points: np.ndarray, R: np.ndarray) -> np.ndarray:
    """R_i = Σ_j (x_i − u_ji)² / ‖x − u_j‖² R_j, point by point."""
    out = np.zeros_like(x)
    for j, u in enumerate(points):
        squares = (x - u) ** 2
        out += squares / squares.sum(1, keepdims=True) * R[:, [j]]
    return out


# One-class SVM


@pytest.mark.parametrize("name", SETS)
def test_one_class_svm_is_the_same_function(name: str) -> None:
    x = SETS[name]
    estimator, x = OneClassSVM(nu=0.3, gamma="scale").fit(x), x[::4]
    decision = neon.neuralize(estimator, output="decision")(tensor(x))
    check_same_map(decision, column(estimator.decision_function(x)), rtol=SAME)
    o = neon.neuralize(estimator)(tensor(x))[:, 0].numpy()
    assert (o >= 0).all()
    # the documented map between outlierness and score: A exp(−γ o)
    mapped = estimator.dual_coef_.sum() * np.exp(-estimator._gamma * o)
    check_same_map(tensor(mapped), tensor(estimator.score_samples(x)), rtol=SAME)


def test_relevance_of_a_one_class_svm() -> None:
    estimator = OneClassSVM(nu=0.3, gamma=0.05).fit(X)
    alpha, u = estimator.dual_coef_[0] / estimator.dual_coef_.sum(), estimator.support_vectors_
    h = ((SOME[:, None] - u) ** 2).sum(-1)
    w = alpha * np.exp(-0.05 * h)
    o = -np.log(w.sum(1)) / 0.05
    expected = spread(SOME, u, o[:, None] * w / w.sum(1, keepdims=True))
    e = relprop.explain(estimator, SOME, composite="lrp_zero", ledger=True)
    check_same_map(e.output, column(o), rtol=SAME)
    check_same_map(e.relevance, tensor(expected), rtol=SAME)
    check_sums_to(e.relevance.sum(1), e.score, rtol=SAME)
    assert e.ledger.closes()


def test_relevance_of_the_decision_function_is_what_distance_takes_away() -> None:
    estimator = OneClassSVM(nu=0.3, gamma=0.05).fit(X)
    alpha, u = estimator.dual_coef_[0], estimator.support_vectors_
    kernel = np.exp(-0.05 * ((SOME[:, None] - u) ** 2).sum(-1))
    expected = spread(SOME, u, alpha * (kernel - 1))
    e = relprop.explain(neon.neuralize(estimator, output="decision"), SOME, composite="lrp_zero", ledger=True)
    check_same_map(e.relevance, tensor(expected), rtol=SAME)
    at_no_distance = torch.full((len(SOME),), alpha.sum() + estimator.intercept_[0], dtype=torch.float64)
    check_sums_to(e.ledger.bias, at_no_distance, rtol=SAME)
    assert e.ledger.closes()
    far = relprop.explain(neon.neuralize(estimator, output="decision"), SOME + 1e3, composite="lrp_zero")  # all k are 0
    check_same_map(far.relevance, tensor(spread(SOME + 1e3, u, -alpha * np.ones((len(SOME), 1)))), rtol=SAME)


# Kernel density


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("bandwidth", [0.7, "scott"])
def test_kernel_density_is_the_same_function(name: str, bandwidth: Any) -> None:
    x = SETS[name][:300]
    estimator = KernelDensity(bandwidth=bandwidth).fit(x)
    y = x[::10] + 0.3
    check_same_map(neon.neuralize(estimator)(tensor(y)), column(-estimator.score_samples(y)), rtol=SAME)


def test_relevance_of_a_weighted_kernel_density() -> None:
    weights = np.linspace(1, 3, len(X))
    estimator = KernelDensity(bandwidth=1.5).fit(X, sample_weight=weights)
    h = ((SOME[:, None] - X) ** 2).sum(-1) / (2 * 1.5**2)
    w = weights / weights.sum() * np.exp(-h)
    o = -np.log(w.sum(1))
    volume = X.shape[1] * math.log(1.5 * math.sqrt(2 * math.pi))
    e = relprop.explain(estimator, SOME, composite="lrp_zero", ledger=True)
    check_same_map(e.output, column(o + volume), rtol=SAME)
    check_same_map(e.output, column(-estimator.score_samples(SOME)), rtol=SAME)
    check_same_map(e.relevance, tensor(spread(SOME, X, o[:, None] * w / w.sum(1, keepdims=True))), rtol=SAME)
    check_sums_to(e.ledger.bias, torch.full((len(SOME),), volume, dtype=torch.float64), rtol=SAME)
    assert e.ledger.closes()


def test_the_constant_of_a_density_is_a_bias_in_every_usual_recipe() -> None:
    estimator = KernelDensity(bandwidth=1.5).fit(X)
    exact = relprop.explain(estimator, SOME, composite="lrp_zero")
    for name in ("auto", "epsilon", "gamma"):
        check_same_map(relprop.explain(estimator, SOME, composite=name).relevance, exact.relevance, rtol=1e-4)


# Neighbours


@pytest.mark.parametrize("name", SETS)
def test_distances_to_neighbours_are_the_same(name: str) -> None:
    x = SETS[name]
    estimator = NearestNeighbors(n_neighbors=4).fit(x)
    y = x[::20] + 0.05
    distances, _ = estimator.kneighbors(y)
    check_same_map(neon.neuralize(estimator)(tensor(y)), column(distances[:, -1]), rtol=SAME)
    check_same_map(neon.neuralize(estimator, output="mean")(tensor(y)), column(distances.mean(1)), rtol=SAME)
    check_same_map(neon.neuralize(estimator, k=2)(tensor(y)), column(distances[:, 1]), rtol=SAME)


def test_relevance_of_the_distance_to_a_neighbour() -> None:
    estimator = NearestNeighbors(n_neighbors=3).fit(X)
    distances, places = estimator.kneighbors(SOME)
    each = [(SOME - X[places[:, k]]) ** 2 / distances[:, [k]] for k in range(3)]  # (x − u)² / d² · d
    e = relprop.explain(estimator, SOME, composite="lrp_zero", ledger=True)
    check_same_map(e.relevance, tensor(each[2]), rtol=SAME)
    assert e.ledger.closes()
    mean = relprop.explain(neon.neuralize(estimator, output="mean"), SOME, composite="lrp_zero")
    check_same_map(mean.relevance, tensor(sum(each) / 3), rtol=SAME)


# Gaussian mixtures

KINDS = ("tied", "diag", "spherical", "full")


def mixture(x: np.ndarray, kind: str, components: int = 3) -> GaussianMixture:
    return GaussianMixture(components, covariance_type=kind, random_state=0, reg_covar=1e-2).fit(x)


def log_joint(estimator: GaussianMixture, x: np.ndarray) -> np.ndarray:
    """log π_k + log N(x; μ_k, Σ_k) by the density's formula, with the covariances themselves."""
    K, d = estimator.means_.shape
    out = np.zeros((len(x), K))
    for k in range(K):
        S = covariance(estimator, k)
        a = x - estimator.means_[k]
        quadratic = (a * np.linalg.solve(S, a.T).T).sum(1)
        out[:, k] = -0.5 * (quadratic + np.linalg.slogdet(S)[1] + d * math.log(2 * math.pi))
    return out + np.log(estimator.weights_)


def covariance(estimator: GaussianMixture, k: int) -> np.ndarray:
    d, kind = estimator.means_.shape[1], estimator.covariance_type
    S = estimator.covariances_ if kind == "tied" else estimator.covariances_[k]
    return {"tied": S, "full": S, "diag": np.diag(S) if kind == "diag" else S, "spherical": np.eye(d) * S}[kind]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", KINDS)
def test_mixtures_are_the_same_function(name: str, kind: str) -> None:
    x = SETS[name][:400, :20]
    estimator = mixture(x, kind)
    o = neon.neuralize(estimator, output="outlierness")(tensor(x))
    check_same_map(o, column(-estimator.score_samples(x)), rtol=SAME)
    odds = neon.neuralize(estimator)(tensor(x))
    joint = log_joint(estimator, x)
    for c in range(3):  # log P(c|x) / (1 − P(c|x)), without the rounding of P near 1
        others = np.delete(joint, c, 1)
        expected = joint[:, c] - np.logaddexp.reduce(others, 1)
        check_same_map(odds[:, c], tensor(expected), rtol=1e-8)
    certain = torch.sigmoid(odds)
    assert float((certain - tensor(estimator.predict_proba(x))).abs().max()) < 1e-8
    assert (odds.argmax(1).numpy() == estimator.predict(x)).all()


def terms(estimator: GaussianMixture, x: np.ndarray, c: int, k: int) -> tuple[np.ndarray, float]:
    """What each feature contributes to log P(c|x) / P(k|x), and the constant, by the definition of its kind."""
    a, b = x - estimator.means_[k], x - estimator.means_[c]
    P, Q = (np.linalg.inv(covariance(estimator, j)) for j in (k, c))
    prior = math.log(estimator.weights_[c] / estimator.weights_[k])
    if estimator.covariance_type == "tied":
        middle = (estimator.means_[k] + estimator.means_[c]) / 2
        return (x - middle) * (P @ (estimator.means_[c] - estimator.means_[k])), prior
    quadratic = (a * (P @ a) - b * (Q @ b)) / 2
    if estimator.covariance_type == "full":
        return quadratic, prior + (np.linalg.slogdet(Q)[1] - np.linalg.slogdet(P)[1]) / 2
    return quadratic + np.log(np.diag(Q) / np.diag(P)) / 2, prior


@pytest.mark.parametrize("kind", KINDS)
def test_relevance_of_membership(kind: str) -> None:
    x = X[:, :6]
    estimator, some = mixture(x, kind), SOME[:, :6]
    e = relprop.explain(estimator, some, target=1, composite="lrp_zero", ledger=True)
    for i, row in enumerate(some):
        pairs = [terms(estimator, row, 1, k) for k in (0, 2)]
        z = np.array([t.sum() + b for t, b in pairs])
        p = np.exp(-z)
        f = -math.log(p.sum())
        expected = sum(q / p.sum() * t for q, (t, _) in zip(p, pairs, strict=True))  # of R_k = p_k z_k
        bias = sum(q / p.sum() * b for q, (_, b) in zip(p, pairs, strict=True))
        assert float(e.score[i]) == pytest.approx(f, rel=1e-8)
        check_same_map(e.relevance[i], tensor(expected), rtol=1e-8)
        assert float(e.ledger.bias[i]) == pytest.approx(bias, rel=1e-7, abs=1e-9)
        entropy = math.log(p.sum()) + float(p @ z) / p.sum()
        assert float(e.ledger.residual[i]) == pytest.approx(-entropy, rel=1e-7, abs=1e-9)
    assert e.ledger.closes()


@pytest.mark.parametrize("x", [3.9999, 3.9, 3.8, 0.0])
def test_evidence_near_and_beyond_one_half_keeps_its_map(x: float) -> None:
    """Log-odds of the class that is likeliest but has P < ½: the map neither grows without bound nor changes sign."""
    a = np.concatenate([np.random.default_rng(0).normal(m, 1, (50, 2)) for m in ((0, 0), (4, 4), (4, -4))])
    estimator = GaussianNB().fit(a, np.repeat([0, 1, 2], 50))
    estimator.theta_, estimator.var_ = np.array([[0.0, 0], [4, 4], [4, -4]]), np.ones((3, 2))
    e = relprop.explain(estimator, np.array([[x, 0.0]]), target=0, composite="lrp_zero")
    # both rivals are as near: z_k = (d_k² − d_0²) / 2 with d² summed over the two features
    expected = [((x - 4) ** 2 - x**2) / 2, 8.0]
    check_same_map(e.relevance[0], tensor(np.array(expected)), rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_relevance_of_mixture_outlierness(kind: str) -> None:
    x = X[:, :6]
    estimator, some = mixture(x, kind), SOME[:, :6]
    e = relprop.explain(neon.neuralize(estimator, output="outlierness"), some, composite="lrp_zero", ledger=True)
    at_means = np.array([log_joint(estimator, estimator.means_[[k]])[0, k] for k in range(3)])  # log weights
    total = np.logaddexp.reduce(at_means)
    joint = log_joint(estimator, some)
    o = total - np.logaddexp.reduce(joint, 1)
    p = np.exp(joint - np.logaddexp.reduce(joint, 1)[:, None])
    expected = np.zeros_like(some)
    for k in range(3):
        a = some - estimator.means_[k]
        t = a * np.linalg.solve(covariance(estimator, k), a.T).T  # (x − μ)_i (P (x − μ))_i
        expected += t / t.sum(1, keepdims=True) * (o * p[:, k])[:, None]
    assert (o >= 0).all()
    check_same_map(e.relevance, tensor(expected), rtol=1e-8)
    check_sums_to(e.ledger.bias, torch.full((len(some),), -total, dtype=torch.float64), rtol=1e-8)
    assert e.ledger.closes()


def test_a_mixture_of_one_component_has_no_membership() -> None:
    estimator = mixture(X, "full", 1)
    with pytest.raises(InputError, match="one group"):
        neon.neuralize(estimator)
    o = neon.neuralize(estimator, output="outlierness")(tensor(SOME))
    check_same_map(o, column(-estimator.score_samples(SOME)), rtol=SAME)


# Elliptic envelopes


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer"])
def test_elliptic_envelope_is_the_same_function(name: str) -> None:
    x = SETS[name]
    x = x[:, :13]
    estimator = EllipticEnvelope(random_state=0, support_fraction=0.9).fit(x)
    check_same_map(neon.neuralize(estimator)(tensor(x)), column(estimator.mahalanobis(x)), rtol=1e-8)
    decision = neon.neuralize(estimator, output="decision")(tensor(x))
    check_same_map(decision, column(estimator.decision_function(x)), rtol=1e-8)


def test_relevance_of_a_mahalanobis_distance() -> None:
    estimator = EmpiricalCovariance().fit(X)
    a = SOME - X.mean(0)
    expected = a * np.linalg.solve(np.cov(X.T, bias=True), a.T).T
    for name, rtol in (("lrp_zero", 1e-8), ("auto", 1e-4)):
        e = relprop.explain(estimator, SOME, composite=name, ledger=True)
        check_same_map(e.relevance, tensor(expected), rtol=rtol)
        assert e.ledger.closes()
    with pytest.raises(InputError, match="'outlierness'"):
        neon.neuralize(estimator, output="decision")


def test_a_training_sample_itself_keeps_what_no_distance_explains() -> None:
    """At a support vector u_1, h_1 = 0: its share of o has no feature to go to, and the ledger says so."""
    x = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    estimator = KernelDensity(bandwidth=1.0).fit(x)
    e = relprop.explain(estimator, x[:1], composite="lrp_zero", ledger=True)
    p = np.exp([0.0, -0.5, -4.5])
    o = -math.log(p.sum() / 3)
    check_same_map(e.relevance, tensor([[o * p[1] / p.sum(), o * p[2] / p.sum()]]), rtol=SAME)
    assert float(e.ledger.residual) == pytest.approx(o * p[0] / p.sum(), rel=SAME)
    assert e.ledger.closes()
