"""Small trained networks that travel with the package, and photos to try them on.

`cifar10_lrn`   the embedded default: CIFAR-10 with local response normalization, trained here
`samples`       six CIFAR-10 test photos
`sample`        one of them as the network takes it
`reviews`       movie reviews, positive or negative: a model on word embeddings, and its tokenizer
`read_glove`    word vectors in GloVe's text format
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from .cifar10 import Cifar10LRN, normalize
from .glove import read_glove
from .movie_reviews import Reviews, reviews
from .weights import load_into, read_state

__all__ = [
    "Cifar10LRN", "Reviews", "cifar10_lrn", "load_into", "read_glove", "read_state", "reviews", "sample", "samples",
]  # fmt: skip

HERE = Path(__file__).parent


def cifar10_lrn(weights: str | Path | None = None) -> Cifar10LRN:
    """The trained CIFAR-10 network in eval mode; inputs and classes: `relprop.zoo.cifar10`.

    `weights`: another file for the same network, by default the one in the package. Raises `WeightsError`: the file is
    missing, corrupt, or of another network. A new model each call.

    >>> cifar10_lrn().training
    False
    """
    path = HERE / "cifar10_lrn.safetensors" if weights is None else Path(weights)
    model = Cifar10LRN()
    load_into(model, read_state(path), path)
    return model.eval()


def samples() -> dict[str, Path]:
    """Name to path of the photos in the package: 32 x 32 pixels, RGB, from the CIFAR-10 test set.

    >>> list(samples())
    ['airplane', 'automobile', 'cat', 'frog', 'horse', 'ship']
    """
    return {path.stem: path for path in sorted((HERE / "samples").glob("*.png"))}


def sample(name: str) -> Tensor:
    """A photo of the package as input of `cifar10_lrn`, (1, 3, 32, 32), normalized. Raises `InputError`: no such photo.

    >>> sample("frog").shape
    torch.Size([1, 3, 32, 32])
    """
    import numpy as np
    from PIL import Image

    paths = samples()
    if name not in paths:
        raise InputError(f"sample({name!r}) does not exist; there are {', '.join(paths)}")
    with Image.open(paths[name]) as photo:
        pixels = torch.from_numpy(np.array(photo.convert("RGB")))
    return normalize(pixels.permute(2, 0, 1)[None] / 255)
