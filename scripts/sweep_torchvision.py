"""Explain every torchvision classifier of the families relprop supports and write the ledger errors as a table.

    python scripts/sweep_torchvision.py -o docs/models.md        # resumes: models already in the table are skipped

Weights are random; BatchNorm statistics are taken from one random batch, so that activations stay finite with depth.
Inputs are random, 2 x 3 x 64 x 64 (Inception v3: 128). float32, composites `epsilon` and `auto`.
"""

from __future__ import annotations

import argparse
import gc
import time
import warnings
from pathlib import Path

import torch
from torch import nn
from torchvision import models

import relprop

FAMILIES = (
    "alexnet", "vgg", "resnet", "resnext", "wide_resnet", "densenet", "googlenet", "inception", "mobilenet",
    "squeezenet", "shufflenet", "mnasnet", "efficientnet", "regnet",
)  # fmt: skip

HEAD = """# Torchvision classifiers

Written by `python scripts/sweep_torchvision.py`, torch {torch}, CPU. Random weights, BatchNorm statistics from one
random batch; inputs 2 x 3 x 64 x 64 (Inception v3: 128); float32. `error` is |score − ledger total| relative to the
largest amount of relevance that passed any op, the larger of two samples; `max abs R / score` shows which maps a rule
lets explode on untrained weights. Capture includes canonization and the choice of rules.

| model | parameters | ops | capture s | error, epsilon | max abs R / score | error, auto | max abs R / score |
|---|---|---|---|---|---|---|---|
"""


def settled(name: str, x: torch.Tensor) -> nn.Module:
    """The model with random weights and BatchNorm statistics of `x`."""
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = models.get_model(name, weights=None, **extra)
    model.eval()
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.momentum = 1.0
            m.train()
    with torch.no_grad():
        model(x)
    return model


def row(name: str) -> str:
    """One line of the table."""
    torch.manual_seed(0)
    size = 128 if name == "inception_v3" else 64
    model, x = settled(name, torch.randn(4, 3, size, size)), torch.randn(2, 3, size, size)
    cells = []
    for composite in ("epsilon", "auto"):
        start = time.perf_counter()
        explainer = relprop.Explainer(model, x, composite)
        seconds = time.perf_counter() - start
        e = explainer(x, ledger=True)
        if not e.ledger.closes():
            return f"| {name} | | | | does not close | | | |\n"
        peak = float((e.relevance.abs().flatten(1).amax(1) / e.score.abs()).max())
        cells += [f"{float(e.ledger.error.max()):.1e}", f"{peak:.2g}"]
    count = sum(p.numel() for p in model.parameters()) / 1e6
    return f"| {name} | {count:.1f} M | {len(explainer.rules)} | {seconds:.1f} | {' | '.join(cells)} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/models.md"))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if not args.out.exists():
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(HEAD.format(torch=torch.__version__))
    names = [n for n in models.list_models(module=models) if n.startswith(FAMILIES)]
    for name in names:
        if f"| {name} |" in args.out.read_text():
            continue
        try:
            line = row(name)
        except Exception as e:
            line = f"| {name} | | | | {type(e).__name__}: {str(e).splitlines()[0][:120]} | | | |\n"
        with args.out.open("a") as table:
            table.write(line)
        print(line, end="", flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
