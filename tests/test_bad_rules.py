"""Bad recipes, rules, parameters and patterns, and ops without a rule: what exists is listed, the remedy works."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import relprop
from checks import check_same_map
from nets import Net, convolutional, dense, images, rows
from refusals import line_of, refuse
from relprop import composites, ops, rules
from relprop.composites import Composite
from relprop.errors import CompositeError, InputError, RelpropError, RuleError

MODEL, X = dense(), rows()
CONVOLUTIONAL, IMAGES = convolutional(), images()
REST = (composites.everything, "epsilon")


def explain(composite: Any, **options: Any) -> Callable[[], object]:
    """A call that explains an image classifier."""
    return lambda: relprop.explain(CONVOLUTIONAL, IMAGES, composite=composite, **options)


RECIPES: dict[str, tuple[Callable[[], object], list[str]]] = {
    "an unknown name": (explain("epsilom"), ["'epsilom'", *composites.names()]),
    "an unknown option": (explain("epsilon", gamma=1.0), ["'epsilon'", "gamma", "epsilon_mode", "bias"]),
    "an unknown mode": (explain("epsilon", epsilon_mode="max"), ["epsilon_mode='max'", "rms", "std", "absolute"]),
    "an unknown bias": (explain("gamma", bias="split"), ["bias='split'", "absorb", "ignore", "share"]),
    "an unknown pooling": (explain("gamma", max_pool="mean"), ["max_pool='mean'", "winner", "sum"]),
    "an unknown sharing": (explain("gamma", residual="no"), ["residual='no'", "epsilon", "magnitude"]),
    "an unknown LRN rule": (explain("gamma", lrn="no"), ["lrn='no'", "identity"]),
    "options of a Composite": (explain(Composite([REST]), epsilon=1.0), ["epsilon", "functools.partial"]),
    "no composite": (explain(3), ["int", "name"]),
    "a function": (explain(rules.epsilon), ["function", "name"]),
    "None": (explain(None), ["NoneType", "name"]),
    "alpha - beta != 1": (explain("alpha_beta", alpha=2, beta=2), ["alpha=2", "beta=2", "alpha - beta"]),
    "no box": (explain("epsilon_gamma_box"), ["low", "high", "normalization"]),
    "half a box": (explain("montavon2019", low=-1.0), ["low", "high"]),
    "low > high": (explain("epsilon_gamma_box", low=1.0, high=-1.0), ["low", "high"]),
    "low = high in places": (
        explain("deep_taylor", low=torch.tensor([-9.0, 0.0]).view(2, 1, 1), high=torch.tensor([9.0, 0.0]).view(2, 1, 1)),
        ["low", "high"]),
    "a box of another shape": (
        explain("deep_taylor", low=torch.full((3, 1, 1), -9.0), high=torch.full((3, 1, 1), 9.0)),
        ["low", r"\(3, 1, 1\)", r"\(3, 2, 6, 6\)"]),
    "gamma < 0": (explain("gamma", gamma=-0.25), ["gamma=-0.25", "negative"]),
    "epsilon < 0": (explain("epsilon", epsilon=-1e-6), ["epsilon=-1e-06", "negative"]),
    "epsilon is a word": (explain("epsilon", epsilon="small"), ["epsilon", "'small'|str"]),
    "a broken power": (explain("binder2016", power=1.5), ["power=1.5", "whole"]),
    "power 0": (explain("binder2016", power=0), ["power=0", "at least 1"]),
}  # fmt: skip


@pytest.mark.parametrize("case", RECIPES)
def test_recipes_and_their_options(case: str) -> None:
    call, words = RECIPES[case]
    refuse(CompositeError, words, call, CONVOLUTIONAL, IMAGES)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.5), (torch.full((2, 1, 1), -9.0), torch.full((2, 1, 1), 1.0))])
def test_an_input_outside_the_box_is_told_with_both_ranges(low: Any, high: Any) -> None:
    words = [f"{IMAGES.min():.4g}", f"{IMAGES.max():.4g}", "low", "high", "normalized"]
    refuse(InputError, words, explain("epsilon_gamma_box", low=low, high=high), CONVOLUTIONAL, IMAGES)


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [("montavon2019", {"low": -9.0, "high": 9.0, "gamma": -1.0}, "gamma"), ("deep_taylor", {"low": 1.0, "high": 0.0}, "low"),
     ("epsilon_gamma_box", {"low": 1.0, "high": 0.0}, "low"), ("epsilon", {"epsilon": -1.0}, "epsilon")],
)  # fmt: skip
def test_examine_finds_bad_parameters_without_running(name: str, options: dict[str, float], word: str) -> None:
    with pytest.raises(CompositeError, match=word):
        relprop.examine(CONVOLUTIONAL, IMAGES, name, **options)


PAIRS: dict[str, tuple[Callable[[], Composite], list[str]]] = {
    "an unknown rule": (lambda: Composite([("0", "epsilom")]), ["'epsilom'", *rules.names()]),
    "a function that is no rule": (lambda: Composite([("0", torch.relu)]), ["relu", "epsilon", "rules.rule"]),
    "an unknown parameter": (
        lambda: Composite([("0", partial(rules.epsilon, gamma=1))]), ["'epsilon'", "gamma", "epsilon_mode"]),
    "a parameter by position": (lambda: Composite([("0", partial(rules.gamma, 0.5))]), ["gamma", "keyword"]),
    "a missing parameter": (lambda: Composite([("0", "z_box"), REST]), ["z_box", "low", "high"]),
    "an unknown op": (lambda: Composite([(composites.op("conv4d"), "epsilon")]), ["'conv4d'", "conv2d", "linear"]),
    "an unknown family": (
        lambda: Composite([(composites.family("conv"), "epsilon")]), ["'conv'", *(f.value for f in ops.Family)]),
    "a class by name": (lambda: Composite([(composites.kind("Conv2d"), "epsilon")]), ["'Conv2d'", r"nn\.Conv2d"]),
    "no depth": (lambda: Composite([(composites.depth(0.5, 0.2), "epsilon")]), ["depth", "low < high"]),
    "no pair": (lambda: Composite([("0",)]), ["'0'", "pair"]),
    "no pattern": (lambda: Composite([(0, "epsilon")]), ["0", "pattern", "path"]),
    "bad numbers": (
        lambda: Composite([("0", partial(rules.alpha_beta, alpha=3, beta=1)), REST]), ["alpha=3", "beta=1"]),
}  # fmt: skip


@pytest.mark.parametrize("case", PAIRS)
def test_pairs(case: str) -> None:
    build, words = PAIRS[case]
    refuse(CompositeError, words, lambda: relprop.explain(CONVOLUTIONAL, IMAGES, composite=build()), CONVOLUTIONAL)


UNMATCHED: dict[str, tuple[composites.Pattern | str, str, str]] = {
    "a path": ("layer1.*", "epsilon", r"path\('layer1\.\*'\)"),
    "a class": (composites.kind(nn.Linear) & composites.path("0"), "epsilon", r"kind\(Linear\) & path\('0'\)"),
    "an op": (composites.op("conv3d"), "epsilon", r"op\('conv3d'\)"),
    "a family": (composites.family("lrn"), "pass_", r"family\('lrn'\)"),
    "only what the rule is not for": ("2", "flat", "flat.*relu|relu.*flat"),
    "only what the pooling rule is not for": ("0", "winner", "winner.*conv2d|conv2d.*winner"),
}


@pytest.mark.parametrize("case", UNMATCHED)
def test_patterns_that_match_nothing(case: str) -> None:
    pattern, rule, words = UNMATCHED[case]
    there = ["0", "2", "3", "4", "5"] if "not for" not in case else []
    call = explain(Composite([(pattern, rule), REST]))
    refuse(CompositeError, [words, *(rf"\b{path}\b" for path in there)], call, CONVOLUTIONAL)
    report = relprop.examine(CONVOLUTIONAL, IMAGES, Composite([(pattern, rule), REST]))
    assert not report.ready
    assert report.unmatched


def test_a_mistyped_path_alone_is_told_beside_the_layers_left_without_a_rule() -> None:
    words = [r"path\('classifier\.\*'\)", "linear"]
    refuse(RelpropError, words, lambda: relprop.explain(MODEL, X, composite=[("classifier.*", "epsilon")]), MODEL)


def test_a_layer_no_pair_is_for_is_named_with_the_pair_to_add() -> None:
    composite = Composite([("0", "epsilon")])
    words = ["linear", "module '5'", r"composites\.op\('linear'\)", r"rules\.\w+", "affine", "epsilon", "z_plus"]
    message = refuse(RuleError, words, explain(composite), CONVOLUTIONAL)
    pair = re.search(r"\(relprop\.composites\.op\('linear'\), relprop\.rules\.\w+\)", message)
    assert pair
    remedied = composite + Composite([eval(pair.group(), {"relprop": relprop})])
    assert relprop.explain(CONVOLUTIONAL, IMAGES, composite=remedied, ledger=True).ledger.closes()


def test_record_of_an_unknown_module_lists_the_modules() -> None:
    words = ["'nothing'", r"\b0\b", r"\b2\b"]
    refuse(InputError, words, lambda: relprop.explain(MODEL, X, composite="epsilon", record=("nothing",)), MODEL)
    shared = nn.Sequential(Net(lambda m, x: m.f(torch.relu(m.f(x))), f=nn.Linear(4, 4)))
    words = [r"'0\.f'", "2 values leave", "0_f_2"]
    refuse(InputError, words, lambda: relprop.explain(shared, X, composite="epsilon", record=("0.f",)), shared)


# Ops without a rule


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j1(x)


def with_bessel() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 4, bias=False), Bessel(), nn.Linear(4, 3, bias=False)).double()


def test_an_op_without_a_rule_is_named_and_the_printed_remedy_works() -> None:
    model = with_bessel()
    line = line_of(Bessel.forward, "torch.special.bessel_j1(x)")
    words = ["special_bessel_j1", "module '1'", line, r"relprop\.ops\.TABLE"]
    message = refuse(RuleError, words, lambda: relprop.explain(model, X, composite="epsilon"), model)
    report = relprop.examine(model, X, "epsilon")
    assert not report.ready
    assert "special_bessel_j1" in report.missing[0]
    remedy = re.search(r"`(relprop\.ops\.TABLE\[[^`]*)`", message)
    assert remedy
    before = dict(ops.TABLE)
    try:
        exec(remedy.group(1), {"relprop": relprop, "torch": torch})
        e = relprop.explain(model, X, composite="lrp_zero", ledger=True)
        assert e.ledger.closes()
        # J₁(0) = 0: relevance passes
        y = Bessel()(model[0](X)).detach()
        above = relprop.explain(model[2], y, target=e.target, composite="lrp_zero").relevance
        check_same_map(e.relevance, relprop.explain(model[0], X, target=above, composite="lrp_zero").relevance, 1e-9)
    finally:
        ops.TABLE.clear()
        ops.TABLE.update(before)


NO_RULE: dict[str, tuple[Callable[..., Tensor], str]] = {
    "a sum with a factor that depends on the input": (lambda m, x: m.net(x).lerp(x[:, :3], x[:, 1:]), "lerp"),
    "cumulative product": (lambda m, x: m.net(torch.cumprod(x, 1)), "cumprod"),
    "a live convolution kernel": (
        lambda m, x: torch.conv1d(x[None], m.net(x)[:, None], groups=x.shape[0])[0],
        "conv1d",
    ),
}


@pytest.mark.parametrize("case", NO_RULE)
def test_the_remedy_is_not_one_that_would_give_a_wrong_result(case: str) -> None:
    """These are no activations, and a declared op must not be declared again as something else."""
    how, op = NO_RULE[case]
    model = Net(how, net=dense())
    message = refuse(RuleError, [rf"\b{op}\b"], lambda: relprop.explain(model, X, composite="epsilon"), model)
    declared = {ops.name(target) for target in ops.TABLE}
    if op in declared:
        assert "TABLE[" not in message


def test_numbers_of_numpy_are_numbers() -> None:
    model, x = dense(), rows()
    plain = relprop.explain(model, x, composite="gamma", gamma=0.5, epsilon=0.1).relevance
    given = relprop.explain(model, x, composite="gamma", gamma=np.float32(0.5), epsilon=np.float64(0.1)).relevance
    assert torch.equal(given, plain)
    own = [(composites.family("affine"), partial(rules.gamma, gamma=np.float64(0.5), epsilon=np.float64(0.1)))]
    assert torch.equal(relprop.explain(model, x, composite=own).relevance, plain)


def test_the_rule_table_prints_tuples_and_tensors_whole() -> None:
    low, high = torch.full((4,), -9.0).double(), torch.full((4,), 9.0).double()
    explainer = relprop.Explainer(dense(), rows(), "deep_taylor", low=low, high=high)
    assert [r["parameters"] for r in explainer.rules if r["rule"] == "z_box"] == ["low=tensor(4,), high=tensor(4,)"]
