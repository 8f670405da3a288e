"""Recurrent networks: explaining one costs how many times its native gradient.

    python benchmarks/recurrent.py [--threads 1] [--repeats 15]

nn.LSTM, nn.GRU and nn.RNN of two layers: T = 100 steps, a batch of 16, 64 inputs and 64 hidden units, float32, and a
linear layer on the last step. Forward and relevance of the inputs by an Explainer, divided by forward and gradient with
respect to the inputs by autograd. Both alternate; the ratio is taken pair by pair.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import relprop

STEPS, BATCH, WIDTH = 100, 16, 64


class Last(nn.Module):
    """A recurrent network and ten scores from its last step."""

    def __init__(self, kind: type[nn.RNNBase], **options: object) -> None:
        super().__init__()
        self.net = kind(WIDTH, WIDTH, num_layers=2, batch_first=True, **options)
        self.head = nn.Linear(WIDTH * (2 if self.net.bidirectional else 1), 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.net(x)[0][:, -1])
        return y


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def spread(values: list[float], unit: float = 1.0) -> str:
    low, middle, high = (unit * v for v in (min(values), statistics.median(values), max(values)))
    return f"{middle:.3g} ({low:.3g} … {high:.3g})"


def measure(name: str, model: nn.Module, repeats: int, **options: object) -> None:
    x = torch.randn(BATCH, STEPS, WIDTH, generator=torch.Generator().manual_seed(0))
    model.eval().requires_grad_(False)
    explainer = relprop.Explainer(model, x, "epsilon", **options)

    def ours() -> None:
        explainer(x, target=0)

    def native() -> None:
        given = x.clone().requires_grad_()
        model(given)[:, 0].sum().backward()

    for _ in range(3):
        ours(), native()
    pairs = [(seconds(ours), seconds(native)) for _ in range(repeats)]
    ratio = spread([a / b for a, b in pairs])
    columns = (spread([a for a, _ in pairs], 1e3), spread([b for _, b in pairs], 1e3), ratio)
    print(f"| {name} | {' | '.join(columns)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {platform.machine()}, {args.threads} thread(s), {args.repeats} repeats\n")
    print(f"2 layers, T = {STEPS}, batch {BATCH}, {WIDTH} hidden units; median (least … most)\n")
    print("| | relprop, ms | forward + gradient, ms | ratio |\n|---|---|---|---|")
    for gate in ("signal", "half"):
        for kind in (nn.LSTM, nn.GRU):
            measure(f"nn.{kind.__name__}, gate={gate!r}", Last(kind), args.repeats, gate=gate)
    measure("nn.RNN", Last(nn.RNN), args.repeats)
    measure("nn.LSTM, bidirectional", Last(nn.LSTM, bidirectional=True), args.repeats)


if __name__ == "__main__":
    main()
