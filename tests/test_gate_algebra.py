"""What counts as a gate: functions, products and joinings of gates do, features do not, however the line is written.

Each network is written once; the oracle is input × gradient of the same code with what is to be held detached.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop

Hold = Callable[[Tensor], Tensor]


class Branches(nn.Module):
    """Linear maps q, k, v, u of the input without bias, and a head; `hold` is put around what should be held."""

    def __init__(self, how: Callable[..., Tensor], hold: Hold) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name in "qkvu":
            setattr(self, name, nn.Linear(4, 4, bias=False))
        self.head = nn.Linear(4, 2, bias=False)
        self.book = nn.Parameter(torch.randn(4, 4))
        self.how, self.hold = how, hold
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.how(self, x, self.hold)).mean(1)


def sig(z: Tensor) -> Tensor:
    return torch.sigmoid(z)


def attend(m: Branches, x: Tensor) -> Tensor:
    return (m.q(x) @ m.k(x).mT).softmax(-1)


BOOK = "rows of a codebook, weighted by a softmax, are features"
CASES: dict[str, Callable[[Branches, Tensor, Hold], Tensor]] = {
    "ReLU6 features times a sigmoid": lambda m, x, h: h(sig(m.k(x))) * features(F.relu6, m.q(x), h),
    "ReLU6 as a module": lambda m, x, h: h(sig(m.k(x))) * features(nn.ReLU6(), m.q(x), h),
    "hard sigmoid by hand": lambda m, x, h: h(F.relu6(m.k(x) + 3) / 6) * m.v(x),
    "clipped line": lambda m, x, h: h((0.2 * m.k(x) + 0.5).clamp(0, 1)) * m.v(x),
    "1 + tanh": lambda m, x, h: h((1 + torch.tanh(m.k(x))) / 2) * m.v(x),
    "a product of gates first": lambda m, x, h: h(sig(m.q(x)) * sig(m.k(x))) * m.v(x),
    "a product of gates last": lambda m, x, h: h(sig(m.q(x))) * (h(sig(m.k(x))) * m.v(x)),
    "a statistic times a gate": lambda m, x, h: h(torch.rsqrt(x.square().mean(-1, keepdim=True)) * sig(m.q(x))) * m.v(x),
    "a sum of gates": lambda m, x, h: h((sig(m.q(x)) + sig(m.k(x))) / 2) * m.v(x),
    "gates side by side": lambda m, x, h: h(torch.cat([sig(m.q(x))[..., :2], sig(m.k(x))[..., 2:]], -1)) * m.v(x),
    "the mean of a gate": lambda m, x, h: h(sig(m.q(x)).mean(1, keepdim=True)) * m.v(x),
    "the largest entry of a gate": lambda m, x, h: h(sig(m.q(x)).amax(-1, keepdim=True)) * m.v(x),
    "the square of weights": lambda m, x, h: h(m.q(x).softmax(-1) ** 2) * m.v(x),
    "the root of 1 − a²": lambda m, x, h: h((1 - torch.exp(-F.softplus(m.q(x)) * sig(m.k(x))) ** 2).sqrt()) * m.v(x),
    "weights times weights": lambda m, x, h: h(attend(m, x) @ (m.u(x) @ x.mT).softmax(-1)) @ m.v(x),
    "gated weights": lambda m, x, h: h(attend(m, x) * sig(m.u(x).sum(-1, keepdim=True))) @ m.v(x),
    "a difference of weights": lambda m, x, h: h(attend(m, x) - 0.4 * (m.u(x) @ x.mT).softmax(-1)) @ m.v(x),
    "weights mixed over heads": lambda m, x, h: mixed(m, x, h),
    BOOK: lambda m, x, h: h(sig(m.q(x))) * (m.u(x).softmax(-1) @ m.book),
    "softmax by hand": lambda m, x, h: h(by_hand(m.q(x) @ m.k(x).mT)) @ m.v(x),
}  # fmt: skip


def features(f: Callable[[Tensor], Tensor], z: Tensor, hold: Hold) -> Tensor:
    """An activation whose ratio to its input is held."""
    return f(z) if hold is same else z * (f(z) / z).detach()


def by_hand(z: Tensor) -> Tensor:
    e = (z - z.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def mixed(m: Branches, x: Tensor, hold: Hold) -> Tensor:
    """Two heads of weights, mixed by a linear layer over the heads, and averaged."""
    weights = torch.stack([m.q(x) @ m.k(x).mT, m.u(x) @ x.mT], 1).softmax(-1)
    weights = F.linear(weights.permute(0, 2, 3, 1), m.book[:2, :2]).permute(0, 3, 1, 2)
    return (hold(weights) @ m.v(x)[:, None]).sum(1)


def same(x: Tensor) -> Tensor:
    return x


def inputs() -> Tensor:
    return torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("case", CASES)
def test_the_gate_is_held_and_the_signal_takes_all(case: str) -> None:
    e = relprop.explain(Branches(CASES[case], same), inputs(), 0, "lrp_zero", ledger=True)
    x = inputs().requires_grad_()
    (gradient,) = torch.autograd.grad(Branches(CASES[case], torch.detach)(x)[:, 0].sum(), x)
    expected = (x * gradient).detach()
    torch.testing.assert_close(e.relevance, expected, rtol=1e-9, atol=1e-10 * float(expected.abs().max()))
    kept = e.ledger.residual if case == BOOK else 0  # by a softmax that is no weight of anything
    torch.testing.assert_close(e.relevance.sum((1, 2)) + kept, e.score, rtol=1e-9, atol=1e-12)
    assert e.ledger.closes()


def fused(m: Branches, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)


def written(m: Branches, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1) @ v


@pytest.mark.parametrize("held", ["", "q", "k", "v", "qk", "kv", "qv"])
def test_fused_attention_is_attention_written_out_with_any_operand_constant(held: str) -> None:
    """A product with a constant is no product: its live factor takes all."""

    def how(attention: Callable[..., Tensor]) -> Callable[[Branches, Tensor, Hold], Tensor]:
        def run(m: Branches, x: Tensor, hold: Hold) -> Tensor:
            operands = (m.book[:3].expand(len(x), -1, -1) if n in held else getattr(m, n)(x) for n in "qkv")
            return attention(m, *operands) + 0 * x

        return run

    maps = [
        relprop.explain(Branches(how(f), same), inputs(), 0, "attnlrp", epsilon=0.0, ledger=True)
        for f in (fused, written)
    ]
    torch.testing.assert_close(maps[0].relevance, maps[1].relevance, rtol=1e-9, atol=1e-12)
    assert all(e.ledger.closes() for e in maps)


def test_a_product_in_float32_inside_a_model_in_float64() -> None:
    def how(m: Branches, x: Tensor, hold: Hold) -> Tensor:
        narrow = (m.q(x).float() @ m.k(x).float().mT) @ m.v(x).float()
        return narrow * m.u(x) + narrow

    e = relprop.explain(Branches(how, same), inputs(), 0, "lrp_zero", ledger=True)
    assert e.relevance.dtype is torch.float64
    torch.testing.assert_close(e.relevance.sum((1, 2)), e.score, rtol=1e-5, atol=1e-8)
    assert e.ledger.closes()


def test_a_trained_lstm_with_normalized_weights_can_be_copied() -> None:
    """Its weights are results of a computation, in a list."""
    model = nn.LSTM(4, 4, batch_first=True)
    torch.nn.utils.parametrizations.weight_norm(model, "weight_hh_l0")

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = model

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0][:, -1]

    net = Last().double()
    net(inputs()).sum().backward()
    assert relprop.explain(net, inputs(), 0, "epsilon", ledger=True).ledger.closes()
