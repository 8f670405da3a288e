"""Binder et al. 2016 from data to report: studies, tables, figures, pages, in one folder that can be continued."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from relprop.errors import InputError, OutputError
from relprop.evaluate import Curves
from relprop.version import __version__

from .images import Bad, ImageSet
from .studies import CHUNK, FEW, SHARES, Advance, Runner, studies
from .subject import Subject


@dataclass(frozen=True)
class Measured:
    """What the studies found; images in the same order everywhere, the smaller studies with the first of them."""

    main: Curves
    lowest: Curves
    variants: Curves
    inside: dict[str, Tensor]
    layers: tuple[str, ...]
    names: tuple[str, ...]
    labels: Tensor
    bad: tuple[Bad, ...]
    about: dict[str, object]

    def first(self, share: float) -> Measured:
        """The same until this share of the pixels is flipped."""
        return replace(
            self, main=self.main.first(share), lowest=self.lowest.first(share), variants=self.variants.first(share)
        )

    @property
    def accuracy(self) -> float | None:
        """The share of images whose label was predicted; None where labels are not the model's classes."""
        known = self.labels >= 0
        return float((self.main.target == self.labels)[known].double().mean()) if bool(known.any()) else None


def plan(images: int, layers: tuple[str, ...], units: int) -> int:
    """Samples through the model for all of it, for a progress bar."""
    return sum(study.forwards(study.images, units) for study in studies(images, layers))


def measure(
    subject: Subject,
    images: ImageSet,
    folder: Path,
    count: int,
    *,
    labels: bool = True,
    begin: Callable[[int], Advance] = lambda total: lambda samples: None,
) -> Measured:
    """Run, or continue, all studies on the first `count` images into `folder`/parts.

    `labels`: whether the set's labels are the model's classes. `begin`: called with the samples to come, gives what
    is called with the samples of each forward.

    Raises `InputError`: no image, a model without local response normalization, a folder of another run.
    """
    if count < 1:
        raise InputError(f"--images {count}: at least one")
    count = min(count, len(images))
    x = first_input(subject, images)
    layers = subject.layers(x)
    about = settings(subject, images, layers, x)
    claim(folder, about)
    units = x.shape[-2] * x.shape[-1]
    runner = Runner(subject, images, folder / "parts", units, begin(plan(count, layers, units)))
    found: dict[str, Curves] = {}
    read: list[dict[str, object]] = []
    for study in studies(count, layers):
        found[study.name], chunks = runner.run(study)
        read = read or chunks
    inside = runner.inside(count, layers)
    names = tuple(str(name) for part in read for name in part["names"])  # type: ignore[attr-defined]
    classes = torch.tensor([k for part in read for k in part["labels"]])  # type: ignore[attr-defined]
    bad = tuple(Bad(*b) for part in read for b in part["bad"])  # type: ignore[attr-defined]
    if not labels:
        classes = torch.full_like(classes, -1)
    return Measured(
        found["main"], found["lowest"], found["variants"], inside, layers, names, classes, (*images.bad, *bad), about
    )


def first_input(subject: Subject, images: ImageSet) -> Tensor:
    """Two copies of the first image that can be read, to capture the model with."""
    for i in range(len(images)):
        batch = images.read(i, i + 1)
        if batch.images:
            return subject.batch([batch.images[0]] * 2)
    raise InputError(f"{images.origin}: no image can be read")


def settings(subject: Subject, images: ImageSet, layers: tuple[str, ...], x: Tensor) -> dict[str, object]:
    """What has to be the same for a run to be continued; `probe` tells another preparation or function of the model."""
    grey = (subject.low + subject.high).to(x).reshape(-1, 1, 1) / 2
    with torch.no_grad():
        output = subject.model(torch.stack([x[0], grey.expand_as(x[0])]))
    probe = [float(v) for v in (*output[:, :5].flatten(), x[0].mean(), *subject.low, *subject.high)]
    return {
        "relprop": __version__,
        "model": subject.name,
        "weights": subject.fingerprint,
        "images": hashlib.sha256("\n".join(images.names).encode()).hexdigest()[:16],
        "normalizations": list(layers),
        "shares": list(SHARES),
        "chunk": CHUNK,
        "few": FEW,
        "probe": probe,
    }


def alike(a: object, b: object) -> bool:
    """Equal; lists of numbers up to rounding, which depends on the number of threads."""
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b) and all(isinstance(v, float) for v in b):
        return all(math.isclose(v, w, rel_tol=1e-3, abs_tol=1e-4) for v, w in zip(a, b, strict=True))
    return a == b


def claim(folder: Path, about: dict[str, object]) -> None:
    """Begin a run in the folder, or see that it holds the same one. Raises `InputError`, `OutputError`."""
    file = folder / "run.json"
    try:
        (folder / "parts").mkdir(parents=True, exist_ok=True)
        if not file.exists():
            unfinished = file.with_suffix(".part")
            unfinished.write_text(json.dumps(about, indent=1), encoding="utf-8")
            unfinished.replace(file)
        before = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise OutputError(f"-o {folder}: cannot be written ({error}); choose another folder") from error
    except ValueError:
        before = None
    if not isinstance(before, dict):
        raise InputError(f"-o {folder}: run.json is damaged; delete the folder, or choose another")
    other = [name for name in about if not alike(before.get(name), about[name])]
    if other:
        raise InputError(f"-o {folder} holds another run (other {', '.join(other)}); choose another folder")
