"""Image sets: every form gives the same images in the same order; what is no image is named, never lost."""

from __future__ import annotations

import io
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from image_sets import COLOURS, FORMS, ORDER, check_small_set, folder, form, packed, pixel, png, refusal, small_set, tar
from relprop.errors import InputError
from relprop.reproduce.images import Bad, interleaved, open_images
from relprop.zoo import cifar10


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_images(name: str, tmp_path: Path) -> None:
    check_small_set(open_images(form(name, tmp_path, small_set())))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("change", [lambda n: f"./{n}", lambda n: f"cifar/{n}", lambda n: f"a/b/{n}"])
def test_leading_folders_are_looked_through(name: str, change: Callable[[str], str], tmp_path: Path) -> None:
    check_small_set(open_images(form(name, tmp_path, {change(n): c for n, c in small_set().items()})))


@pytest.mark.parametrize("name", ["set.tar.gz", "set.zip"])
def test_the_order_of_members_does_not_matter(name: str, tmp_path: Path) -> None:
    for seed in range(5):
        shuffled = list(small_set().items())
        random.Random(seed).shuffle(shuffled)
        (tmp_path / str(seed)).mkdir()
        check_small_set(open_images(form(name, tmp_path / str(seed), dict(shuffled))))


def test_the_order_of_the_file_system_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "set", small_set())
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: sorted(scandir(path), key=lambda e: e.name, reverse=True))
    check_small_set(open_images(str(root)))


def test_interleaved_takes_turns() -> None:
    # labels 2 2 0 1 2 0: first of 0, 1, 2 are at 2, 3, 0; second of 0, 2 at 5, 1; third of 2 at 4
    assert interleaved([2, 2, 0, 1, 2, 0]) == [2, 3, 0, 5, 1, 4]
    assert interleaved([]) == []
    assert interleaved([-1, -1]) == [0, 1]


def test_the_classes_of_cifar10_are_those_of_the_embedded_network(tmp_path: Path) -> None:
    names = ["truck", "ship", "horse", "frog", "dog", "deer", "cat", "bird", "automobile", "airplane"]
    images = open_images(folder(tmp_path, {f"test/{n}/0001.jpg": png(format="JPEG") for n in names}))
    assert images.classes == cifar10.CLASSES
    assert [n.split("/")[1] for n in images.names] == list(cifar10.CLASSES)
    assert images.labels.tolist() == list(range(10))


@pytest.mark.parametrize("name", ["folder", "set.tar"])
def test_a_set_without_splits(name: str, tmp_path: Path) -> None:
    images = open_images(form(name, tmp_path, {"b/1.png": png(), "a/x/2.png": png(), "a/1.png": png()}))
    assert images.names == ("a/1.png", "b/1.png", "a/x/2.png")
    assert (images.labels.tolist(), images.classes) == ([0, 1, 0], ("a", "b"))


@pytest.mark.parametrize("name", ["folder", "set.tar"])
@pytest.mark.parametrize("stand_in", ["val", "validation"])
def test_validation_images_stand_in_for_test_images(name: str, stand_in: str, tmp_path: Path) -> None:
    files = {f"{stand_in}/a/1.png": png((9, 0, 0)), "train/a/2.png": png()}
    images = open_images(form(name, tmp_path, files))
    assert images.names == (f"{stand_in}/a/1.png",)
    assert pixel(images.read(0, 1).images[0]) == (9, 0, 0)


@pytest.mark.parametrize("name", ["folder", "set.tar"])
def test_test_images_come_before_validation_images(name: str, tmp_path: Path) -> None:
    files = {f"{split}/a/1.png": png() for split in ("train", "val", "test")}
    root = form(name, tmp_path, files)
    assert open_images(root).names == ("test/a/1.png",)
    assert open_images(root, split="train").names == ("train/a/1.png",)
    assert open_images(root, split="val").names == ("val/a/1.png",)


@pytest.mark.parametrize("name", ["folder", "set.tar"])
def test_an_empty_test_folder_is_no_split(name: str, tmp_path: Path) -> None:
    files = {"test/.keep": b"", "test/a/.hidden.png": b"", "val/a/1.png": png()}
    assert open_images(form(name, tmp_path, files)).names == ("val/a/1.png",)


@pytest.mark.parametrize("name", ["folder", "set.zip"])
def test_training_images_are_never_taken_for_test_images(name: str, tmp_path: Path) -> None:
    root = form(name, tmp_path, {"train/a/1.png": png(), "train/b/1.png": png()})
    assert "has train, but no image in 'test'" in refusal(root)
    if name == "folder":
        assert open_images(root / "train").names == ("a/1.png", "b/1.png")


