"""What a faster path once got wrong, or could: each case against a definition, or against the same without the path."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import relprop
from relprop import composites, rules
from relprop.composites import Composite, family
from relprop.errors import RuleError
from relprop.ops import Family
from relprop.pooling import centred
from relprop.rules import Call, Transform

aten = torch.ops.aten


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiled_pools_of_every_size(dtype: torch.dtype) -> None:
    """The winner of each window takes all: no window reaches into another, whatever its size."""
    for kernel in range(2, 65):
        x = torch.randn(1, 1, 3 * kernel, dtype=dtype, generator=torch.Generator().manual_seed(kernel))
        y, where = F.max_pool1d(x, kernel, return_indices=True)
        R = torch.tensor([[[1.0, 2.0, 4.0]]], dtype=dtype)
        expected = torch.zeros_like(x).scatter(2, where, R)
        assert torch.equal(rules.winner(R, Call(aten.max_pool1d.default, (x, [kernel]), y)), expected), kernel


def test_pools_where_subnormal_numbers_are_flushed() -> None:
    x, R = torch.tensor([[[0.0, 3.0, 2.0, 2.0]]]), torch.tensor([[[1.0, 1.0]]])
    call = Call(aten.max_pool1d.default, (x, [2]), F.max_pool1d(x, 2))
    torch.set_flush_denormal(True)  # False where the processor cannot
    try:
        got = rules.winner(R, call)
    finally:
        torch.set_flush_denormal(False)
    assert got.tolist() == [[[0.0, 1.0, 0.5, 0.5]]]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 5))


def one_value(w: Tensor) -> None:
    w.data[17, 44] += 5.0


def one_row(w: Tensor) -> None:
    w.data[5] = 3.0


def by_numpy(w: Tensor) -> None:
    w.detach().numpy()[3, 7] = -4.0


@pytest.mark.parametrize("composite", ["epsilon", "gamma", "alpha_beta", "z_plus", "w_square"])
@pytest.mark.parametrize("change", [one_value, one_row, by_numpy])
def test_a_write_that_leaves_no_trace_is_noticed_where_weights_are_kept(composite: str, change: Any) -> None:
    net, x = network(), torch.randn(3, 64)
    explainer = relprop.Explainer(net, x, composite)
    explainer(x, 1)
    change(net[2].weight)
    got, expected = explainer(x, 1).relevance, relprop.explain(net, x, 1, composite).relevance
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("size", [1e-15, 1e-22, 1e-30, 1e-36, 1e15, 1e25])
def test_epsilon_is_relative_whatever_the_units(size: float) -> None:
    """Squares of these numbers leave the range of float32."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    x = torch.randn(2, 6)
    unit, scaled = (relprop.explain(net, x * s, 1, "epsilon").relevance for s in (1.0, size))
    torch.testing.assert_close(scaled / size, unit, rtol=1e-4, atol=1e-6)


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x).sum(1)


def test_tensors_made_in_inference_mode() -> None:
    with torch.inference_mode():
        x = torch.randn(2, 5, 8)
    expected = relprop.explain(Attention(), x.clone(), 1, "attnlrp").relevance
    torch.testing.assert_close(relprop.explain(Attention(), x, 1, "attnlrp").relevance, expected)


def test_an_explainer_made_in_inference_mode_can_be_differentiated() -> None:
    net, x = network(), torch.randn(2, 64)
    with torch.inference_mode():
        explainer = relprop.Explainer(net, x, "gamma")
    inputs = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(explainer(inputs, 1).relevance.square().sum(), inputs)
    assert torch.isfinite(slope).all()
    assert slope.abs().max() > 0


