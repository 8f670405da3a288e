"""The embedded default: a small CIFAR-10 network with local response normalization.

Architecture in the manner of Krizhevsky et al. 2012 (ReLU, max-pooling, local response normalization), small enough
to ship: 299,786 parameters, 1.2 MB as float32. `scripts/train_cifar10_lrn.py` trained it on JPEG copies of CIFAR-10; it
gets 83.8 % of the 10,000 test photos right (cifar10_lrn.json).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


class Cifar10LRN(nn.Module):
    """Five convolutions, three local response normalizations, one linear layer: (B, 3, 32, 32) -> (B, 10) logits.

    Inputs are RGB in [0, 1], normalized per channel with `MEAN` and `STD`.

    >>> Cifar10LRN()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self) -> None:
        super().__init__()

        def lrn() -> nn.Module:
            return nn.LocalResponseNorm(size=5, alpha=0.5, beta=0.75, k=1.0)

        self.features = nn.Sequential(
            nn.Conv2d(3, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            lrn(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            lrn(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            lrn(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(128, 128, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.3), nn.Linear(128 * 4 * 4, len(CLASSES)))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.features(x), 1))
        return logits


def normalize(x: Tensor) -> Tensor:
    """RGB in [0, 1], shape (..., 3, H, W), to the network's input: (x - MEAN) / STD per channel."""
    mean = torch.tensor(MEAN, dtype=x.dtype, device=x.device).view(3, 1, 1)
    std = torch.tensor(STD, dtype=x.dtype, device=x.device).view(3, 1, 1)
    return (x - mean) / std
