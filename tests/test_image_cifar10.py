"""torchvision's CIFAR-10 as an image set: from a folder, from the cache, fetched; and what is missing is named."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import relprop
from image_sets import folder, pixel, refusal, small_set
from relprop.reproduce import images as module
from relprop.reproduce.images import ImageSet, open_images
from relprop.zoo import cifar10

BATCH_LABELS = [3, 9, 3, 0]
CIFAR_NAMES = ("test/airplane/0000", "test/cat/0000", "test/truck/0000", "test/cat/0001")


def cifar_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files as torchvision reads them, with their own checksums in place of the published; image i has the grey 10 i."""
    from torchvision.datasets import CIFAR10

    batches = root / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    rows = np.stack([np.full(3072, 10 * i, np.uint8) for i in range(4)])
    rows[1, :1024] = 200  # the red plane comes first
    train = {"data": rows[:1], "labels": [6]}
    content = {f"data_batch_{i}": train for i in range(1, 6)} | {"test_batch": {"data": rows, "labels": BATCH_LABELS}}
    content["batches.meta"] = {"label_names": list(cifar10.CLASSES)}
    sums = {}
    for name, value in content.items():
        (batches / name).write_bytes(pickle.dumps(value))
        sums[name] = hashlib.md5((batches / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [[n, sums[n]] for n in content if n.startswith("data")])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums["batches.meta"]})
    return root


def check_cifar(images: ImageSet) -> None:
    batch = images.read(0, 4)
    assert images.names == batch.names == CIFAR_NAMES
    assert images.labels.tolist() == batch.labels.tolist() == [0, 3, 9, 3]
    assert images.classes == cifar10.CLASSES
    assert [pixel(i) for i in batch.images] == [(30, 30, 30), (0, 0, 0), (200, 10, 10), (20, 20, 20)]
    assert batch.images[0].size == (32, 32)


def test_the_root_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")
    root = cifar_root(tmp_path / "root", monkeypatch)
    check_cifar(open_images(root))
    check_cifar(open_images(root / "cifar-10-batches-py"))
    assert open_images(root, split="train").names[0] == "train/frog/0000"
    assert "'train' and 'test'" in refusal(root, split="val")
    (root / "cifar-10-batches-py" / "data_batch_3").unlink()
    assert "cifar-10-batches-py is incomplete or corrupt" in refusal(root)


def test_the_root_of_torchvision_equals_a_folder_of_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")
    original = open_images(cifar_root(tmp_path / "root", monkeypatch))
    for image, name in zip(original.read(0, 4).images, original.names, strict=True):
        path = tmp_path / "copy" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    copy = open_images(tmp_path / "copy")
    assert copy.names == tuple(f"{name}.png" for name in original.names)
    for a, b in zip(original.read(0, 4).images, copy.read(0, 4).images, strict=True):
        assert (np.asarray(a) == np.asarray(b)).all()


def test_without_a_path_cifar10_is_fetched_into_the_cache_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar = pytest.importorskip("torchvision.datasets").CIFAR10
    cifar_root(tmp_path / "there", monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fetched = []

    def download(self: Any) -> None:
        if not self._check_integrity():
            fetched.append(self.root)
            Path(self.root).mkdir(parents=True)
            (tmp_path / "there" / "cifar-10-batches-py").rename(Path(self.root) / "cifar-10-batches-py")

    monkeypatch.setattr(cifar, "download", download)
    check_cifar(open_images(None))
    check_cifar(open_images(None))
    check_cifar(open_images(None, download=False))
    assert fetched == [str(tmp_path / "cache" / "relprop" / "cifar10")]


def test_the_cache_is_where_the_system_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert module.cache_folder() == tmp_path / ".cache" / "relprop" / "cifar10"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert module.cache_folder() == tmp_path / ".cache" / "relprop" / "cifar10"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert module.cache_folder() == tmp_path / "other" / "relprop" / "cifar10"


def test_offline_it_says_what_was_tried_and_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar = pytest.importorskip("torchvision.datasets").CIFAR10
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def offline(self: Any) -> None:
        raise OSError("<urlopen error name resolution failed>")

    monkeypatch.setattr(cifar, "download", offline)
    message = refusal(None)
    for part in (
        str(tmp_path / "relprop" / "cifar10"),
        cifar.url,
        "name resolution failed",
        "--data",
        ".tar.gz",
        "CIFAR-10 root",
    ):
        assert part in message
    assert "was not to be fetched" in refusal(None, download=False)


def test_missing_libraries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    ordinary = folder(tmp_path / "set", small_set())
    with monkeypatch.context() as m:
        m.setitem(sys.modules, "torchvision.datasets", None)
        for path in (None, tmp_path):
            assert "relprop[vision]" in refusal(path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "relprop[cli]" in refusal(ordinary)


def test_importing_it_needs_no_extra() -> None:
    program = "import sys, relprop.reproduce.images; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(relprop.__file__).parent.parent)}
    out = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "relprop.reproduce.images" in out.stdout.split()
    assert not {"PIL", "torchvision"} & set(out.stdout.split())
