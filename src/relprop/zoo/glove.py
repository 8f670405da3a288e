"""Word vectors in GloVe's text format: a word and its numbers a line, separated by spaces."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

import torch
from torch import Tensor

from relprop.errors import WeightsError

# what begins as a number does; in a first line, a part that does and is none is taken for a broken number, not a word
BROKEN = re.compile(r"[+-]?\.?[0-9]")


def read_glove(path: str | Path, words: Collection[str] | None = None) -> tuple[list[str], Tensor]:
    """The words of a file and their vectors: a list of V words, and (V, d) float32.

    `path`: a text file in UTF-8, as glove.6B.50d.txt (Pennington, Socher and Manning 2014). The first line tells d; a
    word may contain spaces, as some of glove.840B do; several in a row count as one. `words`: keep these alone; of the
    others, the line's form is checked and its numbers are not read, which is faster. Words stay in the file's order.

    Raises `WeightsError`, naming file and line: a missing or empty file, a line that is empty or not UTF-8, a line
    without numbers or with another count of them, a number that is none, not finite or too large for float32, a word
    that stands there twice.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "glove.txt").write_text("the 0.5 -1\\nfilm 2 0.25\\n")
    ...     read_glove(f"{folder}/glove.txt")
    (['the', 'film'], tensor([[ 0.5000, -1.0000],
            [ 2.0000,  0.2500]]))
    """
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"GloVe file '{file}': {'it is a folder' if file.is_dir() else 'there is no such file'}")
    wanted = None if words is None else frozenset(words)
    found: dict[str, list[float]] = {}
    seen: dict[str, int] = {}
    width = 0
    for number, line in lines(file):
        where = f"GloVe file '{file}', line {number}"
        if not line.strip():
            raise WeightsError(f"{where}: it is empty; delete it")
        width = width or width_of(line, where)
        word, parts = divided(line, width, where)
        if word in seen:
            raise WeightsError(f"{where}: {word!r} stands in line {seen[word]} already; leave one of the two")
        seen[word] = number
        if wanted is None or word in wanted:
            found[word] = [read_number(part, where) for part in parts]
    if not seen:
        raise WeightsError(f"GloVe file '{file}': it is empty; give a file with a word and its numbers a line")
    return list(found), torch.tensor(list(found.values()), dtype=torch.float32).reshape(len(found), width)


def lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines with their numbers, from 1; they end at a line feed alone, for words may hold other separators."""
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise WeightsError(
                    f"GloVe file '{file}', line {number}: not text in UTF-8 ({error.reason}); unpack an archive first"
                ) from None
            yield number, line.removesuffix("\n").removesuffix("\r")


def width_of(line: str, where: str) -> int:
    """How many numbers follow the word in the first line."""
    parts = re.sub(" +", " ", line.rstrip(" ")).split(" ")
    count = len(parts) - 1
    while count and not is_number(parts[-count]):
        count -= 1  # of the word, which contains spaces
    broken = next((part for part in parts[1 : len(parts) - count] if BROKEN.match(part) and not is_number(part)), None)
    if count and broken is not None:
        raise WeightsError(f"{where}: {broken!r} is not a finite number")
    if count == 1 and is_number(parts[0]) and len(parts) == 2:
        raise WeightsError(
            f"{where}: {line!r} is the head of a word2vec file, not a word with its numbers; delete this line"
        )
    if not count:
        raise WeightsError(f"{where}: {shortened(line)} is not a word followed by numbers")
    return count


def divided(line: str, width: int, where: str) -> tuple[str, list[str]]:
    """The word of a line and its numbers as they are written."""
    word, *parts = re.sub("  +", " ", line.rstrip(" ")).rsplit(" ", width)
    if not word.strip(" "):
        raise WeightsError(f"{where}: {shortened(line)} has no word in front of its numbers; delete the line")
    rest = word.split(" ")[1:]
    if len(parts) < width or (rest and all(map(is_number, rest))):
        count = sum(map(is_number, line.split(" ")[1:]))
        raise WeightsError(
            f"{where}: {shortened(line)} has {count} numbers behind a word, the first line {width}; is the file whole?"
        )
    return word, parts


def read_number(part: str, where: str) -> float:
    """A finite number that float32 holds."""
    if not is_number(part) or not abs(value := float(part)) <= torch.finfo(torch.float32).max:
        raise WeightsError(f"{where}: {part!r} is not a finite number of float32")
    return value


def is_number(part: str) -> bool:
    """Whether it is written as a number, NaN and infinity included.

    >>> [is_number(part) for part in ("-1.5e-3", "nan", "1_0", "film", "")]
    [True, True, False, False, False]
    """
    try:
        float(part)
    except ValueError:
        return False
    return "_" not in part


def shortened(line: str) -> str:
    """The beginning of a line, in quotes."""
    return repr(line if len(line) <= 40 else line[:37] + "...")
