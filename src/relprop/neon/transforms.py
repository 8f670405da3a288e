"""Transformers of scikit-learn as stages: affine maps, which join where they follow one another, and layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from numbers import Number
from typing import Any, final

import torch
from torch import Tensor, nn

from ..errors import InputError
from .affine import Affine, fitted
from .distances import Scaled
from .linear import known_mean
from .monomials import Monomials
from .registry import class_name, reader

_STEPS = (
    "its output is constant between thresholds, so that no relevance can flow back through it; leave it out, or scale "
    "instead (StandardScaler)"
)
_CURVED = (
    "it is fitted point by point; explain the estimator behind it on the transformed features, or scale linearly "
    "(StandardScaler, RobustScaler)"
)
_CATEGORIES = "its input are categories, which are no numbers a network computes with; encode before the pipeline"
REASONS = {
    "Binarizer": _STEPS, "KBinsDiscretizer": _STEPS, "QuantileTransformer": _CURVED, "PowerTransformer": _CURVED,
    "SplineTransformer": _CURVED, "OneHotEncoder": _CATEGORIES, "OrdinalEncoder": _CATEGORIES,
    "TargetEncoder": _CATEGORIES,
}  # fmt: skip


class Stage:
    """A step that is no affine map: a layer that does not depend on a reference point."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer.double()

    def build(self, at: Tensor | None = None) -> nn.Module:
        """The layer; `at`: the reference point in what it reads, if one was given."""
        return self.layer


@final
class Columns(Stage):
    """Several chains of stages on the same features, their outputs side by side."""

    def __init__(self, chains: Sequence[Sequence[Affine | Stage]]) -> None:
        self.chains = chains

    def build(self, at: Tensor | None = None) -> nn.Module:
        """The chains as one layer."""
        return _Beside([nn.Sequential(*layers(chain, at)[0]) for chain in self.chains])


Step = Affine | Stage
Make = Callable[[Any], list[Step]]
_MAKERS: dict[str, Make] = {}


class _Beside(nn.Module):
    def __init__(self, parts: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], 1)


@final
class Clipped(nn.Module):
    """min(max(x, low), high)."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = float(low), float(high)

    def forward(self, x: Tensor) -> Tensor:
        """Entry by entry."""
        return x.clamp(self.low, self.high)


@final
class Normalized(nn.Module):
    """Each sample divided by its norm: 1/norm weighs, the sample takes all relevance, as in normalization layers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.order = {"l1": 1.0, "l2": 2.0, "max": float("inf")}[kind]

    def forward(self, x: Tensor) -> Tensor:
        """(samples, features); a sample of zeros stays one."""
        norm: Tensor = torch.linalg.vector_norm(x, self.order, 1, keepdim=True)
        return x / norm.clamp(min=torch.finfo(x.dtype).tiny)


def layers(steps: Sequence[Step], at: Tensor | None) -> tuple[list[nn.Module], Tensor | None]:
    """The steps as layers, and where the reference point `at` has come to behind them."""
    made = []
    for step in joined(steps):
        layer = step.build(at)
        at = None if at is None else layer(at[None])[0]
        made.append(layer)
    return made, at


def joined(steps: Iterable[Step]) -> list[Step]:
    """Affine maps that follow one another as one."""
    out: list[Step] = []
    for step in steps:
        before = out[-1] if out else None
        if isinstance(step, Affine) and isinstance(before, Affine):
            out[-1] = before.then(step)
        else:
            out.append(step)
    return out


def steps_of(transformer: Any, name: str) -> list[Step]:
    """A fitted transformer's stages; InputError, with the name of the step, for one that has none."""
    if transformer is None or transformer == "passthrough":
        return []
    kind = class_name(transformer)
    if kind in _MAKERS:
        check(transformer, name)
        return _MAKERS[kind](transformer)
    if type(transformer).__module__.startswith("sklearn.feature_selection") and hasattr(transformer, "get_support"):
        check(transformer, name)
        chosen = transformer.get_support(indices=True)
        return [selection(chosen, int(transformer.n_features_in_))]
    why, given = REASONS.get(kind), type(transformer).__name__
    if why is not None:
        raise InputError(f"step {name!r} of the pipeline, {given}, cannot be neuralized: {why}")
    whose = "" if kind else f" of {type(transformer).__module__}"
    raise InputError(
        f"step {name!r} of the pipeline is {given}{whose}, for which no network is known. Known are scikit-learn's "
        f"{', '.join(sorted(_MAKERS))}, and selectors of features. Transform the data first, and explain the rest of "
        "the pipeline"
    )


