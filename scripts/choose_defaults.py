"""Which share of residual sums, and which γ, is the more faithful default? Pixel flipping on trained CIFAR-10 ResNets.

    python scripts/choose_defaults.py --data cifar10.tar.gz --weights resnet56.safetensors --depth 9 --images 200

For each recipe: SRG = AUC(lowest first) − AUC(highest first) of the predicted class's logit while whole pixels are
replaced by random colours (32 steps; mean ± standard error over the photos), and the largest |R| relative to the score.
Prints a Markdown table, which docs/choices.md quotes.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import numpy as np

import relprop
from networks import CifarResNet
from relprop.zoo import cifar10

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def photos(path: Path, count: int) -> Tensor:
    """The first photos of each class of the test split, in [0, 1]."""
    images: dict[str, list[Tensor]] = {c: [] for c in cifar10.CLASSES}
    with tarfile.open(path) as archive:
        for member in sorted(archive.getmembers(), key=lambda m: m.name):
            parts = Path(member.name).parts
            if member.isfile() and parts[-3:-2] == ("test",) and len(images[parts[-2]]) < -(-count // 10):
                data = archive.extractfile(member)
                assert data is not None
                pixels = np.array(Image.open(io.BytesIO(data.read())).convert("RGB"))
                images[parts[-2]].append(torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    return torch.stack([x for xs in images.values() for x in xs])[:count]


@torch.no_grad()
def auc(model: nn.Module, x: Tensor, order: Tensor, target: Tensor, noise: Tensor, steps: int = 32) -> Tensor:
    """Mean score while pixels are replaced in this order, k = 0 included; one number a photo."""
    x, flat, total = x.clone().flatten(2), noise.flatten(2), 0.0
    per = order.shape[1] // steps
    for k in range(steps + 1):
        out = model(x.view(noise.shape)).gather(1, target[:, None])[:, 0]
        total = total + out * (0.5 if k in (0, steps) else 1.0)
        index = order[:, k * per : (k + 1) * per][:, None].expand(-1, 3, -1)
        x.scatter_(2, index, flat.gather(2, index))
    return total / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--depth", type=int, default=9, help="n of the 6n + 2 layers: 3 is ResNet-20, 9 ResNet-56")
    parser.add_argument("--images", type=int, default=200)
    args = parser.parse_args()
    model = CifarResNet(args.depth)
    model.load_state_dict(load_file(args.weights))
    model.eval()
    x = (photos(args.data, args.images) - MEAN) / STD
    target = model(x).argmax(1)
    noise = (torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - MEAN) / STD
    box = {"low": (0 - MEAN) / STD, "high": (1 - MEAN) / STD}
    recipes: list[tuple[str, dict[str, object]]] = [
        (name, {**options, "residual": residual})
        for name, options in [
            ("epsilon", {}), ("auto", {"gamma": 0.25}), ("auto", {"gamma": 1.0}), ("auto", {"gamma": 4.0}),
            ("auto", {"gamma": 0.25, **box}), ("auto", {"gamma": 1.0, **box}), ("auto", {"gamma": 4.0, **box}),
            ("epsilon_plus", {}), ("epsilon_plus_flat", {}), ("deep_taylor", box), ("epsilon_alpha2_beta1", {}),
        ]
        for residual in ("epsilon", "magnitude")
    ]  # fmt: skip
    print("| recipe | options | SRG | highest first | lowest first | max abs R / score |\n|---|---|---|---|---|---|")
    for name, options in recipes:
        explainer = relprop.Explainer(model, x[:2], name, **options)
        parts = [explainer(b, t) for b, t in zip(x.split(50), target.split(50), strict=True)]
        R = torch.cat([p.relevance for p in parts]).sum(1).flatten(1)
        score = torch.cat([p.score for p in parts])
        most = auc(model, x, R.argsort(1, descending=True), target, noise)
        least = auc(model, x, R.argsort(1), target, noise)
        srg = least - most
        peak = (R.abs().amax(1) / score).median()
        shown = ", ".join(f"{k}={v}" if not isinstance(v, Tensor) else k for k, v in options.items())
        error = srg.std() / len(srg) ** 0.5
        cells = f"{srg.mean():.2f} ± {error:.2f} | {most.mean():.2f} | {least.mean():.2f} | {peak:.3f}"
        print(f"| {name} | {shown} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
