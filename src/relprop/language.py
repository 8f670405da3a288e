"""Texts: from a Hugging Face tokenizer and a sentence to the relevance of its tokens and words.

>>> e = explain_text(model, tokenizer, "The movie was not bad")                       # doctest: +SKIP
>>> print(e)                                                                          # doctest: +SKIP
>>> explain_text(model, tokenizer, "The Colosseum is in", contrast=(" Rome", " Paris"))  # doctest: +SKIP
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .api import Explainer
from .composites import Composite
from .errors import InputError, TargetError
from .explanation import Explanation
from .pieces import Piece, read, words_of
from .program import Ledger
from .targets import Contrast, Target, Token, words


@dataclass(frozen=True)
class Sentence:
    """One text explained.

    `pieces`: its tokens with their relevance; `words`: those merged, relevance summed; `title`: what was asked.
    `score`: what is explained; `others`: Σ relevance of further token inputs, such as token types, by name.
    """

    text: str
    pieces: tuple[Piece, ...]
    title: str
    score: float
    others: dict[str, float]

    @property
    def tokens(self) -> list[str]:
        """The tokens, as the tokenizer writes them."""
        return [p.token for p in self.pieces]

    @property
    def relevance(self) -> Tensor:
        """One number a token."""
        return torch.tensor([p.relevance for p in self.pieces], dtype=torch.float64)

    @property
    def words(self) -> list[tuple[str, float]]:
        """The words with the sum of their tokens' relevance; special tokens are words of their own."""
        return [(w.text, w.relevance) for w in words_of(self.pieces)]

    @property
    def unknown(self) -> list[str]:
        """The words that the tokenizer does not know, each once: all the same to the model."""
        return list(dict.fromkeys(w.text for w in words_of(self.pieces) if w.unknown))

    @property
    def heading(self) -> str:
        """What was asked, and the unknown words, as it stands over the text."""
        listed = ", ".join(self.unknown[:8]) + (f" and {len(self.unknown) - 8} more" if len(self.unknown) > 8 else "")
        return f"{self.title}   (unknown words: {listed})" if listed else self.title


@dataclass(frozen=True, repr=False)
class TextExplanation:
    """The relevance of texts: `explanation` as of `relprop.explain`, `sentences` token by token; prints as a table.

    `e.tokens`, `e.relevance`, `e.words`, `e.score`: of the text, where there is one; of several, ask `e[i]`.
    """

    sentences: tuple[Sentence, ...]
    explanation: Explanation

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, i: int) -> Sentence:
        return self.sentences[i]

    @property
    def _one(self) -> Sentence:
        if len(self) > 1:
            raise InputError(f"there are {len(self)} texts; ask one of them, e[0] to e[{len(self) - 1}]")
        return self.sentences[0]

    @property
    def tokens(self) -> list[str]:
        """The tokens of the text."""
        return self._one.tokens

    @property
    def relevance(self) -> Tensor:
        """The relevance of its tokens."""
        return self._one.relevance

    @property
    def words(self) -> list[tuple[str, float]]:
        """Its words with their relevance."""
        return self._one.words

    @property
    def score(self) -> float:
        """The score that is explained."""
        return self._one.score

    @property
    def accounts(self) -> Ledger:
        """The ledger, if it was asked for."""
        if not isinstance(self.explanation.ledger, Ledger):
            raise InputError("no ledger was kept; ask for it with explain_text(..., ledger=True)")
        return self.explanation.ledger

    def html(self, *, by: str = "word", **options: Any) -> str:
        """The texts in colours as HTML that needs nothing else; `by`: "word" or "token"; `limit`, `palette`."""
        from . import show

        return show.html(self.passages(by), **options)

    def save(self, path: str, *, by: str = "word", **options: Any) -> None:
        """Write .html, .txt, or a picture, .png, .svg, .pdf; options as for `html` (needs `relprop[show]`)."""
        from . import show

        show.save_text(path, self.passages(by), **options)

    def passages(self, by: str = "word") -> list[Any]:
        """The texts as `relprop.show.Passage`s."""
        from . import show

        if by not in ("word", "token"):
            raise InputError(f"by={by!r}: give 'word' or 'token'")
        made = []
        for s in self.sentences:
            pieces = words_of(s.pieces) if by == "word" else s.pieces
            shown = tuple(show.Piece(p.text or p.token, p.relevance, p.before, p.special) for p in pieces)
            made.append(show.Passage(shown, s.heading, s.score, s.others))
        return made

    def _repr_html_(self) -> str:
        return self.html()

    def __str__(self) -> str:
        from . import show

        return show.lines(self.passages())

    __repr__ = __str__


