"""Gaussian naive Bayes: each feature's weight of evidence, the log-ratio of its densities in two classes."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from ..errors import InputError
from .affine import fitted
from .distances import Centred, Differences, Scaled, Shifted, Squared, Total
from .mixtures import independent_membership
from .registry import check_priors, choose, neuralizes


@neuralizes("GaussianNB", logits=lambda estimator, output: output == "joint")
def gaussian(estimator: Any, *, output: str = "log_odds") -> nn.Module:
    """`log_odds`: log P(c|x) / (1 − P(c|x)), a soft minimum of log P(x, c) − log P(x, k) over the other classes k.

    Against class k, feature i has the weight of evidence log p(x_i|c) − log p(x_i|k), and the priors are a bias.
    `joint`: log P(x, c), `predict_joint_log_proba`, each feature with its log p(x_i|c).
    """
    choose("GaussianNB", output, ("log_odds", "joint"))
    means, variance = fitted(estimator.theta_), fitted(estimator.var_)
    prior = fitted(estimator.class_prior_)
    check_priors(estimator, prior)
    if output == "log_odds" and len(prior) < 2:
        raise InputError("this GaussianNB was fitted on one class, which has no odds against others: output='joint'")
    log_prior = prior.log()
    if output == "log_odds":
        return independent_membership(means, variance.rsqrt(), log_prior)
    density = (
        Differences(means),
        Scaled((2 * variance).rsqrt()),
        Squared(),
        Centred(-(2 * math.pi * variance).log() / 2),
    )
    return nn.Sequential(*density, Total(), Scaled(-1.0), Shifted(log_prior))
