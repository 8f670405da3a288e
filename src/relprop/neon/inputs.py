"""Tables and arrays as the tensors a neuralized estimator takes."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, TargetError
from ..targets.kinds import COMPOSED
from .registry import Neuralized


def as_inputs(network: nn.Module, X: Any) -> Any:
    """Samples as a tensor (samples, features) in the precision of a neuralized estimator; of other networks X as it is.

    `X`: a tensor, an array, a table (pandas, polars) or a list of rows. A tuple or a dict, the arguments of `forward`,
    stays as it is. Raises InputError: sparse, no numbers, another number of features, columns of other names.
    """
    if not isinstance(network, Neuralized) or isinstance(X, (tuple, dict)):
        return X
    dtype = next((b.dtype for b in network.buffers() if b.is_floating_point()), torch.float64)
    x = X if isinstance(X, Tensor) else _tensor(X, network)
    if x.layout != torch.strided:
        raise InputError(
            f"X has the layout {x.layout}; {network.estimator} is explained on dense samples: X.to_dense()"
        )
    if x.dim() != 2:
        row = " (for one sample X.reshape(1, -1))" if x.dim() == 1 else ""
        raise InputError(f"X has shape {tuple(x.shape)}; {network.estimator} takes (samples, features){row}")
    if x.shape[1] != network.features_in:
        raise InputError(f"X has {x.shape[1]} features, but {network.estimator} was fitted on {network.features_in}")
    return x.to(dtype)


def as_target(network: nn.Module, target: Any) -> Any:
    """Indices in an array, as `predict` of a clustering gives them, as a tensor; any other target as it is.

    So are those inside a `Contrast`, `LogOdds` or another target made of targets.
    """
    if isinstance(target, list):
        return [as_target(network, t) for t in target]
    if isinstance(network, Neuralized) and isinstance(target, COMPOSED):
        return replace(target, **{f.name: as_target(network, getattr(target, f.name)) for f in fields(target)})
    if not isinstance(network, Neuralized) or isinstance(target, Tensor) or not hasattr(target, "__array__"):
        return target
    array = target.__array__()
    if array.dtype.kind not in "biuf":
        raise TargetError(f"target is an array of {array.dtype}; give the indices of outputs, from 0")
    return torch.from_numpy(array.copy())


def _tensor(X: Any, network: Neuralized) -> Tensor:
    if hasattr(X, "toarray"):
        raise InputError(
            f"X is sparse ({type(X).__name__}); every feature gets relevance, also those that are 0: pass X.toarray()"
        )
    _check_columns(X, network)
    array = X.to_numpy() if hasattr(X, "to_numpy") else X
    if isinstance(array, list):
        return _from_rows(array)
    if not hasattr(array, "__array__"):
        raise InputError(f"X is a {type(X).__name__}; give an array, a tensor or a table of (samples, features)")
    try:
        return torch.from_numpy(array.__array__().astype("float64", order="C"))
    except (TypeError, ValueError) as e:
        raise InputError(f"X holds values that are no numbers ({e}); encode them as in training") from None


def _from_rows(rows: list[Any]) -> Tensor:
    try:
        return torch.tensor(rows, dtype=torch.float64)
    except (TypeError, ValueError) as e:
        raise InputError(f"X is a list, but not of rows of numbers of one length ({e})") from None


def _check_columns(X: Any, network: Neuralized) -> None:
    """Refuse a table whose columns are not those of the fit, in their order."""
    columns = getattr(X, "columns", None)
    if columns is None or network.names is None or tuple(map(str, columns)) == network.names:
        return
    found = tuple(map(str, columns))
    if len(found) != len(network.names):
        return  # told by their number
    first = next((a, b) for a, b in zip(found, network.names, strict=True) if a != b)
    raise InputError(
        f"X has a column {first[0]!r} where {network.estimator} was fitted on {first[1]!r}; pass X[list(names)] with "
        "the columns of the fit, in their order"
    )
