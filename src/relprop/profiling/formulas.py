"""FLOPs of one call of an ATen op: torch's formulas, and those of recurrent kernels, which torch does not count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def products(rows: int, weights: Sequence[Tensor]) -> int:
    """2 FLOPs for each entry of each weight matrix and each row it is applied to (biases, vectors, are not counted)."""
    return 2 * rows * sum(w.numel() for w in weights if w.dim() == 2)


def _rows(x: Tensor) -> int:
    """Time steps times samples of a recurrent layer's input, (T, B, I) or packed (N, I)."""
    return x.numel() // x.shape[-1]


def mkldnn_rnn(x: Tensor, *rest: Any, **_: Any) -> int:
    """One layer, one direction: both weight matrices at every step."""
    return products(_rows(x), rest[:2])


def mkldnn_rnn_backward(x: Tensor, *rest: Any, **_: Any) -> int:
    """The gradient of the input and of the weights: the kernel computes both, also where one is not asked for."""
    return 2 * products(_rows(x), rest[:2])


def cudnn_rnn(x: Tensor, weight: Sequence[Tensor], *_: Any, **__: Any) -> int:
    """All layers and directions: each weight matrix at every step."""
    return products(_rows(x), weight)


def cudnn_rnn_backward(x: Tensor, weight: Sequence[Tensor], *rest: Any, **_: Any) -> int:
    """The gradient of the input, and of the weights where the last entry of the output mask asks for it."""
    return products(_rows(x), weight) * (1 + int(rest[-1][3]))


RECURRENT: dict[Any, Callable[..., int]] = {
    aten.mkldnn_rnn_layer: mkldnn_rnn,
    aten.mkldnn_rnn_layer_backward: mkldnn_rnn_backward,
    aten._cudnn_rnn: cudnn_rnn,
    aten._cudnn_rnn_backward: cudnn_rnn_backward,
}


def formula(packet: Any) -> Callable[..., int] | None:
    """`f(*args, out_val=result, **kwargs)` of an op's packet; None where no multiply-adds are counted.

    Formulas a user registered with `torch.utils.flop_counter.register_flop_formula` count too.
    """
    from torch.utils.flop_counter import flop_registry  # it brings triton along, which `import relprop` need not

    return flop_registry.get(packet) or RECURRENT.get(packet)
