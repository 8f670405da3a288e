"""What is known of each operation: one row an op, its family and the roles of its arguments.

A rule is written once against a family; an op is declared once, here. Nothing else in the package
names an ATen op, except the canonization passes that remove it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import adjoints, pooling
from .recurrence import gru_layer, lstm_layer, rnn_relu_layer, rnn_tanh_layer

aten = torch.ops.aten
own = torch.ops.relprop  # registered by pooling.py


class Family(StrEnum):
    """What an op is to the rules. Patterns name families by these strings."""

    AFFINE = "affine"  # weighted: linear, convolution, product with a held matrix
    AVERAGE = "average"  # linear with fixed weights >= 0: average pooling, mean, sum, interpolation
    BATCH_NORM = "batch_norm"  # one scale and one shift a channel
    NORMALIZE = "normalize"  # divides by a statistic of its own input
    SUM = "sum"  # a + b, a - b
    PRODUCT = "product"  # a * b with both live, a / b with b live
    MAX_POOL = "max_pool"
    DISTANCE = "distance"  # squared distances to points
    MIN_POOL = "min_pool"  # the minimum, or a soft minimum, of distances
    CONTRAST = "contrast"  # what one group of terms sums to beyond another, with constants
    LRN = "lrn"
    ATTENTION = "attention"  # softmax(q kᵀ) v in one op
    ACTIVATION = "activation"  # elementwise y_i = f(a_i)
    SOFTMAX = "softmax"
    SCALE = "scale"  # times a constant
    SHAPE = "shape"  # moves, copies or drops entries
    EMBEDDING = "embedding"
    RECURRENT = "recurrent"  # a layer of LSTM, GRU or RNN over all its time steps


class Sign(Enum):
    """When the output of an op is known to be >= 0."""

    UNKNOWN = 0
    ALWAYS = 1
    KEPT = 2  # if every live input is


@dataclass(frozen=True)
class Op:
    """One operation. Positions are indices of its arguments.

    `live`: where a live tensor may stand. `weight`, `bias`: parameters of an affine map. `channel`: the
    output dimension a bias vector runs along. `adjoint(s, args, kwargs, a)`: the transposed linear map
    applied to s, for ops that carry the work; None: by automatic differentiation. `zero`: f(0) = 0.
    `uniform`: the fixed weights of one output are all equal, so that w², and 1, are proportional to w. `signed`: there
    are negative ones among them.
    """

    family: Family
    live: tuple[int, ...] = (0,)
    weight: int | None = None
    bias: int | None = None
    channel: int = 1
    adjoint: Callable[..., Tensor] | None = None
    sign: Sign = Sign.UNKNOWN
    zero: bool = True
    uniform: bool = False
    signed: bool = False


def scale_shift(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = weight * x + bias along dimension 1: BatchNorm in evaluation, as the affine map it is."""
    shape = (1, -1) + (1,) * (x.dim() - 2)
    y = x * weight.view(shape)
    return y if bias is None else y + bias.view(shape)


def region(x: Tensor) -> Tensor:
    """Stands for an elementwise function written in several ops, whose value the graph has already."""
    raise NotImplementedError("an elementwise region is evaluated by its own ops")


def adaptive_max_pool(x: Tensor, output_size: Sequence[int]) -> Tensor:
    """Adaptive max pooling over the last `len(output_size)` dimensions, values only."""
    pool = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[len(output_size) - 1]
    out: Tensor = pool(x, list(output_size))
    return out


def channel_window(q: Tensor, before: int, after: int) -> Tensor:
    """Σ_j q_j over the window j = k − before … k + after of channels (dimension 1), for each channel k."""
    padded = F.pad(q, (0, 0) * (q.dim() - 2) + (before, after))
    return padded.unfold(1, before + after + 1, 1).sum(-1)


def local_response_norm(x: Tensor, before: int, after: int, b: float, c: float, k: float) -> Tensor:
    """y_k = x_k / (k + b Σ_j x_j²)^c over a window of channels (Binder et al. 2016, equation 10).

    `F.local_response_norm(x, size, alpha, beta, k)` has b = alpha / size, c = beta and a window of size // 2 channels
    before and (size − 1) // 2 after each channel.
    """
    return x / (k + b * channel_window(x * x, before, after)) ** c


def _rows(row: Op, *ops: Any) -> dict[Any, Op]:
    return dict.fromkeys(ops, row)


