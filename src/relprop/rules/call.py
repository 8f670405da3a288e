"""The call of an op as a rule sees it: tensors and roles, no graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor

from ..adjoints import argument, avg_pool2d
from ..errors import RuleError
from ..ops import FUNCTIONS, Family, Op, lookup, name
from ..samples import Batch
from .linear import Linear, Transform
from .windows import Windows

Path = int | tuple[int, int]

# Relevance is carried in float32 where the model computes in these.
HALF = (torch.float16, torch.bfloat16)
# Families whose rules compare with the value itself, rather than with the sum of its terms.
KEPT = (Family.ACTIVATION, Family.MAX_POOL, Family.SHAPE, Family.SCALE, Family.EMBEDDING)


def by_sample(t: Tensor, batch: Batch) -> tuple[Tensor, list[int]]:
    """The tensor with a dimension that counts samples (and nothing in front of them), and all its other dimensions."""
    if isinstance(batch, tuple):
        dim, outer, inner = batch
        t, batch = t.reshape(*t.shape[:dim], outer, -1, inner, *t.shape[dim + 1 :]), dim + 1
    return t, [d for d in range(t.dim()) if d != batch]


def _widened(x: Any) -> Any:
    """An argument of a call, half precision as float32."""
    if isinstance(x, (tuple, list)):
        return [_widened(v) for v in x]
    return x.float() if isinstance(x, Tensor) and x.dtype in HALF else x


@final
class Call:
    """One call y = op(*args, **kwargs), of which the arguments at `live` carry relevance.

    `op` is an ATen op, or the name of one of the functions in `relprop.ops.FUNCTIONS`.
    `nonneg`: the live input is known to be >= 0. `rectified`: relevance arrives only where y > 0, and y may be given
    as max(0, y); `scale` is then what ε is relative to, taken from all of y.
    `batch`: the dimension that counts samples (see `relprop.samples`). `zero`: the value an activation takes at 0,
    unless it is 0.
    `prepared`: transformed weights, by the transform's key. `saved`: what the rule's `forward` handed on.
    `choice`: whether a rule may choose its way by values.
    `wide`: half precision is computed again in float32, so that the terms of y sum to it.
    With `ledger`, `keep` adds up what the rule did not pass on.
    """

    def __init__(
        self,
        op: Any,
        args: tuple[Any, ...],
        y: Tensor | None,
        kwargs: dict[str, Any] | None = None,
        *,
        live: tuple[Path, ...] = (0,),
        family: str | None = None,
        nonneg: bool = False,
        rectified: bool = False,
        batch: Batch = 0,
        batches: tuple[Batch, ...] = (),
        zero: Tensor | float | None = None,
        scale: Tensor | None = None,
        prepared: Mapping[str, Tensor] | None = None,
        saved: Any = None,
        wide: bool = True,
        choice: bool = True,
        ledger: bool = False,
    ) -> None:
        op = FUNCTIONS[op] if isinstance(op, str) else op
        row = lookup(op)
        if row is None:
            raise RuleError(f"the op {name(op)} has no row in relprop.ops")
        self.op, self._args, self.kwargs, self.live = op, args, kwargs or {}, live
        self._y: Any = y
        self._widened = not wide  # whether `_args` are as the rules read them
        self.row, self.family = row, Family(family or row.family)
        self.nonneg, self.rectified, self.batch = nonneg, rectified, batch
        self.batches = batches or (batch,) * len(live)
        self.zero, self.scale, self.saved, self.wide, self.choice = zero, scale, saved, wide, choice
        self.prepared = prepared or {}
        self.transformed: list[Transform] = []  # what `prepared` lacked
        self.reads_value = False  # whether the rule asked for y
        self.ledger = ledger
        self.kept: dict[str, Tensor] = {}

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments; if `wide`, half precision as float32."""
        if not self._widened:
            self._args, self._widened = tuple(map(_widened, self._args)), True
        return self._args

    @property
    def y(self) -> Tensor:
        """The op's value, at least float32: if `wide`, recomputed where it is in half precision."""
        if self._y.dtype in HALF:
            self._y = self._y.float() if self.family in KEPT or not self.wide else self.at(*self.operands)
        y: Tensor = self._y
        self.reads_value = True
        return y

    # live operands

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """The live arguments."""
        return tuple(self.args[p] if isinstance(p, int) else self.args[p[0]][p[1]] for p in self.live)

    @property
    def a(self) -> Tensor:
        """The live argument, where there is one."""
        return self.operands[0]

    def at(self, *operands: Tensor) -> Tensor:
        """The op's value with other live arguments."""
        args: list[Any] = [list(x) if isinstance(x, (list, tuple)) else x for x in self.args]
        for p, x in zip(self.live, operands, strict=True):
            if isinstance(p, int):
                args[p] = x
            else:
                args[p[0]][p[1]] = x
        y: Tensor = self.op(*args, **self.kwargs)
        return y

    # the call as an affine map

    def linear(
        self, transform: Callable[[Tensor], Tensor] | None = None, *, operand: int = 0, beside: int | None = None
    ) -> Linear:
        """The map of one live input without its bias; `transform` is applied to the weights.

        A `Transform` is computed once for all calls, any other function at each of them.

        Fixed weights >= 0 are left as they are. Of a product of two live inputs, the other is held. `beside`: see
        `Linear`.
        """
        index = self.live[operand]
        if not isinstance(index, int):
            raise RuleError(f"{name(self.op)} is no affine map of one input")
        if self.family is Family.MAX_POOL:
            return self._window_sum()
        args = list(self.args)
        weight = self.weight
        if transform is not None and weight is not None:
            args[weight] = self._transformed(transform, args[weight])
        if self.row.bias is not None and self.row.bias < len(args):
            args[self.row.bias] = None
            if self.row.bias == 0:  # addmm: the bias comes first and cannot be left out
                args[0] = args[index].new_zeros(())
        return Linear(self.op, self.row, tuple(args), self.kwargs, index, self.half, beside=beside)

    @property
    def fan_in(self) -> int:
        """About how many inputs each output is connected with."""
        assert self.weight is not None
        w: Tensor = self.args[self.weight]
        return w.numel() // max(1, int(self._y.shape[self.row.channel]))

    @property
    def features(self) -> int | None:
        """The input's dimension all of which every output is connected with, from the end; None if none is known."""
        grouped = argument(self.args, self.kwargs, 6, "groups", 1) != 1
        if name(self.op) not in ("linear", "conv1d", "conv2d", "conv3d") or grouped:
            return None
        return 1 - int(self.args[1].dim())

    @property
    def half(self) -> torch.dtype | None:
        """The precision the op computes in on the way back, where that is less than float32."""
        dtype = self.a.dtype
        return dtype if dtype in HALF else None

    def _transformed(self, transform: Callable[[Tensor], Tensor], w: Tensor) -> Tensor:
        """ρ(w), prepared or computed."""
        if not isinstance(transform, Transform):
            return transform(w)
        if transform.key not in self.prepared:
            self.transformed.append(transform)
            return transform(w)
        return self.prepared[transform.key]

    def _window_sum(self) -> Linear:
        """Max-pooling read as sum-pooling: the sum over each window."""
        short = name(self.op)
        if short in ("amax", "max"):
            dims = self.args[1:2] or (list(range(1, self.a.dim())),)
            return Linear(torch.sum, Op(Family.AVERAGE), (self.a, *dims, *self.args[2:3]), {}, 0, None)
        windows = Windows(short, self.args, self.kwargs, self.a, self._y)
        if short == "max_pool2d" and not windows.dilated:  # an average that is divided by 1
            average = torch.ops.aten.avg_pool2d.default
            kernel, stride, padding, _, ceil_mode = windows.geometry
            args = (self.a, kernel, stride, padding, ceil_mode, True, 1)
            return Linear(average, Op(Family.AVERAGE, adjoint=avg_pool2d), args, {}, 0, None)

        def total(x: Tensor) -> Tensor:
            return windows.total(windows.pad(x, 0.0))

        def transposed(s: Tensor, *_: Any) -> Tensor:
            return windows.spread(s)

        return Linear(total, Op(Family.AVERAGE, adjoint=transposed), (self.a,), {}, 0, None)

    @property
    def z(self) -> Tensor | None:
        """The affine map's value with its bias where the call computed it: y, but for max-pooling read as a sum."""
        return None if self.family is Family.MAX_POOL else self.y

    @property
    def weight(self) -> int | None:
        """Position of the weights: for matmul, the factor that is not live."""
        if self.row.weight is None or len(self.row.live) < 2:
            return self.row.weight
        return 1 - int(self.live[0])  # type: ignore[arg-type]

    @property
    def weighted(self) -> bool:
        """Whether the map has weights of its own, of either sign."""
        return self.weight is not None

    @property
    def bias(self) -> Tensor | None:
        """The bias, shaped to be added to y; None where there is none."""
        i = self.row.bias
        b = self.args[i] if i is not None and len(self.args) > i else None
        if b is None:
            return None
        if i == 0:
            return b * self.kwargs.get("beta", 1)  # type: ignore[no-any-return]
        if self.row.channel == -1:
            return b  # type: ignore[no-any-return]
        dims = self.args[1].dim() if self.family is Family.AFFINE else self.a.dim()  # with the batch, given or not
        return b.view((-1,) + (1,) * (dims - self.row.channel - 1))  # type: ignore[no-any-return]

    # the ledger

    def sum(self, t: Tensor, operand: int | None = None) -> Tensor:
        """Sum over all but the batch dimension (of the output, or of a live operand)."""
        t, dims = by_sample(t, self.batch if operand is None else self.batches[operand])
        return (t.sum(dims) if dims else t).reshape(-1)

    def rows(self, t: Tensor, operand: int) -> Tensor:
        """`sum` of an operand's tensor, in rows of the output."""
        return in_rows(self.sum(t, operand), len(self.sum(self._y)))

    def keep(self, **amounts: Tensor | None) -> None:
        """Book relevance that does not reach the inputs, under `bias`, `epsilon` or `residual`; asked `if f.ledger`."""
        for account, amount in amounts.items():
            if amount is not None:
                amount = self.sum(amount.expand(self._y.shape))
                self.kept[account] = self.kept[account] + amount if account in self.kept else amount


