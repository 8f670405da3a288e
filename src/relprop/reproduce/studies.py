"""The measuring: chunks of images through all methods, each chunk a file, so that an interrupted run goes on."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from relprop import evaluate
from relprop.api import Explainer
from relprop.errors import InputError, OutputError
from relprop.evaluate import Curves

from .images import Bad, ImageSet
from .methods import Method, compared, variants
from .neighbours import Explainers
from .subject import Subject

CHUNK = 250
SMALL = 1000  # images for what goes beyond the paper
FEW = 500  # images for what happens inside
# flipped pixels, in shares of all: denser where curves fall steeply
SHARES = (0, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
Advance = Callable[[int], object]


@dataclass(frozen=True)
class Study:
    """Pixel flipping of the first `images` images with some methods, in some orders."""

    name: str
    images: int
    methods: tuple[Method, ...]
    orders: tuple[str, ...]

    def forwards(self, images: int, units: int) -> int:
        """Samples through the model for so many images of so many pixels, flipping alone."""
        inner = len(steps(units)) - 2
        own = len(self.methods) * len(set(self.orders) - {"random"})
        return images * (inner * (own + ("random" in self.orders)) + 2)


def studies(images: int, layers: tuple[str, ...]) -> tuple[Study, ...]:
    """What the tables and figures need."""
    few = min(images, SMALL)
    return (
        Study("main", images, compared(), ("highest", "random")),
        Study("lowest", few, compared(), ("lowest",)),
        Study("variants", few, variants(layers), ("highest",)),
    )


@dataclass(frozen=True)
class Photos:
    """The images that were read for a range of numbers: inputs, names, labels; and those left out."""

    names: tuple[str, ...]
    labels: Tensor
    x: Tensor
    bad: tuple[Bad, ...] = ()


@dataclass
class Runner:
    """Runs studies chunk by chunk into a folder. `units`: the pixels of an image."""

    subject: Subject
    images: ImageSet
    folder: Path
    units: int
    advance: Advance = field(default=lambda samples: None)
    _explainers: dict[Method, Explainer] = field(default_factory=dict)

    def chunks(self, images: int) -> Iterator[tuple[int, int]]:
        for start in range(0, images, CHUNK):
            yield start, min(start + CHUNK, images)

    def photos(self, start: int, stop: int) -> Photos:
        """Read and prepared; those that cannot be read are left out, perhaps all."""
        batch = self.images.read(start, stop)
        x = self.subject.batch(batch.images) if batch.images else torch.empty(0)
        return Photos(batch.names, batch.labels, x, tuple(batch.bad))

    def explainer(self, method: Method, x: Tensor) -> Explainer:
        if method not in self._explainers:
            self._explainers[method] = self.subject.explainer(method, x)
        return self._explainers[method]

    def maps(self, method: Method, x: Tensor, target: Tensor) -> Tensor:
        """Relevance of the pixels, summed over channels, (N, H, W)."""
        relevance: Tensor = self.explainer(method, x)(x, target=target).relevance
        return relevance.sum(1)

    def run(self, study: Study) -> tuple[Curves, list[dict[str, object]]]:
        """All chunks of a study: those that are there are read, the others measured."""
        parts, about = [], []
        for start, stop in self.chunks(study.images):
            file = self.folder / f"{study.name}-{start:06d}-{stop:06d}.npz"
            part = done(file)
            if part is None:
                self.measure(study, start, stop, file)
                part = done(file)
            else:
                self.advance(study.forwards(stop - start, self.units))
            if part is None:
                raise OutputError(f"{file} was written, but cannot be read; is the disk full?")
            parts += [part[0]] if part[0] is not None else []
            about.append(part[1])
        if not parts:
            raise InputError(f"{self.images.origin}: none of {study.images} images can be read")
        return evaluate.join(parts), about

    def inside(self, images: int, layers: tuple[str, ...]) -> dict[str, Tensor]:
        """`Explainers.measure` of the first images: what happens at the normalizations."""
        explainers = Explainers(self.subject, layers)
        parts = []
        for start, stop in self.chunks(min(images, FEW)):
            file = self.folder / f"inside-{start:06d}-{stop:06d}.npz"
            found = arrays(file)
            if found is None:
                photos = self.photos(start, stop)
                if not photos.names:
                    continue
                found = explainers.measure(photos.x, self.subject.predicted(photos.x))
                write(file, {name: value.numpy() for name, value in found.items()})
            parts.append(found)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def measure(self, study: Study, start: int, stop: int, file: Path) -> None:
        """One chunk."""
        photos = self.photos(start, stop)
        about = {
            "names": photos.names,
            "labels": photos.labels.tolist(),
            "bad": [[b.name, b.reason] for b in photos.bad],
        }
        file.with_suffix(".json").write_text(json.dumps(about), encoding="utf-8")
        if not photos.names:
            return
        target = self.subject.predicted(photos.x)
        relevance = {m.name: self.maps(m, photos.x, target) for m in study.methods}
        curves = evaluate.pixel_flipping(
            self.subject.judge, photos.x, relevance, target=target, orders=study.orders, steps=steps(self.units),
            low=self.subject.low, high=self.subject.high, first=start, batch_size=len(photos.x), progress=self.advance,
        )  # fmt: skip
        curves.save(file)  # last: a chunk is done when this is there


def done(file: Path) -> tuple[Curves | None, dict[str, object]] | None:
    """A chunk that was measured: its curves, None if none of its images could be read; None if missing or damaged."""
    try:
        about = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        return (Curves.load(file) if about["names"] else None), about
    except (OSError, ValueError, KeyError, TypeError):  # InputError is a ValueError
        return None


def arrays(file: Path) -> dict[str, Tensor] | None:
    """What `write` wrote; None if missing or damaged."""
    try:
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as found:
            return {name: torch.from_numpy(found[name]) for name in found.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def write(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Arrays to a file that is there as a whole or not at all."""
    partial = file.with_suffix(".partial.npz")
    np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
    partial.replace(file)


def steps(units: int) -> list[int]:
    """Counts of flipped pixels for images of this many, in the shares of `SHARES`; each at most once.

    >>> steps(1024)[:4], steps(64)[:4]
    ([0, 4, 8, 16], [0, 1, 2, 3])
    """
    return sorted({-(-share * units // SHARES[-1]) for share in SHARES})
