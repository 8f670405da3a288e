"""Clusters as networks: what assigns a sample to a cluster (Kauffmann et al. 2022).

For centroids μ_k, h_ck = ‖x − μ_k‖² − ‖x − μ_c‖² = w_ck · (x − m_ck) with w_ck = 2 (μ_c − μ_k) and the midpoint m_ck.
The evidence for cluster c is the smallest h_ck of its rivals k: positive for the cluster of x, negative for others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .distances import (
    Column,
    Differences,
    Evidence,
    Magnitudes,
    Scaled,
    Shifted,
    SoftMin,
    Squared,
    SquaredDistances,
    Total,
    constant,
    log_ratios,
)  # fmt: skip
from .registry import check_priors, choose, neuralizes


@neuralizes("KMeans", "MiniBatchKMeans")
def kmeans(estimator: Any, *, output: str = "membership", beta: float | None = None) -> nn.Module:
    """`membership`: f_c = smin_k≠c (‖x − μ_k‖² − ‖x − μ_c‖²), (samples, K), whose arg-max is `predict`.

    `outlierness`: the squared distance to the nearest centroid, (samples, 1). `beta`: stiffness of the soft minimum;
    None: the minimum.
    """
    choose("KMeans", output, ("membership", "outlierness"))
    centres = estimator.cluster_centers_
    if output == "outlierness":
        return nn.Sequential(SquaredDistances(centres), SoftMin(beta))
    return nn.Sequential(Differences(centres), Squared(), Evidence(len(centres), beta))


@neuralizes("NearestCentroid")
def nearest_centroid(estimator: Any, *, output: str = "membership", beta: float | None = None) -> nn.Module:
    """As KMeans, for the centroids of classes: the arg-max of `membership` is `predict`.

    With class priors that are not uniform, scikit-learn divides features by their deviation within classes and adds
    2 log π_c; so does the network. `decision`: `decision_function`, (samples, classes), or one column for two classes.
    """
    choose("NearestCentroid", output, ("membership", "outlierness", "decision"))
    centres, prior = constant(estimator.centroids_), _priors(estimator)
    weighs = bool(((prior - 1 / len(prior)).abs() > 1e-8 + 1e-5 / len(prior)).any())
    if estimator.metric not in ("euclidean", "manhattan") or (estimator.metric != "euclidean" and weighs):
        raise InputError(
            f"NearestCentroid with metric={estimator.metric!r} cannot be neuralized: 'euclidean' can, and 'manhattan' "
            "without class priors"
        )
    if output == "decision" or (weighs and output == "membership"):
        check_priors(estimator, prior)
    if output == "decision":
        return _decision(estimator, centres, prior)
    terms = _terms(estimator, centres, scaled=weighs)
    if output == "outlierness":
        return nn.Sequential(*terms, Total(), SoftMin(beta))
    return nn.Sequential(*terms, Evidence(len(centres), beta, 2 * log_ratios(prior.log()) if weighs else None))


def _priors(estimator: Any) -> Tensor:
    classes = len(estimator.centroids_)
    return constant(getattr(estimator, "class_prior_", [1 / classes] * classes))  # older releases have none


def _terms(estimator: Any, centres: Tensor, *, scaled: bool) -> list[nn.Module]:
    """Distances feature by feature, in units of the deviation within classes if `scaled`."""
    if estimator.metric == "manhattan":
        return [Differences(centres), Magnitudes()]
    if not scaled:
        return [Differences(centres), Squared()]
    sigma = constant(estimator.within_class_std_dev_)
    return [Differences(centres), Scaled(torch.where(sigma == 0, 1.0, 1 / sigma)), Squared()]


def _decision(estimator: Any, centres: Tensor, prior: Tensor) -> nn.Module:
    """2 log π_c − ‖x̂ − μ̂_c‖²; of two classes the second minus the first."""
    if estimator.metric != "euclidean" or not hasattr(estimator, "decision_function"):
        raise InputError("this NearestCentroid has no decision_function; explain output='membership'")
    terms = _terms(estimator, centres, scaled=True)
    if len(prior) == 2:
        return nn.Sequential(*terms, Evidence(2, None, 2 * log_ratios(prior.log())), Column(1))
    return nn.Sequential(*terms, Total(), Scaled(-1.0), Shifted(2 * prior.log()))
