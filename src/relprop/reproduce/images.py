"""Labelled image sets: a folder, an archive or torchvision's CIFAR-10 to an ordered list, decoded when it is read."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from relprop.errors import InputError

from . import archives
from .listing import BATCHES, FORMS, Bad, Listing, arranged, interleaved, is_hidden, is_image, parts_of, stand_ins

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Bad", "Batch", "ImageSet", "interleaved", "open_images"]

MAX_BYTES = 2 * 2**30
REMEDY = "remove it, or leave out and count what is no image with --skip-bad"


@dataclass(frozen=True, eq=False)
class Batch:
    """Images that were read, their names and labels in the same order, and the files left out of them."""

    images: list[Image.Image]
    names: tuple[str, ...]
    labels: Tensor
    bad: list[Bad]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images in a fixed order, each decoded when it is read.

    `names`: stable, such as "test/frog/0001.jpg". `labels`: (N,), int64, indices into `classes`, -1 where nobody says.
    `origin`: what was opened, for messages. `load(i)`: one image. `bad`: files that are no images by their names; not
    among `names`, and only with `skip_bad`, since they are an error without.
    """

    names: tuple[str, ...]
    labels: Tensor = field(repr=False)
    classes: tuple[str, ...]
    origin: str
    load: Callable[[int], Image.Image] = field(repr=False)
    bad: tuple[Bad, ...] = ()
    skip_bad: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def read(self, start: int, stop: int) -> Batch:
        """RGB images of `names[start:stop]`, upright, in their own sizes, and in `bad` what cannot be decoded.

        Raises `InputError` with the name of the first of those, unless the set was opened with `skip_bad`.
        """
        read = {i: self._attempt(i) for i in range(len(self))[start:stop]}
        bad = [result for result in read.values() if isinstance(result, Bad)]
        if bad and not self.skip_bad:
            raise InputError(f"{self.origin}: cannot read {bad[0]}; {REMEDY}")
        images = {i: result for i, result in read.items() if not isinstance(result, Bad)}
        labels = self.labels[torch.tensor(list(images), dtype=torch.int64)]
        return Batch(list(images.values()), tuple(self.names[i] for i in images), labels, bad)

    def _attempt(self, i: int) -> Image.Image | Bad:
        from PIL import UnidentifiedImageError

        try:
            return self.load(i)
        except UnidentifiedImageError:  # its own text is the address of a buffer
            return Bad(self.names[i], "not an image")
        except Exception as error:  # a damaged file fails in as many ways as there are decoders
            return Bad(self.names[i], first_line(error))


def open_images(
    path: str | Path | None, *, split: str = "test", skip_bad: bool = False, download: bool = True
) -> ImageSet:
    """The images of a data set, the first of each class, then the second of each, and so on, whatever form it has.

    `path` is one of

    - a folder `ROOT/<class>/…/*.jpg`, or `ROOT/<split>/<class>/…`; for the split "test", `val` or `validation` stands
      in where there is no `test`. A single folder around all this is looked through. Images that all lie directly in
      ROOT have the label -1. Links are followed;
    - an archive of the same, .tar.gz, .tgz, .tar or .zip. The compressed images of the split are kept in memory;
      nothing is written to disk. A link in it is no image;
    - the folder that holds torchvision's `cifar-10-batches-py`;
    - None: torchvision's CIFAR-10 in `~/.cache/relprop/cifar10` (below XDG_CACHE_HOME, if set), fetched where it is
      not there and `download` is true.

    `classes` are the names of the class folders, sorted, those of empty folders too; within a class, images are
    sorted by name. Hidden files are ignored; any other file that is no image is an error, or with `skip_bad` listed
    in `bad`. Raises `InputError`: nothing there, no image, no such split, a corrupt archive or one with more than
    2 GiB of images, CIFAR-10 not downloaded, Pillow or torchvision missing.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
    ...         Path(root, name).parent.mkdir(exist_ok=True)
    ...         Image.new("L", (4, 4)).save(Path(root, name))
    ...     images = open_images(root)
    ...     batch = images.read(0, 2)
    >>> images.names, images.labels.tolist(), images.classes
    (('cat/1.png', 'dog/1.png', 'cat/2.png'), [0, 1, 0], ('cat', 'dog'))
    >>> batch.names, batch.images[0].mode, batch.bad
    (('cat/1.png', 'dog/1.png'), 'RGB', [])
    """
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise InputError("reading images needs Pillow: pip install 'relprop[cli]'") from error
    if path is None:
        return from_cifar10(fetched(cache_folder(), split, download), split, skip_bad, "CIFAR-10 of torchvision")
    where = Path(path).expanduser()
    origin = f"--data {where}"
    root = where.parent if where.name == BATCHES else where
    if (root / BATCHES).is_dir():
        return from_cifar10(local(root, split), split, skip_bad, origin)
    if where.is_dir():
        return from_folder(where, split, skip_bad, origin)
    if not where.exists():
        raise InputError(f"{origin}: there is no such folder or file; give {FORMS}")
    return from_archive(where, split, skip_bad, origin)


