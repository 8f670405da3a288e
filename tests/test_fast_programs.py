"""Ways to run a program give one map: compiled, with recomputed activations, in chunks, over targets, under threads.

`checkpoint=True` does the same arithmetic in the same order, so that float64 maps agree to 1e-12; it keeps less and needs at
most one more forward. Derivatives of relevance agree with finite differences.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

import relprop
from checks import check_same_map
from nets import Net, convolutional, images
from networks import CifarResNet, Shared, TwoInputs, UNet
from relprop.composites import Composite, family
from relprop.ops import Family


def values(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def long_skips() -> nn.Module:
    """Every layer reads all before it; the first is read by the last, and the input twice."""

    def forward(m: Net, x: Tensor) -> Tensor:
        seen = [F.relu(m.a(x))]
        for layer in (m.b, m.c, m.d, m.e):
            seen.append(torch.tanh(layer(sum(seen[1:], seen[0]))))
        return m.head(torch.cat([seen[0], seen[-1], x], 1))

    return Net(forward, **{n: nn.Linear(6, 6) for n in "abcde"}, head=nn.Linear(18, 4))


def recurrent() -> nn.Module:
    return Net(lambda m, x: m.head(m.net(m.embed(x))[0][:, -1]), embed=nn.Linear(3, 4), net=nn.LSTM(4, 5, 2, batch_first=True), head=nn.Linear(5, 4))  # fmt: skip


def block() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, F.gelu, batch_first=True, norm_first=True)
    return Net(lambda m, x: m.head(m.blocks(x)[:, 0]), blocks=nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), head=nn.Linear(8, 4))  # fmt: skip


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...], str]] = {
    "residual": (partial(CifarResNet, 1), ((3, 16, 16),), "gamma"),
    "u-net": (UNet, ((3, 16, 16),), "alpha_beta"),
    "long skips": (long_skips, ((6,),), "gamma"),
    "a layer called twice": (Shared, ((6,),), "alpha_beta"),
    "two inputs": (TwoInputs, ((1, 6, 6), (5,)), "z_plus"),
    "lstm": (recurrent, ((5, 3),), "epsilon"),
    "attention": (block, ((7, 8),), "attnlrp"),
    "attention, weights held": (block, ((7, 8),), "cp_lrp"),
}


def net(name: str, samples: int = 3) -> tuple[nn.Module, Any, str]:
    make, shapes, recipe = NETS[name]
    torch.manual_seed(2)
    x = tuple(values(samples, *s, seed=i) for i, s in enumerate(shapes))
    return make().double().eval(), x if len(x) > 1 else x[0], recipe


def maps(e: relprop.Explanation) -> list[Tensor]:
    """All that an explanation computed, but for the output."""
    found = e.relevance if isinstance(e.relevance, tuple) else (e.relevance,)
    found = (*found, e.score, *e.recorded.values())
    for ledger in e.ledger if isinstance(e.ledger, list) else [e.ledger] if e.ledger else []:
        found = (*found, ledger.input, ledger.bias, ledger.epsilon, ledger.residual)
        assert ledger.closes()
    return list(found)


def check_same(got: relprop.Explanation, expected: relprop.Explanation, rtol: float) -> None:
    scale = max(float(t.abs().max()) for t in maps(expected))
    for a, b in zip(maps(got), maps(expected), strict=True):
        assert a.dtype is b.dtype
        torch.testing.assert_close(a, b, rtol=0.0, atol=rtol * scale)
    torch.testing.assert_close(got.output, expected.output, rtol=rtol, atol=rtol)


# Activations recomputed


@pytest.mark.parametrize("name", NETS)
def test_recomputed_activations_give_the_same_map(name: str) -> None:
    model, x, recipe = net(name)
    whole, parts = (relprop.Explainer(model, x, recipe, checkpoint=c) for c in (False, True))
    for target in (torch.tensor([1, 0, 2]), [0, 1]):
        check_same(parts(x, target, ledger=True), whole(x, target, ledger=True), 1e-12)
        check_same(parts(x, target), whole(x, target), 1e-12)


class Peak(TorchDispatchMode):
    """The most bytes held at one time by tensors that were made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.alive: set[int] = set()

    def free(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_flatten((args, kwargs or {}))[0] if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for t in tree_flatten(out)[0]:
            if isinstance(t, Tensor):
                storage = t.untyped_storage()
                key = storage._cdata
                if key not in self.alive and key not in given:
                    self.alive.add(key)
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self.free, key, storage.nbytes())
        return out


