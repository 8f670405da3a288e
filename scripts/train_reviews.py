"""Train the two movie review classifiers of the package; resumes where it stopped.

    python scripts/train_reviews.py DATA                  # a folder with pos.txt and neg.txt, one sentence a line
    python scripts/train_reviews.py DATA --glove glove.6B.50d.txt --out mine    # embeddings begin as the file's vectors
    relprop text "A moving film." --model reviews:lstm --weights mine

Sentences that stand there twice are used once. A seeded permutation splits them 80/10/10 into parts to train, to stop
early and to test; the vocabulary is that of the first part. Writes into `--out` the weights (float16) and a JSON record
of each model, and the vocabulary. The test part is looked at once, when training has ended.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from relprop.errors import InputError, RelpropError
from relprop.zoo.glove import read_glove
from relprop.zoo.movie_reviews import CLASSES, MODELS, Classifier
from relprop.zoo.words import WordTokenizer, folded

FILES = {"negative": "neg.txt", "positive": "pos.txt"}


@dataclass(frozen=True)
class Settings:
    """How a model is trained. `word_dropout`: the share of words that become the unknown word."""

    width: int
    hidden: int
    dropout: float
    word_dropout: float
    lr: float
    weight_decay: float
    batch: int = 64
    epochs: int = 40
    patience: int = 5


# chosen by the loss on the validation part, among a few
SETTINGS = {
    "dense": Settings(width=32, hidden=32, dropout=0.5, word_dropout=0.3, lr=1e-3, weight_decay=1.0),
    "lstm": Settings(width=32, hidden=32, dropout=0.5, word_dropout=0.3, lr=1e-3, weight_decay=1.0),
}


@dataclass(frozen=True)
class Sentences:
    """Texts with their classes, indices into `CLASSES`."""

    texts: list[str]
    labels: list[int]

    def part(self, indices: list[int]) -> Sentences:
        return Sentences([self.texts[i] for i in indices], [self.labels[i] for i in indices])


def read_sentences(folder: Path) -> Sentences:
    """The sentences of pos.txt and neg.txt, each once. Raises `InputError`."""
    found: dict[str, int] = {}
    for label, name in enumerate(CLASSES):
        file = folder / FILES[name]
        if not file.is_file():
            raise InputError(f"DATA {folder}: there is no {file.name}; it holds one {name} sentence a line")
        try:
            lines = file.read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"DATA {file}: not text in UTF-8 ({error.reason}); convert it") from None
        for line in lines:
            if line.strip():
                found.setdefault(line.strip(), label)
        if label not in found.values():
            raise InputError(f"DATA {file}: it holds no sentence; give one a line")
    return Sentences(list(found), list(found.values()))


def split(sentences: Sentences, seed: int) -> tuple[Sentences, Sentences, Sentences]:
    """80 % to train, 10 % to stop early, 10 % to test, by a permutation of all."""
    order = torch.randperm(len(sentences.texts), generator=torch.Generator().manual_seed(seed)).tolist()
    tenth = len(order) // 10
    if not tenth:
        raise InputError(f"DATA: {len(order)} sentences cannot be split 80/10/10; give at least 10")
    parts = order[2 * tenth :], order[tenth : 2 * tenth], order[:tenth]
    return tuple(sentences.part(p) for p in parts)  # type: ignore[return-value]


def words_of(texts: list[str], at_least: int) -> list[str]:
    """The words that stand in at least so many places, the most frequent first."""
    cutter = WordTokenizer([])
    counts = Counter(folded(t[a:b]) for t in texts for a, b in cutter(t, return_offsets_mapping=True)["offset_mapping"])
    return [w for w, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if n >= at_least]


def initialized(kind: str, settings: Settings, tokenizer: WordTokenizer, glove: Path | None, seed: int) -> Classifier:
    """The untrained model; with GloVe vectors each word the file knows begins as its vector, of the file's width."""
    torch.manual_seed(seed)
    if glove is None:
        return MODELS[kind](len(tokenizer), settings.width, settings.hidden, settings.dropout)
    words, vectors = read_glove(glove, tokenizer.words)
    if not words:
        raise InputError(f"--glove {glove}: it holds none of the {len(tokenizer.words)} words of the reviews")
    model = MODELS[kind](len(tokenizer), vectors.shape[1], settings.hidden, settings.dropout)
    with torch.no_grad():
        model.embed.weight[[tokenizer.ids[word] for word in words]] = vectors
    return model


@torch.no_grad()
def judged(model: Classifier, tokenizer: WordTokenizer, part: Sentences) -> tuple[float, float]:
    """Mean cross-entropy and the share of correct decisions."""
    model.eval()
    chunks = [slice(i, i + 500) for i in range(0, len(part.texts), 500)]
    logits = torch.cat([model(tokenizer.batch(part.texts[c])) for c in chunks])
    labels = torch.tensor(part.labels)
    return float(F.cross_entropy(logits, labels)), float((logits.argmax(1) == labels).double().mean())


def one_epoch(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    ids: Tensor,
    labels: Tensor,
    settings: Settings,
    unknown: int,
) -> float:
    """One pass over the training part in random order; the mean loss."""
    model.train()
    total = 0.0
    for index in torch.randperm(len(ids)).split(settings.batch):
        x = ids[index]
        x = x[:, : int((x != 0).sum(1).max())]
        dropped = (torch.rand(x.shape) < settings.word_dropout) & (x != 0)
        loss = F.cross_entropy(model(x.masked_fill(dropped, unknown)), labels[index])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.item() * len(index)
    return total / len(ids)