def image_set(found: Listing, load: Callable[[int], Image.Image], skip_bad: bool, origin: str) -> ImageSet:
    """The set, unless it has files that are no images and they are not to be skipped: `InputError`."""
    if found.bad and not skip_bad:
        others = f", and {len(found.bad) - 1} more" if len(found.bad) > 1 else ""
        raise InputError(f"{origin}: no image: {found.bad[0]}{others}; {REMEDY}")
    labels = torch.tensor(found.labels, dtype=torch.int64)
    return ImageSet(found.names, labels, found.classes, origin, load, found.bad, skip_bad)


def from_folder(root: Path, split: str, skip_bad: bool, origin: str) -> ImageSet:
    """Files of a folder, each opened when it is read."""
    try:
        found = arranged(listed(root, split), split, origin)
    except OSError as error:
        raise InputError(f"{origin}: cannot be listed ({first_line(error)}); make it readable") from error
    return image_set(found, partial(load_file, tuple(root / path for path in found.paths)), skip_bad, origin)


def listed(root: Path, split: str) -> list[str]:
    """All paths below a folder; of the split alone where it lies there, since training sets can have millions."""
    for name in stand_ins(split):
        paths = [f"{name}/{path}" for path in walked(root / name)] if (root / name).is_dir() else []
        if any(is_image(parts) and not is_hidden(parts) for parts in map(parts_of, paths)):
            return paths
    return list(walked(root))


def walked(root: Path) -> Iterator[str]:
    """Paths relative to a folder, folders with "/" at the end; a link back to a folder above is not entered."""

    def walk(folder: str, above: frozenset[str]) -> Iterator[str]:
        for entry in list(os.scandir(root / folder)):
            path = folder + entry.name + "/" * entry.is_dir()
            yield path
            real = os.path.realpath(entry.path)
            if path.endswith("/") and real not in above and not is_hidden((entry.name,)):
                yield from walk(path, above | {real})

    return walk("", frozenset({os.path.realpath(root)}))


def load_file(paths: Sequence[Path], i: int) -> Image.Image:
    """One image of a folder."""
    if not paths[i].is_file():  # opening a pipe would wait for ever
        raise FileNotFoundError("no file, or a link to none")
    return decoded(paths[i])


def from_archive(path: Path, split: str, skip_bad: bool, origin: str) -> ImageSet:
    """Members of an archive, their compressed bytes in memory."""
    if not path.is_file() or not path.name.lower().endswith(archives.SUFFIXES):
        raise InputError(f"{origin}: neither a folder nor an archive; give {FORMS}")
    try:
        with archives.opened(path) as archive:
            found = arranged(archive.sizes, split, origin)
            size = sum(archive.sizes[member] for member in found.paths)
            if size > MAX_BYTES:
                raise InputError(f"{origin}: {size / 2**30:.1f} GiB of images; unpack it and give the folder")
            contents = archive.read(found.paths)
    except archives.CORRUPT as error:
        reason = f"the archive is corrupt or cannot be read ({first_line(error)})"
        raise InputError(f"{origin}: {reason}; fetch or pack it again") from error
    return image_set(found, partial(load_bytes, tuple(contents[member] for member in found.paths)), skip_bad, origin)


