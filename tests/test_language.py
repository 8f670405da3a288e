"""Texts: tokens and words by hand, padding, names of constants, precision, inner relevance; tiny models and tokenizers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import relprop
from relprop import explain_text
from relprop.pieces import read, words_of
from relprop.targets import Contrast, Token
from texts import Bag, Running, bert, bpe, gpt2, wordpiece


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)


# Tokens and words


def test_every_token_by_hand_and_words_are_sums() -> None:
    model, tokenizer = Bag(len(wordpiece())).double(), wordpiece()
    e = explain_text(model, tokenizer, "The movie:  playing, bad!", "good", composite="lrp_zero", ledger=True)
    assert e.tokens == ["[CLS]", "the", "movie", "[UNK]", "play", "##ing", ",", "bad", "!", "[SEP]"]
    worth = model.worth(tokenizer.convert_tokens_to_ids(e.tokens), 1)
    torch.testing.assert_close(e.relevance, worth, rtol=1e-9, atol=1e-12)
    assert e.score == pytest.approx(float(worth.sum()), rel=1e-9)
    assert [w for w, _ in e.words] == ["[CLS]", "The", "movie", ":", "playing", ",", "bad", "!", "[SEP]"]
    by_word = [*worth[:4], worth[4] + worth[5], *worth[6:]]
    assert [r for _, r in e.words] == pytest.approx([float(r) for r in by_word], rel=1e-9)
    assert e.accounts.closes()
    assert e[0].title == "good"


def test_the_next_token_and_a_contrast_by_hand() -> None:
    model, tokenizer = Running(len(bpe())).double(), bpe()
    texts = ["the capital of France is", "it was not"]
    ids = [tokenizer(t)["input_ids"] for t in texts]
    assert len(ids[0]) != len(ids[1])
    paris, rome = (tokenizer(t)["input_ids"][0] for t in (" Paris", " Rome"))
    e = explain_text(model, tokenizer, texts, contrast=(" Paris", " Rome"), composite="lrp_zero", ledger=True)
    for sentence, row in zip(e.sentences, ids, strict=True):
        expected = model.worth(row, paris) - model.worth(row, rome)
        torch.testing.assert_close(sentence.relevance, expected, rtol=1e-9, atol=1e-12)
        assert sentence.title == "' Paris' rather than ' Rome'"
        assert "".join(w.before + w.text for w in words_of(sentence.pieces)) == sentence.text
    assert e.accounts.closes()
    best = explain_text(model, tokenizer, texts[0], composite="lrp_zero")
    with torch.no_grad():
        scores = model(torch.tensor([ids[0]]))[0][0, -1]
    assert best.score == pytest.approx(float(scores.max()))
    torch.testing.assert_close(best.relevance, model.worth(ids[0], int(scores.argmax())), rtol=1e-9, atol=1e-12)


SPLIT: dict[str, tuple[str, list[str]]] = {
    "two spaces and a line": ("it  was\nnot", ["it", "was", "not"]),
    "punctuation": ("it was, not (bad).", ["it", "was", ",", "not", "(", "bad", ")."]),
    "a letter of several bytes": ("was 😀 naïve", ["was", "😀", "naïve"]),
    "no space": ("不坏", ["不坏"]),
    "a space in front": (" was", ["was"]),
}


@pytest.mark.parametrize("case", SPLIT)
def test_words_of_byte_level_tokens_keep_the_text(case: str) -> None:
    text, words = SPLIT[case]
    pieces = read(bpe(), text)
    assert [w.text for w in words_of(pieces)] == words
    assert "".join(p.before + p.text for p in pieces) == text


def test_a_slow_tokenizer() -> None:
    pieces = read(transformers.ByT5Tokenizer(), "It was  not")
    assert [w.text for w in words_of(pieces)] == ["It", "was", "not", "</s>"]
    assert [p.special for p in pieces] == [False] * len("It was  not") + [True]
    assert [w.before for w in words_of(pieces)] == ["", " ", "  ", " "]


class Marks:
    """A tokenizer in Python without offsets: SentencePiece's or WordPiece's marks."""

    is_fast = False

    def __init__(self, tokens: list[str], special: list[int]) -> None:
        self.tokens, self.special = tokens, special

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        return {"input_ids": list(range(len(self.tokens))), "special_tokens_mask": self.special}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.tokens[i] for i in ids]


def test_marks_of_slow_tokenizers() -> None:
    sentencepiece = Marks(["<s>", "▁The", "▁mo", "vie", ".", "</s>"], [1, 0, 0, 0, 0, 1])
    assert [w.text for w in words_of(read(sentencepiece, "The movie."))] == ["<s>", "The", "movie.", "</s>"]
    pieces = Marks(["play", "##ing", "."], [0, 0, 0])
    assert [(w.before, w.text) for w in words_of(read(pieces, "Playing ."))] == [("", "Playing"), (" ", ".")]
    changed = Marks(["uber", "##all", "x"], [0, 0, 0])  # the tokenizer took the dots away
    assert [(w.before, w.text) for w in words_of(read(changed, "Überall x"))] == [("", "uberall"), (" ", "x")]


# Padding


def pad(rows: list[list[int]], side: str, fill: int) -> dict[str, Tensor]:
    longest = max(map(len, rows))
    gaps = [[fill] * (longest - len(row)) for row in rows]
    ids = [g + r if side == "left" else r + g for g, r in zip(gaps, rows, strict=True)]
    mask = [
        [0] * len(g) + [1] * len(r) if side == "left" else [1] * len(r) + [0] * len(g)
        for g, r in zip(gaps, rows, strict=True)
    ]
    mask_ = torch.tensor(mask)
    return {
        "input_ids": torch.tensor(ids), "attention_mask": mask_, "position_ids": (mask_.cumsum(1) - 1).clamp(min=0),
        "token_type_ids": torch.zeros_like(mask_),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "side", "composite"),
    [
        ("bert", "right", "cp_lrp"),
        ("bert", "left", "attnlrp"),
        ("gpt2", "right", "attnlrp"),
        ("gpt2", "left", "cp_lrp"),
    ],
)
def test_padding_changes_nothing_and_gets_nothing(name: str, side: str, composite: str) -> None:
    """Without ε, whose size is relative to the values of all positions of a sample."""
    rows = [[5, 6, 7, 8, 9, 11], [12, 6, 5]]
    model, batch = (bert if name == "bert" else gpt2)(), pad(rows, side, 0)
    target: Any = 2
    if name == "bert":
        model.bert.pooler = LastToken(model.bert.pooler) if side == "left" else model.bert.pooler
    else:
        end = torch.tensor([5, 2] if side == "right" else [5, 5])
        target = Contrast(Token(end, 3), Token(end, 4))
    together = relprop.explain(model, batch, target, composite, epsilon=0.0, ledger=True)
    assert together.relevance["attention_mask"] is None
    assert together.ledger.closes()
    mask = batch["attention_mask"].bool()
    for key in ("input_ids", "position_ids"):
        assert (together.relevance[key][~mask] == 0).all()
    short = pad(rows[1:], side, 0)
    alone = Contrast(Token(-1, 3), Token(-1, 4)) if name == "gpt2" else 2
    single = relprop.explain(model, short, alone, composite, epsilon=0.0)
    for key in ("input_ids", "position_ids"):
        R, own = together.relevance[key][1][mask[1]], single.relevance[key][0]
        assert float((R - own).abs().max()) <= 1e-9 * float(own.abs().max())
    torch.testing.assert_close(together.score[1], single.score[0], rtol=1e-9, atol=0)


class LastToken(nn.Module):
    """BERT's pooler at the last token, for texts padded on the left, whose first position is no token."""

    def __init__(self, pooler: nn.Module) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.pooler(hidden[:, -1:])
        return out


