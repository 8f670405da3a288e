"""Which estimators become networks, and what is said of those that cannot, are not fitted, or get other inputs."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn import datasets
from sklearn.cluster import DBSCAN, BisectingKMeans, KMeans
from sklearn.covariance import EllipticEnvelope
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    BaggingClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KernelDensity, KNeighborsClassifier, LocalOutlierFactor, NearestCentroid, NearestNeighbors
from sklearn.svm import OneClassSVM
from sklearn.tree import DecisionTreeClassifier
from torch import nn

import relprop
from relprop import neon
from relprop.errors import CaptureError, InputError, TargetError
from relprop.neon import registry
from relprop.targets import Contrast, Margin

X, Y = datasets.load_iris(return_X_y=True)
FITTED = KMeans(3, n_init=1, random_state=0).fit(X)


@pytest.mark.parametrize(
    "estimator",
    [
        KMeans(),
        NearestCentroid(),
        OneClassSVM(),
        KernelDensity(),
        NearestNeighbors(),
        GaussianMixture(),
        EllipticEnvelope(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_an_estimator_that_is_not_fitted(estimator: Any) -> None:
    with pytest.raises(InputError, match=f"this {type(estimator).__name__} is not fitted; fit it first"):
        relprop.explain(estimator, X)


TREES = [
    DecisionTreeClassifier(max_depth=1),
    RandomForestClassifier(2),
    GradientBoostingClassifier(n_estimators=2),
    HistGradientBoostingRegressor(max_iter=2),
    IsolationForest(n_estimators=2),
]


@pytest.mark.parametrize("estimator", TREES, ids=lambda e: type(e).__name__)
def test_trees_are_refused_with_what_to_use_instead(estimator: Any) -> None:
    with pytest.raises(InputError, match=f"{type(estimator).__name__} cannot be neuralized: .*thresholds.*TreeSHAP"):
        neon.neuralize(estimator.fit(X, Y))


OTHERS: dict[str, tuple[Any, str]] = {
    "neighbours' votes": (KNeighborsClassifier(), "vote.*NearestNeighbors"),
    "a ratio of densities": (LocalOutlierFactor(novelty=True), "NearestNeighbors"),
    "no function of new samples": (DBSCAN(), "no function of new ones.*NearestCentroid"),
    "members": (BaggingClassifier(n_estimators=2), "estimators_"),
    "unknown": (
        BayesianGaussianMixture(n_components=2),
        "no network is known for BayesianGaussianMixture.*GaussianMixture, .*KMeans",
    ),
    "a relative of KMeans with another function": (BisectingKMeans(2), "no network is known for BisectingKMeans"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_others_are_refused_with_what_there_is(case: str) -> None:
    estimator, words = OTHERS[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(X, Y)
    with pytest.raises(InputError, match=words):
        neon.neuralize(estimator)


class Own(KMeans):
    """A user's own class."""


class Foreign:
    """An estimator of another library."""

    n_features_in_ = 2

    def fit(self, X: Any) -> Foreign:
        return self


def test_a_class_derived_by_the_user_is_found() -> None:
    own = Own(3, n_init=1, random_state=0).fit(X)
    assert torch.equal(neon.neuralize(own)(torch.tensor(X)), neon.neuralize(FITTED)(torch.tensor(X)))
    with pytest.raises(InputError, match="no network is known for Foreign"):
        neon.neuralize(Foreign())


def call(**options: Any) -> Callable[[], object]:
    return lambda: neon.neuralize(FITTED, **options)


