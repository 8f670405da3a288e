"""Supervised estimators as networks: the same function as scikit-learn's, and relevance by formulas written by hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import datasets, linear_model, naive_bayes, neural_network, svm
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_ridge import KernelRidge
from torch import Tensor

import relprop
from checks import check_same_map, check_sums_to
from relprop.errors import InputError, TargetError
from relprop.neon import neuralize

Array = np.ndarray[Any, Any]


@cache
def data(name: str) -> tuple[Array, Array]:
    """Features, each divided by its largest value, and targets; `digits38`: the digits 3 and 8."""
    x, y = getattr(datasets, f"load_{name.removesuffix('38')}")(return_X_y=True)
    if name == "digits38":
        chosen = (y == 3) | (y == 8)
        x, y = x[chosen], y[chosen]
    return x / np.abs(x).max(0).clip(1e-9), y


def fitted(estimator: Any, name: str) -> Any:
    x, y = (values[:600] for values in data(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(x, y)


def tensor(x: Any) -> Tensor:
    return torch.tensor(np.asarray(x), dtype=torch.float64)


def columns(scores: Array) -> Array:
    """(samples,) as (samples, 1)."""
    return scores[:, None] if scores.ndim == 1 else scores


def decision(e: Any, x: Array) -> Array:
    return columns(e.decision_function(x))


def prediction(e: Any, x: Array) -> Array:
    return columns(e.predict(x))


CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "logistic": lambda: linear_model.LogisticRegression(max_iter=2000),
    "logistic, no intercept": lambda: linear_model.LogisticRegression(fit_intercept=False),
    "lda": LinearDiscriminantAnalysis,
    "lda, lsqr": lambda: LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
    "sgd": lambda: linear_model.SGDClassifier(random_state=0),
    "linear svc": lambda: svm.LinearSVC(random_state=0),
    "ridge": linear_model.RidgeClassifier,
    "ridge cv": linear_model.RidgeClassifierCV,
    "perceptron": lambda: linear_model.Perceptron(random_state=0),
    "svc": lambda: svm.SVC(C=3.0),
    "svc, gamma": lambda: svm.SVC(gamma=0.7, C=100.0),
    "svc, ovo": lambda: svm.SVC(decision_function_shape="ovo", gamma=2.0),
    "svc, linear": lambda: svm.SVC(kernel="linear"),
    "svc, linear, ovo": lambda: svm.SVC(kernel="linear", decision_function_shape="ovo"),
    "nu-svc": lambda: svm.NuSVC(nu=0.1),
}


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "digits"])
@pytest.mark.parametrize("case", CLASSIFIERS)
def test_a_classifier_is_its_decision_function(case: str, name: str) -> None:
    estimator, x = fitted(CLASSIFIERS[case](), name), data(name)[0][::20]
    check_same_map(neuralize(estimator)(tensor(x)), tensor(decision(estimator, x)), 1e-9)


REGRESSORS: dict[str, Callable[[], Any]] = {
    "linear": linear_model.LinearRegression,
    "ridge": lambda: linear_model.Ridge(alpha=0.1),
    "ridge cv": linear_model.RidgeCV,
    "lasso": lambda: linear_model.Lasso(alpha=0.2),
    "lasso cv": lambda: linear_model.LassoCV(cv=3),
    "elastic net": lambda: linear_model.ElasticNet(alpha=0.01),
    "huber": lambda: linear_model.HuberRegressor(max_iter=1000),
    "bayesian ridge": linear_model.BayesianRidge,
    "lars": linear_model.Lars,
    "sgd": lambda: linear_model.SGDRegressor(random_state=0),
    "linear svr": lambda: svm.LinearSVR(C=10.0, random_state=0),
    "svr": lambda: svm.SVR(C=1000.0),
    "svr, linear": lambda: svm.SVR(kernel="linear", C=100.0),
    "nu-svr": lambda: svm.NuSVR(C=100.0, gamma=0.3),
    "kernel ridge": lambda: KernelRidge(kernel="rbf", gamma=0.5, alpha=0.1),
    "kernel ridge, linear": lambda: KernelRidge(alpha=0.1),
    "mlp, relu": lambda: neural_network.MLPRegressor(hidden_layer_sizes=(20, 10), max_iter=300, random_state=0),
    "mlp, identity": lambda: neural_network.MLPRegressor(
        hidden_layer_sizes=(20,), activation="identity", max_iter=200, random_state=0
    ),
}


@pytest.mark.parametrize("case", REGRESSORS)
def test_a_regressor_is_its_prediction(case: str) -> None:
    estimator, x = fitted(REGRESSORS[case](), "diabetes"), data("diabetes")[0]
    check_same_map(neuralize(estimator)(tensor(x)), tensor(prediction(estimator, x)), 1e-9)


def test_a_regressor_of_several_targets() -> None:
    x, y = data("diabetes")
    both = np.stack([y, -2 * y + x[:, 2]], 1)
    for estimator in (linear_model.LinearRegression(), linear_model.MultiTaskLasso(0.1), KernelRidge(kernel="rbf")):
        network = neuralize(estimator.fit(x, both))
        check_same_map(network(tensor(x)), tensor(estimator.predict(x)), 1e-9)


@pytest.mark.parametrize("name", ["iris", "breast_cancer", "digits"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
def test_a_perceptrons_logits_give_its_probabilities(activation: Any, name: str) -> None:
    estimator = fitted(neural_network.MLPClassifier((16, 8), activation, max_iter=30, random_state=0), name)
    x = data(name)[0][::20]
    z = neuralize(estimator)(tensor(x))
    p = torch.cat([1 - z.sigmoid(), z.sigmoid()], 1) if z.shape[1] == 1 else z.softmax(1)
    check_same_map(p, tensor(estimator.predict_proba(x)), 1e-9)


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "digits"])
def test_gaussian_naive_bayes(name: str) -> None:
    """log-odds log P_c − log Σ_{k≠c} P_k from the joint probabilities of scikit-learn."""
    estimator, x = fitted(naive_bayes.GaussianNB(), name), data(name)[0][::20]
    joint = tensor(estimator.predict_joint_log_proba(x))
    check_same_map(neuralize(estimator, output="joint")(tensor(x)), joint, 1e-9)
    classes = range(joint.shape[1])
    others = [joint[:, [k for k in classes if k != c]].logsumexp(1) for c in classes]
    check_same_map(neuralize(estimator)(tensor(x)), joint - torch.stack(others, 1), 1e-9)


def test_two_classes_apart() -> None:
    """output="classes": (−f, f), of which the arg-max is the prediction."""
    x = data("breast_cancer")[0]
    for estimator in (linear_model.LogisticRegression(), svm.SVC(), svm.SVC(kernel="linear")):
        f = tensor(decision(fitted(estimator, "breast_cancer"), x))
        both = neuralize(estimator, output="classes")(tensor(x))
        check_same_map(both, torch.cat([-f, f], 1), 1e-9)
        assert (both.argmax(1).numpy() == estimator.predict(x)).all()


# Relevance by hand


def explained(network: Any, x: Array, target: Any = None, composite: str = "lrp_zero") -> Any:
    e = relprop.explain(network, tensor(x), target, composite, ledger=True)
    assert e.ledger is not None
    check_sums_to(e.relevance.flatten(1).sum(1) + e.ledger.bias + e.ledger.epsilon + e.ledger.residual, e.score, 1e-8)
    assert e.ledger.closes()
    return e


@pytest.mark.parametrize("composite", ["lrp_zero", "auto"])
def test_relevance_of_linear_models(composite: str) -> None:
    """R_i = w_i (x_i − x0_i); w·x0 + b is the bias."""
    x = data("wine")[0][::20]
    estimator = fitted(linear_model.LogisticRegression(), "wine")
    point, target = np.linspace(-1, 1, 13), [2, 0, 1, 2, 1, 0, 0, 1, 2]
    rtol = 1e-9 if composite == "lrp_zero" else 1e-4
    for reference in (None, point):
        e = explained(neuralize(estimator, reference=reference), x, torch.tensor(target), composite)
        at = np.zeros(13) if reference is None else point
        w = estimator.coef_[target]
        check_same_map(e.relevance, tensor(w * (x - at)), rtol)
        check_same_map(e.ledger.bias, tensor((w * at).sum(1) + estimator.intercept_[target]), max(rtol, 1e-8))


def test_the_mean_that_discriminant_analysis_keeps() -> None:
    x, y = data("iris")
    estimator = LinearDiscriminantAnalysis().fit(x, y)
    e = explained(neuralize(estimator, reference="mean"), x[::10], 1)
    check_same_map(e.relevance, tensor(estimator.coef_[1] * (x[::10] - x.mean(0))), 1e-9)


def lrp_by_hand(
    weights: list[Array], biases: list[Array], f: Callable[[Array], Array], x: Array, c: int, eps: float
) -> Array:
    """LRP-0 or LRP-ε (relative to the rms of z over the layer) of one sample, as explicit sums."""
    a, zs = [x], []
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        zs.append(a[-1] @ w + b)
        a.append(f(zs[-1]) if i + 1 < len(weights) else zs[-1])
    R = np.zeros_like(zs[-1])
    R[c] = zs[-1][c]
    for layer in reversed(range(len(weights))):
        if layer + 1 < len(weights):  # an activation passes relevance but for its value at 0, a constant
            R = R * (a[layer + 1] - f(np.zeros(1))) / a[layer + 1] if f(np.zeros(1)) != 0 else R
        e = eps * np.sqrt((zs[layer] ** 2).mean()) * np.where(zs[layer] >= 0, 1, -1)
        below = np.zeros(len(a[layer]))
        for j in range(len(a[layer])):
            for k in range(len(R)):
                if R[k] != 0:
                    below[j] += a[layer][j] * weights[layer][j, k] / (zs[layer][k] + e[k]) * R[k]
        R = below
    return R


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda z: np.maximum(z, 0), "tanh": np.tanh, "logistic": lambda z: 1 / (1 + np.exp(-z)),
}  # fmt: skip


@pytest.mark.parametrize(("activation", "eps"), [("relu", 0.0), ("relu", 0.1), ("tanh", 0.0), ("logistic", 0.1)])
def test_relevance_of_perceptrons(activation: Any, eps: float) -> None:
    estimator = fitted(neural_network.MLPClassifier((7, 5), activation, max_iter=30, random_state=1), "wine")
    x = data("wine")[0][::30]
    options = {} if eps == 0 else {"epsilon": eps}
    composite = "lrp_zero" if eps == 0 else "epsilon"
    e = relprop.explain(neuralize(estimator), tensor(x), 2, composite, ledger=True, **options)
    rows = [lrp_by_hand(estimator.coefs_, estimator.intercepts_, FUNCTIONS[activation], row, 2, eps) for row in x]
    check_same_map(e.relevance, tensor(np.stack(rows)), 1e-9)
    assert e.ledger is not None
    assert e.ledger.closes()


def sides_by_hand(c: Array, points: Array, gamma: float, x: Array, b: float = 0.0) -> tuple[float, Array]:
    """t = log S⁺ − log S⁻ and γ Σ_j (q_j − p_j) (x − u_j)², with p and q the points' shares of S⁺ and S⁻.

    `b`: a constant that is counted to its side as a point at distance 0.
    """
    sums, R = [], np.zeros_like(x)
    squares = np.array([(x - u) ** 2 for u in points])
    for sign in (1, -1):
        k = np.clip(sign * c, 0, None) * np.exp(-gamma * squares.sum(1))
        sums.append(k.sum() + max(sign * b, 0.0))
        for j in range(len(points)):
            R += -sign * gamma * k[j] / sums[-1] * squares[j]
    return float(np.log(sums[0] / sums[1])), R


@pytest.mark.parametrize("name", ["breast_cancer", "digits38"])
def test_relevance_of_a_support_vector_machine(name: str) -> None:
    """The decision function's relevance is that of t, scaled to f − b; b is the bias."""
    estimator = fitted(svm.SVC(C=5.0, gamma=0.4), name)
    x = data(name)[0][3::60]
    c, b, points = estimator.dual_coef_[0], estimator.intercept_[0], estimator.support_vectors_
    e = explained(neuralize(estimator), x)
    ratio = explained(neuralize(estimator, output="log_ratio"), x)
    f = estimator.decision_function(x)
    for i, row in enumerate(x):
        t, R = sides_by_hand(c, points, 0.4, row)
        check_same_map(e.relevance[i], tensor(R / t * (f[i] - b)), 1e-8)
        t, R = sides_by_hand(c, points, 0.4, row, b)
        check_same_map(ratio.score[i], tensor(t), 1e-8)
        check_same_map(ratio.relevance[i], tensor(R), 1e-8)
        assert np.sign(t) == np.sign(f[i])


