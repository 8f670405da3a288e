"""Tables and arrays as the tensors a neuralized estimator takes."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, TargetError
from ..targets import competing
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
    if x.is_complex():
        raise InputError(f"X holds complex numbers, but {network.estimator} takes real ones, such as their magnitudes")
    if x.dim() != 2:
        row = " (for one sample X.reshape(1, -1))" if x.dim() == 1 else ""
        raise InputError(f"X has shape {tuple(x.shape)}; {network.estimator} takes (samples, features){row}")
    if x.shape[1] != network.features_in:
        raise InputError(f"X has {x.shape[1]} features, but {network.estimator} was fitted on {network.features_in}")
    return x.to(dtype)


def as_target(network: nn.Module, target: Any) -> Any:
    """A target of an estimator as one of its network: labels of classes as indices, arrays as tensors.

    Where the outputs are classes, a target names one by its label, as `predict` returns it: text, number, or an array
    with one a sample. So do those inside a `Contrast`, `LogOdds` or another target made of targets. Where labels are
    texts, a whole number is an index, as everywhere else. Raises TargetError: no label of the estimator; labels where
    the outputs are not one a class; `LogOdds` and `Probability`, where the softmax of the outputs is not the
    probability of the classes.
    """
    if not isinstance(network, Neuralized):
        return target
    kind = competing(target)
    if kind and not network.outputs.logits:
        raise TargetError(
            f"{kind} is a quantity of the softmax, but that of these outputs of {network.estimator} is no probability "
            "of its classes. Explain an output itself (of a logistic regression of two classes it is the log-odds of "
            "the second), or the difference of two, Margin(c, rival)"
        )
    return _by_index(target, network)


def _by_index(target: Any, network: Neuralized) -> Any:
    """The target with labels replaced by their indices."""
    if isinstance(target, list):
        return [_by_index(t, network) for t in target]
    if isinstance(target, COMPOSED):
        return replace(target, **{f.name: _by_index(getattr(target, f.name), network) for f in fields(target)})
    if isinstance(target, Tensor):
        named: Any = None if target.is_floating_point() else target.tolist()
    elif hasattr(target, "__array__"):
        array = target.__array__()
        if array.ndim > 1 or network.outputs.classes is None:
            if array.dtype.kind not in "biuf":
                raise TargetError(f"target is an array of {array.dtype}; give the indices of outputs, from 0")
            return torch.from_numpy(array.astype("int64") if array.dtype.kind in "iu" else array.copy())
        named = array.tolist()
    else:
        named = target if isinstance(target, (str, int, float)) else None
    if named is None or network.outputs.classes is None:
        return target
    if not network.outputs.each:
        _check_unnamed(named, network)
        return target
    return _looked_up(named, network.outputs.classes)


def _check_unnamed(named: Any, network: Neuralized) -> None:
    """Refuse labels where an output is not that of a class: only an index says which is meant."""
    if isinstance(named, (str, list)):
        raise TargetError(
            f"target names classes, but the outputs of this {network.estimator} are not one a class (of two classes "
            'there is one, for the second): explain neuralize(estimator, output="classes"), of relprop.neon, or give '
            "the index of one output"
        )


def _looked_up(named: Any, classes: tuple[Any, ...]) -> Any:
    """The index of a label, or a LongTensor for a list of them."""
    if isinstance(named, list):
        return torch.tensor([_looked_up(one, classes) for one in named])
    if isinstance(named, int) and all(isinstance(label, str) for label in classes):
        return named
    # a mask is no list of labels, though True == 1
    same = [i for i, c in enumerate(classes) if c == named and isinstance(named, bool) <= isinstance(c, bool)]
    if same:
        return same[0]
    some = ", ".join(map(repr, classes[:10])) + ", …" * (len(classes) > 10)
    raise TargetError(f"target {named!r} is no class of the estimator, which has {some}")


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
    if array.__array__().dtype.kind == "c":
        return torch.from_numpy(array.__array__())
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
