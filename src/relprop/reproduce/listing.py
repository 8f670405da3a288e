"""Paths below a root to an ordered, labelled list of images: the split, the classes, the order, what is no image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from relprop.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
SPLITS = {"train", "test", "val", "validation"}
STAND_INS = {"test": ("test", "val", "validation"), "val": ("val", "validation"), "validation": ("validation", "val")}
CLUTTER = {"thumbs.db", "desktop.ini", "__macosx"}  # hidden on the systems that write them
BATCHES = "cifar-10-batches-py"
FORMS = "a folder of class folders, an archive of one (.tar.gz, .tgz, .tar, .zip), or torchvision's CIFAR-10 root"

Parts = tuple[str, ...]


@dataclass(frozen=True)
class Bad:
    """A file that is no readable image, by its name in the set, and why.

    >>> print(Bad("test/frog/0001.jpg", "not an image"))
    test/frog/0001.jpg (not an image)
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


@dataclass(frozen=True)
class Listing:
    """Names and labels of images in order, `paths`: where each of them lies; classes; and files that are no images."""

    names: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    bad: tuple[Bad, ...] = ()


def arranged(paths: Iterable[str], split: str, origin: str) -> Listing:
    """Names, labels and order of the images among paths below a root, whose own order does not matter.

    `paths`: with "/", folders with one at the end. `origin`: what they are of, for messages. Classes are the folders
    directly below the split, or below the root if it has none; images that all lie in no class have the label -1.
    Names are the paths from the split on. Raises `InputError`: no image, no such split.

    >>> arranged(["test/frog/1.jpg", "train/cat/1.jpg", "test/cat/2.jpg", "test/cat/1.jpg"], "test", "a.zip").names
    ('test/cat/1.jpg', 'test/frog/1.jpg', 'test/cat/2.jpg')
    """
    tree = {parts_of(path): path for path in paths}
    leading_out = [Bad(path, "its path leads out of the archive") for parts, path in tree.items() if leads_out(parts)]
    tree = {parts: path for parts, path in tree.items() if parts and not is_hidden(parts) and not leads_out(parts)}
    found, below = within(tree, split, origin)
    check_any(below, tree, origin)
    labelled = any(len(parts) > 1 for parts in below if is_image(parts))
    classes = sorted({parts[0] for parts in below if len(parts) > 1}) if labelled else []
    faults = {parts: reason for parts in below if (reason := fault(parts, labelled))}
    bad = [Bad("/".join((*found, *parts)), reason) for parts, reason in faults.items()]
    images = sorted(("/".join((*found, *parts)), parts) for parts in below if parts[-1] and parts not in faults)
    index = {name: i for i, name in enumerate(classes)}
    labels = [index.get(parts[0], -1) for _, parts in images]
    order = interleaved(labels)
    return Listing(
        names=tuple(images[i][0] for i in order),
        labels=tuple(labels[i] for i in order),
        classes=tuple(classes),
        paths=tuple(below[images[i][1]] for i in order),
        bad=tuple(sorted(leading_out + bad, key=str)),
    )


def interleaved(labels: Sequence[int]) -> list[int]:
    """Indices that put the first of each label first, then the second of each, and so on; labels ascend within a round.

    Each label keeps its own order, so that the first images of a set are as balanced as its classes allow.

    >>> interleaved([0, 0, 0, 1, 2, 2])
    [0, 3, 4, 1, 5, 2]
    """
    seen: Counter[int] = Counter()
    rounds = []
    for label in labels:
        rounds.append(seen[label])
        seen[label] += 1
    return sorted(range(len(labels)), key=lambda i: (rounds[i], labels[i]))


def within(tree: Mapping[Parts, str], split: str, origin: str) -> tuple[Parts, Mapping[Parts, str]]:
    """The split's name, () if there is none, and the paths below it: those that begin with the class folder."""
    while True:
        tops = {parts[0] for parts in tree if len(parts) > 1}
        for name in stand_ins(split):
            chosen = {parts[1:]: path for parts, path in tree.items() if parts[0] == name and len(parts) > 1}
            if any(map(is_image, chosen)):
                return (name,), chosen
        if tops and tops <= SPLITS:
            raise InputError(
                f"{origin}: has {', '.join(sorted(tops))}, but no image in '{split}'; if another one is meant, give "
                "the folder of that name itself (of an archive, after unpacking it)"
            )
        if len(tops) != 1 or any(is_image(parts) for parts in tree if len(parts) <= 2):
            return (), tree
        tree = {parts[1:]: path for parts, path in tree.items() if len(parts) > 1}


def stand_ins(split: str) -> tuple[str, ...]:
    """The folder names that a split may have, the wanted one first.

    >>> stand_ins("test"), stand_ins("train")
    (('test', 'val', 'validation'), ('train',))
    """
    return STAND_INS.get(split, (split,))


def parts_of(path: str) -> Parts:
    """The folders and the file name of a path; a folder's last part is "".

    >>> parts_of("./a/b.jpg"), parts_of("a/")
    (('a', 'b.jpg'), ('a', ''))
    """
    parts = PurePosixPath(path).parts
    return (*parts, "") if parts and path.endswith("/") else parts


def leads_out(parts: Parts) -> bool:
    """Whether the path is not below its root."""
    return ".." in parts or parts[:1] == ("/",)


def is_hidden(parts: Parts) -> bool:
    """Whether its system would not show the file."""
    return any(part.startswith(".") or part.lower() in CLUTTER for part in parts)


def is_image(parts: Parts) -> bool:
    """Whether the name says so.

    >>> is_image(("frog", "1.JPG")), is_image(("frog", "README.txt"))
    (True, False)
    """
    return parts[-1].lower().endswith(IMAGE_SUFFIXES)


def fault(parts: Parts, labelled: bool) -> str:
    """Why a file is no image of a class, "" if it is one, or a folder."""
    if parts[-1] and not is_image(parts):
        return "its name does not end as an image's does"
    return "lies beside the class folders, in none of them" if parts[-1] and labelled and len(parts) == 1 else ""


def check_any(below: Iterable[Parts], tree: Iterable[Parts], origin: str) -> None:
    """Raises `InputError` if there is no image, with a special remedy for CIFAR-10 as it is downloaded."""
    if any(map(is_image, below)):
        return
    if any(part == BATCHES or part.startswith("cifar-10-python.tar") for parts in tree for part in parts):
        raise InputError(f"{origin}: CIFAR-10 is still packed; unpack it and give the folder that then holds {BATCHES}")
    raise InputError(f"{origin}: holds no image ({' '.join(IMAGE_SUFFIXES)}); give {FORMS}")