def deep() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    layers = [m for _ in range(24) for m in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval(), torch.randn(
        2, 8, 16, 16
    )


def peak(call: Callable[[], Any]) -> int:
    with Peak() as mode:
        result = call()
    del result
    return mode.most


def gradient(model: nn.Module, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model.requires_grad_(False)(leaf)[:, 0].sum(), leaf)[0]


@pytest.mark.parametrize("composite", ["epsilon", "z_plus", "gamma"])
def test_no_more_is_held_than_for_the_gradient(composite: str) -> None:
    """The limit of 1.15 and four more maps of a layer's size, the working set of a rule: of 49 that are held."""
    model, x = deep()
    explain = relprop.Explainer(model, x, composite)
    explain(x, 0)
    assert peak(lambda: explain(x, 0)) <= 1.15 * peak(lambda: gradient(model, x)) + 4 * x.nbytes


def test_recomputing_holds_less_and_costs_at_most_one_forward_more() -> None:
    model, x = deep()
    whole, parts = (relprop.Explainer(model, x, "epsilon", checkpoint=c) for c in (False, True))
    peaks, flops = [], []
    for explain in (whole, parts):
        explain(x, 0)
        peaks.append(peak(lambda e=explain: e(x, 0)))
        with FlopCounterMode(display=False) as counter:
            explain(x, 0)
        flops.append(counter.get_total_flops())
    with FlopCounterMode(display=False) as forward:
        model(x)
    assert peaks[1] <= 0.6 * peaks[0], peaks
    assert flops[0] < flops[1] <= flops[0] + forward.get_total_flops()


# Requests in chunks


@pytest.mark.parametrize("size", [1, 2, 5, 100, "auto"])
@pytest.mark.parametrize("name", ["residual", "two inputs", "attention"])
def test_chunks_of_samples_are_joined(name: str, size: Any) -> None:
    model, x, recipe = net(name, samples=5)
    whole, parts = relprop.Explainer(model, x, recipe), relprop.Explainer(model, x, recipe, max_batch=size)
    for target in (
        torch.tensor([1, 0, 2, 2, 1]),
        None,
        1,
        [0, torch.tensor([1, 0, 2, 2, 1])],
        lambda y: y[:, 0] - y[:, 1],
    ):
        check_same(parts(x, target, ledger=True), whole(x, target, ledger=True), 1e-10)
    initial = torch.randn_like(whole(x).output)
    check_same(parts(x, initial), whole(x, initial), 1e-10)


# Several targets


@pytest.mark.parametrize("composite", ["epsilon", "gamma", "alpha_beta", "z_plus"])
def test_targets_at_once_are_targets_one_by_one(composite: str) -> None:
    model, x = convolutional(), images(3)
    explain = relprop.Explainer(model, x, composite)
    targets: list[Any] = [0, torch.tensor([1, 4, 2]), None, 0]
    together = explain(x, targets, ledger=True, record=("0",))
    for k, target in enumerate(targets):
        alone = explain(x, target, ledger=True, record=("0",))
        assert torch.equal(together.relevance[k], alone.relevance)
        assert torch.equal(together.recorded["0"][k], alone.recorded["0"])
        assert torch.equal(together.ledger[k].bias, alone.ledger.bias)


@pytest.mark.parametrize("composite", ["epsilon", "gamma", "alpha_beta", "z_plus", "w_square"])
def test_the_program_maps_over_targets(composite: str) -> None:
    model, x = convolutional(), images(3)
    explain = relprop.Explainer(model, x, composite)
    seeds = torch.eye(5, dtype=x.dtype)[:, None] * model(x).detach()
    with torch.no_grad():
        mapped = torch.func.vmap(lambda R: explain.program(x, R)[3][0])(seeds)
    check_same_map(mapped, explain(x, list(range(5))).relevance, 1e-12)


# Derivatives of relevance


@pytest.mark.parametrize("options", [{}, {"checkpoint": True}], ids=str)
@pytest.mark.parametrize("composite", ["epsilon", "gamma", "alpha_beta", "z_plus", "w_square"])
def test_relevance_has_the_derivative_of_finite_differences(composite: str, options: dict[str, Any]) -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    explain = relprop.Explainer(model, values(2, 4), composite, **options)
    x = values(2, 4, seed=6).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: explain(v, 1).relevance, (x,))


