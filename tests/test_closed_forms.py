"""Every rule on every affine operation equals its explicit double sum over inputs and outputs, to 1e-9.

The rules are called as programs call them: on the op call that capture and canonization make of the layer, told whether
the input is known to be non-negative. That programs call them so is checked through `explain` for every layer, with a
rule for which signs matter.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import dense
import layers
import relprop
from checks import check_same_map
from relprop import rules
from relprop.canonize import canonize
from relprop.capture import capture
from relprop.composites import Composite, family, path
from relprop.graph import Reading
from relprop.ops import Family

# PyTorch's remark on padding="same" with even kernels, which conv2d_same has on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

RTOL = 1e-9
BATCH = 3
# The inputs lie in this box.
LOW, HIGH = -1.5, 1.25

WEIGHTED = family("affine") | family("average") | family("batch_norm")
BIAS = ("absorb", "ignore", "share")
CASES: list[tuple[str, dict[str, Any]]] = [
    *(("zero", {"bias": bias}) for bias in BIAS),
    *(("epsilon", {"epsilon": 0.25, "epsilon_mode": mode}) for mode in ("absolute", "rms", "std")),
    *(("epsilon", {"bias": bias}) for bias in BIAS),
    *(("gamma", {"bias": bias}) for bias in BIAS),
    ("gamma", {"gamma": 3.0, "epsilon": 0.0}),
    ("gamma", {"epsilon": 0.1, "epsilon_mode": "absolute", "bias": "share"}),
    *(("alpha_beta", {"bias": bias}) for bias in BIAS),
    ("alpha_beta", {"alpha": 1, "beta": 0}),
    ("alpha_beta", {"alpha": 0, "beta": -1}),
    ("alpha_beta", {"beta": 0.5}),
    *(("z_plus", {"bias": bias}) for bias in BIAS),
    ("flat", {}),
    *(("w_square", {"bias": bias}) for bias in BIAS),
    ("z_box", {"low": LOW, "high": HIGH}),
    *(("power", {"bias": bias}) for bias in BIAS),
    ("power", {"power": 3, "epsilon": 0.0}),
    ("power", {"power": 2, "epsilon": 0.1, "epsilon_mode": "absolute"}),
]
SIGN_MATTERS = ("zero", "epsilon", "gamma", "alpha_beta", "z_plus")
# Rules that need to know which inputs an output is connected with, or powers of its weights: not for interpolation.
NOT_INTERPOLATED = ("flat", "w_square", "power")
# Its weights are positive.
POSITIVE = ("batch_norm2d_not_affine",)
# Padding that is an op of its own comes before these; they are compared through `explain` alone.
PADDED_BEFORE = ("conv2d_same", "conv2d_circular")


def comparable(name: str, rectify: bool, rule: str, options: dict[str, Any]) -> bool:
    """Whether the rule is defined for the layer and the comparison would not repeat another or compare zeros."""
    if name in PADDED_BEFORE or (rectify and rule not in SIGN_MATTERS):
        return False
    if options.get("alpha") == 0 and rectify and (name not in layers.WEIGHTED or name in POSITIVE):
        return False  # there are no negative contributions
    if name in layers.WEIGHTED:
        return True
    if name in layers.INTERPOLATIONS:
        return rule not in NOT_INTERPOLATED
    # For averages the powers of the fixed weights cancel but for the size of epsilon, and are left out.
    return rule != "power" or options.get("epsilon") == 0.0


ALL = {
    f"{name}-{'rectified' if rectify else 'signed'}-{rule}": (name, rectify, rule, cases)
    for name in layers.LAYERS
    for rectify in (False, True)
    for rule in dense.RULES
    if (cases := [o for r, o in CASES if r == rule and comparable(name, rectify, rule, o)])
}


def inputs_of(name: str) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(BATCH, *layers.LAYERS[name][1], dtype=torch.float64).clamp(LOW, HIGH)


@functools.cache
def oracle(name: str) -> dense.Dense:
    return dense.dense(layers.build(name), layers.LAYERS[name][1])


@functools.cache
def captured(name: str) -> tuple[fx.GraphModule, fx.Node, tuple[int, ...]]:
    """The layer's graph, the one weighted node in it, and where its live argument stands."""
    x = inputs_of(name)
    found = capture(layers.build(name), x)
    reading = Reading(found.module.graph, found.explained, canonize(found, [x]))
    [(node, role)] = [
        (node, reading.role(node))
        for node in found.module.graph.nodes
        if node.op == "call_function"
        and reading.role(node).family in (Family.AFFINE, Family.AVERAGE, Family.BATCH_NORM)
    ]
    return found.module, node, tuple(place for place, _ in role.live)


@functools.cache
def called(name: str, rectify: bool) -> rules.Call:
    """The call of the layer's op on an input, or on its positive part."""
    module, node, live = captured(name)

    class Last(fx.Interpreter):
        def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            y = super().call_function(target, args, kwargs)
            if target is node.target:
                self.call = rules.Call(target, args, y, kwargs, live=live, nonneg=rectify)
            return y

    interpreter = Last(module)
    interpreter.run(torch.relu(inputs_of(name)) if rectify else inputs_of(name))
    return interpreter.call


