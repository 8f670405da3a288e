"""Linear maps x -> W x with their transposes, and what rules do to weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from ..ops import Op
from ..values import owned


@dataclass(frozen=True)
class Transform:
    """A map of weights, w -> ρ(w) entry by entry: a program computes it once and keeps it under its key.

    `function(w, *parameters)` computes it; transforms of one name and parameters are one.
    """

    name: str
    function: Callable[..., Tensor]
    parameters: tuple[float, ...] = ()

    @property
    def key(self) -> str:
        """Name and parameters."""
        return "_".join((self.name, *map(repr, self.parameters)))

    def __call__(self, w: Tensor) -> Tensor:
        """ρ(w)."""
        return self.function(w, *self.parameters)


def _positive(w: Tensor) -> Tensor:
    return w.clamp(min=0)


def _negative(w: Tensor) -> Tensor:
    return w.clamp(max=0)


def _favoured(w: Tensor, gamma: float) -> Tensor:
    return w + gamma * w.clamp(min=0)


positive = Transform("positive", _positive)  # (·)⁺ = max(0, ·)
negative = Transform("negative", _negative)  # (·)⁻ = min(0, ·)
magnitude = Transform("magnitude", torch.abs)
square = Transform("square", torch.square)
ones = Transform("ones", torch.ones_like)


def _beside(w: Tensor, up: int) -> Tensor:
    parts = w.clamp(min=0), w.clamp(max=0)
    return torch.cat(parts if up else parts[::-1], 1)


def beside(up: bool) -> Transform:
    """w⁺ and w⁻ for inputs a⁺ and a⁻ beside each other; w⁻ and w⁺ unless `up`."""
    return Transform("beside", _beside, (int(up),))


def favoured(gamma: float) -> Transform:
    """w + γ w⁺."""
    return Transform("gamma", _favoured, (gamma,))


def raised(p: int) -> Transform:
    """wᵖ."""
    return Transform("power", torch.pow, (p,))


def pullback(function: Callable[..., Tensor], *at: Tensor, op: Any = None) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """s -> Jᵀ s, one result an argument, with the Jacobian J of the function at a point.

    `op`: the op the function calls. The derivative of a user's own op (`torch.library.custom_op`) is known to autograd
    alone, not to torch.func.
    """
    if isinstance(op, torch._ops.OpOverload) and op.namespace != "aten":
        return recorded(function, *at)[1]
    transposed: Callable[[Tensor], tuple[Tensor, ...]] = torch.func.vjp(function, *at)[1]
    return transposed


def recorded(function: Callable[..., Tensor], *at: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
    """The function's value, recorded by torch.autograd, and its `pullback`."""
    with torch.enable_grad():
        x = [_leaf(a) for a in at]
        y = function(*x)

    def transposed(s: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            y, x, s, retain_graph=True, create_graph=torch.is_grad_enabled(), materialize_grads=True
        )

    return y, transposed


def _leaf(a: Tensor) -> Tensor:
    """The tensor as autograd takes it: followed if it is followed already, else from here on."""
    if a.requires_grad:
        return a.view_as(a)
    return (a.clone() if a.is_inference() else a.detach()).requires_grad_()


@final
class Linear:
    """A linear map x -> W x and its transpose `T`: an op with one argument free, no bias, transformed weights.

    `half`: the precision the op computes in, where that is less than float32; results are float32 all the same.
    `beside`: the dimension in which two parts of the input stand beside each other, whose relevance is added.
    """

    def __init__(
        self, op: Any, row: Op, args: tuple[Any, ...], kwargs: dict[str, Any], index: int, half: torch.dtype | None,
        *, beside: int | None = None,
    ) -> None:  # fmt: skip
        self.beside = beside
        self.op, self.row, self.args, self.kwargs, self.index, self.half = op, row, args, kwargs, index, half

    def _with(self, x: Tensor) -> tuple[Any, ...]:
        return (*self.args[: self.index], x, *self.args[self.index + 1 :])

    def __call__(self, x: Tensor) -> Tensor:
        """W x."""
        if self.half is None:
            y: Tensor = self.op(*self._with(x), **self.kwargs)
            return y
        return self.op(*self._with(x.to(self.half)), **self.kwargs).float()  # type: ignore[no-any-return]

    def T(self, s: Tensor, like: Tensor) -> Tensor:
        """Wᵀ s, in the shape of `like`."""
        if self.half is not None:
            return self._transposed(s.to(self.half), like.to(self.half)).float()
        return self._transposed(s, like)

    def times(self, a: Tensor, s: Tensor, like: Tensor) -> Tensor:
        """a ⊙ Wᵀ s."""
        c = self.T(s, like)
        fresh = self.row.weight is not None and owned(c) and c.shape == like.shape and c.dtype is s.dtype
        out = c.mul_(a) if fresh else a * c
        return out if self.beside is None else torch.add(*out.chunk(2, self.beside))

    def _transposed(self, s: Tensor, like: Tensor) -> Tensor:
        if self.row.adjoint is not None:
            if any(x is like for i, x in enumerate(self.args) if i != self.index):
                like = like.view_as(like)  # x · x: the adjoint tells the factors apart by which tensor they are
            try:
                return self.row.adjoint(s, self._with(like), self.kwargs, like)
            except NotImplementedError:
                pass
        return pullback(self._plain, like, op=self.op)(s)[0]

    def _plain(self, x: Tensor) -> Tensor:
        y: Tensor = self.op(*self._with(x), **self.kwargs)
        return y
