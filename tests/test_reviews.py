"""Movie reviews: the tokenizer, both models against formulas by hand, those of the package, the command, the script."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

import relprop
from relprop import _loading, cli, explain_text
from relprop.errors import InputError, WeightsError
from relprop.pieces import read
from relprop.zoo import movie_reviews, reviews
from relprop.zoo.movie_reviews import DenseReviews, LSTMReviews
from relprop.zoo.words import WordTokenizer, cut, folded

ROOT = Path(__file__).parents[1]
ZOO = Path(movie_reviews.__file__).parent
KINDS = ("dense", "lstm")
PRAISE = "A moving, funny and beautifully acted film."
BLAME = "Dull, lifeless and far too long; a bad movie."


# The tokenizer

CUT: dict[str, tuple[str, list[str]]] = {
    "apostrophes": ("isn't rock'n'roll 'quoted' dogs' 90's", ["isn't", "rock'n'roll", "'", "quoted", "'", "dogs", "'", "90", "'", "s"]),
    "curly apostrophes": ("it\u2019s \u2018so\u2019", ["it\u2019s", "\u2018", "so", "\u2019"]),
    "hyphens and slashes": ("well-made co-writer/director", ["well", "-", "made", "co", "-", "writer", "/", "director"]),
    "points": ("bad... 3.5 stars!?", ["bad", ".", ".", ".", "3", ".", "5", "stars", "!", "?"]),
    "blanks": ("  a\t b\n\nc ", ["a", "b", "c"]),
    "accents, composed and not": ("caf\u00e9 cafe\u0301s", ["caf\u00e9", "cafe\u0301s"]),
    "signs with marks": ("I \u2764\ufe0f it 😀", ["I", "\u2764\ufe0f", "it", "😀"]),
    "marks inside words": ("हिन्दी फ़िल्म", ["हिन्दी", "फ़िल्म"]),
    "a mark alone": ("\u0301a", ["\u0301", "a"]),
    "no spaces": ("这部电影。", ["这部电影", "。"]),
    "lines under": ("__init__", ["_", "_", "init", "_", "_"]),
    "without a shape": ("a\u200bb\x00c", ["a", "b", "c"]),
    "nothing": ("\u200b \n", []),
}  # fmt: skip


@pytest.mark.parametrize("case", CUT)
def test_words_by_hand(case: str) -> None:
    text, words = CUT[case]
    assert [text[a:b] for a, b in cut(text)] == words


def test_a_word_is_found_in_any_spelling() -> None:
    tokenizer = WordTokenizer(["isn't", "café", "good"])
    assert tokenizer("ISN\u2019T Cafe\u0301 GOOD bad")["input_ids"] == [2, 3, 4, 1]
    assert folded("CAFÉ") == "café"
    assert len(tokenizer) == 5
    assert tokenizer.words == ("isn't", "café", "good")
    assert tokenizer.convert_ids_to_tokens(0) == "[PAD]"
    with pytest.raises(InputError, match="'good' twice"):
        WordTokenizer(["good", "bad", "good"])
    with pytest.raises(InputError, match=r"'\[UNK\]' twice"):
        WordTokenizer(["[UNK]"])


def test_pieces_stand_where_they_stood() -> None:
    text = "  It isn't\n“good” \u200b!"
    pieces = read(WordTokenizer(["it", "isn't", "good"]), text)
    assert [p.text for p in pieces] == ["It", "isn't", "“", "good", "”", "!"]
    assert "".join(p.before + p.text for p in pieces) == text
    assert [p.token for p in pieces] == ["it", "isn't", "[UNK]", "good", "[UNK]", "[UNK]"]
    assert [p.unknown for p in pieces] == [False, False, True, False, True, True]


def test_batches_are_padded_on_the_right_and_hold_no_empty_text() -> None:
    tokenizer = WordTokenizer(["a", "b"])
    assert tokenizer.batch(["a", "b a c"]).tolist() == [[2, 0, 0], [3, 2, 1]]
    with pytest.raises(InputError, match="text 1 is empty: ' '"):
        tokenizer.batch(["a", " "])
    with pytest.raises(InputError, match="no texts"):
        tokenizer.batch([])


# The models by hand, in float64


def made(kind: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = {"dense": DenseReviews, "lstm": LSTMReviews}[kind](12, 5, 4)
    with torch.no_grad():
        model.embed.weight[1:] = torch.randn(11, 5)
    return model.double().eval()


IDS = torch.tensor([[3, 7, 1, 9, 11, 3], [5, 2, 8, 0, 0, 0]])


@pytest.mark.parametrize("target", [0, 1])
def test_dense_by_hand(target: int) -> None:
    """R_t = Σ_d x_td / n Σ_k [h_k > 0] W_kd v_k, negative for the class negative: LRP-0 of a network without biases."""
    model = made("dense")
    W, v = model.hidden.weight.detach(), model.head.weight.detach()[0]
    expected, scores = torch.zeros(2, 6, dtype=torch.float64), []
    for b, row in enumerate(IDS):
        words = [int(i) for i in row if i]
        x = model.embed.weight.detach()[words]
        h = W @ x.mean(0)
        g = W.T @ (v * (h > 0))
        expected[b, : len(words)] = (1 if target else -1) * (x @ g) / len(words)
        scores.append((1 if target else -1) * float(v @ h.clamp(min=0)))
    e = relprop.explain(model, IDS, target, epsilon=0.0, ledger=True)
    torch.testing.assert_close(e.relevance, expected, rtol=1e-9, atol=1e-12)
    assert e.score.tolist() == pytest.approx(scores, rel=1e-9)
    torch.testing.assert_close(e.relevance.sum(1), e.score, rtol=1e-9, atol=1e-12)
    assert e.ledger.closes()
    assert bool((e.ledger.bias == 0).all())


def steps(cell: nn.LSTM, x: Tensor, end: str) -> Tensor:
    """The states of one direction in the order they are read, gates and quotients held (Arras et al. 2017)."""
    W, U = getattr(cell, f"weight_ih_l0{end}"), getattr(cell, f"weight_hh_l0{end}")
    h = c = torch.zeros(4, dtype=torch.float64)
    states = []
    for x_t in x:
        zi, zf, zg, zo = (W @ x_t + U @ h).chunk(4)
        i, f, o = (z.detach().sigmoid() for z in (zi, zf, zo))
        c = f * c + i * zg * (zg.tanh() / zg).detach()
        h = o * c * (c.tanh() / c).detach()
        states.append(h)
    return torch.stack(states)


@pytest.mark.parametrize("target", [0, 1])
def test_lstm_by_hand(target: int) -> None:
    """Input × gradient of the same network, written step by step, with i, f, o, tanh(z) / z and tanh(c) / c held."""
    model = made("lstm")
    expected, scores = torch.zeros(2, 6, dtype=torch.float64), []
    for b, row in enumerate(IDS):
        words = [int(i) for i in row if i]
        x = model.embed.weight.detach()[words].requires_grad_()
        both = torch.cat([steps(model.lstm, x, ""), steps(model.lstm, x.flip(0), "_reverse").flip(0)], 1)
        score = (1 if target else -1) * (model.head.weight[0].detach() @ both.mean(0))
        (gradient,) = torch.autograd.grad(score, x)
        expected[b, : len(words)] = (x * gradient).sum(1).detach()
        scores.append(float(score.detach()))
    with torch.no_grad():
        assert model(IDS)[:, target].tolist() == pytest.approx(scores, rel=1e-9)
    e = relprop.explain(model, IDS, target, epsilon=0.0, residual="epsilon", ledger=True)
    torch.testing.assert_close(e.relevance, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(e.relevance.sum(1), e.score, rtol=1e-9, atol=1e-12)
    assert e.ledger.closes()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_masked_words_change_nothing_and_get_nothing(kind: str) -> None:
    model = made(kind)
    short = torch.tensor([[5, 2, 8]])
    left = torch.tensor([[0, 0, 5, 2, 8]])
    right = torch.tensor([[5, 2, 8, 0, 0]])
    masked = (torch.tensor([[5, 2, 8, 9, 4]]), torch.tensor([[1, 1, 1, 0, 0]]))
    with torch.no_grad():
        alone = model(short)
        for other in (model(left), model(right), model(*masked)):
            torch.testing.assert_close(other, alone, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(alone[:, 0], -alone[:, 1], rtol=0, atol=0)
        assert bool((model(torch.zeros(1, 3, dtype=torch.long)) == 0).all())
    single = relprop.explain(model, short, 1, epsilon=0.0).relevance
    explainer = relprop.Explainer(model, left, epsilon=0.0)
    for ids, there in ((left, slice(2, 5)), (right, slice(0, 3))):
        R = explainer(ids, 1).relevance
        torch.testing.assert_close(R[:, there], single, rtol=1e-9, atol=1e-12)
        assert float(R.abs().sum()) == pytest.approx(float(R[:, there].abs().sum()), rel=1e-12)


# Those of the package


@pytest.fixture(scope="module", params=KINDS)
def shipped(request: pytest.FixtureRequest) -> movie_reviews.Reviews:
    return reviews(request.param)


def test_the_files_fit_in_the_package_and_their_records_say_how_often_they_are_right() -> None:
    files = sorted(ZOO.glob("reviews_*"))
    assert [f.name for f in files] == [
        "reviews_dense.json",
        "reviews_dense.safetensors",
        "reviews_lstm.json",
        "reviews_lstm.safetensors",
        "reviews_words.json",
    ]
    assert sum(f.stat().st_size for f in files) <= 2e6
    for kind in KINDS:
        record = json.loads((ZOO / f"reviews_{kind}.json").read_text(encoding="utf-8"))
        assert record["test_accuracy"] >= 0.74
        sentences = record["sentences"]
        total = sum(sentences.values())
        assert sentences["test"] == sentences["validation"] == total // 10
        assert record["tokens"] == len(reviews(kind).tokenizer)


def test_every_call_gives_a_model_of_its_own() -> None:
    first, second = reviews().model, reviews().model
    with torch.no_grad():
        first.embed.weight.zero_()
    assert bool(second.embed.weight.any())
    assert not second.training


def test_praise_and_blame(shipped: movie_reviews.Reviews) -> None:
    e = explain_text(*shipped, [PRAISE, BLAME], ledger=True)
    assert [s.title for s in e.sentences] == ["positive", "negative"]
    assert e.accounts.closes()
    assert dict(e[0].words)["moving"] > 0
    assert dict(e[1].words)["dull" if "dull" in dict(e[1].words) else "Dull"] > 0
    for sentence, score in zip(e.sentences, e.explanation.score.tolist(), strict=True):
        assert float(sentence.relevance.sum()) == pytest.approx(score, rel=1e-4)
    negative = explain_text(*shipped, [PRAISE, BLAME], "negative")
    torch.testing.assert_close(negative[0].relevance, -e[0].relevance, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(negative[1].relevance, e[1].relevance, rtol=1e-4, atol=1e-6)


TEXTS: dict[str, tuple[str, list[str]]] = {
    "punctuation alone": ("...!?", []),
    "one word": ("good", []),
    "an unknown word": ("A zxqv film", ["zxqv"]),
    "another language": ("Dieser Streifen wärmt unsere Gemüter", ["Dieser", "Streifen", "wärmt", "unsere", "Gemüter"]),
    "another script": ("这部电影。", ["这部电影", "。"]),
    "a word unknown twice": ("Zxqv, zxqv and zxqv", ["Zxqv", "zxqv"]),
}


@pytest.mark.parametrize("case", TEXTS)
def test_unusual_texts_are_explained_and_accounted_for(shipped: movie_reviews.Reviews, case: str) -> None:
    text, unknown = TEXTS[case]
    e = explain_text(*shipped, text, "positive", ledger=True)
    assert e[0].unknown == unknown
    assert [t for t in e.tokens if t == "[UNK]"] == ["[UNK]"] * len([w for w, _ in e.words if w in unknown])
    assert e.accounts.closes()
    assert float(e.relevance.sum()) == pytest.approx(e.score, rel=1e-3, abs=1e-5)
    if unknown:
        assert f"unknown words: {', '.join(unknown)}" in str(e)
        assert f"unknown words: {', '.join(unknown)}" in e.html()
    else:
        assert "unknown" not in str(e)


def test_a_long_text() -> None:
    text = " ".join([PRAISE, BLAME, BLAME] * 60)
    e = explain_text(*reviews(), text, ledger=True)
    assert len(e.tokens) == 60 * sum(len(list(cut(t))) for t in (PRAISE, BLAME, BLAME))
    assert e.accounts.closes()
    assert e[0].title == "negative"


def test_texts_without_a_word_are_refused(shipped: movie_reviews.Reviews) -> None:
    for text, words in (("", "text is empty"), (" \n", "text is empty"), ("\u200b", "makes no token of the text")):
        with pytest.raises(InputError, match=words):
            explain_text(*shipped, text)


def copied(folder: Path, kind: str = "dense") -> Path:
    for name in (f"reviews_{kind}.safetensors", "reviews_words.json"):
        (folder / name).write_bytes((ZOO / name).read_bytes())
    return folder


def test_folders_that_hold_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"reviews\('gru'\) does not exist; there are dense, lstm"):
        reviews("gru")
    with pytest.raises(WeightsError, match=r"reviews_words\.json': there is no such file"):
        reviews("dense", tmp_path / "none")
    folder = copied(tmp_path)
    with pytest.raises(WeightsError, match=r"reviews_lstm\.safetensors': there is no such file"):
        reviews("lstm", folder)
    state = load_file(folder / "reviews_dense.safetensors")
    save_file({**state, "embed.weight": state["embed.weight"][:9].clone()}, folder / "reviews_dense.safetensors")
    with pytest.raises(WeightsError, match=r"are for 9 tokens, reviews_words\.json beside them makes \d+"):
        reviews("dense", folder)
    save_file({"embed.weight": state["embed.weight"]}, folder / "reviews_dense.safetensors")
    with pytest.raises(WeightsError, match="not those of a review classifier 'dense'"):
        reviews("dense", folder)
    for content, words in (("[1]", "not a list of words"), ("[]", "not a list of words"), ("[", "not JSON")):
        (folder / "reviews_words.json").write_text(content)
        with pytest.raises(WeightsError, match=words):
            reviews("dense", folder)


# The command


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["text", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output + (result.stderr if result.stderr_bytes else "")


@pytest.mark.parametrize(("options", "kind"), [((), "dense"), (("--model", "reviews:lstm"), "lstm")])
def test_the_command_prints_decision_and_words(tmp_path: Path, options: tuple[str, ...], kind: str) -> None:
    text = "A Dull, dull but good zxqv."
    page = tmp_path / "why.html"
    code, printed = run(text, *options, "--true", "negative", "--top", "3", "-o", str(page))
    assert code == 0, printed
    assert text in printed
    e = explain_text(*reviews(kind), text)
    share = float(e.explanation.output.softmax(1).max())
    assert f"predicted class: {e[0].title} ({share:.1%})   true class: negative" in printed
    assert "unknown words: zxqv" in printed
    sums: dict[str, float] = {}
    for word, relevance in e.words:
        sums[word.lower()] = sums.get(word.lower(), 0.0) + relevance
    table = printed[printed.index("top 3 positive") : printed.index("ledger, auto")]
    cells = re.findall(r"(\S+(?: × 2)?) +(-?\d[\d.e-]*)", table.split("\n", 1)[1])
    found = {name.removesuffix(" × 2").lower(): float(value) for name, value in cells if not name.startswith("─")}
    order = sorted(sums, key=lambda w: sums[w])
    expected = [w for w in order[::-1] if sums[w] > 0][:3] + [w for w in order if sums[w] < 0][:3]
    assert sorted(found) == sorted(expected)
    for name, value in found.items():
        assert value == pytest.approx(sums[name], rel=1e-3)
    assert "dull × 2" in table
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_the_command_without_words_with_tokens_and_with_several_texts() -> None:
    code, printed = run(PRAISE, BLAME, "--top", "0")
    assert code == 0, printed
    assert "positive (" in printed
    assert "negative (" in printed
    assert "top" not in printed
    code, printed = run("zxqv vxqz film", "--tokens", "--true", "1")
    assert code == 0, printed
    assert "[UNK] × 2" in printed
    assert "true class: positive" in printed


def test_the_command_takes_a_folder_and_refuses(tmp_path: Path) -> None:
    folder = copied(tmp_path, "lstm")
    code, printed = run("moving", "--model", "reviews:lstm", "--weights", str(folder))
    assert code == 0, printed
    assert "predicted class: positive" in printed
    for arguments, words in (
        ((" ",), "text is empty"),
        ((PRAISE, "--model", "reviews:gru"), "there are dense, lstm"),
        ((PRAISE, "--model", "review"), "reviews:lstm"),
        ((PRAISE, "--weights", str(tmp_path)), "there is no such file"),
        ((PRAISE, "--weights", str(tmp_path), "--model", "hf:x"), "a folder of a review classifier"),
        ((PRAISE, "--true", "bad"), "give one of negative, positive"),
        ((PRAISE, "--target", "great"), "there are negative, positive"),
    ):
        code, printed = run(*arguments)
        assert code == 2, (arguments, printed)
        assert words in " ".join(printed.split()), (arguments, printed)


class NextWord(nn.Module):
    """At each position scores for the word that follows: those of the sum of the words so far."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(tokens, 4), nn.Linear(4, tokens, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.embed(input_ids).cumsum(1))
        return scores


