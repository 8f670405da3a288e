"""Multi-layer perceptrons: they are networks already, their weights are in `coefs_` and `intercepts_`."""

from __future__ import annotations

from typing import Any

from torch import nn

from .affine import Linear, fitted, given_point
from .linear import for_each_class
from .registry import choose, neuralizes

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity, "logistic": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU,
}  # fmt: skip


@neuralizes("MLPRegressor")
def regressor(estimator: Any, *, reference: Any = None) -> nn.Module:
    """The prediction (with loss="poisson" its logarithm); `reference`: x₀, which the features are compared with."""
    return _network(estimator, reference, both=False)


@neuralizes("MLPClassifier", logits=lambda estimator, output: estimator.out_activation_ == "softmax")
def classifier(estimator: Any, *, output: str = "decision", reference: Any = None) -> nn.Module:
    """The logits in front of the last softmax or logistic function: one a class; of two classes one, for `classes_[1]`.

    `output="classes"`: of two classes, too, a score for each, (−z, z).
    """
    choose("MLPClassifier", output, ("decision", "classes"))
    return _network(estimator, reference, both=output == "classes")


def _network(estimator: Any, reference: Any, both: bool) -> nn.Module:
    maps = [(fitted(w).T.contiguous(), fitted(b)) for w, b in zip(estimator.coefs_, estimator.intercepts_, strict=True)]
    if both:
        maps[-1] = (for_each_class(maps[-1][0]), for_each_class(maps[-1][1]))
    point = given_point(reference, maps[0][0].shape[1], None, type(estimator).__name__)
    layers: list[nn.Module] = []
    for i, (weight, bias) in enumerate(maps):
        layers += [Linear(weight, bias, None if i else point), ACTIVATIONS[estimator.activation]()]
    return nn.Sequential(*layers[:-1])
