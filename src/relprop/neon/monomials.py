"""Products of features, as PolynomialFeatures makes them, as one operation whose factors share relevance equally."""

from __future__ import annotations

from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops


def _factors(x: Tensor, factors: Tensor) -> Tensor:
    """(samples, products, degree): the factors of each product, 1 where it has fewer."""
    return F.pad(x, (0, 1), value=1.0)[:, factors]


@torch.library.custom_op("relprop::monomials", mutates_args=(), schema="(Tensor x, Tensor factors) -> Tensor")
def _monomials(x: Tensor, factors: Tensor) -> Tensor:
    return _factors(x, factors).prod(-1)


@_monomials.register_fake
def _(x: Tensor, factors: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], factors.shape[0]))


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
    x, factors = ctx.saved_tensors
    each, degree = _factors(x, factors), factors.shape[1]
    others = [torch.cat([each[..., :i], each[..., i + 1 :]], -1).prod(-1) for i in range(degree)]
    return _to_features(g.unsqueeze(-1) * torch.stack(others, -1), factors, x), None


_monomials.register_autograd(_backward, setup_context=_keep)


def monomials(x: Tensor, factors: Tensor) -> Tensor:
    """y_k = Π_f x_{i(k, f)}, with the features' indices `factors` (products, degree); one past the last is no factor.

    Each of n factors gets R_k / n, whatever the values, so that x² gives all to x and x_1² x_2 gives ⅔ to x_1: the
    equal shares of products (Achtibat et al. 2024) for any number of factors.

    >>> monomials(torch.tensor([[2.0, 3.0]]), torch.tensor([[0, 1], [1, 1], [0, 2]]))
    tensor([[6., 9., 2.]])
    """
    y: Tensor = _monomials(x, factors)
    return y


def shares(R: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], a: Tensor) -> Tensor:
    """R_k in equal parts to the factors of product k."""
    factors: Tensor = args[1]
    count = (factors < a.shape[1]).sum(1)
    return _to_features((R / count).unsqueeze(-1).expand(-1, -1, factors.shape[1]), factors, a)


def _to_features(amounts: Tensor, factors: Tensor, x: Tensor) -> Tensor:
    """Amounts (samples, products, degree) added up by feature."""
    out = amounts.new_zeros(x.shape[0], x.shape[1] + 1)
    return out.index_add(1, factors.flatten(), amounts.flatten(1))[:, :-1]


ops.TABLE[torch.ops.relprop.monomials.default] = ops.Op(ops.Family.SHAPE, adjoint=shares)


@final
class Monomials(nn.Module):
    """Products of features by their exponents (products, features); the one of no factors is a constant 1, a bias."""

    factors: Tensor

    def __init__(self, exponents: Tensor) -> None:
        super().__init__()
        degrees, features = exponents.sum(1), exponents.shape[1]
        self.constant = bool(degrees[0] == 0)
        rows = exponents[1:] if self.constant else exponents
        factors = torch.full((len(rows), int(degrees.max())), features)
        for k, row in enumerate(rows):
            own = torch.arange(features).repeat_interleave(row)
            factors[k, : len(own)] = own
        self.register_buffer("factors", factors)

    def forward(self, x: Tensor) -> Tensor:
        """(samples, features) to (samples, products)."""
        y = monomials(x, self.factors)
        return F.pad(y, (1, 0), value=1.0) if self.constant else y
