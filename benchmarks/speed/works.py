"""What is measured on a subject: the plain input gradient, and relprop's recipes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import relprop

from .subjects import HIGH, KINDS, LOW, Subject

BOXED = {"epsilon_gamma_box", "montavon2019"}
VARIANTS = {"compile": {"compile": True}, "checkpoint": {"checkpoint": True}}


Explain = Callable[[Tensor, Tensor], Tensor]  # input and explained classes -> relevance


@dataclass(frozen=True)
class Work:
    """One way to explain a subject. `prepare()` returns what to call again and again."""

    library: str
    recipe: str
    prepare: Callable[[], Explain]
    variant: str = ""

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.library, self.recipe, self.variant)))


def gradient(model: nn.Module) -> Explain:
    """Forward, and backward to the input alone, of the explained logits; parameters require gradients, as users' do."""

    def run(x: Tensor, labels: Tensor) -> Tensor:
        given = x.detach().requires_grad_()
        score = model(given).gather(1, labels[:, None]).sum()
        return torch.autograd.grad(score, given)[0]

    return run


def explanations(subject: Subject) -> Iterator[Work]:
    """relprop's recipes on this subject, and the first of them compiled and with checkpoints where there are such."""
    recipes = KINDS[subject.name].recipes
    for recipe in recipes:
        yield Work("relprop", recipe, _explainer(subject, recipe))
    taken = inspect.signature(relprop.Explainer.__init__).parameters
    main = "cp_lrp" if "cp_lrp" in recipes else recipes[0]
    for variant, options in VARIANTS.items():
        if options.keys() <= taken.keys():
            yield Work("relprop", main, _explainer(subject, main, **options), variant)


def _explainer(subject: Subject, recipe: str, **options: object) -> Callable[[], Explain]:
    def prepare() -> Explain:
        box = {"low": LOW, "high": HIGH} if recipe in BOXED else {}
        explainer = relprop.Explainer(subject.model, subject.x, recipe, **box, **options)

        def run(x: Tensor, labels: Tensor) -> Tensor:
            relevance = explainer(x, target=labels).relevance
            assert isinstance(relevance, Tensor)
            return relevance

        return run

    return prepare
