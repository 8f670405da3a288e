"""neuralize: from a fitted scikit-learn estimator to the network that computes the same function.

An estimator's network is made by a function declared with `@neuralizes("KMeans", ...)`; lookup is by class name, so
that scikit-learn is imported only where there is an estimator of it.
"""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..turns import alone

Maker = Callable[..., nn.Module]
M = TypeVar("M", bound=Maker)

_MAKERS: dict[str, Maker] = {}
_LOGITS: dict[str, Callable[[Any, str | None], bool]] = {}
_INSIDE: dict[str, Callable[[Any], Any]] = {}
# Methods that a derived class may have of its own without computing another function of the fitted attributes.
_HARMLESS = (
    "__", "fit", "_fit", "partial_fit", "_partial_fit", "get_", "_get_", "set_", "_check", "_validate", "_more_tags",
)  # fmt: skip

_TREES = (
    "its output is constant between the thresholds of its trees, so that there is no function of the features whose "
    "value could be propagated back to them. Use TreeSHAP (shap.TreeExplainer), which is exact for trees"
)
_MEMBERS = "it combines other estimators: neuralize its members one by one (its attribute estimators_)"
_VOTES = (
    "its output is a vote, constant between the neighbours' borders. Explain distances instead: neuralize "
    "sklearn.neighbors.NearestNeighbors fitted on the same samples, or on those of one class"
)
_FITTED_ONLY = (
    "it labels the samples it was fitted on and is no function of new ones. Fit sklearn.neighbors.NearestCentroid or "
    "KMeans to its labels_ and explain that"
)
_REASONS = {
    "KNeighborsClassifier": _VOTES,
    "KNeighborsRegressor": _VOTES,
    "RadiusNeighborsClassifier": _VOTES,
    "RadiusNeighborsRegressor": _VOTES,
    "LocalOutlierFactor": "it divides densities around training samples by one another, each a vote of neighbours. "
    "Explain the distance to them instead: neuralize sklearn.neighbors.NearestNeighbors, or KernelDensity",
    "DBSCAN": _FITTED_ONLY,
    "HDBSCAN": _FITTED_ONLY,
    "OPTICS": _FITTED_ONLY,
    "AgglomerativeClustering": _FITTED_ONLY,
    "SpectralClustering": _FITTED_ONLY,
    "BaggingClassifier": _MEMBERS,
    "BaggingRegressor": _MEMBERS,
    "VotingClassifier": _MEMBERS,
    "VotingRegressor": _MEMBERS,
    "StackingClassifier": _MEMBERS,
    "StackingRegressor": _MEMBERS,
    "CalibratedClassifierCV": "it averages calibrated copies of a classifier. Neuralize the classifier of one of them: "
    "calibrated_classifiers_[0].estimator",
}
_TREE_MODULES = ("sklearn.tree", "sklearn.ensemble", "xgboost", "lightgbm", "catboost")


@dataclass(frozen=True)
class Outputs:
    """What the outputs of a network stand for.

    `classes`: the labels of an estimator's classes. `each`: whether there is an output for each of them, in their
    order. `logits`: whether the softmax of the outputs is the probability of the classes.
    """

    classes: tuple[Any, ...] | None = None
    each: bool = False
    logits: bool = False


@final
class Neuralized(nn.Module):
    """A fitted estimator as a network: `forward(x: (samples, features)) -> scores (samples, outputs)`.

    `layers`: the network, in float64, its constants in buffers. `estimator`: the class name. `features_in`: the number
    of features. `names`: their names, where the estimator was fitted on a table with column names. `outputs`: what
    the outputs stand for.
    """

    def __init__(
        self, layers: nn.Module, estimator: str, features_in: int, names: tuple[str, ...] | None, outputs: Outputs
    ) -> None:
        super().__init__()
        self.layers = layers
        self.estimator, self.features_in, self.names, self.outputs = estimator, features_in, names, outputs

    def forward(self, x: Tensor) -> Tensor:
        """The estimator's scores; InputError for another number of features, or another precision."""
        if x.dim() != 2 or x.shape[1] != self.features_in:
            raise InputError(
                f"{self.estimator} was fitted on {self.features_in} features and takes (samples, {self.features_in}); "
                f"the input has shape {tuple(x.shape)}"
            )
        own = next((b.dtype for b in self.buffers() if b.is_floating_point()), x.dtype)
        if x.dtype != own:
            raise InputError(
                f"the neuralized {self.estimator} computes in {own}, the input is {x.dtype}: pass x.to({own}), or "
                f"convert the network with .to({x.dtype})"
            )
        scores: Tensor = self.layers(x)
        return scores

    def extra_repr(self) -> str:
        """The estimator and its number of features."""
        return f"{self.estimator}, features_in={self.features_in}"


