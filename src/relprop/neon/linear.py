"""Linear models: regressions, and classifiers whose decision function is linear."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .affine import Linear, fitted, given_point
from .registry import check_priors, choose, class_name, neuralizes

REGRESSORS = (
    "LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV", "Lars", "LarsCV",
    "LassoLars", "LassoLarsCV", "LassoLarsIC", "MultiTaskLasso", "MultiTaskLassoCV", "MultiTaskElasticNet",
    "MultiTaskElasticNetCV", "OrthogonalMatchingPursuit", "OrthogonalMatchingPursuitCV", "BayesianRidge",
    "ARDRegression", "HuberRegressor", "TheilSenRegressor", "QuantileRegressor", "SGDRegressor",
    "PassiveAggressiveRegressor", "LinearSVR",
)  # fmt: skip
CLASSIFIERS = (
    "LogisticRegression", "LogisticRegressionCV", "RidgeClassifier", "RidgeClassifierCV", "SGDClassifier",
    "Perceptron", "PassiveAggressiveClassifier", "LinearSVC", "LinearDiscriminantAnalysis",
)  # fmt: skip
# of transformers, those whose `mean_` is that of the training data
KEEP_MEANS = ("StandardScaler", "PCA", "IncrementalPCA")


@neuralizes(*REGRESSORS)
def regression(estimator: Any, *, reference: Any = None) -> nn.Module:
    """ŷ = w·(x − x₀) + f(x₀), the prediction, with x₀ the option `reference`: R_i = w_i (x_i − x₀_i)."""
    weight, bias = weights(estimator)
    return Linear(weight, bias, _point(estimator, reference, weight))


def _multinomial(estimator: Any, output: str | None) -> bool:
    """Whether probabilities are the softmax of the scores: of more than two classes; of two, f is the log-odds."""
    softmax = class_name(estimator) in ("LogisticRegression", "LogisticRegressionCV", "LinearDiscriminantAnalysis")
    apart = getattr(estimator, "multi_class", "") == "ovr" or getattr(estimator, "solver", "") == "liblinear"
    return softmax and not apart and len(estimator.classes_) > 2


@neuralizes(*CLASSIFIERS, logits=_multinomial)
def classification(estimator: Any, *, output: str = "decision", reference: Any = None) -> nn.Module:
    """The decision function w_c·(x − x₀) + f_c(x₀): one score a class; of two classes one for `classes_[1]`.

    `output="classes"`: of two classes, too, a score for each, (−f, f). `reference`: x₀; "mean" is known of
    LinearDiscriminantAnalysis alone, as the mean of its classes weighted by its priors: that of the training data,
    unless other `priors` were given.
    """
    choose(type(estimator).__name__, output, ("decision", "classes"))
    if class_name(estimator) == "LinearDiscriminantAnalysis":
        check_priors(estimator, fitted(estimator.priors_))
    weight, bias = weights(estimator)
    if output == "classes":
        weight, bias = for_each_class(weight), for_each_class(bias)
    return Linear(weight, bias, _point(estimator, reference, weight))


@neuralizes("SGDOneClassSVM")
def one_class(estimator: Any, *, reference: Any = None) -> nn.Module:
    """The decision function w·(x − x₀) + f(x₀), positive inside, (samples, 1); x₀ is the option `reference`."""
    weight = fitted(estimator.coef_).reshape(1, -1)
    return Linear(weight, -fitted(estimator.offset_).reshape(1), _point(estimator, reference, weight))


def weights(estimator: Any) -> tuple[Tensor, Tensor]:
    """(outputs, features) and (outputs,) of what an estimator with `coef_` and `intercept_` computes."""
    weight = fitted(estimator.coef_)
    weight = weight[None] if weight.dim() == 1 else weight
    bias = fitted(estimator.intercept_).reshape(-1)
    return weight, bias.expand(len(weight)).clone()


def for_each_class(one: Tensor) -> Tensor:
    """Of the score of the second of two classes, scores of both; more than one are left as they are."""
    return torch.cat([-one, one]) if len(one) == 1 else one


def _point(estimator: Any, reference: Any, weight: Tensor) -> Tensor | None:
    return given_point(reference, weight.shape[1], known_mean(estimator), type(estimator).__name__)


def known_mean(estimator: Any) -> Tensor | None:
    """The mean of the training data, of estimators and transformers that keep it.

    LinearDiscriminantAnalysis keeps those of its classes: their mean weighted by its priors, which is the mean of the
    training data only where the priors are the shares of the classes there, as they are unless `priors` was given.
    """
    if class_name(estimator) == "LinearDiscriminantAnalysis":
        return fitted(estimator.priors_) @ fitted(estimator.means_)
    mean = getattr(estimator, "mean_", None) if class_name(estimator) in KEEP_MEANS else None
    return None if mean is None else fitted(mean)
