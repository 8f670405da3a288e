"""Two small networks that tell whether a movie review is positive, trained from scratch on single sentences.

`scripts/train_reviews.py` trained them on the 10,662 sentences of Pang and Lee 2005, split by chance into 80 % to
train, 10 % to stop early and 10 % to test; docs/reviews.md says how often they are right and how they are explained.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from relprop.errors import InputError, WeightsError

from .weights import load_into, read_state
from .words import WordTokenizer

HERE = Path(__file__).parent
CLASSES = ("negative", "positive")


class Classifier(nn.Module):
    """Word embeddings in front, two logits at the end, (B, T) numbers of words -> (B, 2): negative, positive.

    No layer has a bias: a text gets its score from its words alone, and the word 0, padding, changes nothing. The
    logits are −z and z: what speaks for one class speaks as much against the other, and the log-odds are 2 z.
    """

    def __init__(self, words: int, width: int, features: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = SimpleNamespace(id2label=dict(enumerate(CLASSES)))
        self.embed = nn.Embedding(words, width, padding_idx=0)
        nn.init.normal_(self.embed.weight[1:], std=0.1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, 1, bias=False)

    def looked_up(self, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The embeddings, (B, T, width), zero where there is no word, and where there is one: (B, T, 1) of 1 and 0."""
        there = input_ids != 0 if attention_mask is None else (input_ids != 0) & (attention_mask != 0)
        x: Tensor = self.embed(input_ids)
        mask = there[..., None].to(x.dtype)
        return self.dropout(x) * mask, mask

    def logits(self, features: Tensor) -> Tensor:
        """(B, features) -> (B, 2)."""
        z = self.head(self.dropout(features))
        return torch.cat([-z, z], 1)


class DenseReviews(Classifier):
    """The mean of the word embeddings, one hidden layer with ReLU, two logits.

    `words`: tokens of the vocabulary; `width`: of the embedding; `hidden`: units of the hidden layer.

    >>> DenseReviews(words=10, width=4, hidden=3)(torch.tensor([[2, 5, 0]])).shape
    torch.Size([1, 2])
    """

    def __init__(self, words: int, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__(words, width, hidden, dropout)
        self.hidden = nn.Linear(width, hidden, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x, there = self.looked_up(input_ids, attention_mask)
        mean = x.sum(1) / there.sum(1).clamp(min=1)
        return self.logits(torch.relu(self.hidden(mean)))


class LSTMReviews(Classifier):
    """An LSTM that reads forwards and one that reads backwards, the mean of their states over the words, two logits.

    The backward one begins in the padding: without biases its state is still zero when it arrives at the last word.

    >>> LSTMReviews(words=10, width=4, hidden=3)(torch.tensor([[2, 5, 0]])).shape
    torch.Size([1, 2])
    """

    def __init__(self, words: int, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__(words, width, 2 * hidden, dropout)
        self.lstm = nn.LSTM(width, hidden, bias=False, batch_first=True, bidirectional=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x, there = self.looked_up(input_ids, attention_mask)
        mean = (self.lstm(x)[0] * there).sum(1) / there.sum(1).clamp(min=1)
        return self.logits(mean)


MODELS: dict[str, type[DenseReviews] | type[LSTMReviews]] = {"dense": DenseReviews, "lstm": LSTMReviews}
# the weight whose shape tells the hidden units, and along which dimension
HIDDEN = {"dense": ("hidden.weight", 0), "lstm": ("lstm.weight_hh_l0", 1)}


class Reviews(NamedTuple):
    """A review classifier in eval mode with its tokenizer."""

    model: Classifier
    tokenizer: WordTokenizer


def reviews(kind: str = "dense", folder: str | Path | None = None) -> Reviews:
    """The movie review classifier of the package, and its tokenizer: `kind` "dense" or "lstm"; classes: `CLASSES`.

    `folder`: where `scripts/train_reviews.py` wrote another one, by default the package. A new model each call.
    Raises `InputError`: another kind; `WeightsError`: a file is missing, corrupt, or does not belong to the others.

    >>> import relprop
    >>> model, tokenizer = reviews()
    >>> e = relprop.explain_text(model, tokenizer, "A moving and often funny film.")
    >>> e[0].title
    'positive'
    """
    if kind not in MODELS:
        raise InputError(f"reviews({kind!r}) does not exist; there are {', '.join(MODELS)}")
    place = HERE if folder is None else Path(folder)
    file = place / f"reviews_{kind}.safetensors"
    tokenizer = WordTokenizer(vocabulary(place / "reviews_words.json"))
    state = read_state(file)
    key, dim = HIDDEN[kind]
    if any(name not in state or state[name].dim() != 2 for name in (key, "embed.weight")):
        raise WeightsError(f"weights '{file}': not those of a review classifier '{kind}'; train it again")
    words, width = state["embed.weight"].shape
    if words != len(tokenizer):
        raise WeightsError(
            f"weights '{file}' are for {words} tokens, reviews_words.json beside them makes {len(tokenizer)}; give the "
            "files of one training"
        )
    model = MODELS[kind](words, width, state[key].shape[dim])
    load_into(model, state, file)
    return Reviews(model.eval(), tokenizer)


def vocabulary(file: Path) -> list[str]:
    """The words of a vocabulary file, a JSON list. Raises `WeightsError`."""
    if not file.is_file():
        raise WeightsError(f"vocabulary '{file}': there is no such file; give a folder of scripts/train_reviews.py")
    try:
        words = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"vocabulary '{file}': not JSON ({error}); train again") from error
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        raise WeightsError(f"vocabulary '{file}': not a list of words; train again")
    return words