def narrowed(R: Tensor, dtype: torch.dtype) -> Tensor:
    """Relevance in the precision of the value it goes to, where an op computed in a wider one."""
    return R.to(dtype)


def in_rows(amounts: Tensor, rows: int) -> Tensor:
    """Amounts of an operand whose rows are not the output's: by blocks of rows, or in equal parts."""
    if len(amounts) == rows:
        return amounts
    if len(amounts) % rows == 0:
        return amounts.reshape(rows, -1).sum(1)
    if rows % len(amounts) == 0:  # of each sample's amount an equal part for each of its rows
        return amounts.repeat_interleave(rows // len(amounts)) / (rows // len(amounts))
    return amounts.sum().expand(rows) / rows  # an input all samples share


def kept(R: Tensor, f: Call, *passed: Tensor) -> Tensor:
    """What a rule did with its relevance, as rows over samples: arrived, passed on, bias, epsilon, residual."""
    arrived = f.sum(R)
    none = torch.zeros_like(arrived)
    onward = none
    for i, r in enumerate(passed):
        onward = onward + in_rows(f.sum(r, i), len(arrived)).to(arrived.device)  # of a move between devices
    return torch.stack([arrived, onward, *(f.kept.get(k, none) for k in ("bias", "epsilon", "residual"))])
