"""Pipelines as networks: the same function as scikit-learn's, and relevance of the raw features by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import datasets
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    PolynomialFeatures,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, SVR
from torch import Tensor

import relprop
from checks import check_same_map, check_sums_to
from relprop.errors import InputError
from relprop.neon import neuralize

Array = np.ndarray[Any, Any]


@cache
def data(name: str) -> tuple[Array, Array]:
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return (x / 16 if name == "digits" else x), y


def tensor(x: Any) -> Tensor:
    return torch.tensor(np.asarray(x), dtype=torch.float64)


def score(estimator: Any, x: Array) -> Tensor:
    f = estimator.decision_function(x) if hasattr(estimator, "decision_function") else estimator.predict(x)
    return tensor(f[:, None] if f.ndim == 1 else f)


def explained(network: Any, x: Array, target: Any = None, composite: str = "lrp_zero") -> Any:
    e = relprop.explain(network, tensor(x), target, composite, ledger=True)
    assert e.ledger is not None
    assert e.ledger.closes()
    check_sums_to(e.relevance.sum(1) + e.ledger.bias + e.ledger.epsilon + e.ledger.residual, e.score, 1e-7)
    return e


FRONTS: dict[str, Callable[[], list[Any]]] = {
    "standard": lambda: [StandardScaler()],
    "standard, mean kept": lambda: [StandardScaler(with_mean=False)],
    "standard, deviation kept": lambda: [StandardScaler(with_std=False)],
    "min-max": lambda: [MinMaxScaler((-2, 3))],
    "min-max, clipped": lambda: [MinMaxScaler((0.1, 0.9), clip=True)],
    "largest": lambda: [MaxAbsScaler()],
    "robust": lambda: [RobustScaler()],
    "nothing": lambda: ["passthrough_", FunctionTransformer(), StandardScaler()],
    "pca": lambda: [StandardScaler(), PCA(4)],
    "pca, whitened": lambda: [PCA(3, whiten=True)],
    "pca, min-max": lambda: [PCA(4), MinMaxScaler()],
    "svd": lambda: [MaxAbsScaler(), TruncatedSVD(3, random_state=0)],
    "products": lambda: [StandardScaler(), PolynomialFeatures(2), StandardScaler()],
    "cubes": lambda: [MinMaxScaler(), PolynomialFeatures(3, include_bias=False)],
    "products alone": lambda: [MaxAbsScaler(), PolynomialFeatures(3, interaction_only=True)],
    "norm": lambda: [Normalizer(), StandardScaler()],
    "union": lambda: [make_union(StandardScaler(), make_pipeline(MinMaxScaler(), PCA(2)))],
    "selected": lambda: [StandardScaler(), VarianceThreshold(), SelectKBest(k=3)],
    "imputed": lambda: [SimpleImputer(), RobustScaler(with_centering=False)],
}
HEADS: dict[str, Callable[[], Any]] = {
    "logistic": lambda: LogisticRegression(max_iter=500),
    "svc": lambda: SVC(gamma=0.1),
    "mlp": lambda: MLPClassifier((8,), max_iter=20, random_state=0),
    "naive bayes": GaussianNB,
    "kmeans": lambda: KMeans(3, n_init=1, random_state=0),
    "envelope": lambda: EllipticEnvelope(random_state=0),
    "tied mixture": lambda: GaussianMixture(2, covariance_type="tied", random_state=0),
    "diagonal mixture": lambda: GaussianMixture(2, covariance_type="diag", random_state=0),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore:The covariance matrix:UserWarning")
@pytest.mark.parametrize("front", FRONTS)
def test_a_pipeline_is_its_function(front: str) -> None:
    """Behind every front, by the head's own network on what scikit-learn transforms."""
    x, y = data("iris")
    for head, make in HEADS.items():
        steps = [s for s in FRONTS[front]() if not isinstance(s, str)]
        estimator = make_pipeline(*steps, make()).fit(x, y)
        apart = neuralize(estimator[-1])(tensor(estimator[:-1].transform(x)))
        check_same_map(neuralize(estimator)(tensor(x)), apart, 1e-9, head)
        if head in ("logistic", "svc"):
            check_same_map(neuralize(estimator)(tensor(x)), score(estimator, x), 1e-9)


