"""Archives: a damaged one is refused wherever the damage is, and nothing leaves it for the disk."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from image_sets import ORDER, check_small_set, form, packed, pixel, png, refusal, small_set, tar
from relprop.errors import InputError
from relprop.reproduce import images as module
from relprop.reproduce.images import Bad, open_images


def corrupt(path: Path, damage: Callable[[bytearray], bytes | bytearray]) -> Path:
    path.write_bytes(damage(bytearray(path.read_bytes())))
    return path


def scratched(start: int, stop: int) -> Callable[[bytearray], bytearray]:
    def damage(content: bytearray) -> bytearray:
        content[start:stop] = b"\xff" * (stop - start)
        return content

    return damage


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("set.tar.gz", lambda b: b[: len(b) // 2]),
        ("set.tar.gz", lambda b: b[:-4]),
        ("set.tar.gz", lambda b: b[:-8] + bytes(4) + b[-4:]),
        ("set.tar.gz", lambda b: b""),
        ("set.tar.gz", lambda b: b"not an archive"),
        ("set.tar", lambda b: b[:700]),
        ("set.tar", lambda b: b[: 1024 * 3 + 100]),
        ("set.tar", lambda b: b[: 1024 * 3]),
        ("set.tar", scratched(1024, 1100)),
        ("set.tar", scratched(3072, 3100)),
        ("set.zip", lambda b: b[: len(b) // 2]),
        ("set.zip", scratched(60, 90)),
        ("set.zip", lambda b: b"not an archive"),
    ],
    ids=["half", "no length", "checksum", "empty gz", "text gz", "in a file", "in a header", "before a header", "second header", "fourth header", "half zip", "content of zip", "text zip"],
)  # fmt: skip
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_corrupt_archive_is_refused_by_name(name: str, damage: Any, skip_bad: bool, tmp_path: Path) -> None:
    """Wherever it is damaged: what follows a damaged header must not be lost in silence."""
    path = form(name, tmp_path, small_set())
    open_images(path)
    message = refusal(corrupt(path, damage), skip_bad=skip_bad)
    assert str(path) in message
    assert "the archive is corrupt or cannot be read" in message
    assert "fetch or pack it again" in message


def test_bits_flipped_anywhere_in_a_gzip_give_the_same_images_or_a_refusal(tmp_path: Path) -> None:
    path = form("set.tar.gz", tmp_path, small_set())
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 16]) + whole[position + 1 :])
        try:
            images = open_images(path)
        except InputError:
            refused += 1
        else:
            check_small_set(images)
    assert refused > len(whole) // 7 * 0.9  # a few bytes are dates and names of the gzip header


def test_entries_lost_from_the_table_of_a_zip_are_missed(tmp_path: Path) -> None:
    path = packed(tmp_path / "set.zip", {"a/1.png": png(), "a/2.png": png(), "a/3.png": png()})
    content = bytearray(path.read_bytes())
    second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    entry = 46 + len("a/2.png")
    content[second + 32] = entry  # a comment as long as the third entry swallows it
    path.write_bytes(content)
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == ["a/1.png", "a/2.png"]  # or the test would test nothing
    assert "2 of 3 entries found" in refusal(path)


def test_a_zip_may_have_a_comment(tmp_path: Path) -> None:
    path = packed(tmp_path / "set.zip", small_set())
    with zipfile.ZipFile(path, "a") as file:
        file.comment = b"made by hand"
    check_small_set(open_images(path))


def test_a_name_that_is_no_text_is_a_refusal(tmp_path: Path) -> None:
    path = packed(tmp_path / "set.zip", {"a/é.png": png()})
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff"))
    assert "corrupt" in refusal(path)


def test_a_password_is_a_refusal(tmp_path: Path) -> None:
    path = packed(tmp_path / "set.zip", {"a/1.png": png()})
    content = bytearray(path.read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(header) + flags] |= 1  # says "encrypted"
    path.write_bytes(content)
    assert "password" in refusal(path)


def test_an_archive_too_large_for_memory_is_to_be_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"test/a/1.png": png(), "train/a/1.bmp": png(format="BMP") * 20}
    path = form("set.tar.gz", tmp_path, files)
    monkeypatch.setattr(module, "MAX_BYTES", len(files["test/a/1.png"]))
    assert len(open_images(path)) == 1  # the other split does not count
    monkeypatch.setattr(module, "MAX_BYTES", len(files["test/a/1.png"]) - 1)
    assert "unpack it" in refusal(path)


def member(name: str, type: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type, target
    return info


def test_links_and_paths_that_lead_out_of_an_archive_are_no_images(tmp_path: Path) -> None:
    files = small_set() | {"../test/cat/evil.png": png(), "/test/cat/root.png": png(), "test/../x.png": png()}
    links = [
        member("test/dog/link.png", tarfile.SYMTYPE, "/etc/hostname"),
        member("test/eel/hard.png", tarfile.LNKTYPE, "test/eel/z.png"),
    ]
    others = [member("test/cat/pipe.png", tarfile.FIFOTYPE), member("test/cat/tty.png", tarfile.CHRTYPE)]
    (tmp_path / "in").mkdir()
    path = tar(tmp_path / "in" / "set.tar.gz", files, links + others)
    assert "leads out of the archive" in refusal(path)
    images = open_images(path, skip_bad=True)
    assert [b.name for b in images.bad] == ["../test/cat/evil.png", "/test/cat/root.png", "test/../x.png"]
    batch = images.read(0, len(images))
    assert batch.bad == [Bad("test/eel/hard.png", "not an image"), Bad("test/dog/link.png", "not an image")]
    assert sorted(batch.names) == sorted(ORDER)
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "set.tar.gz"]


def test_a_path_that_leads_out_is_no_class(tmp_path: Path) -> None:
    images = open_images(
        tar(tmp_path / "set.tar", {"/1.png": png(), "a/1.png": png(), "../b/1.png": png()}), skip_bad=True
    )
    assert (images.classes, images.names) == (("a",), ("a/1.png",))
    assert [b.name for b in images.bad] == ["../b/1.png", "/1.png"]


def test_of_two_members_of_one_name_the_last_counts(tmp_path: Path) -> None:
    path = tmp_path / "set.tar"
    tar(path, {"a/1.png": png((1, 1, 1)), "./a/1.png": png((2, 2, 2))})
    images = open_images(path)
    assert images.names == ("a/1.png",)
    assert pixel(images.read(0, 1).images[0]) == (2, 2, 2)
