"""Targets of estimators: classes by their labels, quantities of a softmax where there is one; and classes of one's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import datasets
from sklearn.base import BaseEstimator, OutlierMixin, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier, SGDOneClassSVM
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import BallTree, KDTree, NearestCentroid, NearestNeighbors
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, OneClassSVM

import relprop
from relprop import neon
from relprop.errors import CompositeError, InputError, TargetError
from relprop.targets import Contrast, LogOdds, Margin, Probability

X, Y = datasets.load_iris(return_X_y=True)
SOME = X[::30]


def logistic(**options: Any) -> LogisticRegression:
    return LogisticRegression(max_iter=2000, **options)


LABELS: dict[str, Callable[[], np.ndarray]] = {
    "from 1": lambda: Y + 1,
    "reversed": lambda: 2 - Y,
    "texts": lambda: np.array(["c", "a", "b"])[Y],
    "objects": lambda: np.array(["c", "a", "b"], dtype=object)[Y],
    "floats": lambda: 2.0 * Y + 1.0,
    "small types": lambda: (Y + 3).astype("uint16"),
    "from 0": lambda: Y,
}
CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "logistic": logistic,
    "pipeline": lambda: make_pipeline(StandardScaler(), logistic()),
    "search": lambda: GridSearchCV(logistic(), {"C": [1.0, 2.0]}, cv=2),
    "centroids": NearestCentroid,
    "svc": lambda: SVC(random_state=0),
    "naive bayes": GaussianNB,
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_predictions_are_targets(kind: str, labels: str) -> None:
    y = LABELS[labels]()
    fitted = CLASSIFIERS[kind]().fit(X, y)
    predicted = fitted.predict(SOME)
    index = np.searchsorted(fitted.classes_, predicted)
    explainer = relprop.Explainer(fitted, SOME)
    e = explainer(SOME, target=predicted)
    assert e.target.tolist() == index.tolist()
    assert torch.equal(e.score, e.output[torch.arange(len(SOME)), index])
    one = explainer(SOME, target=predicted[0].item() if hasattr(predicted[0], "item") else predicted[0])
    assert one.target.tolist() == [index[0]] * len(SOME)


@pytest.mark.parametrize("labels", ["from 1", "texts", "from 0"])
def test_labels_inside_targets_made_of_targets(labels: str) -> None:
    fitted = logistic().fit(X, LABELS[labels]())
    a, b = fitted.classes_[2], fitted.classes_[0]
    explainer = relprop.Explainer(fitted, SOME)
    network = relprop.Explainer(neon.neuralize(fitted).layers, torch.tensor(SOME))
    for named, plain in (
        (Margin(a, b), Margin(2, 0)),
        (Contrast(a, b), Contrast(2, 0)),
        (LogOdds(a), LogOdds(2)),
        ([a, LogOdds(fitted.predict(SOME))], [2, LogOdds(None)]),
    ):
        found, wanted = explainer(SOME, target=named), network(torch.tensor(SOME), target=plain)
        torch.testing.assert_close(found.relevance, wanted.relevance, rtol=1e-9, atol=1e-12)


def test_integer_labels_are_never_taken_for_indices() -> None:
    fitted = logistic().fit(X, Y + 1)
    tensor = torch.tensor([1, 2, 3, 3, 1])
    assert relprop.explain(fitted, SOME, target=tensor).target.tolist() == [0, 1, 2, 2, 0]
    for given in (0, 4, -1, np.array([0, 1, 2, 3, 1]), torch.tensor([0, 1, 2, 3, 1]), "1"):
        with pytest.raises(TargetError, match=r"target .* is no class of the estimator, which has 1, 2, 3"):
            relprop.explain(fitted, SOME, target=given)


def test_texts_leave_indices_as_they_are() -> None:
    fitted = logistic().fit(X, LABELS["texts"]())
    assert relprop.explain(fitted, SOME, target=1).target.tolist() == [1] * 5
    assert relprop.explain(fitted, SOME, target=torch.tensor([0, 1, 2, 1, 0])).target.tolist() == [0, 1, 2, 1, 0]
    with pytest.raises(TargetError, match="target 'd' is no class of the estimator, which has 'a', 'b', 'c'"):
        relprop.explain(fitted, SOME, target="d")


def test_labels_where_outputs_are_not_one_a_class_are_refused() -> None:
    x = torch.tensor(SOME)
    two = logistic().fit(X, Y > 0)
    pairs = neon.neuralize(SVC(random_state=0).fit(X, Y + 1), output="ovo")
    shaped = neon.neuralize(SVC(decision_function_shape="ovo", random_state=0).fit(X, Y + 1))
    for model in (two, pairs, shaped):
        for target in (
            np.array([0, 0, 1, 1, 2]),
            torch.tensor([0, 0, 0, 0, 0]),
            "virginica",
            [None, np.int64([1] * 5)],
        ):
            with pytest.raises(TargetError, match=r"target names classes, but .*not one a class.*output=\"classes\""):
                relprop.explain(model, x, target)
        assert relprop.explain(model, x, target=0).target.tolist() == [0] * 5


def test_two_classes_with_an_output_each() -> None:
    x, label = torch.tensor(SOME), np.array([2, 1, 1])[Y]
    for fitted in (logistic(), SVC(random_state=0), SVC(decision_function_shape="ovo", random_state=0)):
        network = neon.neuralize(fitted.fit(X, label), output="classes")
        for named, column in ((1, 0), (2, 1), (np.int64(2), 1)):
            score = relprop.explain(network, x, target=named).score
            torch.testing.assert_close(score, network(x)[:, column], rtol=1e-9, atol=1e-12)
        assert bool((relprop.explain(network, x, target=fitted.predict(SOME)).score > 0).all())
    both = neon.neuralize(logistic().fit(X, Y > 0), output="classes")
    torch.testing.assert_close(relprop.explain(both, x, target=True).score, both(x)[:, 1], rtol=1e-9, atol=1e-12)


def test_a_mask_is_no_label() -> None:
    fitted = logistic().fit(X, Y)
    for mask in (torch.tensor([True, False, True, True, False]), np.array([True] * 5), True):
        with pytest.raises(TargetError, match="target True is no class"):
            relprop.explain(fitted, SOME, target=mask)


def probability(fitted: Any) -> np.ndarray:
    return fitted.predict_proba(SOME)[:, 1]


LOGITS: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "logistic": lambda: (logistic().fit(X, Y), {}),
    "pipeline": lambda: (make_pipeline(StandardScaler(), logistic()).fit(X, Y), {}),
    "search": lambda: (GridSearchCV(logistic(), {"C": [1.0]}, cv=2).fit(X, Y), {}),
    "discriminants": lambda: (LinearDiscriminantAnalysis().fit(X, Y), {}),
    "perceptron": lambda: (MLPClassifier((5,), max_iter=30, random_state=0).fit(X, Y), {}),
    "naive bayes": lambda: (GaussianNB().fit(X, Y), {"output": "joint"}),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", LOGITS)
def test_a_probability_is_that_of_the_estimator(case: str) -> None:
    fitted, options = LOGITS[case]()
    network = neon.neuralize(fitted, **options)
    P = relprop.explain(network, torch.tensor(SOME), Probability(1)).score.numpy()
    np.testing.assert_allclose(P, probability(fitted), rtol=1e-9)
    odds = relprop.explain(network, torch.tensor(SOME), LogOdds(1)).score.numpy()
    np.testing.assert_allclose(1 / (1 + np.exp(-odds)), probability(fitted), rtol=1e-9)


NO_LOGITS: dict[str, Callable[[], Any]] = {
    "clusters": lambda: KMeans(3, n_init=1, random_state=0).fit(X),
    "two classes": lambda: neon.neuralize(logistic().fit(X, Y > 0), output="classes"),
    "two classes of a perceptron": lambda: neon.neuralize(
        MLPClassifier((5,), max_iter=30, random_state=0).fit(X, Y > 0), output="classes"
    ),
    "odds already": lambda: GaussianNB().fit(X, Y),
    "mixture": lambda: GaussianMixture(3, random_state=0).fit(X),
    "one against all": lambda: SGDClassifier(loss="log_loss", random_state=0).fit(X, Y),
    "no probabilities": lambda: RidgeClassifier().fit(X, Y),
    "several may be right": lambda: MLPClassifier((5,), max_iter=30, random_state=0).fit(X, np.eye(3, dtype=int)[Y]),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", NO_LOGITS)
def test_odds_of_what_is_no_softmax_are_refused(case: str) -> None:
    model = NO_LOGITS[case]()
    x = torch.tensor(SOME)
    for target in (LogOdds(1), Probability(1), [0, Contrast(LogOdds(1), 0)]):
        with pytest.raises(TargetError, match=r"quantity of the softmax.*Margin\(c, rival\)"):
            relprop.explain(model, x, target)
    assert relprop.explain(model, x, Margin(1, 0)).score.shape == (5,)


# classes of one's own


def test_a_step_of_the_users_own_is_not_taken_for_that_of_the_same_name() -> None:
    class StandardScaler(TransformerMixin, BaseEstimator):  # type: ignore[misc]
        """Another formula: an own class may compute anything."""

        def fit(self, X: Any, y: Any = None) -> Any:
            self.mean_, self.scale_, self.n_features_in_ = X.mean(0), X.max(0), X.shape[1]
            return self

        def transform(self, X: Any) -> Any:
            return (X - self.mean_) / self.scale_**2

    own = make_pipeline(StandardScaler(), logistic()).fit(X, Y)
    with pytest.raises(InputError, match=r"is StandardScaler of .*test_neon_targets, for which no network is known"):
        neon.neuralize(own)


class Renamed(StandardScaler):
    """Nothing of its own."""


class Doubled(StandardScaler):
    def transform(self, X: Any, copy: Any = None) -> Any:
        return 2 * super().transform(X)


class Steeper(LogisticRegression):
    def decision_function(self, X: Any) -> Any:
        return 5 * super().decision_function(X)


class Analysis(OutlierMixin, LinearDiscriminantAnalysis):
    """Nothing of its own that is computed."""

    def fit(self, X: Any, y: Any) -> Any:
        return super().fit(X, y)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        return 0.0


class Likelier(GaussianNB):
    def _joint_log_likelihood(self, X: Any) -> Any:
        return 3 * super()._joint_log_likelihood(X)


def test_a_derived_class_is_what_it_is_derived_from_unless_it_computes_differently() -> None:
    derived = make_pipeline(Renamed(), logistic()).fit(X, Y)
    plain = make_pipeline(StandardScaler(), logistic()).fit(X, Y)
    x = torch.tensor(SOME)
    assert torch.equal(neon.neuralize(derived)(x), neon.neuralize(plain)(x))
    at_mean = neon.neuralize(Analysis().fit(X, Y), reference="mean")
    e = relprop.explain(at_mean, torch.tensor(X.mean(0, keepdims=True)))
    assert float(e.relevance.abs().max()) < 1e-12
    with pytest.raises(InputError, match="Doubled has a transform of its own"):
        neon.neuralize(make_pipeline(Doubled(), logistic()).fit(X, Y))
    with pytest.raises(InputError, match="Likelier has a _joint_log_likelihood of its own"):
        neon.neuralize(Likelier().fit(X, Y), output="joint")
    with pytest.raises(InputError, match=r"Steeper has a decision_function of its own.*LogisticRegression"):
        relprop.explain(Steeper(max_iter=2000).fit(X, Y), SOME)


# what else is refused, or was not known


def test_a_whitened_component_without_variance_is_refused() -> None:
    twice = np.c_[X, X[:, :1]].astype("float32")
    model = make_pipeline(PCA(whiten=True), logistic())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(twice, Y)
    model[0].explained_variance_[4] = 1e-15  # what rounding may leave of 0
    with pytest.raises(InputError, match="component 4 does not vary"):
        neon.neuralize(model)
    fit = make_pipeline(PCA(4, whiten=True), logistic()).fit(twice.astype("float64"), Y)
    scores = neon.neuralize(fit)(torch.tensor(twice[::30]).double()).numpy()
    np.testing.assert_allclose(scores, fit.decision_function(twice[::30].astype("float64")), rtol=1e-9, atol=1e-9)


def test_complex_numbers_are_refused() -> None:
    fitted = KMeans(3, n_init=1, random_state=0).fit(X)
    for given in (SOME + 1j, torch.tensor(SOME + 1j)):
        with pytest.raises(InputError, match="X holds complex numbers"):
            relprop.explain(fitted, given)


@pytest.mark.parametrize("tree", [KDTree, BallTree])
def test_neighbours_fitted_on_a_tree(tree: Any) -> None:
    fitted = NearestNeighbors(n_neighbors=3).fit(tree(X))
    fitted.n_features_in_ = 4
    distance = fitted.kneighbors(SOME)[0][:, -1]
    found = neon.neuralize(fitted)(torch.tensor(SOME))[:, 0].numpy()
    np.testing.assert_allclose(found, distance, rtol=1e-9, atol=1e-9)


def test_a_linear_one_class_machine() -> None:
    fitted = SGDOneClassSVM(nu=0.2, random_state=0).fit(X)
    network = neon.neuralize(fitted)
    np.testing.assert_allclose(network(torch.tensor(SOME))[:, 0].numpy(), fitted.decision_function(SOME), rtol=1e-12)
    e = relprop.explain(fitted, SOME, ledger=True)
    np.testing.assert_allclose(e.relevance.numpy(), SOME * fitted.coef_.reshape(-1), rtol=1e-4)
    assert e.ledger.closes()


def test_a_kernel_that_is_one_everywhere_is_refused() -> None:
    for fitted in (SVC(gamma=0.0).fit(X, Y), SVR(gamma=0.0).fit(X, Y), OneClassSVM(gamma=0.0).fit(X)):
        with pytest.raises(InputError, match=f"{type(fitted).__name__} was fitted with gamma=0"):
            neon.neuralize(fitted)


def test_odds_of_a_single_class_are_refused() -> None:
    fitted = GaussianNB().fit(X, np.zeros(len(X)))
    with pytest.raises(InputError, match=r"one class.*output='joint'"):
        neon.neuralize(fitted)


@pytest.mark.parametrize("name", ["output", "reference"])
def test_an_option_of_the_network_is_told_from_one_of_a_rule(name: str) -> None:
    fitted = make_pipeline(StandardScaler(), logistic()).fit(X, Y)
    for call in (relprop.explain, relprop.examine):
        with pytest.raises(CompositeError, match=rf"{name} is an option of the network.*neuralize\(estimator, {name}="):
            call(fitted, SOME, **{name: "classes"})


@pytest.mark.parametrize("points", ["abc", None, [[1.0], [2.0, 3.0]], {"a": 1}])
def test_points_that_are_no_numbers_are_refused(points: Any) -> None:
    with pytest.raises(InputError, match="points"):
        neon.DeepClustering(torch.nn.Identity(), points)
    with pytest.raises(InputError, match="features is a KMeans"):
        neon.DeepClustering(KMeans(2), np.eye(3))  # type: ignore[arg-type]


def test_points_may_be_a_table_or_whole_numbers() -> None:
    pandas = pytest.importorskip("pandas")
    x = torch.randn(4, 3, dtype=torch.float64)
    expected = neon.DeepClustering(torch.nn.Identity(), np.eye(3))(x)
    for points in (pandas.DataFrame(np.eye(3)), torch.eye(3).int(), np.eye(3).tolist()):
        assert torch.equal(neon.DeepClustering(torch.nn.Identity(), points)(x), expected)


def test_a_profile_takes_labels() -> None:
    fitted = logistic().fit(X, Y + 1)
    for target in (3, fitted.predict(X[:4])):
        assert relprop.profile(fitted, X[:4], target=target, repeats=1).samples == 4
    with pytest.raises(TargetError, match="target 0 is no class of the estimator, which has 1, 2, 3"):
        relprop.profile(fitted, X[:4], target=0, repeats=1)