def load_bytes(contents: Sequence[bytes], i: int) -> Image.Image:
    """One image of an archive."""
    return decoded(io.BytesIO(contents[i]))


def decoded(file: Path | io.BytesIO) -> Image.Image:
    """A photo as RGB, all of it decoded, turned upright as its camera noted; 16 bits scaled to 8. Raises anything."""
    import numpy as np
    from PIL import Image, ImageOps

    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened)
    if image.mode == "F":
        raise ValueError("floating point pixels, of which the range is not known")
    if image.mode.startswith("I"):  # Pillow would clip, not scale
        eight = (np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8)
        return Image.fromarray(eight).convert("RGB")
    if "transparency" in image.info:  # Pillow warns of losing it, so it is lost in two steps
        image = image.convert("RGBA")
    return image.convert("RGB")


def cache_folder() -> Path:
    """Where downloads stay: below XDG_CACHE_HOME if that is an absolute path, else below ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "relprop" / "cifar10"


def cifar10_class(origin: str) -> Any:
    """The class that knows the files of CIFAR-10 and their checksums."""
    try:
        from torchvision.datasets import CIFAR10
    except ImportError as error:
        raise InputError(
            f"{origin}: reading or fetching torchvision's CIFAR-10 needs torchvision: pip install 'relprop[vision]'; "
            "or give --data a folder or an archive of class folders"
        ) from error
    return CIFAR10


def local(root: Path, split: str) -> Any:
    """torchvision's CIFAR-10 in a folder of the user; nothing is fetched."""
    cifar10, train = cifar10_class(f"--data {root}"), is_train(split)
    try:
        return cifar10(str(root), train=train)
    except Exception as error:  # unpickling raises anything
        raise InputError(
            f"--data {root}: {BATCHES} is incomplete or corrupt ({first_line(error)}); torchvision wants all of its "
            "files, with their published checksums: fetch it again, or let relprop fetch it by leaving --data out"
        ) from error


def fetched(cache: Path, split: str, download: bool) -> Any:
    """torchvision's CIFAR-10 from the cache folder, fetched into it if it is not there."""
    cifar10, train = cifar10_class("without --data"), is_train(split)
    try:
        return cifar10(str(cache), train=train, download=download)
    except Exception as error:  # no network, a proxy's page, a full disk: each has its own class
        source = (
            f"could not be fetched from {cifar10.url} ({first_line(error)})" if download else "was not to be fetched"
        )
        raise InputError(f"CIFAR-10 is not in '{cache}' and {source}; give --data PATH: {FORMS}") from error


def is_train(split: str) -> bool:
    """CIFAR-10 has two splits only."""
    if split not in ("train", "test"):
        raise InputError(f"split is {split!r}; CIFAR-10 has 'train' and 'test'")
    return split == "train"


def from_cifar10(data: Any, split: str, skip_bad: bool, origin: str) -> ImageSet:
    """Images of torchvision's class; the k-th of its class is named as k in four digits, which is no file."""
    labels = [int(label) for label in data.targets]
    order = interleaved(labels)
    counts = dict.fromkeys(labels, 0)
    names = []
    for label in labels:
        names.append(f"{split}/{data.classes[label]}/{counts[label]:04d}")
        counts[label] += 1
    found = Listing(
        names=tuple(names[i] for i in order),
        labels=tuple(labels[i] for i in order),
        classes=tuple(data.classes),
        paths=(),
    )
    return image_set(found, partial(load_array, data.data[order]), skip_bad, origin)


def load_array(data: Any, i: int) -> Image.Image:
    """One of many arrays (N, H, W, 3), uint8."""
    from PIL import Image

    return Image.fromarray(data[i])


def first_line(error: Exception) -> str:
    """What to quote of an error."""
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:200]