# Constants


def test_the_ledger_names_position_and_type_embeddings() -> None:
    ids = torch.tensor([[2, 5, 6, 3]])
    e = relprop.explain(bert(), {"input_ids": ids}, ledger=True)
    named = [r["constant"] for r in e.ledger.rows() if r["constant"]]
    assert named == ["bert.embeddings.position_embeddings", "bert.embeddings.token_type_embeddings"]
    assert "bert.embeddings.position_embeddings" in str(e.ledger)
    assert e.ledger.closes()
    e = relprop.explain(gpt2(), {"input_ids": ids}, Token(), ledger=True)
    assert [r["constant"] for r in e.ledger.rows() if r["constant"]] == ["transformer.wpe"]


def test_token_types_are_explained_where_they_are_given() -> None:
    e = explain_text(bert(), wordpiece(), "The movie was bad", "bad", ledger=True)
    (types,) = e[0].others.values()
    assert float(e.relevance.sum()) + types == pytest.approx(float(e.accounts.input), rel=1e-9)
    assert "Σ of token_type_ids" in str(e)


def test_a_concatenated_class_token_is_named() -> None:
    class WithClass(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Parameter(torch.randn(1, 1, 3)), nn.Linear(3, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1)
            return self.head(x.mean(1))

    model = WithClass().double()
    e = relprop.explain(model, torch.randn(2, 3, 3, dtype=torch.float64), 0, "lrp_zero", ledger=True)
    (row,) = (r for r in e.ledger.rows() if r["constant"])
    assert row["constant"] == "first"
    expected = float((model.head.weight[0] * model.first[0, 0]).detach().sum()) / 4
    assert row["bias"] == pytest.approx(expected, rel=1e-9)


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_carries_relevance_in_float32(dtype: torch.dtype) -> None:
    model = gpt2()
    torch.manual_seed(1)
    with torch.no_grad():
        model.transformer.wte.weight[7] = 0.0
        model.transformer.wpe.weight[1] = 0.0
    inputs = {"input_ids": torch.tensor([[5, 7, 9, 11]])}
    exact = relprop.explain(model, inputs, Token(-1, 3))
    e = relprop.explain(model.to(dtype), inputs, Token(-1, 3), ledger=True)
    R = e.relevance["input_ids"]
    assert R.dtype == e.score.dtype == torch.float32
    assert R.isfinite().all()
    assert R[0, 1] == 0
    scale = float(exact.relevance["input_ids"].abs().max())
    torch.testing.assert_close(R.double() / scale, exact.relevance["input_ids"] / scale, rtol=0, atol=0.05)


# Inner relevance


def test_relevance_of_layers_heads_and_neurons() -> None:
    model, inputs = gpt2(layers=2), {"input_ids": torch.tensor([[5, 7, 9, 11]])}
    explainer = relprop.Explainer(model, inputs, "cp_lrp", epsilon=0)
    heads = next(r["node"] for r in explainer.rules if r["module"] == "transformer.h.1.attn" and "attention" in r["op"])
    names = ("transformer.h.0", "transformer.h.1.mlp.act", heads, "transformer.ln_f")
    e = explainer(inputs, Token(-1, 3), record=names, ledger=True)
    width = {n: tuple(r.shape) for n, r in e.recorded.items()}
    assert width == {names[0]: (1, 4, 16), names[1]: (1, 4, 64), heads: (1, 4, 4, 4), names[3]: (1, 4, 16)}
    arrived = {x["node"]: x["arrived"] for x in e.ledger.rows()}
    assert float(e.recorded[heads].sum()) == pytest.approx(arrived[heads], rel=1e-9)
    assert float(e.recorded[names[3]].sum()) == pytest.approx(float(e.score), rel=0.5)
    block = next(x for x in e.ledger.rows() if x["module"] == "transformer.h.0" and x["op"] == "add")
    assert float(e.recorded[names[0]].sum()) == pytest.approx(block["arrived"], rel=1e-9)
