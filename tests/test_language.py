"""Texts: tokens and words by hand, padding, names of constants, views, the command; tiny models, tiny tokenizers."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from typer.testing import CliRunner

import relprop
from relprop import cli, explain_text, show
from relprop.errors import InputError, OutputError, TargetError
from relprop.pieces import read, words_of
from relprop.targets import Contrast, Token

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the movie was not bad play ##ing good , . ! <"
TEXTS = ("the capital of France is Paris", "the capital of Italy is Rome", "it was not bad")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        yield


@functools.cache
def wordpiece() -> Any:
    vocab = {t: i for i, t in enumerate(WORDS.split())}
    t = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=t, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


@functools.cache
def bpe() -> Any:
    """Byte-level, as GPT-2's and Llama 3's: no padding token, no special token around a text."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
        special_tokens=["<|end|>"],
    )  # fmt: skip
    t.train_from_iterator([f"{text} {text}" for text in TEXTS for _ in range(9)], trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=t, eos_token="<|end|>", model_input_names=["input_ids", "attention_mask"]
    )


class Bag(nn.Module):
    """A classifier by hand: z_c = Σ_t E[t] · w_c over the tokens that are not padding. So R_t = E[t] · w_c."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(tokens, 4), nn.Linear(4, 2, bias=False)
        self.config = SimpleNamespace(id2label={0: "bad", 1: "good"})

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        x = self.embed(input_ids)
        x = x if attention_mask is None else x * attention_mask[..., None]
        return {"hidden": x, "logits": self.head(x.sum(1))}

    def worth(self, ids: list[int], c: int) -> Tensor:
        return (self.embed.weight[ids] @ self.head.weight[c]).detach()


class Running(nn.Module):
    """A causal model by hand: the scores at position s are those of the sum of the tokens up to s."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(tokens, 4), nn.Linear(4, tokens, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor]:
        return (self.head(self.embed(input_ids).cumsum(1)),)

    def worth(self, ids: list[int], token: int) -> Tensor:
        return (self.embed.weight[ids] @ self.head.weight[token]).detach()


def bert(kind: str = "BertForSequenceClassification", **settings: Any) -> Any:
    labels = {"id2label": {0: "bad", 1: "neutral", 2: "good"}, "label2id": {"bad": 0, "neutral": 1, "good": 2}}
    config = transformers.BertConfig(
        vocab_size=len(wordpiece()), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4,
        initializer_range=0.3, **labels, **settings,
    )  # fmt: skip
    return getattr(transformers, kind)(config).double()


def gpt2(layers: int = 1) -> Any:
    config = transformers.GPT2Config(
        vocab_size=len(bpe()), n_embd=16, n_layer=layers, n_head=4, n_positions=40, initializer_range=0.3,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).double()


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


# Targets of a text


def test_a_masked_model_is_asked_at_the_mask() -> None:
    model, tokenizer = bert("BertForMaskedLM"), wordpiece()
    e = explain_text(model, tokenizer, "the movie was [MASK] !", "bad")
    assert e.explanation.target.position.tolist() == [e.tokens.index("[MASK]")]
    assert e[0].title == "'bad'"
    with pytest.raises(TargetError, match=r"each text needs one \[MASK\]"):
        explain_text(model, tokenizer, ["the [MASK] was bad", "the movie was bad"])