@pytest.mark.parametrize("name", ["wine", "breast_cancer", "digits"])
def test_real_data(name: str) -> None:
    x, y = data(name)
    for head in (LogisticRegression(max_iter=200), SVC()):
        estimator = make_pipeline(StandardScaler(), PCA(10), head).fit(x, y)
        check_same_map(neuralize(estimator)(tensor(x[::9])), score(estimator, x[::9]), 1e-9)
    x, y = data("diabetes")
    estimator = make_pipeline(StandardScaler(), PolynomialFeatures(2), Ridge()).fit(x, y)
    check_same_map(neuralize(estimator)(tensor(x)), score(estimator, x), 1e-9)


# Relevance by hand


def test_relevance_behind_a_scaler_is_that_of_the_scaled_features() -> None:
    """R_i = w_i (x_i − mean_i) / σ_i: the scaler's mean is the reference, in raw features."""
    x, y = data("breast_cancer")
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
    e = explained(neuralize(estimator), x[::90])
    w = estimator[-1].coef_[0]
    check_same_map(e.relevance, tensor(w * (x[::90] - x.mean(0)) / x.std(0)), 1e-9)
    check_sums_to(e.ledger.bias, tensor(np.repeat(estimator[-1].intercept_, len(e.score))), 1e-7)


def test_relevance_behind_pca_is_linear_in_the_raw_features() -> None:
    """w' = Vᵀ(w / σ_z) and R_i = w'_i (x_i − mean_i), PCA's own components divided by their deviations."""
    x, y = data("diabetes")
    estimator = make_pipeline(PCA(4, whiten=True), Ridge()).fit(x, y)
    pca, ridge = estimator
    w = pca.components_.T @ (ridge.coef_ / np.sqrt(pca.explained_variance_))
    e = explained(neuralize(estimator), x[::50])
    check_same_map(e.relevance, tensor(w * (x[::50] - x.mean(0))), 1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_reference_is_a_point_of_the_raw_features(steps: int) -> None:
    """R_i = w'_i (x_i − x0_i), with w' the slope of the whole pipeline, and f(x0) is the bias."""
    x, y = data("diabetes")
    front = [MinMaxScaler((1, 2)), PCA(6), RobustScaler()][:steps]
    estimator = make_pipeline(*front, Ridge(0.1)).fit(x, y)
    point = x[7] + 0.01
    e = explained(neuralize(estimator, reference=point), x[::50])
    eye = np.eye(10) * 1e-3
    slope = (estimator.predict(eye + x[0]) - estimator.predict(x[:1])) / 1e-3
    check_same_map(e.relevance, tensor(slope * (x[::50] - point)), 1e-7)
    check_sums_to(e.ledger.bias, tensor(np.repeat(estimator.predict(point[None]), len(e.score))), 1e-7)


def test_the_mean_of_the_first_step() -> None:
    x, y = data("diabetes")
    estimator = make_pipeline(StandardScaler(with_mean=False), Ridge()).fit(x, y)
    e = explained(neuralize(estimator, reference="mean"), x[::60])
    check_same_map(e.relevance, tensor(estimator[-1].coef_ / x.std(0) * (x[::60] - x.mean(0))), 1e-9)
    plain = explained(neuralize(estimator), x[::60])
    check_same_map(plain.relevance, tensor(estimator[-1].coef_ / x.std(0) * x[::60]), 1e-9)


def products_by_hand(powers: Array, R: Array) -> Array:
    """Σ_k R_k p_ki / Σ_i p_ki: the factors of product k share equally."""
    out = np.zeros((len(R), powers.shape[1]))
    for k in range(len(powers)):
        if powers[k].sum():
            for i in range(powers.shape[1]):
                out[:, i] += R[:, k] * powers[k, i] / powers[k].sum()
    return out


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("options", [{"degree": 2}, {"degree": 3, "interaction_only": True}, {"degree": (2, 3)}])
def test_products_share_equally_among_their_factors(options: dict[str, Any], scaled: bool) -> None:
    """x² gives all to x, x y halves, x² y two thirds to x; also where a factor is 0, behind a scaler."""
    x, y = data("iris")
    x = x - x[0]  # the first sample is all zeros
    scaler = [StandardScaler()] if scaled else []
    steps = [PolynomialFeatures(include_bias=False, **options), *scaler]
    estimator = make_pipeline(*steps, Ridge()).fit(x, y)
    z = estimator[:-1].transform(x[::30])
    e = explained(neuralize(estimator), x[::30], composite="auto")
    expected = products_by_hand(estimator[0].powers_, estimator[-1].coef_ * z)
    assert np.abs(expected[0]).max() > 0 or not scaled
    check_same_map(e.relevance, tensor(expected), 1e-4)


def test_the_constant_among_products_is_a_bias() -> None:
    x, y = data("diabetes")
    estimator = make_pipeline(PolynomialFeatures(2), Ridge(fit_intercept=False)).fit(x, y)
    e = explained(neuralize(estimator), x[::60])
    assert np.allclose(e.ledger.bias, estimator[-1].coef_[0])


def test_gradients_of_products() -> None:
    x, y = data("iris")
    estimator = make_pipeline(PolynomialFeatures(3), Ridge()).fit(x, y)
    assert torch.autograd.gradcheck(neuralize(estimator), (tensor(x[:2]).requires_grad_(),), atol=1e-5)


def lifted(pca: Any, scale: Array, mean: Array, points: Array) -> Array:
    """Raw points that are mapped to these, the closest to the mean: by the pseudo-inverse."""
    A = pca.components_ / scale
    return mean + (points + pca.mean_ @ pca.components_.T) @ np.linalg.pinv(A).T


def test_relevance_of_clusters_behind_pca() -> None:
    """‖z − ν_k‖² − ‖z − ν_c‖² of the nearest rival k, as differences of raw features: Aᵀ A (x − r) ⊙ (x − r)."""
    x, _ = data("wine")
    estimator = make_pipeline(StandardScaler(), PCA(5), KMeans(3, n_init=2, random_state=0)).fit(x)
    scaler, pca, kmeans = estimator
    A = pca.components_ / scaler.scale_
    r = lifted(pca, scaler.scale_, scaler.mean_, kmeans.cluster_centers_)
    rows = x[::30]
    e = explained(neuralize(estimator), rows)
    z = estimator[:-1].transform(rows)
    for i, row in enumerate(rows):
        h = ((z[i] - kmeans.cluster_centers_) ** 2).sum(1)
        c, k = np.argsort(h)[:2]
        parts = [(row - r[g]) * (A.T @ (A @ (row - r[g]))) for g in (c, k)]
        check_sums_to(tensor([parts[0].sum()]), tensor([h[c]]), 1e-8)  # the points are lifted rightly
        check_same_map(e.relevance[i], tensor(parts[1] - parts[0]), 1e-7)


def test_relevance_of_a_support_vector_machine_behind_pca() -> None:
    """γ Σ_j (q_j − p_j) Aᵀ A (x − r_j) ⊙ (x − r_j), with the shares of support vectors in S⁺ and S⁻, scaled to f − b."""
    x, y = data("breast_cancer")
    estimator = make_pipeline(StandardScaler(), PCA(6), SVC(gamma=0.05)).fit(x, y)
    scaler, pca, svc = estimator
    A, r = pca.components_ / scaler.scale_, lifted(pca, scaler.scale_, scaler.mean_, svc.support_vectors_)
    rows = x[::120]
    e = explained(neuralize(estimator), rows)
    z, c = estimator[:-1].transform(rows), svc.dual_coef_[0]
    for i, row in enumerate(rows):
        h = ((z[i] - svc.support_vectors_) ** 2).sum(1)
        d = row - r
        squares = d * (d @ A.T @ A)
        R, sides = np.zeros_like(row), []
        for sign in (1, -1):
            k = np.clip(sign * c, 0, None) * np.exp(-0.05 * h)
            R += -sign * 0.05 * (k / k.sum()) @ squares
            sides.append(k.sum())
        f, t = sides[0] - sides[1], np.log(sides[0] / sides[1])
        check_same_map(e.relevance[i], tensor(R * f / t), 1e-6)


def test_relevance_of_naive_bayes_behind_pca() -> None:
    """The quadratic terms go to raw features; the constants of the densities belong to none of them: a bias."""
    x, y = data("breast_cancer")
    estimator = make_pipeline(StandardScaler(), PCA(4), GaussianNB()).fit(x, y)
    scaler, pca, bayes = estimator
    A, r = pca.components_ / scaler.scale_, lifted(pca, scaler.scale_, scaler.mean_, bayes.theta_)
    e = explained(neuralize(estimator), x[::90], 1)
    for i, row in enumerate(x[::90]):
        parts = [(row - r[g]) * (A.T @ ((A @ (row - r[g])) / bayes.var_[g])) / 2 for g in (0, 1)]
        check_same_map(e.relevance[i], tensor(parts[0] - parts[1]), 1e-7)


def test_relevance_survives_a_component_that_is_zero() -> None:
    """At the mean every component of PCA is 0, the distances to the centroids are not."""
    x, _ = data("wine")
    estimator = make_pipeline(PCA(3), KMeans(3, n_init=2, random_state=0)).fit(x)
    at = np.stack([x.mean(0), x[0]])
    e = explained(neuralize(estimator), at)
    check_sums_to(e.relevance.sum(1), e.score, 1e-8)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("head", ["svc", "naive bayes", "kmeans", "mlp"])
def test_relevance_passes_through_scalers(head: str) -> None:
    """Of a scaler alone, the raw features' relevance is the scaled ones', also of those that are 0 when scaled."""
    x, y = data("digits")
    x = x[:, 16:40]
    estimator = make_pipeline(MinMaxScaler(), HEADS[head]()).fit(x, y)
    apart = explained(neuralize(estimator[-1]), estimator[0].transform(x[:3]))
    together = explained(neuralize(estimator), x[:3])
    check_same_map(together.relevance, apart.relevance, 1e-8)


def test_a_norm_weighs() -> None:
    """w·(x / ‖x‖): each feature's summand is its relevance."""
    x, y = data("iris")
    for norm, size in (("l2", np.linalg.norm(x, axis=1)), ("l1", np.abs(x).sum(1)), ("max", np.abs(x).max(1))):
        estimator = make_pipeline(Normalizer(norm), Ridge()).fit(x, y)
        e = explained(neuralize(estimator), x[::20])
        check_same_map(e.relevance, tensor(estimator[-1].coef_ * (x / size[:, None])[::20]), 1e-9)
    zeros = neuralize(estimator)(torch.zeros(1, 4, dtype=torch.float64))
    check_same_map(zeros, score(estimator, np.zeros((1, 4))), 1e-12)


# Columns, nested pipelines, searches


def table() -> tuple[Any, Any]:
    frame = datasets.load_wine(as_frame=True)
    return frame.data, frame.target


def test_columns_by_name_and_by_place() -> None:
    x, y = table()
    for columns in (["alcohol", "hue"], [0, 10], slice(0, 2), slice("ash", "hue"), np.arange(13) < 3):
        front = ColumnTransformer(
            [
                ("scaled", StandardScaler(), columns),
                ("none", "drop", ["magnesium"]),
                ("same", "passthrough", ["proline"]),
            ],
            remainder=MinMaxScaler(),
        )
        estimator = make_pipeline(front, LogisticRegression(max_iter=3000)).fit(x, y)
        network = neuralize(estimator)
        assert network.names == tuple(x.columns)
        check_same_map(network(tensor(x)), score(estimator, x), 1e-9)
        if isinstance(columns, list):
            e = relprop.explain(estimator, x[::40], 1, "lrp_zero")  # the table itself
            w = estimator[-1].coef_[1, 0] * (x["alcohol"] - x["alcohol"].mean()) / x["alcohol"].std(ddof=0)
            check_same_map(e.relevance[:, 0], tensor(w[::40]), 1e-8)


def test_columns_of_products() -> None:
    x, y = table()
    front = ColumnTransformer(
        [("p", make_pipeline(StandardScaler(), PolynomialFeatures(2)), [1, 2]), ("s", StandardScaler(), [4])]
    )
    estimator = make_pipeline(front, Ridge()).fit(x, y)
    network = neuralize(estimator)
    check_same_map(network(tensor(x)), score(estimator, x), 1e-9)
    e = explained(network, x.to_numpy()[::40])
    z = front.transform(x)[::40] * estimator[-1].coef_
    expected = products_by_hand(front.transformers_[0][1][-1].powers_, z[:, :6])
    check_same_map(e.relevance[:, [1, 2, 4]], tensor(np.concatenate([expected, z[:, 6:]], 1)), 1e-8)
    assert float(e.relevance.sum(0)[[0, 3, 5, 12]].abs().max()) == 0
    point = x.to_numpy().mean(0) + 0.3
    e = explained(neuralize(estimator, reference=point), x.to_numpy()[::40])
    z = z - front.transform(x.iloc[:1] * 0 + point) * estimator[-1].coef_
    expected = products_by_hand(front.transformers_[0][1][-1].powers_, z[:, :6])
    check_same_map(e.relevance[:, [1, 2, 4]], tensor(np.concatenate([expected, z[:, 6:]], 1)), 1e-8)


def test_nested_pipelines_are_one() -> None:
    x, y = data("wine")
    inner = Pipeline([("pca", PCA(4)), ("last", KMeans(3, n_init=1, random_state=0))])
    nested = Pipeline([("front", make_pipeline(StandardScaler())), ("none", "passthrough"), ("inner", inner)]).fit(x, y)
    plain = make_pipeline(nested[0][0], inner[0], inner[1])
    a, b = (explained(neuralize(e), x[::40]) for e in (nested, plain))
    check_same_map(a.relevance, b.relevance, 1e-12)


def test_a_search_is_its_best_estimator() -> None:
    x, y = data("wine")
    grid = {"svc__C": [0.1, 10.0]}
    search = GridSearchCV(make_pipeline(StandardScaler(), SVC(decision_function_shape="ovo")), grid, cv=2).fit(x, y)
    check_same_map(neuralize(search)(tensor(x)), score(search, x), 1e-9)
    inside = make_pipeline(StandardScaler(), GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=2)).fit(x, y)
    check_same_map(neuralize(inside, reference="mean")(tensor(x)), score(inside, x), 1e-9)


