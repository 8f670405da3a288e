"""Pixel flipping: how much of the bare model's throughput it keeps, and the same curves by Quantus.

    python benchmarks/pixel_flipping.py [--threads 1] [--repeats 5]

1. The embedded CIFAR-10 network, two methods, all orders: samples per second of `pixel_flipping` (drawing
   replacements, ordering and all), divided by those of as many plain forwards of the same batches. Both alternate.
2. A one-channel network, pixels replaced by 0, highest first: our curves and those of Quantus' PixelFlipping, which
   flips entries of the array; the largest difference, and the time of both.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import platform
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from relprop import evaluate, zoo


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} … {max(values):.3g})"


def throughput(repeats: int, images: int = 250, batch: int = 125, steps: int = 8) -> None:
    model = zoo.cifar10_lrn()
    x = torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    maps = {name: torch.randn(images, 32, 32) for name in ("a", "b")}
    forwards = []

    def ours() -> None:
        forwards.clear()
        evaluate.pixel_flipping(model, x, maps, steps=steps, batch_size=batch, low=-2, high=2, progress=forwards.append)

    def bare() -> None:
        with torch.no_grad():
            for i in range(len(forwards)):
                model(x[batch * (i % (images // batch)) :][:batch])

    ours(), bare()
    pairs = [(seconds(ours), seconds(bare)) for _ in range(repeats)]
    count = sum(forwards)
    rates = [[count / t for t in column] for column in zip(*pairs, strict=True)]
    print("## Throughput: embedded CIFAR-10 network, samples/s, median (least … most)\n")
    print(f"| {count} forwards in batches of {batch} | samples/s |\n|---|---|")
    print(f"| bare model | {spread(rates[1])} |\n| pixel flipping | {spread(rates[0])} |")
    print(f"| ratio | {spread([b / a for a, b in pairs])} |\n")


def beside_quantus(repeats: int, images: int = 16, size: int = 28, step: int = 14) -> None:
    import quantus

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 24 * 24, 10)).eval()
    x, maps = torch.rand(images, 1, size, size), torch.randn(images, size, size)
    with torch.no_grad():
        y = model(x).argmax(1)
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        counts = range(0, size * size + 1, step)
        curves = evaluate.pixel_flipping(model, x, maps, target=y, orders="highest", replace=0, steps=counts)
        found["ours"] = curves.of("relevance").numpy()[:, 1:]

    def theirs() -> None:
        metric = quantus.PixelFlipping(
            features_in_step=step, perturb_baseline=0.0, normalise=False, disable_warnings=True
        )
        scores = metric(
            model=model,
            x_batch=x.numpy(),
            y_batch=y.numpy(),
            a_batch=maps[:, None].numpy(),
            device="cpu",
            softmax=False,
        )
        found["theirs"] = np.array(scores)

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        ours(), theirs()
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    difference = np.abs(found["ours"] - found["theirs"]).max()
    print(f"## Beside Quantus {quantus.__version__}: {images} images of {size} × {size}, {size * size // step} steps\n")
    print("| | s, median (least … most) |\n|---|---|")
    print(f"| relprop | {spread([a for a, _ in pairs])} |\n| Quantus | {spread([b for _, b in pairs])} |")
    print(f"| ratio | {spread([b / a for a, b in pairs])} |\n\nlargest difference of the curves: {difference:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {platform.machine()}, {args.threads} thread(s), {args.repeats} repeats\n")
    throughput(args.repeats)
    beside_quantus(args.repeats)


if __name__ == "__main__":
    main()