def explain_text(
    model: nn.Module,
    tokenizer: Any,
    text: str | Sequence[str],
    target: Target | str = None,
    composite: str | Composite = "auto",
    *,
    contrast: tuple[Any, Any] | None = None,
    ledger: bool = False,
    record: tuple[str, ...] | list[str] = (),
    **rule_options: Any,
) -> TextExplanation:
    """Relevance of every token of a text for what a model with a tokenizer of Hugging Face's kind makes of it.

    `text`: a sentence, or several (padded on the right, which changes nothing for any of them). `target`: None is the
    predicted class of a classifier, or the most likely next token of a causal model (the token at the mask for a
    masked one); a str is a class's name, or a token; or any target of `relprop.explain`. `contrast=(a, b)`: why a
    rather than b, in place of `target`. The other arguments are those of `relprop.explain`.

    Raises `relprop.errors`: as `explain`; InputError for an empty text or what is no text, TargetError for an unknown
    class or token.
    """
    if isinstance(text, bytes) or not isinstance(text, (str, Iterable)):
        raise InputError(f"text is a {type(text).__name__}; give a sentence, or a list of them")
    texts = [text] if isinstance(text, str) else list(text)
    if not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise InputError("text is empty; give a sentence, or a list of them")
    if contrast is not None and target is not None:
        raise TargetError("target and contrast exclude each other; give one")
    encoded = [read(tokenizer, t) for t in texts]
    inputs = model_inputs(model, tokenizer, encoded)
    explainer = Explainer(model, inputs, composite, **rule_options)
    scores = explainer._any.explained.meta["val"]
    asked = Question(model, tokenizer, scores.shape, [[p.id for p in pieces] for pieces in encoded])
    chosen = asked.target(target) if contrast is None else Contrast(*(asked.target(t, named=True) for t in contrast))
    e = explainer(inputs, chosen, ledger=ledger, record=record)
    sentences = []
    for i, (t, pieces) in enumerate(zip(texts, encoded, strict=True)):
        found = {k: r[i].double() for k, r in e.relevance.items() if r is not None}
        own = found.pop("input_ids")
        valued = tuple(p.with_relevance(float(r)) for p, r in zip(pieces, own[: len(pieces)], strict=True))
        others = {k: float(r.sum()) for k, r in found.items()}
        sentences.append(Sentence(t, valued, asked.title(e.target, i), float(e.score[i]), others))
    return TextExplanation(tuple(sentences), e)


