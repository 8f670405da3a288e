"""What docs/reviews.md says of the two review classifiers: accuracy, conservation, and words deleted by relevance.

    python scripts/measure_reviews.py DATA [--folder src/relprop/zoo] [--out docs/reviews]

DATA as for train_reviews.py, whose split it repeats with the seed of the records. Writes results.json, prints tables
for the page, and draws review.png. Needs scikit-learn and matplotlib.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from train_reviews import Sentences, read_sentences, split

import relprop
from relprop import show
from relprop.evaluate import estimate, token_deletion
from relprop.zoo import reviews
from relprop.zoo.movie_reviews import CLASSES, Reviews
from relprop.zoo.words import WordTokenizer

DELETED = (1, 2, 3, 5)
DRAWS = 5
METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "dense": {
        "auto (LRP-ε)": {"composite": "auto"},
        "gamma, γ = 0.25": {"composite": "gamma"},
        "alpha_beta, α = 2": {"composite": "alpha_beta"},
    },
    "lstm": {
        'auto (LRP-ε, gate="signal")': {"composite": "auto"},
        'auto, residual="epsilon"': {"composite": "auto", "residual": "epsilon"},
        'auto, gate="half"': {"composite": "auto", "gate": "half"},
        "input × gradient": {},
    },
}
REVIEW = (
    "Despite a talented cast and some beautiful photography, the film never finds its tone: the jokes are stale, the "
    "plot is a dull, predictable mess, and by the end it's just too silly to be moving."
)


def bag_of_words(tokenizer: WordTokenizer, parts: tuple[Sentences, Sentences, Sentences]) -> dict[str, float]:
    """Logistic regression on which words of the same vocabulary stand in a text; C chosen on the validation part."""
    from sklearn.linear_model import LogisticRegression

    def features(part: Sentences) -> Any:
        x = torch.zeros(len(part.texts), len(tokenizer))
        x.scatter_(1, tokenizer.batch(part.texts), 1.0)
        x[:, 0] = 0.0  # padding is no word
        return x.numpy()

    rows = [features(p) for p in parts]
    best: tuple[float, float, Any] = (-1.0, 0.0, None)
    for c in (0.03, 0.1, 0.3, 1.0, 3.0):
        fitted = LogisticRegression(C=c, max_iter=2000).fit(rows[0], parts[0].labels)
        best = max(best, (float(fitted.score(rows[1], parts[1].labels)), c, fitted), key=lambda b: b[0])
    return {"validation": best[0], "C": best[1], "test": float(best[2].score(rows[2], parts[2].labels))}


def conservation(r: Reviews, texts: list[str]) -> dict[str, Any]:
    """Where the score of the predicted class went, in float64, and in float32 as the model is shipped."""
    ids, found = r.tokenizer.batch(texts), {}
    for name, model in (("float32", r.model), ("float64", reviews_in_double(r))):
        ledger = relprop.explain(model, ids, ledger=True).ledger
        found[name] = {
            "closes": ledger.closes(),
            "largest error": float(ledger.error.max()),
            "largest |1 − words / score|": float((1 - ledger.input / ledger.score).abs().max()),
            "largest |bias|": float(ledger.bias.abs().max()),
        }
    return found


def reviews_in_double(r: Reviews) -> torch.nn.Module:
    """A copy of the model in float64."""
    copy = type(r.model)(len(r.tokenizer), r.model.embed.embedding_dim, hidden_units(r))
    copy.load_state_dict(r.model.state_dict())
    return copy.double().eval()


def hidden_units(r: Reviews) -> int:
    return int(r.model.lstm.hidden_size if hasattr(r.model, "lstm") else r.model.hidden.out_features)


def maps(r: Reviews, kind: str, ids: Tensor) -> dict[str, Tensor]:
    """The relevance of every word for the predicted class, by method, (N, T)."""
    found = {}
    for name, options in METHODS[kind].items():
        explain = relprop.Explainer(r.model, ids, **options) if options else None
        found[name] = explain(ids).relevance if explain else input_times_gradient(r.model, ids)
    return found


def input_times_gradient(model: torch.nn.Module, ids: Tensor) -> Tensor:
    """x ⊙ ∂z/∂x of the embeddings, summed over each: what LRP is compared with."""
    kept: list[Tensor] = []

    def keep(_: object, __: object, x: Tensor) -> Tensor:
        kept.append(x.detach().requires_grad_())
        return kept[0]

    handle = model.embed.register_forward_hook(keep)
    try:
        logits = model(ids)
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(logits.amax(1).sum(), kept[0])
    return (kept[0] * gradient).sum(-1).detach()


def deletion(r: Reviews, kind: str, texts: list[str]) -> dict[str, Any]:
    """By how much the logit of the predicted class falls when 1, 2, 3, 5 words are removed, for texts with more words.

    Texts of one length are deleted together, so that k is a number of words and not a share.
    """
    ids = r.tokenizer.batch(texts)
    lengths, relevance = (ids != 0).sum(1), maps(r, kind, ids)
    with torch.no_grad():
        scores = r.model(ids).amax(1)
    shares = {
        name: (m.sum(1) / scores).quantile(torch.tensor([0.05, 0.5, 0.95])).tolist() for name, m in relevance.items()
    }
    curves: dict[tuple[str, str], list[Tensor]] = {}
    done = 0
    for length in sorted(set(lengths.tolist())):
        if length <= DELETED[-1]:
            continue
        rows = (lengths == length).nonzero()[:, 0]
        found = token_deletion(
            r.model, ids[rows, :length], {name: m[rows, :length] for name, m in relevance.items()}, delete=True,
            pad_token=0, steps=DELETED, draws=DRAWS, first=done,
        )  # fmt: skip
        done += len(rows)
        for key, values in found.values.items():
            curves.setdefault(key, []).append(values)
    fallen = {key: torch.cat(v) for key, v in curves.items()}
    rows_of = {f"{m}, {o} first" if m != "random" else "random order": v for (m, o), v in fallen.items()}
    logit = next(iter(fallen.values()))[:, 0]
    table = {
        name: {str(k): [(e := estimate(v[:, 0] - v[:, i + 1])).mean, e.error] for i, k in enumerate(DELETED)}
        for name, v in rows_of.items()
    }
    flips = {
        name: {str(k): float((v[:, i + 1] < 0).double().mean()) for i, k in enumerate(DELETED)}
        for name, v in rows_of.items()
    }
    about = {"mean length": float(lengths.double().mean()), "Σ words / score, quantiles 5, 50, 95 %": shares}
    return {
        **about,
        "texts": done,
        "logit": [estimate(logit).mean, estimate(logit).error],
        "fall": table,
        "changed": flips,
    }


def printed(kind: str, found: dict[str, Any]) -> str:
    """The tables of the page."""
    head = "| words removed | " + " | ".join(map(str, DELETED)) + " |\n|---|" + "---|" * len(DELETED)
    lines = [f"{kind}: {found['texts']} texts, logit {found['logit'][0]:.2f} ± {found['logit'][1]:.2f}", head]
    for name, row in found["fall"].items():
        cells = [f"{mean:.2f} ± {error:.2f} ({found['changed'][name][k]:.0%})" for k, (mean, error) in row.items()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("src/relprop/zoo"))
    parser.add_argument("--out", type=Path, default=Path("docs/reviews"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    records = {k: json.loads((given.folder / f"reviews_{k}.json").read_text(encoding="utf-8")) for k in METHODS}
    parts = split(read_sentences(given.data), records["dense"]["seed"])
    results: dict[str, Any] = {"bag of words": bag_of_words(reviews("dense", given.folder).tokenizer, parts)}
    print("bag of words", results["bag of words"])
    for kind in METHODS:
        r = reviews(kind, given.folder)
        with torch.no_grad():
            right = r.model(r.tokenizer.batch(parts[2].texts)).argmax(1) == torch.tensor(parts[2].labels)
        results[kind] = {
            "test accuracy": float(right.double().mean()),
            "conservation": conservation(r, parts[2].texts),
            "deletion": deletion(r, kind, parts[2].texts),
        }
        print(json.dumps(results[kind]["conservation"], indent=1), f"accuracy {results[kind]['test accuracy']:.4f}")
        print(printed(kind, results[kind]["deletion"]), flush=True)
    (given.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(given.folder, given.out / "review.png")


def draw(folder: Path, path: Path) -> None:
    """One review as both networks read it: relevance for the class negative."""
    shown = []
    for kind in METHODS:
        e = relprop.explain_text(*reviews(kind, folder), REVIEW, CLASSES[0])
        (passage,) = e.passages()
        shown.append(show.Passage(passage.pieces, f"{kind}: {passage.title}", passage.score))
    show.save_text(path, shown)


if __name__ == "__main__":
    main()