def test_a_sample_that_is_a_support_vector() -> None:
    """At distance 0 from it no feature differs, and the account closes without a residual."""
    estimator = fitted(svm.SVC(C=5.0, gamma=0.4), "wine")
    e = explained(neuralize(estimator, output="ovo"), estimator.support_vectors_[:4], 0)
    assert float(e.ledger.residual.abs().max()) == 0
    assert bool(e.relevance.isfinite().all())


def test_relevance_of_support_vector_regression() -> None:
    estimator = fitted(svm.SVR(C=1000.0, gamma=0.5), "diabetes")
    x = data("diabetes")[0][::60]
    e = explained(neuralize(estimator), x)
    c, b = estimator.dual_coef_[0], estimator.intercept_[0]
    for i, row in enumerate(x):
        t, R = sides_by_hand(c, estimator.support_vectors_, 0.5, row)
        check_same_map(e.relevance[i], tensor(R / t * (estimator.predict(row[None])[0] - b)), 1e-8)


def test_relevance_of_one_class_against_the_rest() -> None:
    """votes_c + s_c / (3 (|s_c| + 1)): the class's pairs share the second part by their scores, the votes are a bias."""
    estimator = fitted(svm.SVC(gamma=1.0), "wine")
    x = data("wine")[0][5::40]
    pairwise = fitted(svm.SVC(gamma=1.0, decision_function_shape="ovo"), "wine")
    d = pairwise.decision_function(x)  # pairs (0, 1), (0, 2), (1, 2)
    network = neuralize(estimator, output="ovo")
    check_same_map(network(tensor(x)), tensor(d), 1e-9)
    of_pairs = relprop.explain(network, tensor(x), [0, 1, 2], "lrp_zero", ledger=True)
    e = explained(neuralize(estimator), x, 1)
    s = d[:, 2] - d[:, 0]
    expected = (of_pairs.relevance[2] - of_pairs.relevance[0]) / tensor(3 * (np.abs(s) + 1))[:, None]
    check_same_map(e.relevance, expected, 1e-8)
    votes = (d[:, 2] >= 0).astype(float) + (d[:, 0] < 0)
    shifts = (of_pairs.ledger[2].bias - of_pairs.ledger[0].bias) / tensor(3 * (np.abs(s) + 1))
    check_sums_to(e.ledger.bias, tensor(votes) + shifts, 1e-8)