def model_inputs(model: nn.Module, tokenizer: Any, encoded: Sequence[Sequence[Piece]]) -> dict[str, Tensor]:
    """The arguments of the model's forward: tokens padded on the right, a mask if something is padded."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    taken = inspect.signature(model.forward).parameters
    config = getattr(model, "config", None)
    padding = next((i for i in (tokenizer.pad_token_id, getattr(config, "pad_token_id", None)) if i is not None), 0)
    longest = max(len(pieces) for pieces in encoded)

    def padded(rows: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([row + [fill] * (longest - len(row)) for row in rows], device=device)

    inputs = {"input_ids": padded([[p.id for p in pieces] for pieces in encoded], padding)}
    if "token_type_ids" in taken and "token_type_ids" in tokenizer.model_input_names:
        inputs["token_type_ids"] = padded([[p.kind for p in pieces] for pieces in encoded], 0)
    needed = "attention_mask" in taken and taken["attention_mask"].default is inspect.Parameter.empty
    padding_needed = any(len(pieces) < longest for pieces in encoded)
    free = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    if padding_needed and "attention_mask" not in taken and not free:
        raise InputError(
            f"{type(model).__name__} takes no attention_mask, so that the shorter of several texts cannot be padded; "
            "explain the texts one at a time"
        )
    if needed or padding_needed:
        inputs["attention_mask"] = padded([[1] * len(pieces) for pieces in encoded], 0)
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in taken:
        start = getattr(config, "decoder_start_token_id", None)
        if start is None:
            raise InputError(f"{type(model).__name__}: config.decoder_start_token_id is not set; set it as in training")
        inputs["decoder_input_ids"] = torch.full((len(encoded), 1), start, device=device)
    return inputs


class Question:
    """What a text's target means to a model: a class of a classifier, or a token at a position."""

    def __init__(self, model: nn.Module, tokenizer: Any, shape: Sequence[int], ids: Sequence[Sequence[int]]) -> None:
        self.model, self.tokenizer, self.ids = model, tokenizer, ids
        self.kind, self.config = type(model).__name__, getattr(model, "config", None)
        self.classes: dict[int, str] = {int(k): v for k, v in (getattr(self.config, "id2label", None) or {}).items()}
        self.tokens = len(shape) == 3
        self.width = int(shape[-1])

    def target(self, target: Any, *, named: bool = False) -> Target:
        """A target of `relprop.explain`. `named`: None is not allowed."""
        if isinstance(target, list):
            raise TargetError("a text is explained for one target at a time; for several call relprop.explain")
        if named and target is None:
            raise TargetError("contrast is a pair (a, b) of targets, such as two tokens or two classes")
        if not self.tokens:
            chosen: Target = self._class(target) if isinstance(target, str) else target
        elif target is None or isinstance(target, (str, int)):
            chosen = Token(self._position(), self._token(target) if isinstance(target, str) else target)
        else:
            chosen = target
        return chosen

    def _position(self) -> Tensor:
        """Where a model that scores tokens answers: at the mask, at the decoder's start, or at the end of the text."""
        if self.width < len(self.tokenizer):
            raise TargetError(
                f"{self.kind} gives {self.width} scores for every token, not a next token; say which with "
                "target=relprop.targets.Token(position, id)"
            )
        mask = getattr(self.tokenizer, "mask_token_id", None)
        if mask is not None and any(mask in row for row in self.ids):
            if any(row.count(mask) != 1 for row in self.ids):
                raise TargetError(
                    f"each text needs one {self.tokenizer.mask_token}; say which with "
                    "target=relprop.targets.Token(position, id)"
                )
            return torch.tensor([row.index(mask) for row in self.ids])
        if getattr(self.config, "is_encoder_decoder", False):
            return torch.zeros(len(self.ids), dtype=torch.long)
        return torch.tensor([len(row) - 1 for row in self.ids])

    def _token(self, word: str) -> int:
        """The id of a word that is one token."""
        ids = self.tokenizer(word, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            names = self.tokenizer.convert_ids_to_tokens(ids)
            parts = ", ".join(f"{t!r} ({i})" for t, i in zip(names, ids, strict=True))
            raise TargetError(
                f"target {word!r} is {len(ids)} tokens{f': {parts}' if parts else ''}; explain one token, such as the "
                "first of them by its id, or the word with its space in front, ' word'"
            )
        if ids[0] == self.tokenizer.unk_token_id and word != self.tokenizer.unk_token:
            raise TargetError(f"target {word!r}: the tokenizer does not know this word; give one of its vocabulary")
        return int(ids[0])

    def _class(self, label: str) -> int:
        """The index of a class by its name."""
        hits = [k for k, name in self.classes.items() if name.lower() == label.lower()]
        if len(hits) != 1:
            known = ", ".join(self.classes.values()) or "none has a name"
            raise TargetError(f"target {label!r}: {self.kind} has no class of this name; there are {known}")
        return hits[0]

    def title(self, resolved: Any, sample: int) -> str:
        """What was explained, in words: the class or the token, "a rather than b" for a contrast."""
        return words(resolved, lambda one: self._name(one, sample))

    def _name(self, resolved: Any, sample: int) -> str:
        if isinstance(resolved, Token) and isinstance(resolved.id, Tensor):
            index = int(resolved.id[sample])
            text = self.tokenizer.decode([index])
            return repr(self.tokenizer.convert_ids_to_tokens(index) if "\ufffd" in text else text)  # a part of a letter
        if isinstance(resolved, Tensor) and not resolved.is_floating_point():
            index = int(resolved[sample])
            return self.classes.get(index, str(index))
        return "the target"