def check(estimator: Any, name: str) -> None:
    """Refuse a step that is not fitted."""
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except NotFittedError:
        raise InputError(
            f"step {name!r}, {type(estimator).__name__}, is not fitted; fit the whole pipeline: pipeline.fit(X, y)"
        ) from None


def transforms(*names: str) -> Callable[[Make], Make]:
    """Declare the stages of transformers by class name."""

    def declare(make: Make) -> Make:
        _MAKERS.update(dict.fromkeys(names, make))
        return make

    return declare


def selection(index: Iterable[int], features: int) -> Affine:
    """Some of the features, in an order of their own."""
    chosen = torch.eye(features, dtype=torch.float64)[[int(i) for i in index]]
    return Affine(chosen, torch.zeros(len(chosen), dtype=torch.float64))


def _scaler(scale: Tensor, at: Tensor, near: Tensor | None, clip: tuple[float, float] | None) -> list[Step]:
    scaled = Affine.elementwise(scale, at, near)
    return [scaled, Stage(Clipped(*clip))] if clip else [scaled]


@transforms("StandardScaler", "RobustScaler", "MaxAbsScaler")
def _divided(t: Any) -> list[Step]:
    """(x − centre) / scale."""
    centre = t.mean_ if getattr(t, "with_mean", False) else None
    centre = t.center_ if getattr(t, "with_centering", False) else centre
    zero = torch.zeros(int(t.n_features_in_), dtype=torch.float64)
    scale = getattr(t, "scale_", None)
    factor = torch.ones_like(zero) if scale is None else 1 / fitted(scale)
    clip = (-1.0, 1.0) if getattr(t, "clip", False) else None
    return _scaler(factor, zero if centre is None else fitted(centre), known_mean(t), clip)


@transforms("MinMaxScaler")
def _min_max(t: Any) -> list[Step]:
    """x · scale + min."""
    scale = fitted(t.scale_)
    return _scaler(scale, -fitted(t.min_) / scale, None, t.feature_range if t.clip else None)


@transforms("PCA", "IncrementalPCA")
def _pca(t: Any) -> list[Step]:
    """(x − mean) Vᵀ, divided by the components' deviations if they are whitened."""
    weight, mean = fitted(t.components_), fitted(t.mean_)
    if t.whiten:
        deviation = fitted(t.explained_variance_).sqrt()
        flat = (deviation < torch.finfo(torch.from_numpy(t.explained_variance_).dtype).eps).nonzero().flatten().tolist()
        if flat:
            raise InputError(
                f"{class_name(t)} with whiten=True: component {flat[0]} does not vary, and what is divided by its "
                f"deviation, {float(deviation[flat[0]]):.2g}, is rounding errors; fit it with fewer n_components"
            )
        weight = weight / deviation[:, None]
    return [Affine(weight, -weight @ mean, mean)]


@transforms("TruncatedSVD")
def _svd(t: Any) -> list[Step]:
    """x Vᵀ."""
    weight = fitted(t.components_)
    return [Affine(weight, torch.zeros(len(weight), dtype=torch.float64))]


@transforms("PolynomialFeatures")
def _polynomials(t: Any) -> list[Step]:
    return [Stage(Monomials(torch.tensor(t.powers_.tolist())))]


@transforms("Normalizer")
def _normalizer(t: Any) -> list[Step]:
    return [Stage(Normalized(t.norm))]


@transforms("FunctionTransformer")
def _function(t: Any) -> list[Step]:
    if t.func is not None:
        called = getattr(t.func, "__name__", repr(t.func))
        raise InputError(
            f"a FunctionTransformer with func={called} cannot be neuralized: it is any Python function. Apply it to "
            "the data first, or write it with torch in a module in front of relprop.neon.neuralize(...) of the rest"
        )
    return []