@pytest.mark.parametrize("name", ["auto", "alpha_beta", "flat", "excitation_backprop", "attnlrp"])
def test_recipes_treat_a_support_vector_machine_alike(name: str) -> None:
    estimator = fitted(svm.SVC(C=5.0, gamma=0.4), "wine")
    x = data("wine")[0][::25]
    expected = relprop.explain(neuralize(estimator, output="ovo"), tensor(x), 0, "lrp_zero").relevance
    e = relprop.explain(neuralize(estimator, output="ovo"), tensor(x), 0, name)
    check_same_map(e.relevance, expected, 1e-4)


def evidence_by_hand(estimator: Any, x: Array, c: int, k: int) -> tuple[Array, float]:
    """log p(x_i|c) − log p(x_i|k) of each feature, and the log-ratio of priors."""
    log_p = [
        -0.5 * (x - estimator.theta_[g]) ** 2 / estimator.var_[g] - 0.5 * np.log(2 * np.pi * estimator.var_[g])
        for g in (c, k)
    ]
    prior = estimator.class_prior_
    return log_p[0] - log_p[1], float(np.log(prior[c] / prior[k]))


def test_relevance_of_naive_bayes_is_each_features_weight_of_evidence() -> None:
    estimator = fitted(naive_bayes.GaussianNB(), "breast_cancer")
    x = data("breast_cancer")[0][::80]
    e = explained(neuralize(estimator), x, 1)
    for i, row in enumerate(x):
        w, prior = evidence_by_hand(estimator, row, 1, 0)
        check_same_map(e.relevance[i], tensor(w), 1e-9)
        check_sums_to(e.ledger.bias[i : i + 1], tensor([prior]), 1e-6)


