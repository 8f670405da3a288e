"""Rules of neuralized models: distances to points, pools over them, and differences between groups of terms."""

from __future__ import annotations

from torch import Tensor

from ..adjoints import argument
from ..ops import Family
from ..pooling import min_shares, spread_squares
from .affine import divided, spread
from .call import Call
from .denominator import Denominator, quotient
from .registry import rule


@rule(
    Family.MIN_POOL,
    conserves=False,
    source="Kauffmann et al. 2020; Kauffmann et al. 2022; Montavon et al. 2019, sections 10.3.1 and 10.4",
)
def take_most(R: Tensor, f: Call) -> Tensor:
    """Min-take-most: R_k = p_k · R, p_k = w_k exp(−β h_k) / Σ_k w_k exp(−β h_k); of differences R_k = p_k h_k · R / y

    For y = −(1/β) log Σ_k w_k exp(−β h_k): the smallest h_k decides on y and takes most. For β = ∞, y = min_k h_k,
    it takes all, and equal ones share. Distances h_k >= 0 share all of R. Differences h_k of either sign start from
    what they are (section 10.3.1): a small y may be made of large ones, whose map must neither vanish nor flip
    with its sign. They sum to more than y by 1/β times the entropy of p relative to w, which is booked as residual.
    """
    log_weights = argument(f.args, f.kwargs, 1, "log_weights", None)
    p = min_shares(f.a, log_weights, argument(f.args, f.kwargs, 2, "beta", None))
    if not argument(f.args, f.kwargs, 3, "signed", False):
        return R.unsqueeze(-1) * p
    out = p * f.a * quotient(R, f.y).unsqueeze(-1)
    if f.ledger:
        f.keep(residual=R - out.sum(-1))
    return out


@rule(Family.DISTANCE, source="Kauffmann et al. 2020, a Taylor expansion of the distance at the point itself")
def distance(R: Tensor, f: Call, *, epsilon: float = 1e-6, epsilon_mode: str = "rms") -> Tensor:
    """R_i = Σ_k (x_i − u_ki)² / (h_k + e_k) · R_k, for h_k = Σ_i (x_i − u_ki)²

    The points u_k take nothing: of every distance each feature has its own part.
    """
    s = divided(R, f, Denominator(f.y, epsilon, epsilon_mode, f.batch, sign=1))
    return spread_squares(s, f.a, f.args[1])


@rule(Family.CONTRAST, source="Kauffmann et al. 2022 (linear discriminants between two clusters); Bach et al. 2015")
def contrast(R: Tensor, f: Call, *, epsilon: float = 1e-6, epsilon_mode: str = "rms", bias: str = "absorb") -> Tensor:
    """R_ki = Σ_c t_ki / (z_ck + e_ck) · R_ck − Σ_c t_ki / (z_kc + e_kc) · R_kc, z_ck = Σ_i t_ki − Σ_i t_ci + b_ck

    LRP-ε on a map whose weights are 1 and −1. Of squared distances t_ki = (x_i − μ_ki)² it is the linear discriminant
    w · (x − m) between two centroids, w = 2 (μ_c − μ_k), which shares by w_i (x_i − m_i) around their midpoint m. Of
    y = x + b it is R_x = x / (y + e) · R.
    """
    pair = f.a, f.linear()
    return spread(R, f, [pair], f.bias, z=f.z, epsilon=epsilon, epsilon_mode=epsilon_mode, bias=bias)
