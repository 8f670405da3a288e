"""The zoos torchvision and timm: which models, how each is built, and the smallest inputs it takes."""

from __future__ import annotations

import json
import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .subject import SETTLING, Subject, first_fitting, subject

# Kernels and patches that fit no image of 64 pixels; options of the builders, not of the weights.
SMALL: dict[str, dict[str, Any]] = {
    "vit_h_14": {"image_size": 56},
    **{name: {"image_size": 64} for name in ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32")},
    **{name: {"init_weights": False} for name in ("googlenet", "inception_v3")},  # seconds of scipy's truncated normal
}


def torchvision_names() -> list[str]:
    """Classification, segmentation and video."""
    from torchvision import models

    return [n for module in (models, models.segmentation, models.video) for n in models.list_models(module=module)]


def torchvision_subject(name: str) -> Subject:
    """One model with random weights, and images of 64 pixels or the next size it takes."""
    from torchvision import models

    options = dict(SMALL.get(name, {}))
    if name in models.list_models(module=models.segmentation):
        options["weights_backbone"] = None
    model = models.get_model(name, weights=None, **options)
    if name in models.list_models(module=models.video):
        sizes: list[tuple[int, ...]] = [(3, 8, 64, 64), (3, 16, 112, 112), (3, 16, 224, 224)]
    else:
        sizes = [(3, n, n) for n in (64, options.get("image_size", 64), 128, 224)]
    return subject(model, first_fitting(model, images(sizes)))


def images(sizes: list[tuple[int, ...]]) -> list[Tensor]:
    """Random images (or videos) of each size."""
    return [torch.randn(SETTLING, *size) for size in sizes]


def timm_names() -> list[str]:
    """The model with the fewest parameters of every architecture module."""
    return [min(sizes, key=lambda name: (sizes[name], name)) for sizes in timm_sizes().values()]


def timm_subject(name: str) -> Subject:
    """One model with random weights, and images of 64 pixels; of 128 or the model's own size if it takes no others."""
    import timm

    model = timm.create_model(name, pretrained=False)
    own: tuple[int, ...] = tuple(model.default_cfg["input_size"])
    with suppress(Exception):  # models refuse sizes in their own ways
        return subject(model, first_fitting(model, images([(own[0], 64, 64)])))
    with suppress(Exception):  # many take another size if they are built for it
        small = timm.create_model(name, pretrained=False, img_size=64)
        return subject(small, first_fitting(small, images([(own[0], 64, 64)])))
    return subject(model, first_fitting(model, images([(own[0], 128, 128), own])))


def timm_sizes() -> dict[str, dict[str, int]]:
    """Parameters of every model, by architecture module; counted once for each version of timm."""
    import timm

    file = cache_folder() / f"timm-{timm.__version__}.json"
    if file.is_file():
        try:
            known: dict[str, dict[str, int]] = json.loads(file.read_text(encoding="utf-8"))
            return known
        except json.JSONDecodeError:  # an interrupted write
            file.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counted = {module: _counted(timm.list_models(module=module)) for module in timm.list_modules()}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(counted), encoding="utf-8")
    return counted


def _counted(names: list[str]) -> dict[str, int]:
    import timm

    sizes = {}
    for name in names:
        with torch.device("meta"):
            model: nn.Module = timm.create_model(name, pretrained=False)
        sizes[name] = sum(p.numel() for p in model.parameters())
    return sizes


def cache_folder() -> Path:
    """Where the counts stay: below XDG_CACHE_HOME if that is an absolute path, else below ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "relprop" / "coverage"
