"""A text as a tokenizer cuts it: tokens with their ids, the spaces between them, and the words they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from .errors import InputError

# How tokenizers without offsets mark a token inside a word (WordPiece), and one that begins with a space
# (SentencePiece, byte-level BPE).
INSIDE, SPACE = "##", ("▁", "Ġ")


@dataclass(frozen=True)
class Piece:
    """A token, or a word of several.

    `token`: as the tokenizer writes it; `text`: as it stands in the text, and `before`: what stands between it and the
    piece before it, mostly a space. `word`: which word it belongs to. `kind`: the token type. `special`: added by the
    tokenizer, [CLS] or <s>. `unknown`: the tokenizer has no token for it, or for a part of it.
    """

    token: str
    id: int
    text: str
    before: str
    word: int
    kind: int = 0
    special: bool = False
    relevance: float = 0.0
    unknown: bool = False

    def with_relevance(self, relevance: float) -> Piece:
        """The same piece with its relevance."""
        return replace(self, relevance=relevance)


def read(tokenizer: Any, text: str) -> list[Piece]:
    """The tokens of a text, special ones included, by any Hugging Face tokenizer, fast or slow."""
    fast = bool(getattr(tokenizer, "is_fast", False))
    wanted = {"return_special_tokens_mask": True, "return_offsets_mapping": fast}
    try:
        encoded = tokenizer(text, **wanted)
    except TypeError as e:
        raise InputError(
            f"the tokenizer, a {type(tokenizer).__name__}, cannot be called as those of transformers can: {e}; "
            "tokenize the text yourself and call relprop.explain"
        ) from e
    ids = list(encoded["input_ids"])
    if not ids:
        raise InputError(f"the tokenizer makes no token of the text {text!r}")
    special = [bool(m) for m in encoded["special_tokens_mask"]]
    tokens = [str(t) for t in tokenizer.convert_ids_to_tokens(ids)]
    kinds = encoded.get("token_type_ids") or [0] * len(ids)
    if fast:
        places = list(_by_offsets(text, tokens, special, encoded["offset_mapping"], encoded.word_ids()))
    else:
        places = list(_by_marks(text, tokens, special))
    nameless = getattr(tokenizer, "unk_token_id", None)
    pieces = [
        Piece(token, int(i), *place, kind=int(k), special=s, unknown=i == nameless and not s)
        for token, i, place, k, s in zip(tokens, ids, places, kinds, special, strict=True)
    ]
    behind, ahead = _nearest(pieces), _nearest(pieces[::-1])[::-1]
    # a token that is nothing but blanks belongs to the word behind it, at the end to the one in front
    own = [p.word for p in pieces]
    nearest = (next(w for w in ws if w >= 0) for ws in zip(ahead, behind, own, strict=True))
    return [replace(p, word=word) for p, word in zip(pieces, nearest, strict=True)]


def _nearest(pieces: Sequence[Piece]) -> list[int]:
    """For each token the word of the last one so far that has letters, -1 if a special token came between."""
    found, word = [], -1
    for p in pieces:
        word = -1 if p.special else p.word if p.text else word
        found.append(word)
    return found


Place = tuple[str, str, int]


def _by_offsets(
    text: str, tokens: Sequence[str], special: Sequence[bool], offsets: Iterable[tuple[int, int]], words: Iterable[Any]
) -> Iterator[Place]:
    """Text, space in front and word of each token, from where it stands in the text.

    Tokens that share a letter (bytes of one) keep it with the first.
    """
    end, last, count, after_special = 0, object(), -1, False
    for token, extra, (start, stop), word in zip(tokens, special, offsets, words, strict=True):
        if extra or word is None or word != last:
            count += 1
        last = object() if extra else word
        if extra and stop == start:
            yield token, " " if count else "", count
            after_special = True
            continue
        own = text[max(start, end) : stop]
        before = text[end:start] + own[: len(own) - len(own.lstrip())]
        end = max(end, stop)
        yield own.lstrip(), before or " " * after_special, count
        after_special = False


def _by_marks(text: str, tokens: Sequence[str], special: Sequence[bool]) -> Iterator[Place]:
    """The same for tokenizers without offsets: tokens are looked for in the text, and their marks tell words apart.

    Without a mark a token is a word, but letters are put together up to the next space.
    """
    marked = any(t.startswith(SPACE) for t in tokens)
    letters = all(len(t) == 1 for t, extra in zip(tokens, special, strict=True) if not extra)
    end, count, after_special, after_space = 0, -1, True, False
    for token, extra in zip(tokens, special, strict=True):
        if extra:
            count, after_special = count + 1, True
            yield token, " " if count else "", count
            continue
        plain = token.lstrip("".join(SPACE)).removeprefix(INSIDE)
        if plain.isspace():
            end, after_space = end + len(plain) * text.startswith(plain, end), True
            yield "", plain, count + 1
            continue
        gap = _gap(text, plain, end)
        if gap is None:  # changed by the tokenizer
            inside = not token.startswith(SPACE) if marked else letters or token.startswith(INSIDE)
            before = "" if inside or after_special else " "
        else:
            before, end = gap, end + len(gap) + len(plain)
            inside = not token.startswith(SPACE) if marked else not gap if letters else token.startswith(INSIDE)
            plain = text[end - len(plain) : end]
        count += after_special or after_space or not inside
        yield plain, before or " " * (after_special and count > 0), count
        after_special = after_space = False


def _gap(text: str, plain: str, end: int) -> str | None:
    """The blanks in front of a token in the rest of the text, None if it does not come next; letters of any case."""
    rest = text[end:]
    gap = rest[: len(rest) - len(rest.lstrip())]
    return gap if rest[len(gap) : len(gap) + len(plain)].lower() == plain.lower() else None


def words_of(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Tokens of one word merged: texts joined, relevance summed."""
    words = []
    for _, group in groupby(pieces, key=lambda p: p.word):
        parts = list(group)
        before, text = "", ""
        for p in parts:
            before, text = (before, text + p.before + p.text) if text else (before + p.before, p.text)
        total, unknown = sum(p.relevance for p in parts), any(p.unknown for p in parts)
        words.append(replace(parts[0], before=before, text=text, relevance=total, unknown=unknown))
    return tuple(words)
