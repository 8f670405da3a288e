"""lxt (AttnLRP's authors), which replaces functions inside transformers, torchvision and torch for the whole process.

Here the replacements are in force only while its model is built and explained: otherwise the plain gradient, measured
in the same process, would be that of the replaced functions.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from . import subjects
from .subjects import KINDS, Subject
from .works import Explain, gradient

_ABSENT = object()


class Replacements:
    """What a function changed among the attributes of some modules and classes, to be put in force and taken back."""

    def __init__(self, targets: list[Any], change: Callable[[], object]) -> None:
        before = [dict(vars(t)) for t in targets]
        change()
        self._changed = [
            (t, name, old.get(name, _ABSENT), new)
            for t, old in zip(targets, before, strict=True)
            for name, new in dict(vars(t)).items()
            if old.get(name, _ABSENT) is not new
        ]
        self._set(back=True)

    def _set(self, *, back: bool) -> None:
        for target, name, old, new in self._changed:
            if not back:
                setattr(target, name, new)
            elif old is _ABSENT:
                delattr(target, name)
            else:
                setattr(target, name, old)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        self._set(back=False)
        try:
            yield
        finally:
            self._set(back=True)


def lxt(subject: Subject) -> Callable[[], Explain]:
    """By lxt's own choice for a model: AttnLRP for language models, CP-LRP for torchvision's ViT."""

    def prepare() -> Explain:
        from lxt.efficient import monkey_patch
        from lxt.efficient.models import get_default_map

        module = importlib.import_module(KINDS[subject.name].family)
        targets = list(dict.fromkeys([module, *get_default_map(module)]))
        replacements = Replacements(targets, lambda: monkey_patch(module))
        with replacements.in_force():  # some classes are replaced as a whole, so the model is built anew
            model = subjects.subject(subject.name, str(subject.x.device), quick=subject.quick).model
        backward = gradient(model)

        def run(x: Tensor, labels: Tensor) -> Tensor:
            with replacements.in_force():
                return backward(x, labels) * x

        return run

    return prepare
