"""The same recipes by other libraries, each as its documentation says, on a copy of the model of its own.

What is done once a model (attaching hooks, canonizing) is done before anything is timed. A library that is not
installed, or fails, raises when it is prepared or called; the row then holds the first line of its error.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from .peer_lxt import lxt
from .subjects import HIGH, LOW, Subject
from .works import Explain, Work

Prepare = Callable[[], Explain]
EPSILON = 1e-6


def explanations(subject: Subject) -> Iterator[Work]:
    """Everything other libraries have for this subject's recipes."""
    images = subject.x.dim() == 4 and subject.name != "vit_b_16"
    convolutions = ("epsilon_plus", "epsilon_alpha2_beta1") if images else ()
    box = ("epsilon_gamma_box",) if images else ()
    attention = () if images or subject.x.dim() == 2 else ("attnlrp", "cp_lrp")
    for recipe in ("epsilon", *convolutions, *box):
        yield Work("zennit", recipe, _zennit(subject, recipe))
    for recipe in ("epsilon", *convolutions[:1]):
        yield Work("captum", recipe, _captum(subject, recipe))
    if attention:
        recipe = "cp_lrp" if subject.name == "vit_b_16" else "attnlrp"  # those lxt has for these models
        yield Work("lxt", recipe, lxt(subject))
    for recipe in attention or ("epsilon", *convolutions[:1]):
        yield Work("autolrp", recipe, _autolrp(subject, recipe))


def _zennit(subject: Subject, recipe: str) -> Prepare:
    def prepare() -> Explain:
        from zennit import composites as z
        from zennit.attribution import Gradient
        from zennit.rules import Epsilon
        from zennit.torchvision import ResNetCanonizer
        from zennit.types import Linear

        model = copy.deepcopy(subject.model)
        canonizers = [ResNetCanonizer()] if subject.name.startswith("resnet") else []
        if recipe == "epsilon":
            layers = [*z.layer_map_base(), (Linear, Epsilon(EPSILON))]  # zennit's Linear: convolutions too
            composite = z.LayerMapComposite(layers, canonizers=canonizers)
        elif recipe == "epsilon_plus":
            composite = z.EpsilonPlus(canonizers=canonizers)
        elif recipe == "epsilon_alpha2_beta1":
            composite = z.EpsilonAlpha2Beta1(canonizers=canonizers)
        else:
            low, high = (torch.tensor(bound, device=subject.x.device) for bound in (LOW, HIGH))
            composite = z.EpsilonGammaBox(low=low, high=high, canonizers=canonizers)
        attributor = Gradient(model, composite)
        attributor.__enter__()  # hooks stay attached: only explaining is timed

        def run(x: Tensor, labels: Tensor) -> Tensor:
            relevance: Tensor = attributor(x, partial(_seed, labels=labels))[1]
            return relevance.detach()

        return run

    return prepare


def _seed(logits: Tensor, labels: Tensor) -> Tensor:
    """The initial relevance: the explained logits, 0 for the others."""
    chosen = labels[:, None]
    return torch.zeros_like(logits).scatter(1, chosen, logits.detach().gather(1, chosen))


def _captum(subject: Subject, recipe: str) -> Prepare:
    def prepare() -> Explain:
        from captum.attr import LRP
        from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule

        model = copy.deepcopy(subject.model)

        def run(x: Tensor, labels: Tensor) -> Tensor:
            for m in model.modules():  # captum deletes the rules of a model when it has used them
                if isinstance(m, nn.Conv2d):
                    m.rule = Alpha1_Beta0_Rule() if recipe == "epsilon_plus" else EpsilonRule(EPSILON)
                elif isinstance(m, nn.Linear):
                    m.rule = EpsilonRule(EPSILON)
            relevance: Tensor = LRP(model).attribute(x, target=labels)
            return relevance.detach()

        return run

    return prepare


def _autolrp(subject: Subject, recipe: str) -> Prepare:
    def prepare() -> Explain:
        import autolrp

        model = copy.deepcopy(subject.model)
        configurations = {
            "epsilon": autolrp.LRPConfig,
            "epsilon_plus": autolrp.LRPConfig.composite,
            "epsilon_alpha2_beta1": autolrp.LRPConfig.epsilon_alpha2_beta1,
            "attnlrp": lambda: autolrp.LRPConfig(rule={**autolrp.BASE, **autolrp.ATTNLRP}),
            "cp_lrp": autolrp.LRPConfig.cplrp,
        }
        configuration = configurations[recipe]()

        def run(x: Tensor, labels: Tensor) -> Tensor:
            given = autolrp.tensor(x)
            total = model(given).gather(1, labels[:, None]).sum()
            total.lrp(config=configuration)
            relevance: Tensor = given.relevance  # of a total of 1
            whole: Tensor = (relevance * total).detach().as_subclass(Tensor)
            return whole

        return run

    return prepare
