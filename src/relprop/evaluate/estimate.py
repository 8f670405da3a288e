"""A mean over samples with its standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """mean ± error over n samples; error = standard deviation (of n - 1) / √n, NaN for a single sample.

    >>> print(Estimate(1.23412, 0.0561, 100))
    1.234 ± 0.056
    """

    mean: float
    error: float
    n: int

    def __str__(self) -> str:
        if not math.isfinite(self.error) or self.error == 0:
            return f"{self.mean:.4g} ± {self.error:.4g}"
        decimals = max(0, 1 - math.floor(math.log10(self.error)))
        if decimals > 6:
            return f"{self.mean:.6g} ± {self.error:.2g}"
        return f"{self.mean:.{decimals}f} ± {self.error:.{decimals}f}"


def estimate(values: Tensor) -> Estimate:
    """The mean of one number a sample, (N,), and its standard error.

    >>> import torch
    >>> estimate(torch.tensor([1.0, 3.0]))
    Estimate(mean=2.0, error=1.0, n=2)
    """
    exact, n = values.double(), len(values)
    error = float(exact.std(correction=1)) / math.sqrt(n) if n > 1 else math.nan
    return Estimate(float(exact.mean()), error, n)
