"""The affine operations of the exactness tests: a module with random parameters, and the shape of one sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _norm(norm: nn.Module) -> nn.Module:
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    if norm.affine:
        nn.init.normal_(norm.weight)  # of both signs
        nn.init.normal_(norm.bias)
    return norm


WEIGHTED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(7, 5), (7,)),
    "linear_no_bias": (lambda: nn.Linear(7, 5, bias=False), (7,)),
    "linear_on_rows": (lambda: nn.Linear(4, 3), (5, 4)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3), (3, 8)),
    "conv1d_stride_padding": (lambda: nn.Conv1d(3, 4, 3, stride=3, padding=2), (3, 9)),
    "conv1d_dilation_groups": (lambda: nn.Conv1d(4, 6, 3, dilation=2, groups=2, bias=False), (4, 9)),
    "conv2d": (lambda: nn.Conv2d(2, 3, 3), (2, 5, 4)),
    "conv2d_no_bias": (lambda: nn.Conv2d(2, 3, 3, bias=False), (2, 5, 4)),
    "conv2d_stride_padding": (lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 3), padding=(1, 0)), (2, 6, 5)),
    "conv2d_dilation": (lambda: nn.Conv2d(2, 3, 2, stride=2, padding=1, dilation=(2, 1)), (2, 6, 5)),
    "conv2d_depthwise": (lambda: nn.Conv2d(3, 6, 3, padding=1, groups=3), (3, 4, 4)),
    "conv2d_same": (lambda: nn.Conv2d(2, 2, (4, 3), padding="same"), (2, 5, 4)),
    "conv2d_circular": (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), (2, 4, 4)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 3, 3, 3)),
    "conv3d_all": (lambda: nn.Conv3d(2, 4, 2, stride=(1, 2, 2), padding=1, dilation=(2, 1, 1), groups=2), (2, 3, 3, 3)),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(3, 2, 3, stride=2, padding=1, output_padding=1), (3, 5)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(2, 3, 3), (2, 3, 3)),
    "conv_transpose2d_all": (
        lambda: nn.ConvTranspose2d(4, 4, (3, 2), stride=(2, 3), padding=1, output_padding=(1, 2), groups=2, dilation=2),
        (4, 3, 2),
    ),
    "conv_transpose3d": (
        lambda: nn.ConvTranspose3d(2, 2, 2, stride=2, output_padding=(1, 0, 1), dilation=(2, 1, 1)),
        (2, 2, 2, 2),
    ),
    "batch_norm1d": (lambda: _norm(nn.BatchNorm1d(6)), (6,)),
    "batch_norm1d_on_series": (lambda: _norm(nn.BatchNorm1d(3)), (3, 5)),
    "batch_norm2d": (lambda: _norm(nn.BatchNorm2d(3)), (3, 3, 4)),
    "batch_norm2d_not_affine": (lambda: _norm(nn.BatchNorm2d(3, affine=False)), (3, 3, 4)),
    "batch_norm3d": (lambda: _norm(nn.BatchNorm3d(3)), (3, 2, 2, 3)),
}
AVERAGES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "avg_pool1d": (lambda: nn.AvgPool1d(3, stride=2, padding=1), (2, 8)),
    "avg_pool1d_excluding": (
        lambda: nn.AvgPool1d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
        (2, 8),
    ),
    "avg_pool2d": (lambda: nn.AvgPool2d(2), (2, 5, 4)),
    "avg_pool2d_padding": (lambda: nn.AvgPool2d((3, 2), stride=(2, 1), padding=(1, 0), ceil_mode=True), (2, 6, 4)),
    "avg_pool2d_excluding": (lambda: nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), (2, 6, 5)),
    "avg_pool2d_divisor": (lambda: nn.AvgPool2d(2, stride=1, divisor_override=3), (2, 4, 4)),
    "avg_pool3d": (lambda: nn.AvgPool3d(2, padding=1, ceil_mode=True), (2, 3, 3, 3)),
    "avg_pool3d_excluding": (lambda: nn.AvgPool3d(2, stride=1, padding=1, count_include_pad=False), (2, 3, 2, 2)),
    "adaptive_avg_pool1d": (lambda: nn.AdaptiveAvgPool1d(3), (2, 7)),
    "adaptive_avg_pool2d": (lambda: nn.AdaptiveAvgPool2d((2, 3)), (2, 5, 5)),
    "adaptive_avg_pool2d_global": (lambda: nn.AdaptiveAvgPool2d(1), (2, 5, 5)),
    "adaptive_avg_pool3d": (lambda: nn.AdaptiveAvgPool3d((2, 1, 2)), (2, 3, 3, 3)),
    "mean": (lambda: Lambda(lambda x: x.mean((2, 3))), (3, 3, 4)),
    "mean_keepdim": (lambda: Lambda(lambda x: x.mean(-1, keepdim=True)), (3, 5)),
    "sum": (lambda: Lambda(lambda x: x.sum((1, 3))), (3, 3, 4)),
}
INTERPOLATIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "bilinear": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), (2, 3, 3)),
    "bilinear_corners": (lambda: nn.UpsamplingBilinear2d(size=(5, 4)), (2, 3, 3)),
    "linear_interpolation": (lambda: nn.Upsample(scale_factor=2, mode="linear"), (2, 4)),
}
LAYERS = {**WEIGHTED, **AVERAGES, **INTERPOLATIONS}


def build(name: str) -> nn.Module:
    """The layer in float64 and evaluation mode; its parameters are random and the same at every call."""
    torch.manual_seed(11)
    return LAYERS[name][0]().double().eval()
