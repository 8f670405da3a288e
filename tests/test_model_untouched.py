"""Explaining leaves the model, the inputs and the random numbers as they were, also when it fails and under threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop
from nets import Net, convolutional, dense, images, rows
from relprop.capture import undisturbed
from relprop.errors import (
    CaptureError,
    CompositeError,
    InputError,
    NonFiniteError,
    RelpropError,
    RuleError,
    TargetError,
)
from unchanged import unchanged


def counted(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
    return out * 1.5


def busy() -> nn.Module:
    """Training mode with frozen layers in evaluation mode, hooks, dropout, gradients, tied and parametrized weights."""
    model = nn.Sequential(convolutional(), nn.Dropout(0.5), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5)).double()
    model[4].weight = model[2].weight
    nn.utils.parametrizations.spectral_norm(model[2])
    model.train()
    model(images(3)).sum().backward()
    model[0].eval()[0].requires_grad_(False)
    model[3].register_forward_hook(counted)
    model[2].register_full_backward_hook(lambda module, grads, out: None)
    return model


def test_nothing_changes_when_a_model_is_explained() -> None:
    model, x = busy(), images(3).requires_grad_()
    with unchanged(model, x):
        explainer = relprop.Explainer(model, x, "epsilon")
        explainer(x, ledger=True, record=("2",))
        explainer(x[:1], target=[0, 1])
        str(explainer.rules), explainer.code, explainer.program
    with unchanged(model, x):
        relprop.examine(model, x, "gamma")


def refuse(output: Tensor) -> Tensor:
    raise ZeroDivisionError


def undecided(m: Net, x: Tensor) -> Tensor:
    return m.net(x) if x.sum() > 0 else m.net(-x)


def unknown_op(m: Net, x: Tensor) -> Tensor:
    return m.net(torch.special.bessel_j1(x))


def overflowing(m: Net, x: Tensor) -> Tensor:
    return m.net(torch.exp(1e4 * x.abs()))


def random(m: Net, x: Tensor) -> Tensor:
    return m.net(F.dropout(x, 0.5, training=True))


FAILURES: dict[str, tuple[type[BaseException], Callable[[nn.Module, Tensor], object]]] = {
    "input of another shape": (InputError, lambda m, x: relprop.explain(m, x[:, :3])),
    "input with NaN": (NonFiniteError, lambda m, x: relprop.explain(m, x / 0)),
    "target out of range": (TargetError, lambda m, x: relprop.explain(m, x, target=9)),
    "target that raises": (ZeroDivisionError, lambda m, x: relprop.explain(m, x, target=refuse)),
    "unknown recipe": (CompositeError, lambda m, x: relprop.explain(m, x, composite="none")),
    "pattern without match": (CompositeError, lambda m, x: relprop.explain(m, x, composite=[("none", "epsilon"), ("*", "epsilon")])),
    "bad parameter": (CompositeError, lambda m, x: relprop.explain(m, x, composite="gamma", gamma=-1)),
    "input outside the box": (
        InputError, lambda m, x: relprop.explain(m, x, composite="epsilon_gamma_box", low=0.0, high=0.1)),
    "unknown record": (InputError, lambda m, x: relprop.explain(m, x, record=("none",))),
}  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES)
def test_nothing_changes_when_a_call_fails(failure: str) -> None:
    error, call = FAILURES[failure]
    model = nn.Sequential(dense(), nn.Dropout(0.5), nn.BatchNorm1d(3).double())
    model[0][0].register_forward_hook(counted)
    with unchanged(model, x := rows()), pytest.raises(error):
        call(model, x)


MODELS: dict[str, tuple[type[RelpropError], Callable[..., object]]] = {
    "a decision on values": (CaptureError, undecided),
    "an op without a rule": (RuleError, unknown_op),
    "an overflow": (NonFiniteError, overflowing),
    "a random forward": (CaptureError, random),
    "no tensor": (CaptureError, lambda m, x: (m.net(x).argmax(1),)),
}


@pytest.mark.parametrize("failure", MODELS)
def test_nothing_changes_when_a_model_cannot_be_explained(failure: str) -> None:
    error, how = MODELS[failure]
    model = Net(how, net=dense(), norm=nn.BatchNorm1d(3)).train()
    with unchanged(model, x := rows()), pytest.raises(error):
        relprop.explain(model, x)


class Memory(nn.Module):
    """Changes its buffer, a list and its input at every call, and draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = dense()
        self.register_buffer("mean", torch.zeros(4, dtype=torch.float64))
        self.seen = [0]

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        self.seen[0] += 1
        torch.rand(2)
        return self.net(x.mul_(2.0))


def test_state_that_forward_changes_is_not_the_users() -> None:
    model, x = Memory(), rows()
    with unchanged(model, x):
        explainer = relprop.Explainer(model, x, "epsilon")
        explainer(x)
        explainer(x)
    assert model.seen == [0]
    assert torch.equal(x, rows())


def test_parameters_that_forward_changes_are_not_the_users() -> None:
    def clamped(m: Net, x: Tensor) -> Tensor:  # a constraint applied at every call
        with torch.no_grad():
            m.net[0].weight.clamp_(-0.1, 0.1)
        return m.net(x)

    model = Net(clamped, net=dense())
    with unchanged(model, x := rows()), contextlib.suppress(RelpropError):  # explained or refused, but not changed
        relprop.explain(model, x, composite="epsilon")


def test_nothing_changes_under_threads() -> None:
    model, x = busy(), images(3)
    with unchanged(model, x), ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(relprop.explain, model, x, composite="epsilon") for _ in range(2)]
        calls += [pool.submit(relprop.explain, model, x, target=9) for _ in range(2)]
        assert [type(c.exception()) for c in calls] == [type(None), type(None), TargetError, TargetError]


def test_overlapping_threads_restore_the_random_state() -> None:
    before = torch.get_rng_state()
    drawn, entered, left = Event(), Event(), Event()

    def second() -> None:
        drawn.wait(10)
        with undisturbed(torch.device("cpu")):
            entered.set()
            left.wait(1)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(second)
        with undisturbed(torch.device("cpu")):
            torch.rand(1)
            drawn.set()
            entered.wait(0.2)  # without a lock the second saves the state after the draw, and brings it back
        left.set()
        other.result()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_can_be_trained_while_it_is_explained_now_and_then() -> None:
    torch.manual_seed(3)
    explained, alone = convolutional().train(), convolutional().train()
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.05) for m in (explained, alone)]
    explainer = relprop.Explainer(explained, images(3), "epsilon")
    for _ in range(2):
        for model, optimizer in zip((explained, alone), optimizers, strict=True):
            optimizer.zero_grad()
            model(images(7)).square().mean().backward()
            optimizer.step()
        explainer(images(2))
    for a, b in zip(explained.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(a, b)