def test_a_class_may_have_the_name_of_a_split(tmp_path: Path) -> None:
    images = open_images(folder(tmp_path, {"bus/1.png": png(), "train/1.png": png()}))
    assert (images.classes, images.names) == (("bus", "train"), ("bus/1.png", "train/1.png"))


@pytest.mark.parametrize("name", ["folder", "set.zip"])
def test_images_in_no_class_have_no_label(name: str, tmp_path: Path) -> None:
    images = open_images(form(name, tmp_path, {"test/2.png": png(), "test/1.png": png()}))
    assert (images.names, images.labels.tolist(), images.classes) == (("test/1.png", "test/2.png"), [-1, -1], ())


def test_an_empty_class_folder_keeps_its_index(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", {"a/1.png": png(), "c/1.png": png()})
    (root / "b").mkdir()
    directory = tarfile.TarInfo("b")
    directory.type = tarfile.DIRTYPE
    archive = tar(tmp_path / "set.tar", {"a/1.png": png(), "c/1.png": png()}, [directory])
    for path in (root, archive):
        images = open_images(path)
        assert (images.classes, images.labels.tolist()) == (("a", "b", "c"), [0, 2])


def test_a_slice_is_read_as_python_slices(tmp_path: Path) -> None:
    images = open_images(folder(tmp_path, small_set()))
    assert list(images.read(2, 4).names) == ORDER[2:4]
    assert list(images.read(4, 100).names) == ORDER[4:]
    empty = images.read(6, 8)
    assert (empty.images, empty.names, empty.labels.tolist(), empty.labels.dtype) == ([], (), [], torch.int64)


@pytest.mark.parametrize("name", ["set.tar.gz", "set.zip"])
def test_an_archive_is_not_opened_again_for_its_images(name: str, tmp_path: Path) -> None:
    path = form(name, tmp_path, small_set())
    images = open_images(path)
    path.unlink()
    check_small_set(images)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FORMS[:5])
def test_hidden_files_are_ignored(name: str, tmp_path: Path) -> None:
    hidden = [
        ".DS_Store",
        "test/.DS_Store",
        "test/cat/.a.png",
        "test/.git/x.png",
        "test/dog/Thumbs.db",
        "test/cat/desktop.ini",
        "__MACOSX/test/cat/._a.png",
    ]
    check_small_set(open_images(form(name, tmp_path, small_set() | dict.fromkeys(hidden, b"x"))))


@pytest.mark.parametrize("name", FORMS[:5])
def test_another_file_is_named_or_left_out_and_listed(name: str, tmp_path: Path) -> None:
    files = small_set() | {
        "test/README.txt": b"x",
        "test/cat/list.csv": b"x",
        "test/stray.png": png(),
        "train/README.txt": b"x",
    }
    path = form(name, tmp_path, files)
    message = refusal(path)
    assert "test/README.txt" in message
    assert "and 2 more" in message
    assert "--skip-bad" in message
    images = open_images(path, skip_bad=True)
    suffix = "its name does not end as an image's does"
    assert images.bad == (
        Bad("test/README.txt", suffix), Bad("test/cat/list.csv", suffix),
        Bad("test/stray.png", "lies beside the class folders, in none of them"),
    )  # fmt: skip
    assert list(images.names) == ORDER
    assert images.read(0, 9).bad == []


@pytest.mark.parametrize("name", FORMS[:5])
def test_an_unreadable_image_is_named_or_left_out_and_listed(name: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="JPEG")
    damaged = {
        "test/cat/a.png": b"text",
        "test/dog/0002.jpg": buffer.getvalue()[:2000],
        "test/eel/e.png": b"",
        "test/eel/h.png": png()[:-30],
    }
    files = {n: c for n, c in small_set().items() if n not in ("test/dog/0002.png",)} | damaged
    path = form(name, tmp_path, files)
    images = open_images(path)
    # cat/a dog/0002 eel/e | cat/b dog/0010 eel/h | cat/c eel/z
    with pytest.raises(InputError, match=r"cannot read test/cat/a\.png \(not an image\).*--skip-bad"):
        images.read(0, 8)
    with pytest.raises(InputError, match=r"cannot read test/dog/0002\.jpg \(.*truncated.*--skip-bad"):
        images.read(1, 5)
    assert images.read(3, 5).names == ("test/cat/b.png", "test/dog/0010.png")  # the others are none the worse
    batch = open_images(path, skip_bad=True).read(0, 8)
    assert batch.names == ("test/cat/b.png", "test/dog/0010.png", "test/cat/deep/er/c.png", "test/eel/z.png")
    assert batch.labels.tolist() == [0, 1, 0, 2]
    assert [pixel(i) for i in batch.images] == [COLOURS[n] for n in batch.names]
    assert [b.name for b in batch.bad] == ["test/cat/a.png", "test/dog/0002.jpg", "test/eel/e.png", "test/eel/h.png"]
    assert all(b.reason and "0x" not in b.reason for b in batch.bad)


