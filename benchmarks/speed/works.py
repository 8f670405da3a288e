"""What is measured on a subject: the plain input gradient, and relprop's recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import relprop

from .subjects import HIGH, KINDS, LOW, Subject

BOXED = {"epsilon_gamma_box", "montavon2019"}
HALF = {"precision": "bf16"}  # for models in bfloat16, whose heavy operations would be done in float32 otherwise
VARIANTS: dict[str, dict[str, Any]] = {"compile": {"compile": True}, "checkpoint": {"checkpoint": True}, "bf16": HALF}

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
    """relprop's recipes on this subject; one of them also compiled, with checkpoints, and in the other precision."""
    recipes = KINDS[subject.name].recipes
    half = subject.x.dtype is torch.bfloat16
    common = HALF if half else {}
    for recipe in recipes:
        yield Work("relprop", recipe, _explainer(subject, recipe, **common))
    main = "cp_lrp" if "cp_lrp" in recipes else recipes[0]
    for variant, options in VARIANTS.items():
        if half and variant == "bf16":
            continue
        yield Work("relprop", main, _explainer(subject, main, **common, **options), variant)
    if half:
        yield Work("relprop", main, _explainer(subject, main), "float32")


def _explainer(subject: Subject, recipe: str, **options: Any) -> Callable[[], Explain]:
    def prepare() -> Explain:
        box = {"low": LOW, "high": HIGH} if recipe in BOXED else {}
        explainer = relprop.Explainer(subject.model, subject.x, recipe, **box, **options)

        def run(x: Tensor, labels: Tensor) -> Tensor:
            relevance = explainer(x, target=labels).relevance
            assert isinstance(relevance, Tensor)
            return relevance

        return run

    return prepare
