"""The sixteen published maps of the fixture, through relprop; their conventions are described in `toolbox`."""

from __future__ import annotations

import functools

import pytest
import torch

import relprop
from checks import check_same_map
from relprop import rules
from relprop.composites import Composite, family
from toolbox import NETS, RULES, UNIFORM_POOL, build, load


@pytest.mark.parametrize("net", NETS)
def test_the_networks_are_those_of_the_fixture(net: str) -> None:
    with torch.no_grad():
        check_same_map(build(net)(load(f"{net}_x")), load(f"{net}_y"), rtol=1e-12)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", RULES)
def test_the_published_map(net: str, name: str) -> None:
    rule, parameters = RULES[name]
    chosen = functools.partial(getattr(rules, rule), **parameters)
    pool = rules.flat if name in UNIFORM_POOL else rules.winner
    pairs = [(family("affine") | family("average"), chosen), *([(family("max_pool"), pool)] if net == "A" else [])]
    e = relprop.explain(build(net), load(f"{net}_x"), target=load(f"{net}_R_init"), composite=Composite(pairs))
    check_same_map(e.relevance, load(f"{net}_R_{name}"), rtol=1e-9)