def test_relevance_of_naive_bayes_with_three_classes() -> None:
    """η_c = −log Σ_k exp(−z_ck); R_ck = z_ck exp(−z_ck) / Σ exp(−z) (section 10.3.1); each feature's part of z_ck."""
    estimator = fitted(naive_bayes.GaussianNB(), "wine")
    x = data("wine")[0][::20]
    e = explained(neuralize(estimator), x, 0)
    for i, row in enumerate(x):
        parts = [evidence_by_hand(estimator, row, 0, k) for k in (1, 2)]
        z = np.array([w.sum() + prior for w, prior in parts])
        R = sum(np.exp(-z[j]) / np.exp(-z).sum() * parts[j][0] for j in range(2))
        check_same_map(e.relevance[i], tensor(R), 1e-8)


def test_gradients_are_those_of_the_function() -> None:
    """The network is the function also for automatic differentiation."""
    x = data("wine")[0][7:9]
    for estimator, options in ((svm.SVC(gamma=1.0), {"output": "ovo"}), (naive_bayes.GaussianNB(), {})):
        network = neuralize(fitted(estimator, "wine"), **options)
        assert torch.autograd.gradcheck(network, (tensor(x).requires_grad_(),), atol=1e-6)


# What is refused


def poly() -> Any:
    return svm.SVC(kernel="poly")


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "poly kernel": (poly, {}, "kernel='poly'.*rbf"),
    "callable kernel": (lambda: svm.SVC(kernel=lambda a, b: a @ b.T), {}, "kernel=.*rbf|how many features"),
    "a tree": (lambda: RandomForestClassifier(3), {}, "TreeSHAP"),
    "calibrated": (
        lambda: CalibratedClassifierCV(linear_model.LogisticRegression(), cv=2),
        {},
        "calibrated_classifiers_",
    ),
    "an output": (linear_model.LogisticRegression, {"output": "odds"}, "'decision', 'classes'"),
    "an option": (svm.LinearSVC, {"beta": 1.0}, "no option beta"),
    "a mean nobody kept": (linear_model.LogisticRegression, {"reference": "mean"}, r"X\.mean\(0\)"),
    "a word": (linear_model.LogisticRegression, {"reference": "zero"}, "reference='zero'"),
    "another number of values": (
        linear_model.LogisticRegression,
        {"reference": np.zeros(3)},
        r"shape \(3,\).*13 features",
    ),
    "not finite": (linear_model.LogisticRegression, {"reference": np.full(13, np.nan)}, "NaN"),
    "no numbers": (linear_model.LogisticRegression, {"reference": object()}, "reference is a object"),
    "a reference of a kernel": (svm.SVC, {"reference": np.zeros(13)}, "support vectors"),
    "a log-ratio of a linear kernel": (lambda: svm.SVC(kernel="linear"), {"output": "log_ratio"}, 'kernel="rbf"'),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    make, options, words = REFUSED[case]
    estimator = make().fit(*data("wine"))
    with pytest.raises(InputError, match=words):
        neuralize(estimator, **options)