def test_an_encoder_decoder_model_is_asked_for_its_first_token() -> None:
    config = transformers.T5Config(
        vocab_size=len(wordpiece()), d_model=16, d_ff=24, d_kv=4, num_layers=1, num_heads=4, decoder_start_token_id=0
    )
    model = transformers.T5ForConditionalGeneration(config)
    e = explain_text(model, wordpiece(), ["the movie was bad", "the movie"], "good", ledger=True)
    assert e.explanation.target.position.tolist() == [0, 0]
    assert set(e[0].others) == {"decoder_input_ids"}
    assert e.accounts.closes()


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no text": ({"text": ""}, InputError, "empty"),
    "blanks": ({"text": ["the movie", " \n"]}, InputError, "empty"),
    "no texts": ({"text": []}, InputError, "empty"),
    "an unknown class": ({"target": "great"}, TargetError, "'great'.*there are bad, good"),
    "a class that is not there": ({"target": 3}, TargetError, "3 is out of range"),
    "two questions": ({"target": 1, "contrast": (0, 1)}, TargetError, "exclude each other"),
    "half a contrast": ({"contrast": (0, None)}, TargetError, "a pair"),
    "several targets": ({"target": [0, 1]}, TargetError, "one target at a time"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    call, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        explain_text(**{"model": Bag(len(wordpiece())), "tokenizer": wordpiece(), "text": "the movie", **call})


WRONG_TOKENS: dict[str, tuple[str, str]] = {
    "several tokens": (" Parisian", r"is \d tokens: '.+' \(\d+\), "),
    "no token": ("", "is 0 tokens"),
}


@pytest.mark.parametrize("case", WRONG_TOKENS)
def test_words_that_are_not_one_token(case: str) -> None:
    word, words = WRONG_TOKENS[case]
    with pytest.raises(TargetError, match=words):
        explain_text(Running(len(bpe())), bpe(), "the capital", word)


def test_an_unknown_word_and_a_model_that_tags() -> None:
    with pytest.raises(TargetError, match="does not know this word"):
        explain_text(bert("BertForMaskedLM"), wordpiece(), "the [MASK]", "xylophone")
    with pytest.raises(TargetError, match=r"3 scores for every token.*Token\(position, id\)"):
        explain_text(bert("BertForTokenClassification"), wordpiece(), "the movie")


def test_a_tokenizer_of_another_kind() -> None:
    class Splits:
        def __call__(self, text: str) -> list[str]:
            return text.split()

    with pytest.raises(InputError, match="Splits, cannot be called"):
        explain_text(bert(), Splits(), "the movie")


def test_the_model_and_its_configuration_stay_as_they_were() -> None:
    model = gpt2()
    model.train()
    before = (model.config.to_dict(), {k: v.clone() for k, v in model.state_dict().items()})
    explain_text(model, bpe(), ["the capital of", "it"])
    assert model.config.to_dict() == before[0]
    assert model.config.use_cache is True
    assert model.training
    assert all(torch.equal(v, before[1][k]) for k, v in model.state_dict().items())


# Views


@pytest.fixture(scope="module")
def explained() -> relprop.TextExplanation:
    torch.manual_seed(0)
    model = Bag(len(wordpiece())).double()
    return explain_text(model, wordpiece(), ["the movie < bad", "playing, not"], "good", "lrp_zero", ledger=True)


class Spans(HTMLParser):
    """The texts of spans with their background and title, and all tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.spans: list[list[str]] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "span":
            given = dict(attrs)
            paper = re.search("background:(#[0-9a-f]{6})", given["style"] or "")
            assert paper is not None
            self.spans.append([given["title"] or "", paper[1], ""])

    def handle_data(self, data: str) -> None:
        if self.spans and not self.spans[-1][2]:
            self.spans[-1][2] = data


def test_html_is_signed_escaped_and_complete(explained: relprop.TextExplanation) -> None:
    page = explained.html()
    found = Spans(page)
    assert not found.tags & {"script", "link", "img", "iframe"}
    assert "http" not in page
    assert [s[2] for s in found.spans] == [
        "[CLS]",
        "the",
        "movie",
        "<",
        "bad",
        "[SEP]",
        "[CLS]",
        "playing",
        ",",
        "not",
        "[SEP]",
    ]
    values = [r for s in explained.sentences for _, r in s.words]
    limit = max(abs(r) for r in values)
    for (title, paper, _), r in zip(found.spans, values, strict=True):
        assert float(title) == pytest.approx(r, rel=1e-5)
        fade = f"{round(255 * (1 - abs(r) / limit)):02x}"
        assert paper == (f"#ff{fade}{fade}" if r > 0 else f"#{fade}{fade}ff")
    for s in explained.sentences:
        assert f"Σ {float(s.relevance.sum()):.4g}" in page
        assert f"score {s.score:.4g}" in page
    assert explained._repr_html_() == page


def test_pages_pictures_and_plain_text(explained: relprop.TextExplanation, tmp_path: Path) -> None:
    for name in ("a.html", "a.txt", "a.png", "a.svg"):
        explained.save(str(tmp_path / name), by="token")
    assert (tmp_path / "a.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"
    plain = (tmp_path / "a.txt").read_text(encoding="utf-8")
    assert "ing" in plain
    assert f"{explained[1].score:.4g}" in plain
    assert "playing" in str(explained)
    with pytest.raises(OutputError, match="html"):
        explained.save(str(tmp_path / "a.gif"))
    with pytest.raises(InputError, match="'word' or 'token'"):
        explained.html(by="letter")
    with pytest.raises(InputError, match="there are 2 texts"):
        _ = explained.tokens


def test_zero_is_white_and_letters_the_font_lacks_are_drawn(tmp_path: Path) -> None:
    zero = [show.Passage((show.Piece("不坏", 0.0), show.Piece("$x$", 0.0, "\n")), "nothing")]
    assert Spans(show.html(zero)).spans[0][1] == "#ffffff"
    show.save_text(tmp_path / "zero.png", zero)
    with pytest.raises(InputError, match="no text"):
        show.html([])
    with pytest.raises(InputError, match="limit"):
        show.html(zero, limit=-1.0)
    with pytest.raises(InputError, match="palette"):
        show.html(zero, palette="green")


# The command


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["text", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output + (result.stderr if result.stderr_bytes else "")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    made = {}
    for name, model, tokenizer in (("bert", bert(), wordpiece()), ("gpt2", gpt2(), bpe())):
        made[name] = tmp_path_factory.mktemp(name)
        model.float().save_pretrained(made[name])
        tokenizer.save_pretrained(made[name])
    return made


def test_the_command_explains_a_classifier(folders: dict[str, Path], tmp_path: Path) -> None:
    code, printed = run(
        "The movie was bad", "--model", f"hf:{folders['bert']}", "--target", "good", "-o", str(tmp_path / "o.html")
    )
    assert code == 0, printed
    assert "[CLS] The movie was bad [SEP]" in printed
    assert "good" in printed
    model = transformers.BertForSequenceClassification.from_pretrained(folders["bert"])
    e = explain_text(model, wordpiece(), "The movie was bad", 2)
    assert f"{e.score:.4g}" in printed
    assert [s[2] for s in Spans((tmp_path / "o.html").read_text(encoding="utf-8")).spans] == [w for w, _ in e.words]


def test_the_command_contrasts_tokens(folders: dict[str, Path]) -> None:
    code, printed = run(
        "the capital of France is", "it was", "--model", f"hf:{folders['gpt2']}", "--target", " Paris",
        "--contrast", " Rome", "--composite", "attnlrp", "--tokens",
    )  # fmt: skip
    assert code == 0, printed
    assert printed.count("' Paris' rather than ' Rome'") == 2


def test_the_command_refuses(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    bare = tmp_path / "bare"
    bare.mkdir()
    for f in folders["bert"].iterdir():
        if "token" not in f.name:
            (bare / f.name).write_bytes(f.read_bytes())
    good = f"hf:{folders['bert']}"
    for arguments, words in (
        (("the", "--model", f"hf:{tmp_path / 'nowhere'}"), "no folder"),
        (("the", "--model", f"hf:{tmp_path / 'empty'}"), "no config.json"),
        (("the", "--model", f"hf:{bare}"), "holds no tokenizer"),
        (("the", "--model", str(folders["bert"])), "hf:FOLDER"),
        ((" ", "--model", good), "empty"),
        (("the", "--model", good, "--contrast", "bad"), "--target"),
        (("the", "--model", good, "-o", str(tmp_path / "o.gif")), "html"),
        (("the", "--model", good, "--composite", "none"), "no such recipe"),
    ):
        code, printed = run(*arguments)
        assert code == 2, (arguments, printed)
        assert words in " ".join(printed.split()), (arguments, printed)