def neuralizes(
    *estimators: str,
    logits: Callable[[Any, str | None], bool] | None = None,
    inside: Callable[[Any], Any] | None = None,
) -> Callable[[M], M]:
    """Declare a function `(fitted estimator, *, options) -> nn.Module` for scikit-learn classes of these names.

    The module maps (samples, features) in float64 to (samples, outputs), exactly as the estimator scores; its constants
    are buffers. Keyword-only parameters are options of `neuralize`. `logits`: whether the softmax of the outputs is the
    probability of the classes, for an estimator and its option `output`; without it, never. `inside`: the estimator
    whose outputs these are, of those that hold one.
    """

    def declare(make: M) -> M:
        _MAKERS.update(dict.fromkeys(estimators, make))
        _LOGITS.update(dict.fromkeys(estimators, logits) if logits else {})
        _INSIDE.update(dict.fromkeys(estimators, inside) if inside else {})
        return make

    return declare


def estimators() -> list[str]:
    """The names of all scikit-learn classes that can be neuralized.

    >>> "KMeans" in estimators()
    True
    """
    return sorted(_MAKERS)


def is_estimator(model: Any) -> bool:
    """Whether something is an estimator in scikit-learn's sense rather than a network."""
    return not isinstance(model, nn.Module) and hasattr(model, "fit")


@alone()  # modules are made
def neuralize(estimator: Any, **options: Any) -> Neuralized:
    """The network that computes a fitted scikit-learn estimator's scores exactly (Kauffmann et al. 2020 and 2022).

    >>> import torch
    >>> from sklearn.cluster import KMeans
    >>> x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [4.0, 0.0], [4.0, 1.0]], dtype=torch.float64)
    >>> model = KMeans(2, n_init=1, random_state=0).fit(x)
    >>> network = neuralize(model)
    >>> bool((network(x).argmax(1).numpy() == model.predict(x)).all())
    True

    The result maps (samples, features) in float64 to (samples, outputs) and is explained like any other network.
    `options`: those of the estimator's kind, such as `output="outlierness"` or `beta=1.0`; docs/neon.md lists
    estimators, options and what is computed.

    Raises InputError for an estimator that is not fitted, that is not known, for which there can be no such network
    (trees), and for unknown options.
    """
    name = type(estimator).__name__
    if isinstance(estimator, type):
        raise InputError(f"{estimator.__name__} is a class; give a fitted estimator, {estimator.__name__}(...).fit(X)")
    if not is_estimator(estimator):
        raise InputError(f"a {name} is no estimator with fit; networks are explained as they are")
    make = _maker(estimator)
    _check_fitted(estimator)
    _check_options(name, make, options)
    layers = make(estimator, **{name: _builtin(value) for name, value in options.items()}).double().eval()
    first = reader(estimator)
    features = getattr(first, "n_features_in_", None)
    if features is None:
        raise InputError(f"this {name} does not say how many features it takes (n_features_in_); fit it on an array")
    width = int(layers(torch.zeros(1, int(features), dtype=torch.float64)).shape[1])
    return Neuralized(layers, name, int(features), feature_names(first), _outputs(estimator, options, width))


def _outputs(estimator: Any, options: dict[str, Any], width: int) -> Outputs:
    """What the outputs of an estimator's network stand for."""
    kind = class_name(estimator)
    if kind in _INSIDE:
        return _outputs(_INSIDE[kind](estimator), options, width)
    output = options.get("output")
    logits = kind in _LOGITS and _LOGITS[kind](estimator, output)
    classes: Any = getattr(estimator, "classes_", None)
    if not hasattr(classes, "tolist") or classes.ndim != 1:  # none, or those of several targets
        return Outputs(None, False, logits)
    pairs = len(classes) > 2 and hasattr(estimator, "decision_function_shape") and (
        estimator.decision_function_shape == "ovo" or output in ("ovo", "log_ratio")
    )  # fmt: skip
    return Outputs(tuple(classes.tolist()), len(classes) == width and not pairs, logits)


