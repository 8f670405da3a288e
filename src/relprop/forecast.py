"""What of a forecast is explained: one step of one channel."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor

from .errors import InputError, TargetError


@dataclass(frozen=True)
class Forecast:
    """The value forecast for one step, of an output (samples, steps, channels) or (samples, steps): a target.

    `step`: 0 is the first step after the series, negative ones count from the last. `channel`: needed where the
    output has several channels; negative ones count from the last. Units are those of the output. The score is linear
    in the output, so that all of it starts as relevance.

    Raises `TargetError`: a model that ends in a sigmoid or softmax, which is explained at its logits; an output of
    another shape, a step or channel out of range or missing, an index that is no whole number.

    >>> import torch, relprop
    >>> Forecast(1, channel=0)(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    tensor([3.])
    >>> model = torch.nn.Linear(2, 3, bias=False)                    # three steps
    >>> model.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -1.0]])
    >>> relprop.explain(model, torch.tensor([[3.0, 4.0]]), Forecast(-1), "lrp_zero").relevance
    tensor([[ 6., -4.]])
    """

    step: int = 0
    channel: int | None = None
    of_output: ClassVar[bool] = True  # what is in front of a last sigmoid or softmax would be another quantity

    def __post_init__(self) -> None:
        for name, value in (("step", self.step), ("channel", 0 if self.channel is None else self.channel)):
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise TargetError(f"Forecast {name}={value!r}: give a whole number, 0 for the first")
            if getattr(self, name) is not None:
                object.__setattr__(self, name, int(value))  # NumPy's whole numbers become Python's

    def __call__(self, output: Tensor) -> Tensor:
        """The forecast, (samples,)."""
        shape = tuple(output.shape)
        if output.dim() not in (2, 3):
            raise TargetError(
                f"the output has shape {shape}, not (samples, steps) or (samples, steps, channels): Forecast is for "
                "models that forecast a series"
            )
        self._check("step", self.step, shape[1], shape)
        if output.dim() == 2:
            if self.channel not in (None, 0, -1):
                raise TargetError(f"Forecast channel={self.channel}: the output {shape} has one channel")
            return output[:, self.step]
        if self.channel is None and shape[2] != 1:
            raise TargetError(
                f"the output {shape} forecasts {shape[2]} channels; say which: Forecast({self.step}, channel=0)"
            )
        channel = 0 if self.channel is None else self.channel
        self._check("channel", channel, shape[2], shape)
        return output[:, self.step, channel]

    @staticmethod
    def _check(name: str, index: int, count: int, shape: tuple[int, ...]) -> None:
        if not -count <= index < count:
            raise TargetError(
                f"Forecast {name}={index} is out of range: the output {shape} has {count} {name}s, 0 to {count - 1}, "
                f"or -1 to -{count} from the end"
            )


def windows(series: Any, length: int, steps: int, *, stride: int = 1) -> tuple[Tensor, Tensor]:
    """Every stretch of `length` steps of a series, and the `steps` that follow it: what a forecaster learns from.

    `series`: (time, channels) or (time,), a tensor, an array, a table or a list of numbers. Returns
    (count, length[, channels]) and (count, steps[, channels]), a stretch every `stride` steps; both share the memory
    of the series, if that is a tensor. Raises `InputError` for a series shorter than `length + steps` or without
    numbers, and for lengths that are no whole numbers >= 1.

    >>> import torch
    >>> past, future = windows(torch.arange(6.0), 3, 2)
    >>> past.tolist(), future.tolist()
    ([[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]], [[3.0, 4.0], [4.0, 5.0]])
    """
    for name, value in (("length", length), ("steps", steps), ("stride", stride)):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name}={value!r}: give a whole number of at least 1")
    length, steps, stride = int(length), int(steps), int(stride)
    series = _tensor(series)
    if series.dim() not in (1, 2):
        raise InputError(f"the series is {tuple(series.shape)}; give (time,) or (time, channels)")
    if len(series) < length + steps:
        raise InputError(
            f"the series has {len(series)} steps; a window of {length} and the {steps} to forecast need "
            f"{length + steps}: give a longer series, or a shorter window"
        )
    stretches = series.unfold(0, length + steps, stride)
    stretches = stretches if series.dim() == 1 else stretches.transpose(1, 2)
    return stretches[:, :length], stretches[:, length:]


def _tensor(series: Any) -> Tensor:
    """A series as a tensor; arrays and tables are copied."""
    if isinstance(series, Tensor):
        return series
    try:
        if hasattr(series, "__array__"):
            return torch.from_numpy(series.__array__().copy())
        if isinstance(series, (list, tuple)):
            return torch.tensor(series)
    except (TypeError, ValueError, RuntimeError) as e:
        raise InputError(f"the series holds values that are no numbers, or rows of several lengths ({e})") from None
    raise InputError(f"the series is a {type(series).__name__}; give a tensor or an array, (time,) or (time, channels)")