@pytest.mark.parametrize("composite", ["cp_lrp", "attnlrp"])
def test_relevance_through_attention_can_be_differentiated(composite: str) -> None:
    x = torch.randn(1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    explainer = relprop.Explainer(Attention(), x, composite, epsilon=0.0)
    assert torch.autograd.gradcheck(lambda v: explainer(v, 1).relevance, (x.requires_grad_(),), atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's own, of its forward mode
@pytest.mark.parametrize("composite", ["epsilon", "gamma", "alpha_beta"])
def test_forward_mode_derivatives(composite: str) -> None:
    net, x = network().double(), torch.randn(2, 64, dtype=torch.float64)
    explainer = relprop.Explainer(net, x, composite)
    v = torch.randn_like(x)
    _, slope = torch.func.jvp(lambda t: explainer.program(t, 1)[3][0], (x,), (v,))
    h = 1e-6
    expected = (explainer(x + h * v, 1).relevance - explainer(x - h * v, 1).relevance) / (2 * h)
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("composite", "bound"), [("epsilon", 1.0), ("gamma", 2.0), ("z_plus", 2.5), ("alpha_beta", 4.5)]
)
def test_narrow_layers_on_signed_inputs(composite: str, bound: float) -> None:
    """Of nine contributions all may have one sign, so that each part is computed by itself."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8) for _ in range(3)), nn.Flatten(), nn.Linear(8 * 64, 2)
    )
    x = torch.randn(2, 8, 8, 8)
    explainer = relprop.Explainer(net, x, composite)
    with FlopCounterMode(display=False) as ours:
        explainer(x, 0)
    for p in net.parameters():
        p.requires_grad_(False)
    with FlopCounterMode(display=False) as plain:
        net(x.clone().requires_grad_())[:, 0].sum().backward()
    assert ours.get_total_flops() <= (bound + 0.01) * plain.get_total_flops()


def test_transforms_of_weights_are_told_apart() -> None:
    f = Call(aten.linear.default, (torch.ones(1, 2), torch.tensor([[1.0, -2.0]]), None), torch.tensor([[-1.0]]))
    assert f.linear(lambda w: w * 3)(f.a).tolist() == [[-3.0]]  # any function will do, at each call
    assert not f.transformed
    assert f.linear(Transform("shifted", torch.add, (1.0,)))(f.a).tolist() == [[1.0]]
    assert [t.key for t in f.transformed] == ["shifted_1.0"]


@rules.rule(Family.AFFINE, source="tests: two transforms of one name")
def clashing(R: Tensor, f: Call) -> Tensor:
    """R_j = R"""
    f.linear(Transform("same", torch.neg))
    f.linear(Transform("same", torch.abs))
    return f.a * 0


def test_two_transforms_of_one_name_are_refused() -> None:
    with pytest.raises(RuleError, match="two transforms of weights are called 'same'"):
        relprop.explain(nn.Linear(3, 2), torch.ones(1, 3), 0, Composite([(family("affine"), clashing)]))


# Relevance that arrives where a rectified value is 0


class Behind(nn.Module):
    """What reads a ReLU is not 0 where the ReLU is: a difference from a reference, or a sum with a constant."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.first, self.last = kind, nn.Linear(4, 6), nn.Linear(6, 3)
        self.shift = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x).relu()
        return self.last(centred(a, self.shift) if self.kind == "centred" else a + self.shift)


@pytest.mark.parametrize("composite", ["epsilon", "auto", "lrp_zero", "gamma"])
@pytest.mark.parametrize("kind", ["centred", "sum"])
def test_what_is_not_zero_behind_a_rectifier_lets_it_speak(kind: str, composite: str) -> None:
    torch.manual_seed(2)
    model, x = Behind(kind).double().eval(), torch.randn(5, 4, dtype=torch.float64)
    recipe = composites.get(composite)
    if kind == "sum":
        recipe = Composite([(family("sum"), rules.pass_)]) + recipe
    e = relprop.explain(model, x, 0, recipe, ledger=True, record=("first",))
    z = model.first(x)
    assert bool((e.recorded["first"][z < 0] != 0).any())  # or nothing would be tested
    assert e.ledger.closes()
