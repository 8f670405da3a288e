"""Pipelines: an estimator behind scalers, PCA, products of features, ..., explained in the raw features.

Affine steps that follow one another are one map z = A x + c. A linear model behind it is linear in x; of distances
h = ‖z − u‖², the points u become points r of the raw features with A r + c = u, so that
R_i = (x − r)_i (Aᵀ A (x − r))_i / h · R: step by step, relevance of z_k would be divided by a z_k that may be 0.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import InputError
from .affine import Affine, Linear, alone, given_point
from .distances import Centred, Differences, Discriminants, Rotated, Shifted, Squared, SquaredDistances, Total
from .linear import known_mean
from .registry import class_name, neuralize, neuralizes, reader
from .transforms import joined, layers, steps_of


@neuralizes(
    "GridSearchCV", "RandomizedSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV",
    inside=lambda estimator: _best(estimator),
)  # fmt: skip
def search(estimator: Any, **options: Any) -> nn.Module:
    """The best estimator of a search, `best_estimator_`, with its options."""
    return neuralize(_best(estimator), **options).layers


def _best(estimator: Any) -> Any:
    if not hasattr(estimator, "best_estimator_"):
        raise InputError(
            f"this {type(estimator).__name__} has no best_estimator_: search with refit=True, or neuralize an "
            "estimator fitted with best_params_"
        )
    return estimator.best_estimator_


@neuralizes("Pipeline", inside=lambda estimator: unrolled(estimator)[1])
def pipeline(estimator: Any, **options: Any) -> nn.Module:
    """The last step's network behind those of the steps in front of it, with the last step's options.

    `reference` of a linear model or a perceptron is a point of the raw features; without one it is the point that the
    steps map to 0: the mean behind a StandardScaler or PCA, the minima behind a MinMaxScaler.
    """
    steps, last = unrolled(estimator)
    stages = joined([stage for name, step in steps for stage in steps_of(step, name)])
    start = reader(estimator)
    at = given_point(options.pop("reference", None), int(start.n_features_in_), known_mean(start), "the pipeline")
    final = stages[-1] if stages else None
    front, at = layers(stages[:-1] if isinstance(final, Affine) else stages, at)
    if not isinstance(final, Affine):
        return nn.Sequential(*front, *flat(_network(last, options, at)))
    behind = None if at is None else final(at)
    head = _network(last, options, behind)
    together = folded(final, head, at)
    return nn.Sequential(*front, *([final.build(at), *flat(head)] if together is None else together))


def unrolled(estimator: Any) -> tuple[list[tuple[str, Any]], Any]:
    """The transformers of a pipeline with their names, and the estimator at its end, looked for in nested ones."""
    steps = list(estimator.steps)
    if not steps:
        raise InputError("the pipeline has no steps")
    name, last = steps.pop()
    if last is None or last == "passthrough":
        raise InputError(f"the last step of the pipeline, {name!r}, passes features through: no score to explain")
    if hasattr(last, "best_estimator_") and type(last).__module__.startswith("sklearn.model_selection"):
        last = last.best_estimator_
    if class_name(last) == "Pipeline":
        inner, last = unrolled(last)
        steps += inner
    return steps, last


def _network(estimator: Any, options: dict[str, Any], at: Tensor | None) -> nn.Module:
    return neuralize(estimator, **options, **({} if at is None else {"reference": at})).layers


def flat(module: nn.Module) -> list[nn.Module]:
    """The layers of a sequence, or the one layer."""
    return list(module) if isinstance(module, nn.Sequential) else [module]


def folded(first: Affine, head: nn.Module, at: Tensor | None) -> list[nn.Module] | None:
    """Layers for a network of z = A x + c as one of x: maps joined, points lifted; None where the map stands alone.

    `at`: the reference point in x, if one is given.
    """
    front, *rest = flat(head)
    if isinstance(front, Linear):
        both = first.then(front.map)
        return [Linear(both.weight, both.bias, first.zero() if at is None else at), *rest]
    index = first.single()
    if index is not None and alone(index):
        return None  # entry by entry, relevance passes as it is
    if isinstance(front, SquaredDistances):
        # the same distances, in the form whose differences are of single features
        front, rest = Differences(front.points), [Squared(), Total(), *rest]
    if isinstance(front, Differences):
        points = _lifted(first, front.points)
        if points is None:
            return None
        # a constant of an entry of z belongs to no single feature: it is a bias
        rest = [Shifted(-layer.reference) if isinstance(layer, Centred) else layer for layer in rest]
        return [Differences(points), Rotated(first.weight.T.contiguous()), *rest]
    if isinstance(front, Discriminants):
        midpoints = _lifted(first, front.midpoints)
        if midpoints is None:
            return None
        return [Discriminants(front.weight @ first.weight, midpoints, front.bias, front.beta), *rest]
    return None


def _lifted(first: Affine, points: Tensor) -> Tensor | None:
    """Points of x that are mapped to these, or None where there are none."""
    some = points.reshape(-1, points.shape[-1])
    lifted = first.lift(some)
    return lifted.reshape(*points.shape[:-1], -1) if first.reaches(some, lifted) else None
