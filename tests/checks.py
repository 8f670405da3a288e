"""Named checkers: each raises with what differs, none returns a bool that a test could forget to look at."""

from __future__ import annotations

import torch
from torch import Tensor


def check_same_map(actual: Tensor, expected: Tensor, rtol: float, about: object = "") -> None:
    """Same shape, all finite, and equal to `rtol` of the largest expected relevance. `about`: for messages."""
    if actual.shape != expected.shape:
        raise AssertionError(f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
    check_finite(expected)
    check_finite(actual)
    scale = expected.abs().max()
    if scale == 0:
        raise AssertionError("the expected map is zero everywhere: the comparison would check nothing")
    error = ((actual.double() - expected.double()).abs().max() / scale).item()
    if error > rtol:
        where = int((actual.double() - expected.double()).abs().argmax())
        got, wanted = actual.flatten()[where].item(), expected.flatten()[where].item()
        raise AssertionError(
            f"{about} relative error {error:.3g} > {rtol:.0e}; at flat index {where}: {got:.10g}, expected "
            f"{wanted:.10g}; sums {actual.sum().item():.10g}, {expected.sum().item():.10g}"
        )


def check_finite(values: Tensor) -> None:
    """No NaN, no infinity."""
    if not torch.isfinite(values).all():
        raise AssertionError(f"{int((~torch.isfinite(values)).sum())} of {values.numel()} values are not finite")


def check_sums_to(parts: Tensor, score: Tensor, rtol: float) -> None:
    """Per sample, `parts` [B] equals `score` [B] relative to the larger of |score| and 1e-12."""
    error = ((parts - score).abs() / score.abs().clamp(min=1e-12)).max().item()
    if error > rtol:
        raise AssertionError(f"sums {parts.tolist()} differ from {score.tolist()} by {error:.3g} > {rtol:.0e}")
