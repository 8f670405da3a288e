"""Pipelines: points lifted from behind an affine map to raw features, means known along the way, and parts of columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import datasets
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_selection import VarianceThreshold
from sklearn.impute import SimpleImputer
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, PolynomialFeatures, RobustScaler, StandardScaler
from sklearn.svm import OneClassSVM
from torch import Tensor

import relprop
from checks import check_same_map, check_sums_to
from relprop.errors import InputError
from relprop.neon import neuralize
from relprop.neon.affine import Affine

Array = np.ndarray[Any, Any]
X, Y = datasets.load_wine(return_X_y=True)
MEAN = X.mean(0)
TRAIN, REST = X[::2], X[1::8]


def tensor(x: Any) -> Tensor:
    return torch.tensor(np.asarray(x), dtype=torch.float64)


def explained(network: Any, x: Array, target: Any = None) -> Any:
    e = relprop.explain(network, tensor(x), target, "lrp_zero", ledger=True)
    assert e.ledger is not None
    assert e.ledger.closes()
    return e


def matrix(steps: Any, features: int) -> tuple[Array, Array]:
    """A and c of what affine steps compute, A x + c, by transforming 0 and the unit vectors."""
    c = steps.transform(np.zeros((1, features)))[0]
    return (steps.transform(np.eye(features)) - c).T, c


def quadratic(steps: Any, near: Array, points: Array, x: Array) -> Array:
    """(x − r)_i (Aᵀ A (x − r))_i for each sample and point, with A r + c = u and r closest to `near`."""
    A, c = matrix(steps, x.shape[1])
    r = near + (points - (A @ near + c)) @ np.linalg.pinv(A).T
    d = x[:, None] - r
    return d * (d @ A.T @ A)


# Distances without differences of features


def nearest(h: Array, model: Any) -> Array:
    """Of ‖z − u‖² to the closest centroid: all of it."""
    return (h == h.min(1, keepdims=True)) * 1.0


def root(h: Array, model: Any) -> Array:
    """Of √h to the closest sample: R_i = √h · t_i / h."""
    return nearest(h, model) / np.sqrt(h)


def support(h: Array, model: Any) -> Array:
    """Of o = −(1/γ) log Σ_j α_j exp(−γ h_j): the shares p_j of the pool, each of p_j o / h_j."""
    a = model.dual_coef_[0] / model.dual_coef_.sum()
    k = a * np.exp(-model._gamma * h)
    o = -np.log(k.sum(1, keepdims=True)) / model._gamma
    return k / k.sum(1, keepdims=True) * o / h


def density(h: Array, model: Any) -> Array:
    """Of −log (1/N) Σ_j exp(−h_j / 2b²), the volume being a bias."""
    k = np.exp(-h / (2 * model.bandwidth**2)) / h.shape[1]
    return k / k.sum(1, keepdims=True) * -np.log(k.sum(1, keepdims=True)) / h


HEADS: dict[str, tuple[Callable[[], Any], dict[str, Any], Callable[[Any], Array], Callable[[Array, Any], Array]]] = {
    "kmeans": (
        lambda: KMeans(3, n_init=1, random_state=0),
        {"output": "outlierness"},
        lambda m: m.cluster_centers_,
        nearest,
    ),
    "neighbours": (lambda: NearestNeighbors(n_neighbors=1), {}, lambda m: m._fit_X, root),
    "one class": (lambda: OneClassSVM(nu=0.2), {}, lambda m: m.support_vectors_, support),
    "density": (lambda: KernelDensity(bandwidth=0.7), {}, lambda m: np.asarray(m.tree_.data), density),
}


@pytest.mark.parametrize("front", ["pca", "svd"])
@pytest.mark.parametrize("head", HEADS)
def test_squared_distances_are_lifted(head: str, front: str) -> None:
    """R_i = (x − r)_i (Aᵀ A (x − r))_i / h · R_h, also where the head keeps no differences of its own."""
    make, options, points, share = HEADS[head]
    reduce = PCA(5) if front == "pca" else TruncatedSVD(5, random_state=0)
    estimator = make_pipeline(StandardScaler(), reduce, make()).fit(TRAIN)
    t = quadratic(estimator[:-1], TRAIN.mean(0), points(estimator[-1]), REST)
    expected = (share(t.sum(-1), estimator[-1])[..., None] * t).sum(1)
    e = explained(neuralize(estimator, **options), REST)
    check_same_map(e.relevance, tensor(expected), 1e-8)


def test_a_decision_behind_pca_is_lifted() -> None:
    """Σ_j α_j (exp(−γ h_j) − 1) of a one-class SVM: its decision, less Σ_j α_j − ρ."""
    estimator = make_pipeline(StandardScaler(), PCA(5), OneClassSVM(nu=0.2)).fit(TRAIN)
    model = estimator[-1]
    t = quadratic(estimator[:-1], TRAIN.mean(0), model.support_vectors_, REST)
    h = t.sum(-1)
    expected = ((model.dual_coef_[0] * np.expm1(-model._gamma * h) / h)[..., None] * t).sum(1)
    e = explained(neuralize(estimator, output="decision"), REST)
    check_same_map(e.relevance, tensor(expected), 1e-8)
    check_same_map(e.score, tensor(estimator.decision_function(REST)), 1e-9)


# The mean, where a later step knows it

EVERY = list(range(13))
FRONTS: dict[str, Callable[[], list[Any]]] = {
    "standard, pca": lambda: [StandardScaler(), PCA(3)],
    "min-max, pca": lambda: [MinMaxScaler(), PCA(3)],
    "robust, pca": lambda: [RobustScaler(), PCA(3)],
    "largest, whitened": lambda: [MaxAbsScaler(), PCA(3, whiten=True)],
    "selected": lambda: [VarianceThreshold(), StandardScaler(), PCA(3)],
    "columns": lambda: [ColumnTransformer([("s", StandardScaler(), EVERY)]), PCA(3)],
    "columns, half known": lambda: [
        ColumnTransformer([("s", StandardScaler(), EVERY[6:]), ("m", MinMaxScaler(), EVERY[:6])]),
        PCA(3),
    ],
    "columns, each known": lambda: [
        ColumnTransformer([("s", make_pipeline(StandardScaler(), PCA(2)), EVERY[6:]), ("m", PCA(2), EVERY[:6])])
    ],
    "union": lambda: [FeatureUnion([("s", make_pipeline(MinMaxScaler(), PCA(2))), ("p", PCA(1))])],
}


@pytest.mark.parametrize("front", FRONTS)
def test_without_a_reference_the_mean_is_it(front: str) -> None:
    """R_i = w'_i (x_i − mean_i): PCA maps the mean to 0, whatever scales in front of it."""
    estimator = make_pipeline(*FRONTS[front](), Ridge()).fit(X, Y)
    w = matrix(estimator[:-1], 13)[0].T @ estimator[-1].coef_
    e = explained(neuralize(estimator), X[::30])
    check_same_map(e.relevance, tensor(w * (X[::30] - MEAN)), 1e-9)
    at_mean = explained(neuralize(estimator), MEAN[None])
    assert float(at_mean.relevance.abs().max()) < 1e-12


