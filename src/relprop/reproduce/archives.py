"""Members of .tar, .tar.gz and .zip files, read into memory; nothing is ever extracted to disk."""

from __future__ import annotations

import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
# a damaged archive, one with a password, or one packed in a way that Python does not know
CORRUPT = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, UnicodeError)


@dataclass(frozen=True)
class Archive:
    """An open archive: the size of every member by its path, folders with "/" at the end, and how to get their bytes.

    Links are members without bytes. Other members that are neither files nor folders are left out.
    """

    sizes: Mapping[str, int]
    read: Callable[[Iterable[str]], dict[str, bytes]]


def opened(path: Path) -> AbstractContextManager[Archive]:
    """The archive, by its suffix. Opening it and reading from it raise one of `CORRUPT`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with zipfile.ZipFile(f"{folder}/a.zip", "w") as file:
    ...         file.writestr("frog/1.jpg", b"12345")
    ...     with opened(Path(folder, "a.zip")) as archive:
    ...         print(archive.sizes, archive.read(["frog/1.jpg"]))
    {'frog/1.jpg': 5} {'frog/1.jpg': b'12345'}
    """
    return opened_zip(path) if path.name.lower().endswith(".zip") else opened_tar(path)


class Header(tarfile.TarInfo):
    """Refuses a damaged header, which tarfile would take for the end of the archive, losing what follows in silence."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # the zeros that end an archive
                raise
            raise tarfile.ReadError(str(error)) from error


@contextmanager
def opened_tar(path: Path) -> Iterator[Archive]:
    """Listed and checked to its end, then read once in its own order. Of two members of one path, the last counts."""
    with tarfile.open(path, tarinfo=Header) as tar:
        members = {m.name + "/" * m.isdir(): m for m in tar if m.isreg() or m.isdir() or m.islnk() or m.issym()}
        assert tar.fileobj is not None
        while tar.fileobj.read(2**20):  # up to the checksum of gzip
            pass

        def content(member: tarfile.TarInfo) -> bytes:
            file = tar.extractfile(member) if member.isreg() else None
            return file.read() if file else b""

        def read(paths: Iterable[str]) -> dict[str, bytes]:
            return {path: content(members[path]) for path in sorted(paths, key=lambda path: members[path].offset)}

        yield Archive({name: member.size for name, member in members.items()}, read)


@contextmanager
def opened_zip(path: Path) -> Iterator[Archive]:
    """As its table of contents lists them. A link's bytes are the path that it names: no image either."""
    with zipfile.ZipFile(path) as file:
        check_count(path, file)
        sizes = {info.filename: info.file_size for info in file.infolist()}
        yield Archive(sizes, lambda paths: {path: file.read(path) for path in paths})


def check_count(path: Path, file: zipfile.ZipFile) -> None:
    """The table of contents has as many entries as its end says, modulo 2^16, which zipfile does not look at."""
    with path.open("rb") as raw:
        raw.seek(-22 - len(file.comment), os.SEEK_END)
        end = raw.read(12)
    said, found = int.from_bytes(end[10:12], "little"), len(file.infolist())
    if end[:4] == b"PK\5\6" and said not in (found % 2**16, 2**16 - 1):  # the last says that zip64 knows
        raise zipfile.BadZipFile(f"{found} of {said} entries found")