@transforms("SimpleImputer")
def _imputer(t: Any) -> list[Step]:
    """The identity: values that are missing cannot be explained, and are refused as input."""
    if not _is_nan(t.missing_values):
        raise InputError(
            f"a SimpleImputer with missing_values={t.missing_values!r} cannot be neuralized: it replaces a number, so "
            "that its output jumps there; impute before the pipeline"
        )
    if t.add_indicator or not bool(fitted(t.statistics_).isfinite().all()):
        raise InputError("a SimpleImputer that adds or drops columns cannot be neuralized; impute before the pipeline")
    return []


def _is_nan(value: Any) -> bool:
    """Whether this is None, NaN or pandas' NA: no value a network computes with."""
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, Number) and bool(value != value))


@transforms("Pipeline")
def _nested(t: Any) -> list[Step]:
    return [stage for name, step in t.steps for stage in steps_of(step, name)]


@transforms("FeatureUnion")
def _union(t: Any) -> list[Step]:
    chosen = [(n, s) for n, s in t.transformer_list if s != "drop"]
    features = int(reader(t).n_features_in_)  # a union's own is that of its first part, dropped or not
    return _beside([_times(t, n, features, steps_of(s, n)) for n, s in chosen], features)


@transforms("ColumnTransformer")
def _columns(t: Any) -> list[Step]:
    features = int(t.n_features_in_)
    names = [str(n) for n in getattr(t, "feature_names_in_", ())]
    chains: list[list[Step]] = []
    for name, step, columns in t.transformers_:
        index = _indices(columns, names, features)
        if len(index) and not (isinstance(step, str) and step == "drop"):
            chains.append(_times(t, name, features, [selection(index, features), *steps_of(step, name)]))
    return _beside(chains, features)


def _indices(columns: Any, names: list[str], features: int) -> list[int]:
    """Columns given as indices, names, a mask or a slice."""
    if isinstance(columns, slice):
        if isinstance(columns.start, str) or isinstance(columns.stop, str):
            start = 0 if columns.start is None else names.index(columns.start)
            stop = features if columns.stop is None else names.index(columns.stop) + 1
            return list(range(features))[start : stop : columns.step]
        return list(range(features))[columns]
    listed = [columns] if isinstance(columns, (str, int)) else list(columns)
    if len(listed) == features and all(type(c).__name__ in ("bool", "bool_") for c in listed):
        return [i for i, chosen in enumerate(listed) if chosen]
    return [names.index(c) if isinstance(c, str) else int(c) % features for c in listed]


def _times(t: Any, name: str, features: int, chain: list[Step]) -> list[Step]:
    """A part of several on the same features, times what `transformer_weights` has for its name."""
    factor = float((t.transformer_weights or {}).get(name, 1.0))
    chain = joined([selection(range(features), features), *chain])
    last = chain[-1]
    if factor == 1:
        return chain
    if isinstance(last, Affine):
        return [*chain[:-1], Affine(factor * last.weight, factor * last.bias, last.near)]
    return [*chain, Stage(Scaled(factor))]


def _beside(chains: list[list[Step]], features: int) -> list[Step]:
    """One affine map where every chain is one, else the chains as a layer."""
    maps = [chain[0] for chain in chains if len(chain) == 1 and isinstance(chain[0], Affine)]
    if len(maps) < len(chains):
        return [Columns(chains)]
    return [Affine(torch.cat([m.weight for m in maps]), torch.cat([m.bias for m in maps]), _near(maps, features))]


def _near(maps: list[Affine], features: int) -> Tensor | None:
    """Of each feature, the value of the first of the maps that reads it and knows one; 0 of others."""
    near, known = torch.zeros(features, dtype=torch.float64), torch.zeros(features, dtype=torch.bool)
    for m in maps:
        if m.near is not None:
            new = (m.weight != 0).any(0) & ~known
            near, known = torch.where(new, m.near, near), known | new
    return near if bool(known.any()) else None
