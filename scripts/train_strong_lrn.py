"""Train a second CIFAR-10 network, in which local response normalization acts strongly; resumes where it stopped.

    python scripts/train_strong_lrn.py --data cifar10.tar.gz
    relprop reproduce binder2016 --data cifar10.tar.gz --model scripts/train_strong_lrn.py:strong \\
        --weights docs/binder2016/strong_lrn.safetensors --images 600 -o strong

In the embedded network the neighbours of a neuron hardly change its denominator. Here b = 1 (embedded: 0.1) in all
three normalizations, so that docs/binder2016.md can compare the two.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from train_cifar10_lrn import accuracy, augment, load_tar, load_torchvision, with_fast_lrn

from relprop.zoo.cifar10 import CLASSES, normalize


class StrongLRN(nn.Module):
    """Three convolutions, three local response normalizations with b = 1, one linear layer: 78,842 parameters."""

    def __init__(self) -> None:
        super().__init__()

        def lrn() -> nn.Module:
            return nn.LocalResponseNorm(size=5, alpha=5.0, beta=0.75, k=1.0)

        self.features = nn.Sequential(
            nn.Conv2d(3, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), lrn(),
            nn.Conv2d(32, 48, 5, padding=2), nn.ReLU(), lrn(), nn.MaxPool2d(2),
            nn.Conv2d(48, 64, 3, padding=1), nn.ReLU(), lrn(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Linear(64 * 16, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.features(x), 1))
        return logits


def preprocess(photo: Image.Image) -> Tensor:
    """As for the embedded network."""
    small = ImageOps.fit(photo, (32, 32), Image.Resampling.BILINEAR)
    return normalize(torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255)


def strong() -> tuple[nn.Module, object]:
    """What `--model` takes: the network and how photos become its input."""
    return StrongLRN(), preprocess


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/binder2016/strong_lrn.safetensors"))
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()
    torch.manual_seed(0)
    splits = load_tar(args.data) if args.data.is_file() else load_torchvision(args.data)
    (x_train, y_train), (x_test, y_test) = splits["train"], splits["test"]
    model = with_fast_lrn(StrongLRN()).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    steps = args.epochs * (len(x_train) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.2)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint, first = args.out.with_suffix(".checkpoint.pt"), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for part, name in ((model, "model"), (optimizer, "optimizer"), (schedule, "schedule")):
            part.load_state_dict(state[name])
        first = state["epoch"]
    for epoch in range(first, args.epochs):
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(epoch)
        model.train()
        for index in torch.randperm(len(x_train), generator=generator).split(128)[: len(x_train) // 128]:
            x = augment(normalize(x_train[index].float() / 255), generator).contiguous(
                memory_format=torch.channels_last
            )
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(x)
            loss = F.cross_entropy(logits.float(), y_train[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        found = {"model": model, "optimizer": optimizer, "schedule": schedule}
        torch.save({name: part.state_dict() for name, part in found.items()} | {"epoch": epoch + 1}, checkpoint)
        figure = accuracy(model, x_test, y_test)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, args.out)
        record = {"test_accuracy": figure, "epoch": epoch + 1, "epochs": args.epochs, "data": args.data.name}
        args.out.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
        print(f"epoch {epoch + 1}: test {figure:.4f} {time.perf_counter() - start:.0f} s", flush=True)
    checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
