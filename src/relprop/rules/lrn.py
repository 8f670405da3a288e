"""The Taylor rule of local response normalization, y_k = x_k / (κ + b Σ_i x_i²)^c (Binder et al. 2016, section 3)."""

from __future__ import annotations

import math

from torch import Tensor

from ..errors import RuleError
from ..ops import Family, channel_window
from .call import Call
from .registry import rule


@rule(Family.LRN, source="Binder et al. 2016, equations 7 and 13-15; order=2: relprop, docs/lrn.md")
def lrn_taylor(R: Tensor, f: Call, *, order: int = 1) -> Tensor:
    """R_j = Σ_k z_jk / Σ_i z_ik · R_k, z_kk = x_k / (κ + b x_k²)^c, z_jk = −2bc x_k x_j² / (κ + b Σ_i x_i²)^(c+1)

    The expansion around x, evaluated where neuron k fires alone. `order` = 2 adds the second-order terms, which
    multiply z_jk by (1 + 2(c+1) T_k / S_k) / 2 with S_k = κ + b Σ_i x_i² and T_k = b Σ_{i≠k} x_i². The sums of
    messages are positive multiples of x_k, so nothing has to be stabilized, and x_k cancels.
    """
    x, (before, after, b, c, k) = f.a, f.args[1:]
    _check(b, c, k, order)
    p, handed = suppression(f, order)
    s: Tensor = R / (1 - handed)
    out: Tensor = s - b * x * x * (channel_window(p * s, after, before) - p * s)
    return out


def suppression(f: Call, order: int = 1) -> tuple[Tensor, Tensor]:
    """p_k = −z_jk / (z_kk b x_j²), the same for all neighbours j, and −Σ_{j≠k} z_jk / z_kk, for every neuron k."""
    x, (before, after, b, c, k) = f.a, f.args[1:]
    own = k + b * x * x
    neighbours = b * (channel_window(x * x, before, after) - x * x)  # T
    total = own + neighbours  # S
    p = 2 * c * (own / total) ** c / total
    if order == 2:
        p = p * (1 + 2 * (c + 1) * neighbours / total) / 2
    return p, p * neighbours


def _check(b: float, c: float, k: float, order: int) -> None:
    if b < 0 or c < 0 or k < 0:
        raise RuleError(
            f"lrn_taylor is defined for y = x / (k + b Σ x²)^c with b, c, k >= 0; here b={b}, c={c}, k={k}: "
            "use pass_ (lrn='identity')"
        )
    if order == 2 and largest_second_order(c) >= 1:
        raise RuleError(
            f"lrn_taylor(order=2) divides by a sum of messages that can vanish where c = {c} (it needs c <= 1.92): "
            "use order=1"
        )


def largest_second_order(c: float) -> float:
    """The largest −Σ_{j≠k} z_jk / z_kk of order 2 over all activations: below 1, the sum of messages cannot vanish.

    It is c u (1 − u)^c (1 + 2(c + 1) u) of u = T / S in [0, 1).
    """
    u = (3 * (c + 1) + math.sqrt(9 * (c + 1) ** 2 + 8 * (c + 1) * (c + 2))) / (4 * (c + 1) * (c + 2))
    return float(c * u * (1 - u) ** c * (1 + 2 * (c + 1) * u))
