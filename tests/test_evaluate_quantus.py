"""Another implementation: Quantus' PixelFlipping where it does the same, on images of one channel, highest first."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from relprop.evaluate import pixel_flipping


@pytest.fixture(scope="module")
def metric() -> Iterator[type]:
    with warnings.catch_warnings():  # raised by the packages that Quantus imports
        warnings.simplefilter("ignore")
        quantus = pytest.importorskip("quantus")
        yield quantus.PixelFlipping


# "black" is the smallest value of an image there
BASELINES: dict[Any, Any] = {0.0: "zero", "black": lambda x: x.amin((1, 2, 3), keepdim=True).expand_as(x)}


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5)
    return nn.Sequential(*layers).eval()


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(4, 1, 8, 8, generator=generator) + 0.1, torch.randn(4, 1, 8, 8, generator=generator)


@pytest.mark.parametrize("step", [1, 4, 16, 64])
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("baseline", [0.0, "black"])
def test_the_same_curves(metric: type, step: int, softmax: bool, baseline: Any) -> None:
    model, (x, rel), target = net(), data(), torch.tensor([0, 1, 2, 3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flipping = metric(features_in_step=step, normalise=False, perturb_baseline=baseline, disable_warnings=True)
        theirs = flipping(model, x.numpy(), target.numpy(), a_batch=rel.numpy(), softmax=softmax, device="cpu")
    ours = pixel_flipping(
        model, x, rel, target=target, score="probability" if softmax else "logit", replace=BASELINES[baseline],
        steps=range(0, 65, step), orders=("highest",),
    )  # fmt: skip
    curves = ours.of("relevance")[:, 1:]  # Quantus leaves f(x) out
    assert curves.shape == np.asarray(theirs).shape
    np.testing.assert_allclose(curves.numpy(), np.asarray(theirs), rtol=0, atol=1e-6)
    assert float(curves.std(0).max()) > 1e-3  # there is something to compare