OPTIONS: dict[str, tuple[Callable[[], object], str]] = {
    "an unknown option": (call(gamma=1.0), "KMeans has no option gamma; it has output, beta"),
    "an unknown output": (call(output="odds"), "output='odds': for KMeans it is one of 'membership', 'outlierness'"),
    "beta = 0": (call(beta=0), "beta=0.*positive"),
    "beta is a word": (call(beta="soft"), "beta='soft'.*positive"),
    "a class": (lambda: neon.neuralize(KMeans), r"KMeans is a class.*KMeans\(...\).fit"),
    "a network": (lambda: neon.neuralize(nn.Linear(2, 2)), "Linear is no estimator"),
    "a kernel without distances": (
        lambda: neon.neuralize(OneClassSVM(kernel="poly").fit(X)), "kernel='poly'.*kernel='rbf'"),
    "a kernel of finite reach": (
        lambda: neon.neuralize(KernelDensity(kernel="tophat").fit(X)), "kernel='tophat'.*'gaussian'"),
    "another metric": (lambda: neon.neuralize(NearestNeighbors(metric="cosine").fit(X)), "metric='cosine'"),
    "k = 0": (lambda: neon.neuralize(NearestNeighbors().fit(X), k=0), "k=0.*from 1 to.*150"),
    "k > N": (lambda: neon.neuralize(NearestNeighbors().fit(X), k=151), "k=151.*from 1 to.*150"),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS)
def test_options_are_checked(case: str) -> None:
    run, words = OPTIONS[case]
    with pytest.raises(InputError, match=words):
        run()


def test_options_may_be_numbers_of_numpy() -> None:
    x, near = torch.tensor(X[:4]), NearestNeighbors().fit(X[::2])
    assert torch.equal(neon.neuralize(near, k=np.int64(3))(x), neon.neuralize(near, k=3)(x))
    assert torch.equal(neon.neuralize(FITTED, beta=np.float32(2))(x), neon.neuralize(FITTED, beta=2.0)(x))
    for wrong in (np.float64(-1), np.float32("nan"), np.array([1.0])):
        with pytest.raises(InputError, match="beta="):
            neon.neuralize(FITTED, beta=wrong)


def weighted(priors: list[float]) -> NearestCentroid:
    return NearestCentroid(priors=priors).fit(X, np.array(["a", "b", "c"])[Y])


NEVER: dict[str, Callable[[], object]] = {
    "GaussianNB": lambda: neon.neuralize(GaussianNB(priors=[0, 0.5, 0.5]).fit(X, np.array(["a", "b", "c"])[Y])),
    "GaussianNB, joint": lambda: neon.neuralize(
        GaussianNB(priors=[0, 0.5, 0.5]).fit(X, np.array(["a", "b", "c"])[Y]), output="joint"),
    "NearestCentroid": lambda: neon.neuralize(weighted([0, 0.5, 0.5])),
    "NearestCentroid, decision": lambda: neon.neuralize(weighted([0, 0.5, 0.5]), output="decision"),
    "LinearDiscriminantAnalysis": lambda: neon.neuralize(zero_lda()),
}  # fmt: skip


def zero_lda() -> LinearDiscriminantAnalysis:
    with np.errstate(divide="ignore"):
        return LinearDiscriminantAnalysis(priors=[0, 0.5, 0.5]).fit(X, np.array(["a", "b", "c"])[Y])


@pytest.mark.parametrize("case", NEVER)
def test_a_class_that_never_occurs_is_named(case: str) -> None:
    with pytest.raises(InputError, match=case.split(",")[0] + ": class a has prior 0.*positive priors"):
        NEVER[case]()


def test_distances_need_no_priors() -> None:
    network = neon.neuralize(weighted([0, 0.5, 0.5]), output="outlierness")
    assert bool(network(torch.tensor(X)).isfinite().all())


def test_a_component_without_weight_is_named() -> None:
    mixture = GaussianMixture(2, random_state=0).fit(X)
    mixture.weights_ = np.array([1.0, 0.0])
    with pytest.raises(InputError, match=r"GaussianMixture: component 1 has weight 0.*positive weights"):
        neon.neuralize(mixture)


