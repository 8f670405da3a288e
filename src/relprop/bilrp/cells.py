"""Which features the joint relevance is about: patches of images, positions of texts and series, plain features."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from ..errors import InputError
from ..values import same

Pool = int | tuple[int, int] | Callable[[Tensor], Tensor] | None


@final
class Cells:
    """Relevance of an input (B, ...) to that of its cells (B, N), a sum over the entries of each cell.

    `shape` is that of the cells of one sample, N = their number. `kind`: "image" for (B, C, H, W), cells of
    `pool` x `pool` pixels with channels summed; "tokens" for token ids (B, T) and vectors (B, T, D), D summed, cells of
    `pool` positions; "features" for (B, N), as they are; "own" for a callable, a linear map to (B, ...).

    >>> cells = Cells(torch.zeros(2, 3, 8, 8), 4, "x")
    >>> cells.kind, cells.shape, cells(torch.ones(2, 3, 8, 8))[0]
    ('image', (2, 2), tensor([48., 48., 48., 48.]))
    """

    def __init__(self, x: Tensor, pool: Pool, name: str) -> None:
        self.name = name
        self.step: tuple[int, ...]  # entries of a cell in each dimension of `shape`
        self.shape: tuple[int, ...]
        self.own = pool if callable(pool) else None
        if self.own is not None:
            self.kind, self.shape, self.step = "own", self._tried(x), (1, 1)
        elif x.dim() == 4:
            self.kind, self.step = "image", self._steps(pool, 2)
            self.shape = self._divided(tuple(x.shape[2:]), "pixels")
        elif x.dim() == 3 or (x.dim() == 2 and not x.is_floating_point()):
            self.kind, self.step = "tokens", self._steps(pool, 1)
            self.shape = self._divided((x.shape[1],), "positions")
        elif x.dim() == 2:
            self.kind, self.step, self.shape = "features", (1,), (x.shape[1],)
            if pool is not None:
                raise InputError(
                    f"pool={pool!r}: {name} has shape {tuple(x.shape)}, features without neighbours to be pooled with; "
                    "leave pool out, or give a callable that sums relevance (B, N) over groups"
                )
        else:
            raise InputError(
                f"{name} has shape {tuple(x.shape)}, neither images (B, C, H, W), positions (B, T, D), tokens (B, T) "
                "nor features (B, N): give pool, a callable from relevance of that shape to cells (B, ...), such as "
                "lambda R: R.sum(1)"
            )

    @property
    def count(self) -> int:
        """N."""
        return math.prod(self.shape)

    def __call__(self, R: Tensor) -> Tensor:
        """Σ over the entries of each cell."""
        if self.own is not None:
            return self.own(R).reshape(R.shape[0], -1)
        if self.kind == "features":
            return R
        if self.kind == "tokens":
            R = R if R.dim() == 2 else R.sum(2)
            return R.reshape(R.shape[0], -1, self.step[0]).sum(2)
        (h, w), (p, q) = self.shape, self.step
        return R.sum(1).reshape(R.shape[0], h, p, w, q).sum((2, 4)).flatten(1)

    def _steps(self, pool: Any, dims: int) -> tuple[int, ...]:
        """Entries a cell has in each dimension."""
        steps = (1,) * dims if pool is None else pool if isinstance(pool, tuple) else (pool,) * dims
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in steps)
        if not whole or len(steps) != dims:
            what = "pixels a side, or (height, width)" if dims == 2 else "consecutive positions"
            raise InputError(
                f"pool={pool!r} for {self.name}: give the size of a cell ({what}), None, or a callable "
                "that sums relevance"
            )
        return steps

    def _divided(self, size: tuple[int, ...], what: str) -> tuple[int, ...]:
        if any(n % p for n, p in zip(size, self.step, strict=True)):
            each = " x ".join(map(str, size))
            good = [p for p in range(1, max(size) + 1) if all(n % p == 0 for n in size)]
            raise InputError(
                f"{self.name} has {each} {what}, which cells of {' x '.join(map(str, self.step))} do not cover evenly; "
                f"pool may be {', '.join(map(str, good))}"
            )
        return tuple(n // p for n, p in zip(size, self.step, strict=True))

    def _tried(self, x: Tensor) -> tuple[int, ...]:
        """The shape of the cells a callable makes of relevance like x; it must be linear."""
        assert self.own is not None
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device) for _ in range(2))
        try:
            both, apart = self.own(a + 2 * b), self.own(a) + 2 * self.own(b)
        except Exception as e:
            raise InputError(
                f"pool fails on relevance of {self.name}, shape {tuple(x.shape)}: {type(e).__name__}: {e}"
            ) from e
        if not isinstance(both, Tensor) or both.dim() < 2 or len(both) != len(x):
            got = f"shape {tuple(both.shape)}" if isinstance(both, Tensor) else type(both).__name__
            raise InputError(
                f"pool gives {got} for {self.name}; it must return (B, ...) with a row for each of {len(x)}"
            )
        if not same(both, apart):
            raise InputError("pool is not linear (an absolute value or a maximum?): cells are sums of relevance")
        counts = _counted(self.own, a)
        wrong = (counts - counts.round().clamp(0, 1)).abs() > 1e-4
        if bool(wrong.any()):
            raise InputError(
                f"pool counts an entry of the relevance {float(counts[wrong][0]):.3g} times (an average?): cells are "
                "sums of entries, each in one cell or in none"
            )
        return tuple(both.shape[1:])


def _counted(pool: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """How often a linear pool counts each entry, in all cells together."""
    with torch.inference_mode(False), torch.enable_grad():
        R = like.clone().requires_grad_()
        total = pool(R).sum()
        return torch.autograd.grad(total, R)[0] if total.requires_grad else torch.ones_like(R)
