"""Outlier detectors and densities as networks: how far a sample lies from what was seen (Kauffmann et al. 2020).

The outlierness o(x) = smin_j h_j is a soft minimum of squared distances to support vectors, samples or components, with
weights that sum to 1, so that o >= 0. Constants of the estimator's own score are a bias, which the ledger books.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .affine import fitted
from .distances import (
    Differences,
    Kernel,
    Neighbour,
    Readout,
    Roots,
    Rotated,
    Scaled,
    Shifted,
    SoftMin,
    Squared,
    SquaredDistances,
    Total,
    constant,
)  # fmt: skip
from .registry import check_gamma, choose, neuralizes


@neuralizes("OneClassSVM")
def one_class_svm(estimator: Any, *, output: str = "outlierness") -> nn.Module:
    """`outlierness`: o = −(1/γ) log Σ_j α_j exp(−γ ‖x − u_j‖²) with Σ α_j = 1, (samples, 1), never negative.

    scikit-learn's α sum to A, and score_samples(x) = A exp(−γ o(x)): the same order, reversed. `decision`: its
    `decision_function` Σ_j α_j exp(−γ ‖x − u_j‖²) − ρ itself, whose distances lower it from Σ α_j − ρ.
    """
    choose("OneClassSVM", output, ("outlierness", "decision"))
    if estimator.kernel != "rbf":
        raise InputError(f"OneClassSVM with kernel={estimator.kernel!r} cannot be neuralized; fit it with kernel='rbf'")
    points, alpha = constant(estimator.support_vectors_), constant(estimator.dual_coef_)
    gamma = float(estimator._gamma)
    check_gamma("OneClassSVM", gamma)
    squares = SquaredDistances(points)
    if output == "decision":
        return nn.Sequential(squares, Kernel(gamma), Readout(alpha, constant(estimator.intercept_) + alpha.sum()))
    return nn.Sequential(squares, SoftMin(gamma, (alpha[0] / alpha.sum()).log()))


@neuralizes("KernelDensity")
def kernel_density(estimator: Any) -> nn.Module:
    """−log p(x) = smin_j ‖x − u_j‖² / 2b² + log of the kernel's volume: `score_samples` negated, (samples, 1).

    The soft minimum has β = 1 and weights 1/N, or the samples' own; b is the bandwidth.
    """
    if estimator.kernel != "gaussian" or estimator.metric != "euclidean":
        raise InputError(
            f"KernelDensity with kernel={estimator.kernel!r} and metric={estimator.metric!r} cannot be neuralized; fit "
            "it with kernel='gaussian' and metric='euclidean'"
        )
    points, given = constant(estimator.tree_.data), estimator.tree_.sample_weight
    share = torch.ones(len(points), dtype=torch.float64) if given is None else constant(given)
    b, d = float(estimator.bandwidth_), points.shape[1]
    volume = d * (math.log(b) + math.log(2 * math.pi) / 2)
    return nn.Sequential(
        SquaredDistances(points), Scaled(1 / (2 * b**2)), SoftMin(1.0, (share / share.sum()).log()), Shifted([volume]),
    )  # fmt: skip


@neuralizes("NearestNeighbors")
def nearest_neighbours(estimator: Any, *, output: str = "distance", k: int | None = None) -> nn.Module:
    """`distance`: from x to the k-th nearest sample, as `kneighbors` has it, (samples, 1); `mean`: of the k nearest.

    `k`: the estimator's n_neighbors, unless given. Of samples in equal distance one takes the place.
    """
    choose("NearestNeighbors", output, ("distance", "mean"))
    points, metric = estimator._fit_X, estimator.effective_metric_
    if not hasattr(points, "toarray"):
        points = fitted(points)  # of a tree, a view of its memory
    if hasattr(points, "toarray") or metric not in ("euclidean", "sqeuclidean"):
        kind = "sparse samples" if hasattr(points, "toarray") else f"metric={metric!r}"
        raise InputError(f"NearestNeighbors with {kind} cannot be neuralized; fit it on arrays with metric='euclidean'")
    k = estimator.n_neighbors if k is None else k
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(points):
        raise InputError(f"k={k!r}: a whole number from 1 to the number of samples fitted on, {len(points)}, is needed")
    roots = [] if metric == "sqeuclidean" else [Roots()]
    return nn.Sequential(SquaredDistances(points), *roots, Neighbour(k, mean=output == "mean"))


@neuralizes("EllipticEnvelope", "EmpiricalCovariance", "MinCovDet", "LedoitWolf", "OAS", "ShrunkCovariance")
def elliptic_envelope(estimator: Any, *, output: str = "outlierness") -> nn.Module:
    """`outlierness`: m² = (x − μ)ᵀ P (x − μ), `mahalanobis`, (samples, 1); `decision`: −m² − offset.

    With P = L Lᵀ it is ‖Lᵀ (x − μ)‖², and LRP-0 gives R_i = (x − μ)_i (P (x − μ))_i, whichever L is taken.
    """
    decides = hasattr(estimator, "offset_")
    choose(type(estimator).__name__, output, ("outlierness", "decision") if decides else ("outlierness",))
    root = _root(constant(estimator.get_precision()))
    layers = [Differences(estimator.location_[None]), Rotated(root), Squared(), Total()]
    if output == "decision":
        layers += [Scaled(-1.0), Shifted([-float(estimator.offset_)])]
    return nn.Sequential(*layers)


def _root(precision: Tensor) -> Tensor:
    """L with P = L Lᵀ, for P of any rank."""
    values, vectors = torch.linalg.eigh((precision + precision.mT) / 2)
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root
