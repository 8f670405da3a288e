"""Texts: what is asked of them, refusals, views, and the command `relprop text`; tiny models and tokenizers."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from typer.testing import CliRunner

import relprop
from relprop import cli, explain_text, show
from relprop.errors import InputError, OutputError, TargetError
from texts import Bag, Running, bert, bpe, gpt2, wordpiece


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)


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
    "nothing": ({"text": None}, InputError, "text is a NoneType; give a sentence"),
    "a number": ({"text": 3}, InputError, "text is a int; give a sentence"),
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
