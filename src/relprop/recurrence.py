"""One layer and one direction of a recurrent network, as a function with one tensor output.

Time comes first: x is (T, B, I), a state (B, H), the result (T, B, H). Weights and the order of gates are PyTorch's:
rows i, f, g, o of an LSTM, r, z, n of a GRU. `reverse` runs from the last step to the first. The kernel is torch's own.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._decomp import decompositions
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.utils.rnn import PackedSequence

aten = torch.ops.aten

PACKED = (
    "a packed sequence has as many rows as all samples have steps together, which a graph for any samples cannot know. "
    "Run the network on the padded tensor, without pack_padded_sequence and pad_packed_sequence, and pick the last "
    "step of each: `output[torch.arange(len(x)), lengths - 1]`; with bidirectional=True, explain samples of one length"
)


def holds_packed(error: BaseException) -> bool:
    """Whether a packed sequence was in use where an error was raised."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(isinstance(v, PackedSequence) for frame, _ in frames for v in frame.f_locals.values())


@contextmanager
def first_step_tells() -> Iterator[None]:
    """Within, the shapes of a recurrent layer's output are computed from its first step.

    torch's stand-in for the kernel, which runs when a model is exported, takes the steps one by one: 10 s for a few
    hundred, though every step has the same shape. Where operations are recorded all steps are taken. Changes torch for
    all threads: for one that is `alone`.
    """
    plain: Any = getattr(decompositions, "_rnn_helper", None)
    if plain is None:  # another version of torch: all steps are taken
        yield
        return

    @functools.wraps(plain)
    def helper(*args: Any) -> Any:
        *rest, layer = args
        packed = isinstance(layer, functools.partial) and "batch_sizes" in layer.keywords
        return plain(*rest, layer if packed or get_proxy_mode() is not None else functools.partial(_first_step, layer))

    decompositions._rnn_helper = helper
    try:
        yield
    finally:
        decompositions._rnn_helper = plain


def _first_step(layer: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A tensor like the output of a layer for all steps of x, and its last state."""
    out, state = layer(x[:1], *args, **kwargs)
    return out.new_empty((x.shape[0], *out.shape[1:])), state


def lstm_layer(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    w_hr: Tensor | None = None,
    reverse: bool = False,
    cells: bool = False,
) -> Tensor:
    """h_t = W_hr (o_t tanh(c_t)), c_t = f_t c_{t−1} + i_t g_t (Hochreiter and Schmidhuber 1997; Gers et al. 2000).

    i, f, o = σ(W x_t + b + U h_{t−1}), g = tanh of the same with its own weights; W_hr (P, H) only with a projection.
    With `cells` the last cell state follows as one more row, (T + 1, B, H); projected hidden states are padded with 0.
    """
    weights = [w for w in (w_ih, w_hh, b_ih, b_hh, w_hr) if w is not None]
    h, _, c = _run(aten.lstm.input, x, [h0.unsqueeze(0), c0.unsqueeze(0)], weights, b_ih is not None, reverse)
    if not cells:
        return h
    return torch.cat([F.pad(h, (0, c.shape[-1] - h.shape[-1])), c])


def gru_layer(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    reverse: bool = False,
) -> Tensor:
    """h_t = (1 − z_t) n_t + z_t h_{t−1}, n_t = tanh(W x_t + b + r_t (U h_{t−1} + b')) (Cho et al. 2014)."""
    return _one_state(aten.gru.input, x, h0, w_ih, w_hh, b_ih, b_hh, reverse)


def rnn_tanh_layer(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    reverse: bool = False,
) -> Tensor:
    """h_t = tanh(W x_t + b + U h_{t−1} + b') (Elman 1990)."""
    return _one_state(aten.rnn_tanh.input, x, h0, w_ih, w_hh, b_ih, b_hh, reverse)


def rnn_relu_layer(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    reverse: bool = False,
) -> Tensor:
    """h_t = max(0, W x_t + b + U h_{t−1} + b')."""
    return _one_state(aten.rnn_relu.input, x, h0, w_ih, w_hh, b_ih, b_hh, reverse)


def _one_state(
    op: Any, x: Tensor, h0: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None, reverse: bool
) -> Tensor:
    weights = [w for w in (w_ih, w_hh, b_ih, b_hh) if w is not None]
    return _run(op, x, h0.unsqueeze(0), weights, b_ih is not None, reverse)[0]


def _run(op: Any, x: Tensor, state: Any, weights: list[Tensor], biases: bool, reverse: bool) -> tuple[Tensor, ...]:
    """torch's kernel: one layer, one direction, no dropout, time first."""
    h, *last = op(x.flip(0) if reverse else x, state, weights, biases, 1, 0.0, False, False, False)
    return (h.flip(0) if reverse else h, *last)
