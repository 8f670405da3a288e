"""Word vectors in GloVe's text format: read exactly, or refused with the file and the line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from relprop.errors import WeightsError
from relprop.zoo import read_glove

READ: dict[str, tuple[bytes, list[str], list[list[float]]]] = {
    "plain": (b"the 0.5 -1\nfilm 2 1e-3\n", ["the", "film"], [[0.5, -1.0], [2.0, 0.001]]),
    "no line feed at the end": (b"the 0.5 -1\nfilm 2 1", ["the", "film"], [[0.5, -1.0], [2.0, 1.0]]),
    "lines of Windows": (b"the 0.5 -1\r\nfilm 2 1\r\n", ["the", "film"], [[0.5, -1.0], [2.0, 1.0]]),
    "a byte order mark": (b"\xef\xbb\xbfthe 0.5 -1\n", ["the"], [[0.5, -1.0]]),
    "blanks at the end of lines": (b"the 0.5 -1 \nfilm 2 1  \n", ["the", "film"], [[0.5, -1.0], [2.0, 1.0]]),
    "one number a word": (b"the 0.5\nfilm 2\n", ["the", "film"], [[0.5], [2.0]]),
    "words of numbers": (b"7 0.5 -1\n1.5 2 1\n", ["7", "1.5"], [[0.5, -1.0], [2.0, 1.0]]),
    "words with spaces": (b". . . 0.5 -1\nat a@b.c 2 1\n", [". . .", "at a@b.c"], [[0.5, -1.0], [2.0, 1.0]]),
    "words with other separators": ("a\x85b 1 2\nc\u00a0d 3 4\ne\u2028f 5 6\n".encode(), ["a\x85b", "c\u00a0d", "e\u2028f"], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    "several spaces": (b"a  1 2\nb   3  4\n", ["a", "b"], [[1.0, 2.0], [3.0, 4.0]]),
    "the largest number": (b"the 3.4e38 -3.4e38\n", ["the"], [[3.4e38, -3.4e38]]),
    "letters of all kinds": ("naïve 1 2\n不坏 3 4\n".encode(), ["naïve", "不坏"], [[1.0, 2.0], [3.0, 4.0]]),
}  # fmt: skip


def written(folder: Path, content: bytes) -> Path:
    file = folder / "vectors.txt"
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("case", READ)
def test_words_and_vectors_are_those_of_the_file(tmp_path: Path, case: str) -> None:
    content, words, vectors = READ[case]
    found, matrix = read_glove(written(tmp_path, content))
    assert found == words
    torch.testing.assert_close(matrix, torch.tensor(vectors), rtol=0, atol=0)


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"vectors\.txt': it is empty"),
    "a blank line in front": (b"\nthe 1 2\n", r"vectors\.txt', line 1: it is empty"),
    "a blank line between": (b"the 1 2\n \nfilm 3 4\n", r"vectors\.txt', line 2: it is empty"),
    "a blank line at the end": (b"the 1 2\n\n", r"vectors\.txt', line 2: it is empty"),
    "no numbers": (b"the\nfilm 1 2\n", r"vectors\.txt', line 1: 'the' is not a word followed by numbers"),
    "prose": (b"the film was good\n", r"line 1: 'the film was good' is not a word followed by numbers"),
    "no numbers later": (b"the 1 2\nfilm\n", r"vectors\.txt', line 2: 'film' has 0 numbers.*the first line 2"),
    "too few numbers": (b"the 1 2 3\nfilm 1 2\n", r"line 2: 'film 1 2' has 2 numbers.*the first line 3"),
    "too many numbers": (b"the 1 2\nfilm 1 2\nbad 1 2 3\n", r"line 3: 'bad 1 2 3' has 3 numbers.*the first line 2"),
    "half a line": (b"the 1.5 2.5\nfilm 3.", r"vectors\.txt', line 2: 'film 3\.' has 1 numbers"),
    "no word": (b"the 1 2\n 3 4\n", r"vectors\.txt', line 2: ' 3 4' has no word"),
    "letters for a number": (b"the 1 2\nfilm 1 two\n", r"line 2: 'two' is not a finite number"),
    "letters in the first line": (b"the 1 two 3\n", r"line 1: 'two' is not a finite number"),
    "an underscore": (b"the 1 2\nfilm 1_0 3\n", r"line 2: '1_0' is not a finite number"),
    "not a number": (b"the 1 2\nfilm nan 1\n", r"line 2: 'nan' is not a finite number"),
    "infinity": (b"the 1 2\nfilm 1 -inf\n", r"line 2: '-inf' is not a finite number"),
    "too large for float32": (b"the 1 2\nfilm 1e300 1\n", r"line 2: '1e300' is not a finite number of float32"),
    "too small for float32": (b"the -3.5e38 2\n", r"line 1: '-3\.5e38' is not a finite number of float32"),
    "a broken first line": (b"a 1_0 2\n", r"line 1: '1_0' is not a finite number"),
    "a broken first line, broken further": (b"a 1 -.5x 2\n", r"line 1: '-\.5x' is not a finite number"),
    "twice": (b"the 1 2\nfilm 1 2\nthe 3 4\n", r"line 3: 'the' stands in line 1 already"),
    "the head of word2vec": (b"2 3\nthe 1 2 3\nfilm 1 2 3\n", r"line 1: '2 3' is the head of a word2vec file.*delete"),
    "Latin-1": ("the 1 2\nna\u00efve 3 4\n".encode("latin-1"), r"line 2: not text in UTF-8"),
    "an archive": (b"PK\x03\x04\x14\x00\xff\xfe\x00", r"line 1: not text in UTF-8.*unpack an archive first"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_broken_files_are_refused_by_file_and_line(tmp_path: Path, case: str) -> None:
    content, words = REFUSED[case]
    with pytest.raises(WeightsError, match=words):
        read_glove(written(tmp_path, content))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.txt': there is no such file"):
        read_glove(tmp_path / "none.txt")
    with pytest.raises(WeightsError, match="it is a folder"):
        read_glove(tmp_path)


def test_of_other_words_only_the_form_is_checked(tmp_path: Path) -> None:
    file = written(tmp_path, b"the 1 2\nfilm 3 x\nbad 5 6\n")
    words, vectors = read_glove(file, {"bad", "the", "absent"})
    assert words == ["the", "bad"]
    assert vectors.tolist() == [[1.0, 2.0], [5.0, 6.0]]
    words, vectors = read_glove(file, ["absent"])
    assert words == []
    assert vectors.shape == (0, 2)
    with pytest.raises(WeightsError, match="line 2: 'x' is not a finite number"):
        read_glove(file)
    for content, message in ((b"the 1 2\nfilm 3\n", "line 2"), (b"the 1 2\nfilm 1 2\nfilm 3 4\n", "line 3")):
        with pytest.raises(WeightsError, match=message):
            read_glove(written(tmp_path, content), {"the"})


def test_an_error_shows_no_more_than_the_beginning_of_a_line(tmp_path: Path) -> None:
    file = written(tmp_path, b"the " + b"1 " * 300 + b"\nfilm " + b"1 " * 299 + b"\n")
    with pytest.raises(WeightsError, match=r"has 299 numbers behind a word, the first line 300") as caught:
        read_glove(file)
    assert len(str(caught.value)) < 250 + len(str(file))
