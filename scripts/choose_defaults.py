"""Which defaults are the more faithful ones? Pixel flipping on trained CIFAR-10 networks.

    python scripts/choose_defaults.py residual --data cifar10.tar.gz --weights resnet56.safetensors --depth 9
    python scripts/choose_defaults.py lrn --data cifar10.tar.gz --images 500 --steps 16

`residual`: sums of branches by summand or by magnitude, and γ, on a CIFAR ResNet. `lrn`: local response normalization
as the identity or by Taylor expansion, on the embedded network. For each recipe: SRG = AUC(lowest first) − AUC(highest
first) of the predicted class's logit while whole pixels are replaced by random colours (mean ± standard error over the
photos), and the largest |R| relative to the score (median). Prints a Markdown table, which docs/choices.md quotes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import relprop
from networks import CifarResNet
from relprop import evaluate
from relprop.reproduce.images import open_images
from relprop.zoo import cifar10, cifar10_lrn

IMAGENET = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
CIFAR = torch.tensor(cifar10.MEAN).view(3, 1, 1), torch.tensor(cifar10.STD).view(3, 1, 1)
Recipe = tuple[str, dict[str, Any]]


def photos(path: Path, count: int) -> Tensor:
    """The first photos of each class of the test split, in [0, 1]."""
    images = open_images(path).read(0, count).images
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in images])


def of_residual(low: Tensor, high: Tensor) -> Iterator[Recipe]:
    box = {"low": low, "high": high}
    for name, options in [
        ("epsilon", {}), ("auto", {"gamma": 0.25}), ("auto", {"gamma": 1.0}), ("auto", {"gamma": 4.0}),
        ("auto", {"gamma": 0.25, **box}), ("auto", {"gamma": 1.0, **box}), ("auto", {"gamma": 4.0, **box}),
        ("epsilon_plus", {}), ("epsilon_plus_flat", {}), ("deep_taylor", box), ("epsilon_alpha2_beta1", {}),
    ]:  # fmt: skip
        for residual in ("epsilon", "magnitude"):
            yield name, {**options, "residual": residual}


def of_lrn(low: Tensor, high: Tensor) -> Iterator[Recipe]:
    for name, options in [("auto", {}), ("auto", {"low": low, "high": high}), ("epsilon", {}), ("epsilon_plus", {})]:
        for treatment in ({"lrn": "identity"}, {"lrn": "taylor"}, {"lrn": "taylor", "lrn_order": 2}):
            yield name, {**options, **treatment}


def shown(options: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" if not isinstance(v, Tensor) else k for k, v in options.items())


def row(model: nn.Module, x: Tensor, target: Tensor, recipe: Recipe, low: Tensor, high: Tensor, steps: int) -> str:
    """One line of the table."""
    name, options = recipe
    explainer = relprop.Explainer(model, x[:2], name, **options)
    parts = [explainer(b, t) for b, t in zip(x.split(50), target.split(50), strict=True)]
    R, score = torch.cat([p.relevance.sum(1) for p in parts]), torch.cat([p.score for p in parts])
    curves = evaluate.pixel_flipping(
        model, x, R, target=target, orders=("highest", "lowest"), low=low.flatten(), high=high.flatten(), steps=steps
    )
    auc = [curves.mean("auc", "relevance", order).mean for order in ("highest", "lowest")]
    peak = (R.abs().flatten(1).amax(1) / score).median()
    srg = curves.mean("srg", "relevance")
    return f"| {name} | {shown(options)} | {srg} | {auc[0]:.2f} | {auc[1]:.2f} | {peak:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=("residual", "lrn"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="of the ResNet")
    parser.add_argument("--depth", type=int, default=9, help="n of the 6n + 2 layers: 3 is ResNet-20, 9 ResNet-56")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--steps", type=int, default=32)
    args = parser.parse_args()
    (mean, std), model = (IMAGENET, CifarResNet(args.depth)) if args.question == "residual" else (CIFAR, cifar10_lrn())
    if args.question == "residual":
        model.load_state_dict(load_file(args.weights))
    model.eval()
    low, high = (0 - mean) / std, (1 - mean) / std
    x = (photos(args.data, args.images) - mean) / std
    with torch.no_grad():
        target = torch.cat([model(b).argmax(1) for b in x.split(250)])
    print("| recipe | options | SRG | highest first | lowest first | max abs R / score |\n|---|---|---|---|---|---|")
    for recipe in (of_residual if args.question == "residual" else of_lrn)(low, high):
        print(row(model, x, target, recipe, low, high, args.steps), flush=True)


if __name__ == "__main__":
    main()
