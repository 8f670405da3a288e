"""The table and the figure of docs/neon_supervised.md: is the relevance of support vector machines faithful?

    python scripts/measure_svm.py [-o docs/figures]

SVC (C = 5) is fitted on half of two classes of a data set that comes with scikit-learn. On up to 120 samples of the
other half, features are replaced one by one with those of a training sample predicted as the other class, drawn at
random, the most relevant first and the least relevant first. SRG is the area between the curves of the decision
function, taken as positive for the predicted class (mean ± standard error). It writes neon_svm.png, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot as plt
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

import relprop
from relprop import show
from relprop.neon import neuralize
from relprop.neon.distances import Differences, Kernel, Readout, Squared, Total

Array = np.ndarray[Any, Any]


def tasks() -> Iterator[tuple[str, Array, Array]]:
    """Names, features and two classes."""
    x, y = datasets.load_digits(return_X_y=True)
    for a, b in ((3, 8), (1, 7), (4, 9)):
        yield f"digits {a}/{b}", x[(y == a) | (y == b)] / 16, y[(y == a) | (y == b)]
    x, y = datasets.load_breast_cancer(return_X_y=True)
    yield "breast cancer", StandardScaler().fit_transform(x), y
    x, y = datasets.load_wine(return_X_y=True)
    yield "wine 0/1", StandardScaler().fit_transform(x)[y < 2], y[y < 2]


def explanations(svc: SVC, x: Array, mean: Array) -> dict[str, Array]:
    """Relevance of the decision function by each method."""
    X = torch.tensor(x)
    network = neuralize(svc)
    layers = Differences(svc.support_vectors_), Squared(), Total(), Kernel(svc._gamma)
    plain = nn.Sequential(*layers, Readout(svc.dual_coef_, svc.intercept_)).double()
    at = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(network(at).sum(), at)
    occlusion = np.zeros_like(x)
    for i in range(x.shape[1]):
        without = x.copy()
        without[:, i] = mean[i]
        occlusion[:, i] = svc.decision_function(x) - svc.decision_function(without)
    return {
        "this network": relprop.explain(network, X, composite="lrp_zero").relevance.numpy(),
        "plain graph": relprop.explain(plain, X, composite="lrp_zero").relevance.numpy(),
        "gradient × (x − mean)": slope.numpy() * (x - mean),
        "occlusion by the mean": occlusion,
    }


def srg(svc: SVC, x: Array, R: Array, other: Array) -> tuple[float, float]:
    """AUC(lowest first) − AUC(highest first), with its standard error."""
    sign = np.sign(svc.decision_function(x))[:, None]
    areas, rows = [], np.arange(len(x))
    for order in (np.argsort(R * sign, 1), np.argsort(-R * sign, 1)):
        z, curve = x.copy(), [svc.decision_function(x)]
        for place in order.T:
            z[rows, place] = other[rows, place]
            curve.append(svc.decision_function(z))
        areas.append(np.mean(curve, 0) * sign[:, 0])
    gap = areas[0] - areas[1]
    return float(gap.mean()), float(gap.std() / np.sqrt(len(gap)))


def measure() -> None:
    """Print the table."""
    random = np.random.default_rng(0)
    for name, x, y in tasks():
        order = random.permutation(len(x))
        seen, held = order[: len(x) // 2], order[len(x) // 2 :][:120]
        for stiffness in (1, 3):
            svc = SVC(C=5.0, gamma=stiffness / (x.shape[1] * x[seen].var())).fit(x[seen], y[seen])
            predicted = svc.predict(x[seen])
            other = np.stack([x[seen][random.choice(np.flatnonzero(predicted != p))] for p in svc.predict(x[held])])
            maps = explanations(svc, x[held], x[seen].mean(0))
            cells = ["{:.2f} ± {:.2f}".format(*srg(svc, x[held], R, other)) for R in maps.values()]
            f = np.abs(svc.decision_function(x[held]))
            sizes = [f"{np.median(np.abs(maps[k]).sum(1) / f):.1f}" for k in ("this network", "plain graph")]
            print(f"| {name} | {stiffness} | {' | '.join(cells)} | {', '.join(sizes)} |")


def draw(path: Path) -> None:
    """Digits 3 and 8 and why they are no threes: by an SVM, one behind PCA, and logistic regression."""
    name, x, y = next(tasks())
    models = {
        "SVC, rbf": SVC(C=5.0),
        "PCA(10), SVC, rbf": make_pipeline(PCA(10), SVC(C=5.0)),
        "scaler, logistic": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    }
    seen = np.arange(len(x)) % 2 == 0
    f = models["SVC, rbf"].fit(x[seen], y[seen]).decision_function(x)
    held = np.flatnonzero(~seen)
    chosen = [int(held[np.argmin(np.abs(f[held] - goal))]) for goal in (1.5, -1.5, 0.0)]
    figure, places = plt.subplots(3, 4, figsize=(7, 7.4))
    for row, i in zip(places, chosen, strict=True):
        row[0].imshow(1 - x[i].reshape(8, 8), cmap="gray", vmin=0, vmax=1)
        row[0].set_xlabel(f"a {y[i]}", fontsize=8)
        for ax, (title, model) in zip(row[1:], models.items(), strict=True):
            e = relprop.explain(model.fit(x[seen], y[seen]), x[i : i + 1], composite="lrp_zero", ledger=True)
            limit = float(e.relevance.abs().max())
            ax.imshow(show.heatmap(e.relevance.reshape(8, 8), limit=limit), interpolation="nearest")
            account = f"f {float(e.score):+.2f} = {float(e.relevance.sum()):+.2f} {float(e.ledger.bias):+.2f}"
            ax.set_xlabel(f"{title}\n{account}\nscale ±{limit:.2f}", fontsize=8)
    for ax in places.flat:
        ax.set(xticks=[], yticks=[])
    figure.suptitle(f"{name}: f > 0 is an 8; red speaks for 8, blue for 3", fontsize=9)
    figure.tight_layout()
    figure.savefig(path / "neon_svm.png", dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure and draw the relevance of support vector machines.")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/figures"))
    draw(parser.parse_args().output)
    measure()


if __name__ == "__main__":
    main()