@pytest.mark.parametrize("front", FRONTS)
def test_points_are_lifted_closest_to_the_mean(front: str) -> None:
    estimator = make_pipeline(*FRONTS[front](), KMeans(3, n_init=1, random_state=0)).fit(X)
    t = quadratic(estimator[:-1], MEAN, estimator[-1].cluster_centers_, X[::30])
    h = t.sum(-1)
    closest = h.argmin(1)
    e = explained(neuralize(estimator, output="outlierness"), X[::30])
    check_same_map(e.relevance, tensor(t[np.arange(len(h)), closest]), 1e-7)


def test_a_point_known_behind_is_carried_back() -> None:
    """2 x + 1 = (5, 9) at x = (2, 4); of x₀ + x₁ = 6 the point closest to 0 is (3, 3), to (1, 2) it is (2.5, 3.5)."""
    eye, one = torch.eye(2).double(), torch.ones(2).double()
    known = Affine(eye, 0 * one, torch.tensor([5.0, 9.0]).double())
    assert Affine(2 * eye, one).then(known).near.tolist() == [2.0, 4.0]
    total = Affine(one[None], torch.zeros(1).double())
    six = Affine(torch.eye(1).double(), torch.zeros(1).double(), torch.tensor([6.0]).double())
    check_same_map(total.then(six).near, tensor([3.0, 3.0]), 1e-12)
    half = Affine(total.weight, total.bias, torch.tensor([1.0, 2.0]).double())
    check_same_map(half.then(six).near, tensor([2.5, 3.5]), 1e-12)
    assert half.then(Affine(torch.eye(1).double(), torch.zeros(1).double())).near is half.near


