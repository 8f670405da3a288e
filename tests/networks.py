"""Networks the tests explain: architectures users write, not found in torchvision."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CifarBlock(nn.Module):
    """Residual block, shortcut without parameters: strided slice, zero-padded channels (He et al. 2016, option A)."""

    def __init__(self, before: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride, self.extra = stride, (planes - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra), "constant", 0)
        out += x
        return F.relu(out)


class CifarResNet(nn.Module):
    """The CIFAR-10 ResNet of He et al. 2016 with 6n + 2 layers, functional ReLU and average pooling."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        before = 16
        for i, (planes, stride) in enumerate(((16, 1), (32, 2), (64, 2)), 1):
            blocks = [CifarBlock(before if j == 0 else planes, planes, stride if j == 0 else 1) for j in range(n)]
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
            before = planes
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


class UNet(nn.Module):
    """Encoder and decoder: transposed convolution, interpolation, skips by concatenation; one logit a class."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.down2 = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.middle = nn.Conv2d(16, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 16, 2, stride=2)
        self.merge = nn.Conv2d(32, 8, 3, padding=1)
        self.head = nn.Conv2d(16, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = F.relu(self.middle(F.max_pool2d(b, 2)))
        d = F.relu(self.merge(torch.cat([self.up(c), b], 1)))
        e = F.interpolate(d, scale_factor=2, mode="bilinear", align_corners=False)
        return self.head(torch.cat([e, a], 1)).mean((2, 3))


class TwoInputs(nn.Module):
    """An image and a vector, joined late; called with keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.vector, self.head = nn.Conv2d(1, 4, 3), nn.Linear(5, 8), nn.Linear(12, 3)

    def forward(self, image: Tensor, vector: Tensor, scale: float = 1.0) -> Tensor:
        v = F.relu(self.vector(vector)) * scale
        return self.head(torch.cat([F.relu(self.image(image)).amax((2, 3)), v], 1))


class Shared(nn.Module):
    """One linear layer used twice, a residual, and in-place activations."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 6, bias=bias), nn.Linear(6, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x).relu_()
        h = h + self.inner(h)
        h.add_(x)
        return self.head(F.relu(h, inplace=True))