def test_a_set_of_bad_images_alone_reads_as_nothing(tmp_path: Path) -> None:
    batch = open_images(folder(tmp_path, {"a/1.png": b"", "b/1.png": b""}), skip_bad=True).read(0, 2)
    assert (batch.images, batch.names, batch.labels.shape, len(batch.bad)) == ([], (), (0,), 2)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (png((77,), "L"), (77, 77, 77)),
        (png((1,), "1"), (255, 255, 255)),
        (png((10, 20, 30, 40), "RGBA"), (10, 20, 30)),
        (png((50, 128), "LA"), (50, 50, 50)),
        (png((0, 255, 255, 0), "CMYK", "TIFF"), (255, 0, 0)),
        (png((128 * 257,), "I;16"), (128, 128, 128)),
        (png((3, 3, 3), transparency=(3, 3, 3)), (3, 3, 3)),
    ],
    ids=["L", "1", "RGBA", "LA", "CMYK", "16 bits", "RGB with a transparent colour"],
)
def test_every_mode_becomes_rgb(content: bytes, expected: tuple[int, int, int], tmp_path: Path) -> None:
    suffix = "tif" if content[:2] in (b"II", b"MM") else "png"
    for name in ("folder", "set.zip"):
        (tmp_path / name[:3]).mkdir()
        batch = open_images(form(name, tmp_path / name[:3], {f"a/1.{suffix}": content})).read(0, 1)
        assert pixel(batch.images[0]) == expected


def test_a_palette_with_transparency_becomes_rgb(tmp_path: Path) -> None:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 11, 22, 33])
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / "1.png", transparency=bytes([0, 128]))
    assert pixel(open_images(tmp_path).read(0, 1).images[0]) == (11, 22, 33)


def test_an_image_is_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (6, 4))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the first row is the right side
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / "1.png", exif=exif)
    upright = open_images(tmp_path).read(0, 1).images[0]
    assert upright.size == (4, 6)
    assert upright.getpixel((3, 0)) == (255, 255, 255)
    assert upright.getpixel((0, 0)) == (0, 0, 0)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a/1\.tif \(floating point"):
        open_images(folder(tmp_path, {"a/1.tif": png((0.5,), "F", "TIFF")})).read(0, 1)


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    assert "there is no such folder or file" in refusal(tmp_path / "absent")
    photo = tmp_path / "photo.png"
    photo.write_bytes(png())
    assert "neither a folder nor an archive" in refusal(photo)
    assert "holds no image" in refusal(folder(tmp_path / "empty", {"a/.keep": b""}))
    assert "holds no image" in refusal(folder(tmp_path / "texts", {"a/1.txt": b"", "b/c/1.txt": b""}), skip_bad=True)
    assert "holds no image" in refusal(tar(tmp_path / "empty.tar", {}))
    assert "holds no image" in refusal(packed(tmp_path / "empty.zip", {}))
    for message in (refusal(tmp_path / "absent"), refusal(photo), refusal(tmp_path / "empty")):
        assert "--data" in message
        assert "give a folder of class folders" in message


def test_cifar10_as_it_is_downloaded_is_to_be_unpacked(tmp_path: Path) -> None:
    archive = tar(tmp_path / "cifar-10-python.tar.gz", {"cifar-10-batches-py/test_batch": b"x"})
    assert "unpack it and give the folder that then holds cifar-10-batches-py" in refusal(archive)
    assert "unpack it and give the folder that then holds cifar-10-batches-py" in refusal(tmp_path)


def test_links_in_a_folder_are_followed_but_not_round(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", {"a/1.png": png()})
    (root / "b").symlink_to(folder(tmp_path / "elsewhere", {"1.png": png((8, 8, 8))}))
    (root / "a" / "round").symlink_to(root)
    (root / "a" / "broken.png").symlink_to(tmp_path / "absent")
    os.mkfifo(root / "a" / "pipe.png")
    images = open_images(root, skip_bad=True)
    assert images.names == ("a/1.png", "b/1.png", "a/broken.png", "a/pipe.png")
    batch = images.read(0, 9)
    assert [pixel(i) for i in batch.images] == [(5, 5, 5), (8, 8, 8)]
    assert [b.name for b in batch.bad] == ["a/broken.png", "a/pipe.png"]
