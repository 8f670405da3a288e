"""Clusters and outliers in the features of a network: the same layers on top of any nn.Module.

The network maps x to features φ(x), (samples, E); relevance goes on from them to x by the rules of its layers.
"""

from __future__ import annotations

import copy
from typing import Any, final

from torch import Tensor, nn

from ..errors import InputError
from .distances import Differences, Evidence, SoftMin, Squared, SquaredDistances, constant
from .registry import is_estimator, neuralize


@final
class DeepClustering(nn.Module):
    """f_c = smin_k≠c (‖φ(x) − μ_k‖² − ‖φ(x) − μ_c‖²): evidence for each cluster, (samples, K).

    Of centroids μ (K, E) in the features φ (samples, E) of a network, as deep clustering learns them (Kauffmann et al.
    2022). `beta`: stiffness of the soft minimum over rivals, None for the minimum.

    >>> import torch
    >>> features = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    >>> DeepClustering(features, [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])(torch.randn(4, 3)).shape
    torch.Size([4, 3])
    """

    def __init__(self, features: nn.Module, centroids: Any, *, beta: float | None = None) -> None:
        super().__init__()
        points = _points(centroids, features)
        if len(points) < 2:
            raise InputError(
                "there is one centroid alone, and no rival to compare it with; explain the distance to it with "
                "DeepOneClass(features, points)"
            )
        self.features, self.width = features, points.shape[1]
        self.head = nn.Sequential(Differences(points), Squared(), Evidence(len(points), beta).to(points.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """The evidence for each cluster; its arg-max is the nearest centroid."""
        y: Tensor = self.head(_checked(self.features(x), self.width))
        return y


@final
class DeepOneClass(nn.Module):
    """o = smin_j ‖φ(x) − u_j‖²: outlierness of the features of a network, (samples, 1).

    One point u is the centre of deep one-class classification (Ruff et al. 2018); several with a soft minimum of
    stiffness `beta` are support vectors or prototypes (Kauffmann et al. 2020).

    >>> import torch
    >>> DeepOneClass(nn.Linear(3, 2), [[0.0, 0.0]])(torch.randn(4, 3)).shape
    torch.Size([4, 1])
    """

    def __init__(self, features: nn.Module, points: Any, *, beta: float | None = None) -> None:
        super().__init__()
        places = _points(points, features)
        self.features, self.width = features, places.shape[1]
        self.head = nn.Sequential(SquaredDistances(places), SoftMin(beta))

    def forward(self, x: Tensor) -> Tensor:
        """The outlierness."""
        y: Tensor = self.head(_checked(self.features(x), self.width))
        return y


@final
class OnFeatures(nn.Module):
    """A fitted estimator on the features of a network: neuralized, in the network's precision, on top of it.

    `estimator`: one that was fitted on φ(x), (samples, E), or its neuralized form. `options`: those of `neuralize`.
    """

    def __init__(self, features: nn.Module, estimator: Any, **options: Any) -> None:
        super().__init__()
        if not is_estimator(estimator) and not isinstance(estimator, nn.Module):
            raise InputError(
                f"a {type(estimator).__name__} is no estimator with fit; give one that was fitted on the features, or "
                "its network, neuralize(estimator)"
            )
        head = neuralize(estimator, **options) if is_estimator(estimator) else copy.deepcopy(estimator)
        like = _weight(features)
        self.features, self.head = features, head if like is None else head.to(like)

    def forward(self, x: Tensor) -> Tensor:
        """The estimator's scores of the features of x."""
        y: Tensor = self.head(self.features(x).flatten(1))
        return y


def _weight(network: nn.Module) -> Tensor | None:
    """A tensor of the type and on the device a network computes with."""
    tensors = (*network.parameters(), *network.buffers())
    return next((t for t in tensors if t.is_floating_point()), None)


def _points(values: Any, features: nn.Module) -> Tensor:
    if not isinstance(features, nn.Module):
        raise InputError(f"features is a {type(features).__name__}; give the network of the features, an nn.Module")
    try:
        points = constant(values)
        points = points if points.is_floating_point() else points.double()
    except (TypeError, ValueError) as e:
        raise InputError(f"points are a {type(values).__name__} that holds no rows of numbers ({e})") from None
    if points.dim() != 2 or not points.numel():
        raise InputError(f"points have shape {tuple(points.shape)}; one row of features for each of them is needed")
    like = _weight(features)
    return points if like is None else points.to(like)


def _checked(features: Tensor, size: int) -> Tensor:
    flat = features.flatten(1)
    if flat.shape[1] != size:
        raise InputError(f"the network gives {flat.shape[1]} features, the points have {size}")
    return flat