def train(
    model: Classifier,
    tokenizer: WordTokenizer,
    parts: tuple[Sentences, Sentences],
    settings: Settings,
    seed: int,
    checkpoint: Path,
) -> dict[str, Any]:
    """Train until the loss of the second part has not fallen for `patience` epochs; leaves the best weights in model.

    An epoch's random numbers follow from the seed and its number, so that a resumed training ends like one in one go.
    """
    ids, labels = tokenizer.batch(parts[0].texts), torch.tensor(parts[0].labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    asked = {**asdict(settings), "seed": seed, "tokens": len(tokenizer), "sentences": len(labels)}
    state: dict[str, Any] = {"epoch": 0, "loss": float("inf"), "accuracy": 0.0, "best_epoch": 0, "best": None}
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True)
        if kept.pop("asked") != asked:
            raise InputError(f"{checkpoint} is of a training with other settings or data; delete it, or change --out")
        model.load_state_dict(kept.pop("model"))
        optimizer.load_state_dict(kept.pop("optimizer"))
        state = kept
    while state["epoch"] < settings.epochs and state["epoch"] - state["best_epoch"] < settings.patience:
        epoch = state["epoch"] + 1
        torch.manual_seed(1_000_003 * (seed + 1) + epoch)
        loss = one_epoch(model, optimizer, ids, labels, settings, tokenizer.unk_token_id)
        held_out, accuracy = judged(model, tokenizer, parts[1])
        state["epoch"] = epoch
        if held_out < state["loss"]:
            best = {k: v.half().float() for k, v in model.state_dict().items()}  # as they are stored
            state |= {"loss": held_out, "accuracy": accuracy, "best_epoch": epoch, "best": best}
        torch.save(
            {**state, "asked": asked, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint
        )
        print(f"epoch {epoch}: loss {loss:.3f}, validation loss {held_out:.3f} accuracy {accuracy:.4f}", flush=True)
    model.load_state_dict(state["best"])
    return {"epochs": state["epoch"], "best_epoch": state["best_epoch"]}


def write(out: Path, kind: str, model: Classifier, tokenizer: WordTokenizer, record: dict[str, Any]) -> None:
    """The files that `relprop.zoo.reviews(kind, out)` reads, and the record."""
    words = json.dumps(list(tokenizer.words), ensure_ascii=False, separators=(",", ":"))
    (out / "reviews_words.json").write_text(words + "\n", encoding="utf-8")
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, out / f"reviews_{kind}.safetensors")
    (out / f"reviews_{kind}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def check_vocabulary(out: Path, tokenizer: WordTokenizer, others: list[str]) -> None:
    """Refuse to replace the vocabulary under the weights of a model that is not trained again."""
    file = out / "reviews_words.json"
    kept = [kind for kind in others if (out / f"reviews_{kind}.safetensors").exists()]
    if kept and file.exists() and json.loads(file.read_text(encoding="utf-8")) != list(tokenizer.words):
        raise InputError(f"{file} is another vocabulary, and '{kept[0]}' there needs it; train both, or change --out")


def run(arguments: argparse.Namespace) -> None:
    """Train the models that are asked for, one after the other."""
    sentences = read_sentences(arguments.data)
    training, validation, test = split(sentences, arguments.seed)
    tokenizer = WordTokenizer(words_of(training.texts, arguments.at_least))
    arguments.out.mkdir(parents=True, exist_ok=True)
    check_vocabulary(arguments.out, tokenizer, [kind for kind in MODELS if kind not in (arguments.kind or MODELS)])
    for kind in arguments.kind or list(MODELS):
        settings = SETTINGS[kind]
        if arguments.epochs is not None:
            settings = Settings(**{**asdict(settings), "epochs": arguments.epochs})
        model = initialized(kind, settings, tokenizer, arguments.glove, arguments.seed)
        checkpoint = arguments.out / f"reviews_{kind}.checkpoint.pt"
        print(f"{kind}: {sum(p.numel() for p in model.parameters())} weights, {len(tokenizer)} tokens", flush=True)
        found = train(model, tokenizer, (training, validation), settings, arguments.seed, checkpoint)
        losses = {name: judged(model, tokenizer, p) for name, p in (("validation", validation), ("test", test))}
        record = {
            **{f"{name}_accuracy": round(accuracy, 6) for name, (_, accuracy) in losses.items()},
            "sentences": {"train": len(training.texts), "validation": len(validation.texts), "test": len(test.texts)},
            "tokens": len(tokenizer), "seed": arguments.seed, **found, "settings": asdict(settings),
            "embedding": "random" if arguments.glove is None else arguments.glove.name,
        }  # fmt: skip
        write(arguments.out, kind, model, tokenizer, record)
        checkpoint.unlink(missing_ok=True)
        print(f"{kind}: test accuracy {record['test_accuracy']}", flush=True)


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with pos.txt and neg.txt")
    parser.add_argument("--out", type=Path, default=Path("src/relprop/zoo"))
    parser.add_argument("--kind", choices=list(MODELS), action="append", help="by default both")
    parser.add_argument("--glove", type=Path, help="word vectors to begin with, in GloVe's text format")
    parser.add_argument("--at-least", type=int, default=2, help="how often a word must occur to be in the vocabulary")
    parser.add_argument("--epochs", type=int, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    try:
        run(parser.parse_args(given))
    except RelpropError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