# Parts side by side


@pytest.mark.parametrize("behind", [[], [StandardScaler()]])
@pytest.mark.parametrize("curved", [False, True])
def test_weighted_columns(curved: bool, behind: list[Any]) -> None:
    """Each part's columns times its weight: R_i = Σ_k w_k (z_k − z_k(0)) over the columns of feature i."""
    parts = [("s", StandardScaler(), [0, 1]), ("p", "passthrough", [3]), ("m", MaxAbsScaler(), [4])]
    if curved:
        parts.append(("c", PolynomialFeatures((2, 2), interaction_only=False, include_bias=False), [2]))
    weights = {"s": 3.0, "p": -0.5, "c": 7.0}
    front = ColumnTransformer(parts, transformer_weights=weights, remainder="drop")
    estimator = make_pipeline(front, *behind, Ridge()).fit(X, Y)
    e = explained(neuralize(estimator), X[::30])
    check_same_map(e.score, tensor(estimator.predict(X[::30])), 1e-10)
    if not behind and not curved:
        w = estimator[-1].coef_
        d = X[::30]
        expected = np.zeros_like(d)
        expected[:, :2] = w[:2] * 3 * (d[:, :2] - MEAN[:2]) / X.std(0)[:2]
        expected[:, 3] = w[2] * -0.5 * d[:, 3]
        expected[:, 4] = w[3] * d[:, 4] / np.abs(X[:, 4]).max()
        check_same_map(e.relevance, tensor(expected), 1e-9)


def test_weighted_unions() -> None:
    """w·(x − mean)/σ + v · 2 Vᵀ (x − mean)."""
    front = FeatureUnion([("s", StandardScaler()), ("p", PCA(2))], transformer_weights={"p": 2.0})
    estimator = make_pipeline(front, Ridge()).fit(X, Y)
    w, pca = estimator[-1].coef_, front.transformer_list[1][1]
    slope = w[:13] / X.std(0) + 2 * w[13:] @ pca.components_
    e = explained(neuralize(estimator), X[::30])
    check_same_map(e.relevance, tensor(slope * (X[::30] - MEAN)), 1e-9)
    check_same_map(e.score, tensor(estimator.predict(X[::30])), 1e-10)


DROPPED: dict[str, Callable[[], list[Any]]] = {
    "union": lambda: [FeatureUnion([("d", "drop"), ("s", StandardScaler()), ("p", PCA(2))])],
    "union, in another": lambda: [FeatureUnion([("u", FeatureUnion([("d", "drop"), ("s", StandardScaler())]))])],
    "union, behind": lambda: [StandardScaler(), FeatureUnion([("d", "drop"), ("s", PCA(3))])],
    "columns": lambda: [ColumnTransformer([("d", "drop", [0]), ("s", StandardScaler(), [1, 2])])],
    "columns of a union": lambda: [
        ColumnTransformer([("u", FeatureUnion([("d", "drop"), ("s", StandardScaler())]), [1, 3])])
    ],
    "nothing in front": lambda: [make_pipeline("passthrough")],
}


