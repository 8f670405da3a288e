"""The figures of docs/neon.md, and how often the changed feature of a sample is found.

    python scripts/draw_neon.py [-o docs/figures]

Everything is fitted on data that come with scikit-learn. Writes neon_clusters.png and neon_outliers.png and prints a
table: detectors are fitted on every other sample of a data set (standardized); of the rest one feature each is moved by
so many standard deviations, and the share is printed of those for which it has the most relevance for the outlierness.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from sklearn import datasets
from sklearn.cluster import KMeans
from sklearn.covariance import EllipticEnvelope
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.svm import OneClassSVM

import relprop
from relprop import neon, show

Array = np.ndarray[Any, Any]


Cell = tuple[Array, str]  # a picture (8, 8, 3) and the text under it


def photo(digit: Array, text: str) -> Cell:
    """Pixels 0 ... 16, ink dark."""
    grey = (255 * (1 - np.clip(digit, 0, 16) / 16)).astype(np.uint8).reshape(8, 8)
    return np.repeat(grey[..., None], 3, 2), text


def heat(R: torch.Tensor, score: torch.Tensor, text: str, limit: float) -> Cell:
    """Relevance in colours, full at ±limit."""
    values = f"Σ R {float(R.sum()):.0f}, score {float(score):.0f}\nscale ±{limit:.0f}"
    return show.heatmap(R.reshape(8, 8), limit=limit), f"{text}\n{values}"


def clusters(x: Array) -> list[list[Cell]]:
    """Digits and their nearest two centroids: the evidence for the own cluster, and for the next."""
    estimator = KMeans(10, n_init=10, random_state=0).fit(x)
    network = neon.neuralize(estimator)
    nearest = np.argsort(estimator.transform(x), 1)
    margins = network(torch.tensor(x)).numpy().max(1)
    typical = np.argsort(np.abs(margins - np.median(margins)))
    rows = []
    for i in typical[[0, 1, 2]]:
        own, other = map(int, nearest[i, :2])
        e = relprop.explain(network, x[i : i + 1], target=[own, other], composite="lrp_zero")
        limit = float(e.relevance.abs().max())
        centres = [photo(estimator.cluster_centers_[c], f"centroid {c}") for c in (own, other)]
        maps = [heat(e.relevance[k], e.score[k], f"evidence for {c}", limit) for k, c in enumerate((own, other))]
        rows.append([photo(x[i], f"in cluster {own}, next is {other}"), *centres, *maps])
    return rows


def outliers(x: Array, y: Array) -> list[list[Cell]]:
    """A one-class SVM that has seen threes: a typical one, the least typical one, and other digits."""
    estimator = OneClassSVM(nu=0.1, gamma="scale").fit(x[y == 3])
    o = neon.neuralize(estimator)(torch.tensor(x))[:, 0].numpy()
    chosen = {"most typical 3": _at(o, y == 3, 0), "least typical 3": _at(o, y == 3, -1)}
    chosen |= {f"a median {d}": _at(o, y == d, int((y == d).sum()) // 2) for d in (8, 9, 5)}
    e = relprop.explain(estimator, x[list(chosen.values())], composite="lrp_zero")
    limit = float(e.relevance.abs().max())
    digits = [photo(x[i], name) for name, i in chosen.items()]
    return [digits, [heat(R, s, "outlierness", limit) for R, s in zip(e.relevance, e.score, strict=True)]]


def grid(rows: list[list[Cell]]) -> Figure:
    """Pictures in rows, each with its text under it."""
    figure, places = plt.subplots(
        len(rows), len(rows[0]), figsize=(1.7 * len(rows[0]), 2.15 * len(rows)), squeeze=False
    )
    for axes, row in zip(places, rows, strict=True):
        for ax, (image, text) in zip(axes, row, strict=True):
            ax.imshow(image, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.set_xlabel(text, fontsize=7)
    figure.tight_layout()
    return figure


def _at(o: Array, among: Array, place: int) -> int:
    """The index of the sample at this place in the order of outlierness."""
    which = np.flatnonzero(among)
    return int(which[np.argsort(o[which])][place])


DETECTORS: dict[str, tuple[Any, dict[str, str]]] = {
    "KernelDensity": (KernelDensity(bandwidth=1.0), {}),
    "OneClassSVM": (OneClassSVM(nu=0.1, gamma="scale"), {}),
    "NearestNeighbors, k = 5": (NearestNeighbors(n_neighbors=5), {}),
    "KMeans, 3 clusters": (KMeans(3, n_init=5, random_state=0), {"output": "outlierness"}),
    "GaussianMixture, 3 full": (GaussianMixture(3, random_state=0, reg_covar=1e-2), {"output": "outlierness"}),
    "EllipticEnvelope": (EllipticEnvelope(random_state=0), {}),
}


def found(x: Array, shift: float) -> dict[str, float]:
    """Fitted on every other sample: the share of the rest in which the moved feature has the most relevance."""
    random = np.random.default_rng(0)
    seen, changed = x[::2], x[1::2].copy()
    which = random.integers(x.shape[1], size=len(changed))
    changed[np.arange(len(changed)), which] += shift * random.choice([-1, 1], size=len(changed))
    shares = {"the largest value, no detector": float((np.abs(changed).argmax(1) == which).mean())}
    for name, (estimator, options) in DETECTORS.items():
        network = neon.neuralize(estimator.fit(seen), **options)
        R = relprop.explain(network, changed, composite="lrp_zero").relevance.numpy()
        shares[name] = float((R.argmax(1) == which).mean())
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the figures of docs/neon.md.")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/figures"))
    folder = parser.parse_args().output
    x, y = datasets.load_digits(return_X_y=True)
    for name, rows in (("clusters", clusters(x)), ("outliers", outliers(x, y))):
        grid(rows).savefig(folder / f"neon_{name}.png", dpi=110, metadata={"Software": None})
    for name, load in (("wine", datasets.load_wine), ("breast_cancer", datasets.load_breast_cancer)):
        raw = load().data
        z = (raw - raw.mean(0)) / raw.std(0)
        for shift in (2.0, 4.0):
            print(f"{name} ({z.shape[1]} features), moved by {shift:g} deviations")
            for detector, share in found(z, shift).items():
                print(f"  {detector:31} {share:.2f}")


if __name__ == "__main__":
    main()