def test_options_go_to_the_last_step() -> None:
    x, y = data("breast_cancer")
    estimator = make_pipeline(StandardScaler(), SVC()).fit(x, y)
    f = score(estimator, x)
    check_same_map(neuralize(estimator, output="classes")(tensor(x)), torch.cat([-f, f], 1), 1e-9)


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "quantiles": (
        lambda: make_pipeline(QuantileTransformer(n_quantiles=9), SVC()),
        {},
        "QuantileTransformer, cannot.*point by point",
    ),
    "categories": (lambda: make_pipeline(OneHotEncoder(sparse_output=False), Ridge()), {}, "OneHotEncoder.*categories"),
    "a function": (lambda: make_pipeline(FunctionTransformer(np.log1p), Ridge()), {}, "func=log1p"),
    "an unknown step": (lambda: make_pipeline(KMeans(3, n_init=1), Ridge()), {}, "step 'kmeans'.*KMeans.*Known are"),
    "a tree behind": (
        lambda: make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=2)),
        {},
        "TreeSHAP",
    ),
    "an option of another": (
        lambda: make_pipeline(StandardScaler(), Ridge()),
        {"beta": 2.0},
        "Ridge has no option beta",
    ),
    "a reference of distances": (
        lambda: make_pipeline(StandardScaler(), KMeans(2)),
        {"reference": "mean"},
        "no option reference",
    ),
    "no estimator": (lambda: make_pipeline(StandardScaler(), "passthrough"), {}, "passes features through"),
    "an unknown mean": (
        lambda: make_pipeline(MaxAbsScaler(), Ridge()),
        {"reference": "mean"},
        "does not keep the mean",
    ),
    "added columns": (lambda: make_pipeline(SimpleImputer(add_indicator=True), Ridge()), {}, "impute before"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    make, options, words = REFUSED[case]
    estimator = make().fit(*data("iris"))
    with pytest.raises(InputError, match=words):
        neuralize(estimator, **options)


def test_what_is_not_fitted() -> None:
    x, y = data("iris")
    with pytest.raises(InputError, match="not fitted"):
        neuralize(make_pipeline(StandardScaler(), SVR()))
    fitted = Ridge().fit(x, y)
    with pytest.raises(InputError, match=r"step 'scaler', StandardScaler, is not fitted|how many features"):
        neuralize(Pipeline([("scaler", StandardScaler()), ("ridge", fitted)]))
    with pytest.raises(InputError, match=r"refit=True|how many features"):
        neuralize(GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=2, refit=False).fit(x, y))


def test_another_number_of_features() -> None:
    x, y = data("iris")
    network = neuralize(make_pipeline(StandardScaler(), Ridge()).fit(x, y))
    with pytest.raises(InputError, match="4 features"):
        network(tensor(x[:, :3]))
