"""Gaussian mixtures as networks: which component a sample belongs to, and how unlikely it is.

With energies e_k = ½ ‖L_kᵀ (x − μ_k)‖² − log det L_k, P_k = L_k L_kᵀ the precision, the log-ratio of two components is
e_k − e_c + log π_c / π_k, and log P(c|x) / (1 − P(c|x)) is the soft minimum (β = 1) of those of its rivals.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from .distances import (
    Centred,
    Differences,
    Discriminants,
    Evidence,
    Rotated,
    Scaled,
    Shifted,
    SoftMin,
    Squared,
    Total,
    constant,
    log_ratios,
)  # fmt: skip
from .registry import check_priors, choose, neuralizes

HALF = math.sqrt(0.5)


@neuralizes("GaussianMixture")
def gaussian_mixture(estimator: Any, *, output: str = "membership") -> nn.Module:
    """`membership`: log P(c|x) / (1 − P(c|x)) for each component, of `predict_proba`, (samples, K).

    `outlierness`: `score_samples` negated, −log p(x), (samples, 1): the soft minimum of ½ (x − μ_k)ᵀ P_k (x − μ_k)
    with the components' weights, and a constant. What a feature contributes to a log-ratio: for covariances "diag" and
    "spherical" its own log-ratio, "tied" w_i (x_i − m_i) around the midpoint, "full" its part of either quadratic form,
    the determinants being a bias.
    """
    choose("GaussianMixture", output, ("membership", "outlierness"))
    kind, means, weights = estimator.covariance_type, constant(estimator.means_), constant(estimator.weights_)
    check_priors(estimator, weights)
    log_prior = weights.log()
    factors = constant(estimator.precisions_cholesky_)
    if output == "outlierness":
        return _outlierness(kind, means, factors, log_prior)
    if kind == "tied":
        return linear_membership(means, factors @ factors.mT, log_prior)
    if kind == "full":
        bias = log_ratios(log_prior + _log_determinants(kind, means, factors))
        return nn.Sequential(Differences(means), *_whitened(kind, means, factors), Evidence(len(means), 1.0, bias))
    return independent_membership(means, _scales(kind, means, factors), log_prior)


def independent_membership(means: Tensor, scales: Tensor, log_prior: Tensor) -> nn.Module:
    """Log-odds of components whose features are independent, each by its own log-likelihood ratio.

    `means` (K, d), `scales` (K, d) the inverse standard deviations, `log_prior` (K,).
    """
    own = Differences(means), Scaled(HALF * scales), Squared(), Centred(scales.log())
    return nn.Sequential(*own, Evidence(len(means), 1.0, log_ratios(log_prior)))


def linear_membership(means: Tensor, precision: Tensor, log_prior: Tensor) -> nn.Module:
    """Log-odds of components that share a precision (d, d): linear in x, each feature by w_i (x_i − m_i)."""
    ahead, behind = means[:, None], means[None, :]
    return Discriminants((ahead - behind) @ precision, (ahead + behind) / 2, log_ratios(log_prior), 1.0)


def _outlierness(kind: str, means: Tensor, factors: Tensor, log_prior: Tensor) -> nn.Module:
    log_weights = log_prior + _log_determinants(kind, means, factors) - means.shape[1] * math.log(2 * math.pi) / 2
    total = log_weights.logsumexp(0)
    energies = Differences(means), *_whitened(kind, means, factors), Total()
    return nn.Sequential(*energies, SoftMin(1.0, log_weights - total), Shifted(-total[None]))


def _whitened(kind: str, means: Tensor, factors: Tensor) -> list[nn.Module]:
    """½ of the squares of Lᵀ (x − μ)."""
    if kind in ("full", "tied"):
        return [Rotated(HALF * factors), Squared()]
    return [Scaled(HALF * _scales(kind, means, factors)), Squared()]


def _scales(kind: str, means: Tensor, factors: Tensor) -> Tensor:
    """Inverse standard deviations (K, d)."""
    return factors if kind == "diag" else factors[:, None].expand(means.shape)


def _log_determinants(kind: str, means: Tensor, factors: Tensor) -> Tensor:
    """log det L_k, (K,)."""
    if kind in ("full", "tied"):
        each = factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return each.expand(len(means))
    return _scales(kind, means, factors).log().sum(-1)