def _activation(*ops: Any, zero: bool = True, sign: Sign = Sign.UNKNOWN) -> dict[Any, Op]:
    return _rows(Op(Family.ACTIVATION, zero=zero, sign=sign), *ops)


def _conv(*ops: Any, transposed: bool = False) -> dict[Any, Op]:
    adjoint = adjoints.conv_transpose if transposed else adjoints.conv
    return _rows(Op(Family.AFFINE, weight=1, bias=2, adjoint=adjoint), *ops)


def _shape(*ops: Any, adjoint: Callable[..., Tensor] | None = None, sign: Sign = Sign.KEPT) -> dict[Any, Op]:
    return _rows(Op(Family.SHAPE, adjoint=adjoint, sign=sign), *ops)


def _average(*ops: Any, adjoint: Callable[..., Tensor] | None = None, uniform: bool = True) -> dict[Any, Op]:
    return _rows(Op(Family.AVERAGE, adjoint=adjoint, sign=Sign.KEPT, uniform=uniform), *ops)


TABLE: dict[Any, Op] = {
    # affine, with weights
    **_rows(Op(Family.AFFINE, weight=1, bias=2, channel=-1, adjoint=adjoints.linear), aten.linear.default),
    **_rows(
        Op(Family.AFFINE, live=(0, 1), weight=1, channel=-1, adjoint=adjoints.matmul),
        aten.matmul.default,
        aten.mm.default,
        aten.bmm.default,
    ),
    **_rows(Op(Family.AFFINE, live=(0, 1), weight=1, channel=-1), aten.mv.default, aten.dot.default),
    **_rows(Op(Family.AFFINE, live=(1,), weight=2, bias=0, channel=-1, adjoint=adjoints.addmm), aten.addmm.default),
    **_conv(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
    **_rows(
        Op(Family.AFFINE, weight=1, bias=2, adjoint=adjoints.conv_same),
        aten.conv1d.padding,
        aten.conv2d.padding,
        aten.conv3d.padding,
    ),
    **_conv(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input, transposed=True),
    # a product of two live tensors; as AFFINE when one factor is held (see graph.family)
    **_rows(Op(Family.SCALE, live=(0, 1), weight=1), aten.mul.Tensor),
    **_rows(Op(Family.SCALE, live=(0,)), aten.mul.Scalar, aten.div.Scalar, aten.neg.default),
    **_rows(Op(Family.SCALE, live=(0, 1), weight=1), aten.div.Tensor),
    # linear, fixed weights >= 0
    **_average(aten.avg_pool1d.default, aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool3d.default),
    **_average(aten.avg_pool2d.default, adjoint=adjoints.avg_pool2d),
    **_average(aten.avg_pool3d.default, adjoint=adjoints.avg_pool3d),
    **_average(aten.adaptive_avg_pool2d.default, adjoint=adjoints.adaptive_avg_pool2d),
    **_average(aten.mean.dim, adjoint=adjoints.mean),
    **_average(aten.sum.dim_IntList, adjoint=adjoints.total),
    **_average(aten.mean.default, aten.sum.default, aten.cumsum.default),
    **_average(
        aten.upsample_linear1d.vec,
        aten.upsample_bilinear2d.vec,
        aten.upsample_trilinear3d.vec,
        uniform=False,
    ),
    **_rows(Op(Family.AVERAGE, signed=True), aten.upsample_bicubic2d.vec),
    **_average(aten.col2im.default),
    **_rows(Op(Family.BATCH_NORM, weight=1, bias=2, adjoint=adjoints.scale_shift), scale_shift),
    **_rows(
        Op(Family.NORMALIZE),
        aten.layer_norm.default,
        aten.rms_norm.default,
        aten.group_norm.default,
        aten.instance_norm.default,
    ),
    **_rows(Op(Family.ATTENTION, live=(0, 1, 2, 3)), aten.scaled_dot_product_attention.default),
    **_rows(Op(Family.RECURRENT, live=(0, 1, 2)), lstm_layer),
    **_rows(Op(Family.RECURRENT, live=(0, 1)), gru_layer, rnn_tanh_layer),
    **_rows(Op(Family.RECURRENT, live=(0, 1), sign=Sign.ALWAYS), rnn_relu_layer),
    **_rows(Op(Family.SUM, live=(0, 1), sign=Sign.KEPT), aten.add.Tensor),
    **_rows(Op(Family.SUM, live=(0, 1)), aten.sub.Tensor, aten.rsub.Scalar),
    **_rows(Op(Family.SUM, live=(0,)), aten.add.Scalar, aten.sub.Scalar),
    **_rows(
        Op(Family.MAX_POOL, sign=Sign.KEPT, uniform=True),
        aten.max_pool1d.default,
        aten.max_pool2d.default,
        aten.max_pool3d.default,
        adaptive_max_pool,
    ),
    **_rows(Op(Family.MAX_POOL, sign=Sign.KEPT, uniform=True), aten.amax.default, aten.max.default),
    # of neuralized models (pooling.py)
    **_rows(Op(Family.DISTANCE, sign=Sign.ALWAYS), own.squared_distances.default),
    **_rows(Op(Family.MIN_POOL), own.soft_min.default),
    **_rows(Op(Family.CONTRAST, bias=1, channel=-1, adjoint=pooling.contrasts_adjoint), own.contrasts.default),
    **_rows(Op(Family.CONTRAST, bias=1, channel=-1, adjoint=pooling.shifted_adjoint), own.shifted.default),
    **_rows(Op(Family.SHAPE, adjoint=adjoints.expand, zero=False), own.centred.default),
    **_shape(own.smallest.default, adjoint=pooling.smallest_adjoint),
    **_rows(Op(Family.LRN, sign=Sign.KEPT), local_response_norm),
    **_rows(Op(Family.SOFTMAX, sign=Sign.ALWAYS), aten.softmax.int, aten._softmax.default),
    **_rows(Op(Family.SOFTMAX), aten.log_softmax.int, aten._log_softmax.default),
    **_rows(Op(Family.SOFTMAX), aten.logsumexp.default),
    # elementwise
    **_activation(
        aten.relu.default,
        aten.relu6.default,
        aten.abs.default,
        aten.square.default,
        aten.sqrt.default,
        sign=Sign.ALWAYS,
    ),
    **_activation(
        aten.leaky_relu.default,
        aten.prelu.default,
        aten.rrelu.default,
        aten.elu.default,
        aten.selu.default,
        aten.celu.default,
        aten.gelu.default,
        aten.silu.default,
        aten.mish.default,
        aten.hardswish.default,
        aten.tanh.default,
        aten.atan.default,
        aten.asinh.default,
        aten.sinh.default,
        aten.sin.default,
        aten.erf.default,
        aten.expm1.default,
        aten.log1p.default,
        aten.softshrink.default,
        aten.hardshrink.default,
        aten.tan.default,
        aten.sign.default,
    ),
    **_activation(
        aten.hardtanh.default,
        aten.clamp.default,
        aten.clamp_min.default,
        aten.clamp_max.default,
        aten.clamp.Tensor,
        aten.clamp_min.Tensor,
        aten.clamp_max.Tensor,
        aten.threshold.default,
        aten.log_sigmoid.default,
        aten.pow.Tensor_Scalar,
        aten.log.default,
        aten.cos.default,
        aten.reciprocal.default,
        zero=False,
    ),
    **_activation(
        aten.sigmoid.default,
        aten.hardsigmoid.default,
        aten.softplus.default,
        aten.exp.default,
        aten.rsqrt.default,
        zero=False,
        sign=Sign.ALWAYS,
    ),
    **_activation(region, zero=False),
    # movement of entries
    **_shape(
        aten.view.default,
        aten.reshape.default,
        aten._unsafe_view.default,
        aten.flatten.using_ints,
        aten.unflatten.int,
        aten.unsqueeze.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        adjoint=adjoints.reshape,
    ),
    **_shape(aten.permute.default, adjoint=adjoints.permute),
    **_shape(aten.transpose.int, adjoint=adjoints.transpose),
    **_shape(aten.slice.Tensor, adjoint=adjoints.sliced),
    **_shape(aten.select.int, adjoint=adjoints.select),
    **_shape(aten.expand.default, adjoint=adjoints.expand),
    **_shape(
        aten.narrow.default,
        aten.flip.default,
        aten.roll.default,
        aten.t.default,
        aten.mT.default,
        aten.movedim.int,
        aten.gather.default,
        aten.index_select.default,
        aten.index.Tensor,
        aten.repeat.default,
        aten.repeat_interleave.self_int,
        aten.pixel_shuffle.default,
        aten.pixel_unshuffle.default,
        aten.channel_shuffle.default,
        aten.im2col.default,
        aten.upsample_nearest1d.vec,
        aten.upsample_nearest2d.vec,
        aten.upsample_nearest3d.vec,
        aten._upsample_nearest_exact1d.vec,
        aten._upsample_nearest_exact2d.vec,
        aten._upsample_nearest_exact3d.vec,
        aten.pad.default,
        aten.constant_pad_nd.default,
        aten.reflection_pad1d.default,
        aten.reflection_pad2d.default,
        aten.replication_pad2d.default,
        aten.to.dtype,
        aten._to_copy.default,
        aten.tril.default,
        aten.triu.default,
        aten.as_strided.default,
        aten.swapaxes.default,
        aten.unfold.default,
        aten.diagonal.default,
        aten.rot90.default,
    ),
    **_shape(aten.scatter.value, sign=Sign.UNKNOWN),
    **_shape(aten.masked_fill.Scalar, aten.masked_fill.Tensor, sign=Sign.UNKNOWN),
    **_shape(aten.cat.default, aten.stack.default),
    **_rows(Op(Family.SHAPE, live=(0, 1), sign=Sign.KEPT), aten.slice_scatter.default, aten.select_scatter.default),
    **_rows(Op(Family.SHAPE, live=(0, 2), sign=Sign.KEPT), aten.index_put.default, aten.masked_scatter.default),
    **_rows(
        Op(Family.SHAPE, live=(0, 3), sign=Sign.KEPT),
        aten.scatter.src,
        aten.scatter_add.default,
        aten.index_add.default,
        aten.index_copy.default,
    ),
    **_shape(aten.view_as_real.default, aten.view_as_complex.default, aten.real.default, sign=Sign.UNKNOWN),
    **_rows(Op(Family.SHAPE, live=(1, 2)), aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther),
    **_rows(
        Op(Family.SHAPE, live=(0, 1)),
        aten.maximum.default,
        aten.minimum.default,
        aten.max.other,
        aten.min.other,
    ),
    **_rows(Op(Family.EMBEDDING, live=(1,)), aten.embedding.default),
}

# Their outputs are piecewise constant, so that nothing can flow through them: never live.
DEAD = {
    aten.sign.default, aten.floor.default, aten.ceil.default, aten.round.default, aten.zeros_like.default,
    aten.ones_like.default, aten.full_like.default, aten.empty_like.default, aten.new_zeros.default,
    aten.new_ones.default, aten.new_full.default, aten.new_empty.default, aten.detach.default,
}  # fmt: skip


# Ops that torch defines by others, which rules are for: opened at capture.
OPENED = (aten.einsum.default, aten.cosine_similarity.default)


def lookup(target: Any) -> Op | None:
    """The row of an op, or None: an op without a row has no rule."""
    return TABLE.get(target)


def name(target: Any) -> str:
    """The op's short name, as patterns and tables write it: `conv2d`, `relu`, `local_response_norm`."""
    if isinstance(target, torch._ops.OpOverload):
        return target.__name__.split(".")[0]
    return str(getattr(target, "__name__", target))


FUNCTIONS = {
    name(f): f
    for f in (
        scale_shift, region, adaptive_max_pool, local_response_norm, lstm_layer, gru_layer, rnn_tanh_layer,
        rnn_relu_layer,
    )
}  # fmt: skip


# Why some ops have no rule, and what to do instead: told in the error that names them.
_RANDOM = "it is random, and an explanation of a random output means nothing; make forward deterministic in eval mode"
_TIME = "it reads the first dimension as time steps, not as samples: give the layer batch_first=True"
REASONS = {
    "lstm": _TIME,
    "gru": _TIME,
    "rnn_tanh": _TIME,
    "rnn_relu": _TIME,
    "_native_batch_norm_legit": "it normalizes with the statistics of the batch, so that a sample's output depends on "
    "the other samples; give the layer running statistics (track_running_stats=True) and train or calibrate them",
    "rand": _RANDOM,
    "rand_like": _RANDOM,
    "bilinear": 'write it as torch.einsum("bi,oij,bj->bo", x, weight, y)',
    "embedding": "its index is computed from the tokens (shifted, sliced, clamped): their relevance would be "
    "incomplete; compute the indices before the model and pass each as an input",
    "fractional_max_pool2d": "its windows are random; use max_pool2d or adaptive_max_pool2d",
}