@pytest.mark.parametrize(("name", "rectify", "rule", "cases"), ALL.values(), ids=ALL)
def test_rule_equals_its_double_sum(name: str, rectify: bool, rule: str, cases: list[dict[str, Any]]) -> None:
    call, f = called(name, rectify), oracle(name)
    R = torch.randn_like(call.y)
    for options in cases:
        actual, expected = getattr(rules, rule)(R, call, **options), dense.RULES[rule](f, call.a, R, **options)
        check_same_map(actual, expected, rtol=RTOL, about=options)


class Both(nn.Module):
    """A layer on the input as it is, and the same on its positive part."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.signed, self.rectified = layers.build(name), layers.build(name)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.signed(x).flatten(1), self.rectified(torch.relu(x)).flatten(1)], 1)


# One or two of each kind, and those whose padding is an op of its own.
THROUGH_EXPLAIN = [
    "linear_on_rows", "conv1d_dilation_groups", "conv2d_stride_padding", "conv2d_same", "conv2d_circular", "conv3d_all",
    "conv_transpose1d", "conv_transpose2d_all", "batch_norm1d", "batch_norm2d", "avg_pool1d_excluding",
    "avg_pool2d_padding", "avg_pool3d_excluding", "mean", "bilinear",
]  # fmt: skip


@pytest.mark.parametrize("name", THROUGH_EXPLAIN)
def test_rules_through_explain(name: str) -> None:
    net, x, f = Both(name), inputs_of(name), oracle(name)
    R = torch.randn(BATCH, 2 * len(f.bias), dtype=torch.float64)
    options = {"gamma": 0.5, "bias": "ignore" if name in layers.INTERPOLATIONS else "share"}
    pairs = [(path("signed") & WEIGHTED, functools.partial(rules.gamma, **options)), (WEIGHTED, rules.alpha_beta)]
    actual = relprop.explain(net, x, target=R, composite=Composite(pairs)).relevance
    of_signed, of_rectified = R.split(len(f.bias), 1)
    expected = dense.gamma(f, x, of_signed, **options) + dense.alpha_beta(f, torch.relu(x), of_rectified)
    check_same_map(actual, expected, rtol=RTOL)


@pytest.mark.parametrize("name", ["zero", "epsilon", "gamma", "alpha_beta", "z_plus", "flat", "w_square", "power"])
def test_default_parameters_are_those_of_the_papers(name: str) -> None:
    x = inputs_of("linear")
    call = called("linear", False)
    R = torch.randn_like(call.y)
    check_same_map(getattr(rules, name)(R, call), dense.RULES[name](oracle("linear"), x, R), rtol=RTOL)


@pytest.mark.parametrize("name", ["linear", "conv_transpose2d_all", "avg_pool2d_padding"])
def test_z_box_with_a_box_for_each_entry(name: str) -> None:
    layer, x = layers.build(name), inputs_of(name)
    low, high = LOW - torch.rand_like(x[0]), HIGH + torch.rand_like(x[0])
    R = torch.randn_like(layer(x)).detach()
    composite = Composite([(WEIGHTED, functools.partial(rules.z_box, low=low, high=high))])
    actual = relprop.explain(layer, x, target=R, composite=composite).relevance
    check_same_map(actual, dense.z_box(oracle(name), x, R, low, high), rtol=RTOL)


def test_z_box_with_a_box_for_each_channel() -> None:
    layer, x = layers.build("conv2d"), inputs_of("conv2d")
    low, high = torch.tensor([-3.0, -2.0]).view(2, 1, 1), torch.tensor([1.5, 2.5]).view(2, 1, 1)
    R = torch.randn_like(layer(x)).detach()
    actual = relprop.explain(layer, x, target=R, composite="deep_taylor", low=low, high=high).relevance
    check_same_map(actual, dense.z_box(oracle("conv2d"), x, R, low, high), rtol=RTOL)


def test_what_the_ledger_of_one_layer_books() -> None:
    layer, x, f = layers.build("linear"), inputs_of("linear"), oracle("linear")
    R = torch.randn(BATCH, 5, dtype=torch.float64)
    e = relprop.explain(layer, x, target=R, composite="epsilon", epsilon=0.1, epsilon_mode="absolute", ledger=True)
    z = layer(x).detach()
    stabilized = z + dense.stabilizer(z, 0.1, "absolute")
    check_same_map(e.ledger.bias, (f.bias / stabilized * R).sum(1), rtol=RTOL)
    check_same_map(e.ledger.epsilon, ((stabilized - z) / stabilized * R).sum(1), rtol=RTOL)
    check_same_map(e.ledger.input, (R - (f.bias + stabilized - z) / stabilized * R).sum(1), rtol=RTOL)
    # alpha and beta, each of its part of the bias
    e = relprop.explain(layer, x, target=R, composite="alpha_beta", ledger=True)
    aw = x[:, None, :] * f.weight
    above = f.bias.clamp(min=0) / (aw.clamp(min=0).sum(2) + f.bias.clamp(min=0))
    below = f.bias.clamp(max=0) / (aw.clamp(max=0).sum(2) + f.bias.clamp(max=0))
    check_same_map(e.ledger.bias, ((2 * above - below) * R).sum(1), rtol=RTOL)


@pytest.mark.parametrize("rule", NOT_INTERPOLATED)
def test_interpolation_refuses_rules_that_are_not_defined_for_it(rule: str) -> None:
    layer, x = layers.build("bilinear"), inputs_of("bilinear")
    with pytest.raises(relprop.errors.RuleError, match="upsample"):
        relprop.explain(layer, x, target=layer(x), composite=Composite([(WEIGHTED, rule)]))