def test_a_model_that_scores_words_has_no_true_class(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tokenizer = WordTokenizer(["a", "good", "film"])
    model = NextWord(len(tokenizer))
    e = explain_text(model, tokenizer, "a good", "film", composite="lrp_zero")
    torch.testing.assert_close(e.relevance.float(), model.embed.weight.detach()[[2, 3]] @ model.head.weight.detach()[4])
    assert e[0].title == "'film'"
    model.config = SimpleNamespace(id2label={0: "a", 1: "b"})
    reader = _loading.Reader("next", model, tokenizer)
    monkeypatch.setattr(_loading, "load_reader", lambda *_: reader)
    code, printed = run("a good", "--true", "a")
    assert code == 2
    assert "--true is for classifiers; next scores tokens" in " ".join(printed.split())
    code, printed = run("a good", "--target", "film", "--top", "1")
    assert code == 0, printed
    assert "predicted class" not in printed


# The script


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_reviews", ROOT / "scripts" / "train_reviews.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Sixty sentences whose class one word tells."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, word in (("pos", "good"), ("neg", "bad")):
        lines = [f"a {word} film with {a} and {b}" for a in ("love", "war", "song") for b in "abcdefghij"]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_was_interrupted_ends_like_one_in_one_go(
    script: ModuleType, data: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    given = [str(data), "--kind", kind, "--epochs", "4", "--at-least", "1"]
    script.main([*given, "--out", str(whole)])
    epoch, calls = script.one_epoch, []

    def twice(*arguments: Any) -> float:
        calls.append(None)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return float(epoch(*arguments))

    with monkeypatch.context() as patch:
        patch.setattr(script, "one_epoch", twice)
        with pytest.raises(KeyboardInterrupt):
            script.main([*given, "--out", str(parts)])
    assert [f.name for f in parts.iterdir()] == [f"reviews_{kind}.checkpoint.pt"]
    with pytest.raises(SystemExit, match="other settings or data"):
        script.main([*given, "--seed", "1", "--out", str(parts)])
    script.main([*given, "--out", str(parts)])
    assert {f.name: f.read_bytes() for f in whole.iterdir()} == {f.name: f.read_bytes() for f in parts.iterdir()}
    record = json.loads((whole / f"reviews_{kind}.json").read_text(encoding="utf-8"))
    assert record["sentences"] == {"train": 48, "validation": 6, "test": 6}
    assert record["epochs"] == 4
    r = reviews(kind, whole)
    test = script.split(script.read_sentences(data), 0)[2]
    with torch.no_grad():
        right = r.model(r.tokenizer.batch(test.texts)).argmax(1) == torch.tensor(test.labels)
    assert record["test_accuracy"] == pytest.approx(float(right.double().mean()), abs=1e-4)


def test_the_parts_are_disjoint_and_the_vocabulary_is_of_the_first(script: ModuleType, data: Path) -> None:
    with (data / "pos.txt").open("a") as file:
        file.write("a good film with war and a\n")  # stands there already
    sentences = script.read_sentences(data)
    assert len(sentences.texts) == 60
    parts = script.split(sentences, 3)
    assert sorted(t for p in parts for t in p.texts) == sorted(sentences.texts)
    for part in parts:
        assert part.labels == ["good" in t.split() for t in part.texts]
    assert [p.texts for p in script.split(sentences, 3)] == [p.texts for p in parts]
    assert [p.texts for p in script.split(sentences, 4)] != [p.texts for p in parts]
    assert script.words_of(["b a, a", "B c a"], 2) == ["a", "b"]


def test_embeddings_begin_as_the_vectors_of_the_file(script: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text("good 1 2 3\nabsent 4 5 6\nbad -1 -2 -3\n")
    tokenizer = WordTokenizer(["film", "bad", "good"])
    for kind in KINDS:
        model = script.initialized(kind, script.SETTINGS[kind], tokenizer, file, 0)
        assert model.embed.weight[[4, 3]].tolist() == [[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]]
        assert model.embed.weight[0].tolist() == [0.0, 0.0, 0.0]
        assert float(model.embed.weight[2].detach().abs().sum()) > 0
    with pytest.raises(InputError, match="holds none of the 1 words"):
        script.initialized("dense", script.SETTINGS["dense"], WordTokenizer(["film"]), file, 0)


def test_a_training_on_vectors_of_a_file(script: ModuleType, data: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "vectors.txt", tmp_path / "out"
    file.write_text("good 1 2 3\nbad -1 -2 -3\n")
    script.main([str(data), "--glove", str(file), "--kind", "dense", "--epochs", "1", "--out", str(out)])
    r = reviews("dense", out)
    assert r.model.embed.embedding_dim == 3
    good, bad = (r.model.embed.weight[r.tokenizer.ids[w]].detach() for w in ("good", "bad"))
    assert torch.nn.functional.cosine_similarity(good, bad, dim=0) < -0.9
    assert json.loads((out / "reviews_dense.json").read_text(encoding="utf-8"))["embedding"] == "vectors.txt"
    file.write_text("good 1 2 3\nbad -1 -2\n")
    with pytest.raises(SystemExit, match=r"vectors\.txt', line 2: 'bad -1 -2' has 2 numbers"):
        script.main([str(data), "--glove", str(file), "--out", str(out)])


def test_the_script_refuses(script: ModuleType, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script.main([str(data), "--kind", "dense", "--epochs", "1", "--out", str(out)])
    with pytest.raises(SystemExit, match="another vocabulary, and 'dense' there needs it"):
        script.main([str(data), "--kind", "lstm", "--epochs", "1", "--at-least", "9", "--out", str(out)])
    (data / "pos.txt").write_text("\n \n")
    with pytest.raises(SystemExit, match=r"pos\.txt: it holds no sentence"):
        script.main([str(data)])
    (data / "pos.txt").write_bytes(b"na\xefve\n")
    with pytest.raises(SystemExit, match=r"pos\.txt: not text in UTF-8"):
        script.main([str(data)])
    (data / "neg.txt").unlink()
    with pytest.raises(SystemExit, match=r"there is no neg\.txt; it holds one negative sentence a line"):
        script.main([str(data)])
    few = tmp_path / "few"
    few.mkdir()
    for name in ("pos", "neg"):
        (few / f"{name}.txt").write_text(f"{name}\n")
    with pytest.raises(SystemExit, match="2 sentences cannot be split"):
        script.main([str(few)])


# The page


def test_every_figure_of_the_page_was_measured() -> None:
    """Each line of a table with ± is one of results.json, and the accuracies are those of the records."""
    page = (ROOT / "docs" / "reviews.md").read_text(encoding="utf-8")
    results = json.loads((ROOT / "docs" / "reviews" / "results.json").read_text(encoding="utf-8"))
    lines = set()
    for kind in KINDS:
        record = json.loads((ZOO / f"reviews_{kind}.json").read_text(encoding="utf-8"))
        assert results[kind]["test accuracy"] == pytest.approx(record["test_accuracy"], abs=1e-4)
        assert f"{record['test_accuracy']:.1%}" in page
        found = results[kind]["deletion"]
        for name, row in found["fall"].items():
            cells = [f"{mean:.2f} ± {error:.2f} ({found['changed'][name][k]:.0%})" for k, (mean, error) in row.items()]
            lines.add(f"| {name} | " + " | ".join(cells) + " |")
    assert f"{results['bag of words']['test']:.1%}" in page
    assert {line for line in page.splitlines() if line.startswith("| ") and "±" in line} == lines