@pytest.mark.parametrize(
    "estimator", [linear_model.Ridge(), svm.SVC(), neural_network.MLPClassifier(), naive_bayes.GaussianNB()]
)
def test_an_estimator_that_is_not_fitted(estimator: Any) -> None:
    with pytest.raises(InputError, match=f"{type(estimator).__name__} is not fitted; fit it first"):
        neuralize(estimator)


def test_a_regression_without_support_vectors() -> None:
    x, y = data("diabetes")
    flat = svm.SVR(epsilon=1e4).fit(x, y)
    with pytest.raises(InputError, match="no support vectors"):
        neuralize(flat)


def test_a_kernel_machine_with_nothing_on_the_other_side() -> None:
    one_sided = KernelRidge(kernel="rbf").fit([[0.0], [3.0]], [1.0, 1.0])
    e = relprop.explain(neuralize(one_sided), tensor([[1.0]]), composite="lrp_zero", ledger=True)
    check_same_map(e.score, tensor(one_sided.predict([[1.0]])), 1e-12)
    c = one_sided.dual_coef_
    check_same_map(e.relevance, tensor([[c[0] * np.expm1(-1.0) + c[1] * np.expm1(-4.0)]]), 1e-12)
    with pytest.raises(InputError, match="its output is a constant"):
        neuralize(KernelRidge(kernel="rbf").fit([[0.0], [3.0]], [0.0, 0.0]))


def test_one_score_of_two_classes_has_one_index() -> None:
    x = data("breast_cancer")[0][:3]
    network = neuralize(fitted(linear_model.LogisticRegression(), "breast_cancer"))
    with pytest.raises(TargetError, match="1 is out of range: the model has 1 outputs"):
        relprop.explain(network, tensor(x), 1)
    with pytest.raises(InputError, match="30 features"):
        network(tensor(x)[:, :29])


def test_an_estimator_fitted_on_sparse_data() -> None:
    from scipy.sparse import csr_matrix

    x, y = data("digits")
    sparse = svm.SVC(gamma=0.5).fit(csr_matrix(x[:300]), y[:300])
    check_same_map(neuralize(sparse)(tensor(x[:20])), tensor(sparse.decision_function(csr_matrix(x[:20]))), 1e-9)
    linear = linear_model.SGDClassifier(penalty="l1", random_state=0).fit(x, y).sparsify()
    check_same_map(
        neuralize(linear)(tensor(x[:20])), tensor(x[:20] @ linear.coef_.toarray().T + linear.intercept_), 1e-9
    )
