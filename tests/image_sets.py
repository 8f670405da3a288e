"""A small data set in every form that relprop reads; each of its pictures has one colour, written down here."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from relprop.errors import InputError
from relprop.reproduce.images import ImageSet, open_images

# the colour of every image of a small set, and the order it must come in: written down, not computed
COLOURS = {
    "test/cat/a.png": (250, 0, 0),
    "test/cat/b.png": (0, 250, 0),
    "test/cat/deep/er/c.png": (0, 0, 250),
    "test/dog/0010.png": (10, 20, 30),
    "test/dog/0002.png": (40, 50, 60),
    "test/eel/z.png": (70, 80, 90),
    "train/cat/t.png": (1, 1, 1),
    "train/fox/t.png": (2, 2, 2),
}
ORDER = [
    "test/cat/a.png",
    "test/dog/0002.png",
    "test/eel/z.png",
    "test/cat/b.png",
    "test/dog/0010.png",
    "test/cat/deep/er/c.png",
]
LABELS = [0, 1, 2, 0, 1, 0]


def png(colour: tuple[int, ...] = (5, 5, 5), mode: str = "RGB", format: str = "PNG", **save: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (6, 4), colour if len(colour) > 1 else colour[0]).save(buffer, format=format, **save)
    return buffer.getvalue()


def small_set() -> dict[str, bytes]:
    return {name: png(colour) for name, colour in COLOURS.items()}


def folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def tar(path: Path, files: dict[str, bytes], extra: Iterable[tarfile.TarInfo] = ()) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as file:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        for info in extra:
            file.addfile(info)
    return path


def packed(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def form(name: str, where: Path, files: dict[str, bytes]) -> Path:
    """The same files as a folder or an archive."""
    if name == "folder":
        return folder(where / "set", files)
    return packed(where / name, files) if name.endswith(".zip") else tar(where / name, files)


FORMS = ("folder", "set.tar.gz", "set.tgz", "set.tar", "set.zip", "SET.TAR.GZ")


def pixel(image: Image.Image) -> Any:
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def check_small_set(images: ImageSet) -> None:
    """Names, labels, classes and every pixel as written at the top."""
    batch = images.read(0, len(images))
    assert len(images) == 6
    assert list(images.names) == list(batch.names) == ORDER
    assert images.labels.tolist() == batch.labels.tolist() == LABELS
    assert images.labels.dtype == batch.labels.dtype == torch.int64
    assert images.classes == ("cat", "dog", "eel")
    assert (images.bad, batch.bad) == ((), [])
    for image, name in zip(batch.images, ORDER, strict=True):
        assert image.size == (6, 4)
        assert (np.asarray(image) == COLOURS[name]).all()


def refusal(path: Path | None, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        open_images(path, **options)
    return str(caught.value)