def reader(estimator: Any) -> Any:
    """What reads the features, of pipelines and unions the first step not "passthrough" or "drop"; None for nothing."""
    steps = getattr(estimator, "steps", getattr(estimator, "transformer_list", None))
    if steps is None:
        return estimator
    found = (reader(step) for _, step in steps if step is not None and not isinstance(step, str))
    return next((first for first in found if first is not None), None)


def feature_names(estimator: Any) -> tuple[str, ...] | None:
    """Column names of the table an estimator was fitted on."""
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else tuple(map(str, names))


def class_name(estimator: Any) -> str:
    """The name of the scikit-learn class that an estimator or a transformer is or is derived from, "" for none.

    Raises InputError where a derived class computes in its own way: only what scikit-learn computes is known.
    """
    mro = type(estimator).__mro__
    found = (c for c in mro if c.__module__.split(".")[0] == "sklearn" and not c.__name__.endswith("Mixin"))
    known = next(found, None)
    if known is None or known.__name__.startswith("Base"):
        return ""
    for c in mro[: mro.index(known)]:
        if c.__module__.split(".")[0] == "sklearn":
            continue  # a mixin in front
        same = [n for n, v in vars(c).items() if callable(v) and hasattr(known, n)]
        own = [n for n in same if n != "score" and not n.startswith(_HARMLESS)]
        if own:
            raise InputError(
                f"{type(estimator).__name__} has a {own[0]} of its own, of which no network is known; what is known is "
                f"that of {known.__name__}, the class of scikit-learn it is derived from"
            )
    return known.__name__


def _maker(estimator: Any) -> Maker:
    own, name = class_name(estimator), type(estimator).__name__
    if own in _MAKERS:
        return _MAKERS[own]
    reason = _REASONS.get(own or name)
    modules = tuple(c.__module__ for c in type(estimator).__mro__)
    if reason is None and any(m.startswith(_TREE_MODULES) for m in modules):
        reason = _TREES
    if reason is not None:
        raise InputError(f"{name} cannot be neuralized: {reason}")
    raise InputError(f"no network is known for {name}. Estimators that can be neuralized: {', '.join(estimators())}")


def _check_fitted(estimator: Any) -> None:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except NotFittedError:
        name = type(estimator).__name__
        raise InputError(f"this {name} is not fitted; fit it first: estimator.fit(X)") from None


def _check_options(name: str, make: Maker, options: dict[str, Any]) -> None:
    parameters = inspect.signature(make).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):  # a pipeline hands them on to its last step
        return
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InputError(
            f"neuralizing {name} has no option {', '.join(unknown)}; it has {', '.join(known) or 'no options'}"
        )


def _builtin(value: Any) -> Any:
    """Numbers of another library, such as NumPy's, as Python's; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def check_priors(estimator: Any, priors: Tensor) -> None:
    """Refuse a class with prior 0, whose logarithm would enter the scores."""
    never = (priors == 0).nonzero().flatten().tolist()
    if never:
        known = getattr(estimator, "classes_", None)
        names = ", ".join(str(k if known is None else known[k]) for k in never)
        what, option = ("component", "weight") if known is None else ("class", "prior")
        raise InputError(
            f"{type(estimator).__name__}: {what} {names} has {option} 0, so that its score is −∞ for every sample, "
            f"which nothing in x causes; fit again with positive {option}s, or without this {what}"
        )


def check_gamma(estimator: str, gamma: float) -> None:
    """Refuse a kernel exp(−γ h) that is 1 everywhere."""
    if gamma == 0:
        raise InputError(
            f"{estimator} was fitted with gamma=0: its kernel is 1 everywhere, there is nothing to explain"
        )


def options_of(estimator: Any) -> set[str]:
    """The options of `neuralize` for an estimator."""
    kind = class_name(estimator)
    if kind in _INSIDE:
        return options_of(_INSIDE[kind](estimator))
    parameters = inspect.signature(_MAKERS[kind]).parameters.values() if kind in _MAKERS else ()
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}


def choose(estimator: str, output: Any, choices: tuple[str, ...]) -> None:
    """Refuse an `output` an estimator does not have."""
    if output not in choices:
        raise InputError(f"output={output!r}: for {estimator} it is one of {', '.join(map(repr, choices))}")