@pytest.mark.parametrize("case", DROPPED)
def test_a_first_part_that_is_dropped(case: str) -> None:
    estimator = make_pipeline(*DROPPED[case](), Ridge()).fit(X, Y)
    network = neuralize(estimator)
    assert network.features_in == 13
    check_same_map(network(tensor(X))[:, 0], tensor(estimator.predict(X)), 1e-10)


def test_the_mean_of_a_part() -> None:
    """A union's parts read the same features, whose mean the first of them keeps."""
    front = FeatureUnion([("d", "drop"), ("s", StandardScaler(with_mean=False))])
    estimator = make_pipeline(front, Ridge()).fit(X, Y)
    e = explained(neuralize(estimator, reference="mean"), X[::30])
    check_same_map(e.relevance, tensor(estimator[-1].coef_ / X.std(0) * (X[::30] - MEAN)), 1e-9)


# Values that are missing


@pytest.mark.parametrize("missing", [0, -1, 2.0])
def test_an_imputer_of_numbers(missing: float) -> None:
    estimator = make_pipeline(SimpleImputer(missing_values=missing), Ridge()).fit(X, Y)
    with pytest.raises(InputError, match=f"missing_values={missing}.*replaces a number.*impute before"):
        neuralize(estimator)


def test_an_imputer_of_what_is_no_number() -> None:
    import pandas as pd

    for missing in (np.nan, np.float32("nan"), pd.NA):
        estimator = make_pipeline(SimpleImputer(missing_values=missing), Ridge()).fit(X, Y)
        check_same_map(neuralize(estimator)(tensor(X))[:, 0], tensor(estimator.predict(X)), 1e-10)


# Kernel machines with one side


@pytest.mark.parametrize("sign", [1, -1])
def test_coefficients_of_one_sign(sign: int) -> None:
    """Σ_j c_j (exp(−γ h_j) − 1), each term shared as its distance is; Σ_j c_j is the bias."""
    estimator = make_pipeline(StandardScaler(), KernelRidge(kernel="rbf", gamma=0.2, alpha=9.0))
    estimator.fit(TRAIN, sign * (Y[::2] + 1.0))
    c = estimator[-1].dual_coef_
    assert (sign * c > 0).all()
    z, u = estimator[0].transform(REST), estimator[-1].X_fit_
    t = (z[:, None] - u) ** 2
    h = t.sum(-1)
    expected = ((c * np.expm1(-0.2 * h) / h)[..., None] * t).sum(1)
    e = explained(neuralize(estimator), REST)
    check_same_map(e.relevance, tensor(expected), 1e-9)
    check_same_map(e.score, tensor(estimator.predict(REST)), 1e-10)
    check_sums_to(e.ledger.bias, tensor(np.repeat(c.sum(), len(REST))), 1e-9)


def test_outputs_of_one_sign_among_others() -> None:
    """Each output as it would be alone."""
    y = Y[::2]
    columns = [y + 1.0, y - 1.0, -y - 1.0, 2.0 - 2 * y]
    make = lambda: make_pipeline(StandardScaler(), PCA(4), KernelRidge(kernel="rbf", gamma=0.5, alpha=9.0))  # noqa: E731
    together = make().fit(TRAIN, np.stack(columns, 1))
    signs = np.sign(together[-1].dual_coef_)
    assert [len(set(s)) for s in signs.T] == [1, 2, 1, 2]
    network = neuralize(together)
    check_same_map(network(tensor(REST)), tensor(together.predict(REST)), 1e-10)
    for k, column in enumerate(columns):
        alone = explained(neuralize(make().fit(TRAIN, column)), REST)
        check_same_map(explained(network, REST, k).relevance, alone.relevance, 1e-9)