def test_targets_made_of_targets_take_arrays() -> None:
    labels = FITTED.predict(X[:5])
    others, explainer = (labels + 1) % 3, relprop.Explainer(FITTED, X[:5])
    given, rivals = torch.tensor(labels).long(), torch.tensor(others).long()
    for target, plain in (
        (Margin(np.int64(1), np.int64(2)), Margin(1, 2)),
        (Margin(labels, others), Margin(given, rivals)),
        (Contrast(labels, np.int64(0)), Contrast(given, 0)),
        (Contrast(Margin(labels, others), others), Contrast(Margin(given, rivals), rivals)),
    ):
        assert torch.equal(explainer(X[:5], target=target).relevance, explainer(X[:5], target=plain).relevance)
    parts = relprop.explain(FITTED, X[:5], Margin(labels), max_batch=2)
    assert torch.equal(parts.relevance, explainer(X[:5], target=Margin(given)).relevance)
    with pytest.raises(TargetError, match="array of <U1"):
        explainer(X[:1], target=Margin(np.array(["a"])))


def test_the_mean_of_a_discriminant_analysis_is_that_of_its_priors() -> None:
    """w·(x − x₀) with x₀ = Σ_c π_c μ_c: the data's mean without `priors`, another one with them."""
    skewed = slice(0, 120)
    for priors, x0 in ((None, X[skewed].mean(0)), ([0.2, 0.3, 0.5], None)):
        lda = LinearDiscriminantAnalysis(priors=priors).fit(X[skewed], Y[skewed])
        x0 = sum(p * X[skewed][Y[skewed] == c].mean(0) for c, p in enumerate(priors)) if priors else x0
        e = relprop.explain(neon.neuralize(lda, reference="mean"), X[:2], target=0, composite="lrp_zero")
        np.testing.assert_allclose(e.relevance.numpy(), lda.coef_[0] * (X[:2] - x0), rtol=1e-9, atol=1e-9)


INPUTS: dict[str, tuple[Any, str]] = {
    "too few features": (X[:, :3], "X has 3 features, but KMeans was fitted on 4"),
    "one sample as a vector": (X[0], r"shape \(4,\).*reshape\(1, -1\)"),
    "sparse": (sparse.csr_matrix(X), "sparse.*toarray"),
    "a sparse tensor": (torch.tensor(X).to_sparse(), "to_dense"),
    "words": (np.array([["a", "b", "c", "d"]]), "no numbers.*encode"),
    "rows of other lengths": ([[1.0, 2.0, 3.0, 4.0], [1.0]], "list.*one length"),
    "text": ("X.csv", "X is a str"),
    "no samples": (X[:0], "at least one"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_other_inputs_are_refused(case: str) -> None:
    inputs, words = INPUTS[case]
    with pytest.raises(InputError, match=words):
        relprop.explain(FITTED, inputs)


def test_missing_values_are_named() -> None:
    with_nan = X.copy()
    with_nan[3, 2] = np.nan
    with pytest.raises(relprop.errors.NonFiniteError, match="1 NaN"):
        relprop.explain(FITTED, with_nan)


def test_the_network_itself_checks_its_input() -> None:
    network = neon.neuralize(FITTED)
    with pytest.raises(InputError, match=r"takes \(samples, 4\); the input has shape \(2, 3\)"):
        network(torch.zeros(2, 3).double())
    with pytest.raises(InputError, match=r"computes in torch\.float64, the input is torch\.float32"):
        network(torch.zeros(2, 4))
    assert network.float()(torch.zeros(2, 4)).dtype is torch.float32
    assert list(network.parameters()) == []


def test_what_is_neither_network_nor_estimator() -> None:
    with pytest.raises(CaptureError, match="model is a function"):
        relprop.explain(lambda x: x, X)


def test_examine_reports_on_an_estimator() -> None:
    assert relprop.examine(FITTED, X).ready
    assert "not fitted" in relprop.examine(KMeans(), X).error


def test_every_estimator_is_one_of_scikit_learn_and_documented() -> None:
    from sklearn.utils import all_estimators

    # all_estimators has no searches, and those by halving are experimental
    known = {name for name, _ in all_estimators()} | {"HalvingGridSearchCV", "HalvingRandomSearchCV"}
    for name in neon.estimators():
        assert name in known, name
        assert inspect.getdoc(registry._MAKERS[name]), name
