"""Neuralization-propagation (NEON): scikit-learn estimators as networks, explained by ordinary LRP.

registry    neuralize(estimator); neuralizes(...) declares how an estimator becomes a network
inputs      tables and arrays as tensors
distances   the layers they share: distances, pools over them
clusters    KMeans, MiniBatchKMeans, NearestCentroid
densities   OneClassSVM, KernelDensity, NearestNeighbors, EllipticEnvelope
mixtures    GaussianMixture
bayes       GaussianNB
linear      linear models, discriminant analysis
kernels     support vector machines, kernel ridge regression
networks    MLPClassifier, MLPRegressor
pipelines   pipelines of scalers, projections (`transforms`, `affine`) and polynomial features (`monomials`), searches
deep        clusters and outliers in the features of a network
"""

# these declare their estimators when they are imported
from . import bayes, clusters, densities, kernels, linear, mixtures, networks, pipelines
from .deep import DeepClustering, DeepOneClass, OnFeatures
from .inputs import as_inputs, as_target
from .registry import Neuralized, estimators, feature_names, is_estimator, neuralize, neuralizes, options_of

__all__ = [
    "DeepClustering", "DeepOneClass", "Neuralized", "OnFeatures", "as_inputs", "as_target", "bayes", "clusters",
    "densities", "estimators", "feature_names", "is_estimator", "kernels", "linear", "mixtures", "networks",
    "neuralize", "neuralizes", "options_of", "pipelines",
]  # fmt: skip