def test_attention_has_the_derivative_of_finite_differences() -> None:
    model, x, _ = net("attention", samples=1)
    for recipe in ("cp_lrp", "attnlrp"):
        explain = relprop.Explainer(model, x, recipe, epsilon=0.1)
        assert torch.autograd.gradcheck(
            lambda v, e=explain: e(v, 1).relevance, (x.clone().requires_grad_(),), fast_mode=True
        )


# Threads


@pytest.mark.parametrize("options", [{}, {"checkpoint": True}], ids=str)
def test_threads_share_an_explainer_from_its_first_call_on(options: dict[str, Any]) -> None:
    """Every layer's weights are prepared at most once, whoever comes first, and each thread has its own samples."""
    model, x = convolutional(), images(7)
    expected = {
        c: [relprop.explain(model, x[i : i + 2], i % 5, c).relevance for i in range(4)] for c in ("gamma", "alpha_beta")
    }
    for _ in range(3):
        explainers = {c: relprop.Explainer(model, x[:2], c, **options) for c in expected}
        start = Barrier(4)

        def run(
            i: int, explainers: dict[str, relprop.Explainer] = explainers, start: Barrier = start
        ) -> dict[str, Tensor]:
            start.wait(20)
            return {c: e(x[i : i + 2], i % 5).relevance for c, e in explainers.items()}

        with ThreadPoolExecutor(4) as pool:
            for i, got in enumerate(pool.map(run, range(4))):
                for c, r in got.items():
                    torch.testing.assert_close(r, expected[c][i], rtol=1e-10, atol=1e-12)


# Compiled


@pytest.mark.parametrize(
    ("name", "recipe"), [("long skips", "gamma"), ("attention", "attnlrp"), ("small", "alpha_beta")]
)
def test_compiled_programs_give_the_same_map(name: str, recipe: str) -> None:
    model, x = (convolutional(), images(3)) if name == "small" else net(name)[:2]
    eager, compiled = (relprop.Explainer(model, x, recipe, compile=c) for c in (False, True))
    target = torch.tensor([1, 0, 2])
    check_same(compiled(x, target), eager(x, target), 1e-9)
    check_same(compiled(x[:2], [0, 1]), eager(x[:2], [0, 1]), 1e-9)  # another batch size
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    check_same(compiled(x, target), eager(x, target), 1e-9)  # other weights


def test_a_users_rule_that_cannot_be_compiled_is_not_run_in_silence() -> None:
    """fullgraph: a break of the graph is an error, no slow program."""

    @relprop.rules.rule(Family.AFFINE, conserves=False, source="this test")
    def printing(R: Tensor, f: Any) -> Tensor:
        """R_j = LRP-0, after a look at a number"""
        print(float(R.sum()), end="")
        return relprop.rules.zero(R, f)

    model, x = nn.Linear(3, 2), torch.randn(2, 3)
    explain = relprop.Explainer(model, x, Composite([(family("affine"), printing)]))
    assert explain(x, 0).relevance.any()
    with pytest.raises(relprop.errors.RelpropError):
        relprop.explain(model, x, 0, Composite([(family("affine"), printing)]), compile=True)
