"""The zoos by name: the models of each, and how one is built."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from . import transformers_zoo, vision
from .subject import Subject, subject

SEED = 0


@dataclass(frozen=True)
class Zoo:
    """`names` lists the models, `build` makes one; `package` is what they come from."""

    package: str
    names: Callable[[], list[str]]
    build: Callable[[str], Subject]


ZOOS = {
    "torchvision": Zoo("torchvision", vision.torchvision_names, vision.torchvision_subject),
    "timm": Zoo("timm", vision.timm_names, vision.timm_subject),
    "transformers": Zoo("transformers", transformers_zoo.names, transformers_zoo.build),
}


def zoo(name: str) -> Zoo:
    """The zoo of this name, or the one in this file. Raises InputError."""
    if name.endswith(".py"):
        return _from_file(Path(name))
    if name not in ZOOS:
        raise InputError(f"--zoo {name}: there are {', '.join(ZOOS)}; or give a Python file with MODELS")
    if importlib.util.find_spec(ZOOS[name].package) is None:
        extra = "language" if name == "transformers" else "vision"
        raise InputError(f"--zoo {name} needs the package {ZOOS[name].package}: pip install 'relprop[{extra}]'")
    return ZOOS[name]


def built(zoo_name: str, model: str) -> Subject:
    """One model of a zoo, its weights drawn from `SEED`."""
    torch.manual_seed(SEED)
    return zoo(zoo_name).build(model)


def versions(zoo_name: str) -> str:
    """What a row was made with."""
    package = zoo(zoo_name).package
    own = f", {package} {importlib.metadata.version(package)}" if package else ""
    return f"torch {torch.__version__}{own}"


def _from_file(file: Path) -> Zoo:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise InputError(f"--zoo {file}: there is no such file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    models: dict[str, Callable[[], tuple[Any, Any]]] | None = getattr(module, "MODELS", None)
    if not isinstance(models, dict):
        raise InputError(f"--zoo {file}: it has no MODELS, a dict from a name to a function returning (module, inputs)")
    return Zoo("", lambda: list(models), lambda name: subject(*models[name]()))
