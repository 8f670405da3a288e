"""Words as tokens: a text cut by kinds of characters and looked up in a vocabulary.

`WordTokenizer` is called as the fast tokenizers of transformers are, so that `relprop.explain_text` takes it, and needs
nothing installed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from relprop.errors import InputError

PAD, UNKNOWN = "[PAD]", "[UNK]"
APOSTROPHES = "'\u2019"


def cut(text: str) -> Iterator[tuple[int, int]]:
    """Where each token of a text begins and ends.

    A token is a run of letters, digits and accents, with apostrophes between letters (it's), or any other sign alone.
    Accents belong to the sign in front of them; blanks and characters without a shape (controls) to no token.

    >>> text = "It's well-made, isn't it?"
    >>> [text[start:end] for start, end in cut(text)]
    ["It's", 'well', '-', 'made', ',', "isn't", 'it', '?']
    """
    kinds = [unicodedata.category(c)[0] for c in text]
    for i in range(1, len(text) - 1):
        if text[i] in APOSTROPHES and kinds[i - 1] in "LM" and kinds[i + 1] == "L":
            kinds[i] = "L"
    start, kind = 0, "Z"  # of the token that is being read; Z: none
    for i, now in enumerate(kinds):
        goes_on = kind != "Z" and (now == "M" or (kind == "L" and now in "LN"))
        if goes_on:
            continue
        if kind != "Z":
            yield start, i
        start, kind = i, "L" if now in "LN" else "Z" if now in "ZC" else "P"
    if kind != "Z":
        yield start, len(text)


def folded(word: str) -> str:
    """The form of a word in the vocabulary: lower case, composed accents, straight apostrophes.

    >>> folded("Isn\u2019t")
    "isn't"
    """
    return unicodedata.normalize("NFC", word).lower().replace(APOSTROPHES[1], APOSTROPHES[0])


class Encoded(dict[str, list[Any]]):
    """What a tokenizer makes of a text: lists by name, one entry a token."""

    def word_ids(self) -> list[int]:
        """The word each token belongs to: here every token is a word."""
        return list(range(len(self["input_ids"])))


class WordTokenizer:
    """Texts to numbers of words: 0 is padding, 1 any word that is not in the vocabulary, then the words in order.

    `words`: the vocabulary, as `folded` writes them, no word twice. Raises `InputError`.

    >>> tokenizer = WordTokenizer(["a", "good", "film"])
    >>> tokenizer("A good musical")["input_ids"]
    [2, 3, 1]
    >>> tokenizer.convert_ids_to_tokens([2, 3, 1])
    ['a', 'good', '[UNK]']
    """

    is_fast = True  # it knows where in the text its tokens stand
    model_input_names = ("input_ids", "attention_mask")
    pad_token, unk_token, mask_token = PAD, UNKNOWN, None
    pad_token_id, unk_token_id, mask_token_id = 0, 1, None

    def __init__(self, words: Sequence[str]) -> None:
        self.tokens = (PAD, UNKNOWN, *words)
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens):
            twice = next(t for i, t in enumerate(self.tokens) if self.ids[t] != i)
            raise InputError(f"the vocabulary holds {twice!r} twice; give each word once")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def words(self) -> tuple[str, ...]:
        """The vocabulary without the two tokens that are no words."""
        return self.tokens[2:]

    def __call__(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
    ) -> Encoded:
        """The tokens of one text: `input_ids`, `attention_mask`, and what is asked for.

        There are no special tokens, so `add_special_tokens` changes nothing.
        """
        places = list(cut(text))
        ids = [self.ids.get(folded(text[start:end]), self.unk_token_id) for start, end in places]
        encoded = Encoded(input_ids=ids, attention_mask=[1] * len(ids))
        if return_special_tokens_mask:
            encoded["special_tokens_mask"] = [0] * len(ids)
        if return_offsets_mapping:
            encoded["offset_mapping"] = places
        return encoded

    @overload
    def convert_ids_to_tokens(self, ids: int) -> str: ...
    @overload
    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]: ...
    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> str | list[str]:
        """The token of a number, or those of several."""
        return self.tokens[ids] if isinstance(ids, int) else [self.tokens[i] for i in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The words of these numbers, a blank between them.

        >>> WordTokenizer(["a", "good", "film"]).decode([3, 4])
        'good film'
        """
        return " ".join(self.convert_ids_to_tokens(ids))

    def batch(self, texts: Sequence[str]) -> Tensor:
        """The numbers of the words of several texts, (N, T) int64, padded with 0 on the right.

        Raises `InputError`: no texts, or one without any token.

        >>> WordTokenizer(["a", "good", "film"]).batch(["A good film.", "good"])
        tensor([[2, 3, 4, 1],
                [3, 0, 0, 0]])
        """
        rows = [self(text)["input_ids"] for text in texts]
        if not rows:
            raise InputError("there are no texts; give at least one")
        if not all(rows):
            empty = next(i for i, row in enumerate(rows) if not row)
            raise InputError(f"text {empty} is empty: {texts[empty]!r} holds no word")
        longest = max(map(len, rows))
        return torch.tensor([row + [self.pad_token_id] * (longest - len(row)) for row in rows])
