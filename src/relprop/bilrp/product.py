"""The rule for product neurons a_k = max(0, x · w_k) · max(0, y · v_k)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..values import finite


def product_neuron(x: Tensor, y: Tensor, w: Tensor, v: Tensor, R: Tensor | None = None) -> Tensor:
    """R_ij = Σ_k x_i y_j w_ik v_jk / (Σ_ij x_i y_j w_ik v_jk) · R_k (Montavon et al. 2019, section 10.4).

    The neurons are a_k = max(0, Σ_i x_i w_ik) · max(0, Σ_j y_j v_jk), whose relevance R_k goes to pairs (i, j) of input
    features; the rule is the second-order Taylor expansion of a_k.

    `x`: (B, I) or (I,), `y`: (B, J) or (J,), `w`: (I, K), `v`: (J, K). `R`: (B, K) or (K,), by default a_k, the
    relevance of their sum. Returns (B, I, J) or (I, J), in the units of R; it sums to Σ_k R_k. With R_k = a_k it is
    what `relprop.bilrp` with LRP-0 gives for the embeddings max(0, xᵀw) and max(0, yᵀv).

    Raises `InputError`: shapes that do not fit, NaN or infinity, and relevance at a neuron whose denominator is 0.

    >>> one = torch.tensor
    >>> product_neuron(one([1.0, 2.0]), one([3.0]), one([[1.0], [1.0]]), one([[2.0]]))
    tensor([[ 6.],
            [12.]])
    """
    single = _check(x, y, w, v, R)
    if single:
        x, y, R = x[None], y[None], None if R is None else R[None]
    left, right = x @ w, y @ v
    R = left.relu() * right.relu() if R is None else R
    z = left * right
    if bool(((z == 0) & (R != 0)).any()):
        sample, k = ((z == 0) & (R != 0)).nonzero()[0].tolist()
        raise InputError(
            f"R holds relevance {float(R[sample, k]):.4g} for neuron {k} of sample {sample}, whose denominator "
            "Σ_ij x_i y_j w_ik v_jk is 0: no pair of features contributes to it; give it R = 0"
        )
    s = torch.where(z == 0, 0.0, R / torch.where(z == 0, 1.0, z))
    out = (x.unsqueeze(2) * w * s.unsqueeze(1)) @ (y.unsqueeze(2) * v).mT
    return out[0] if single else out


def _check(x: Any, y: Any, w: Any, v: Any, R: Any) -> bool:
    """Refuse what does not fit; whether there is one sample without a dimension for samples."""
    named = {"x": x, "y": y, "w": w, "v": v} | ({} if R is None else {"R": R})
    for name, t in named.items():
        if not isinstance(t, Tensor) or not t.is_floating_point():
            kind = f"{t.dtype} tensor" if isinstance(t, Tensor) else type(t).__name__
            raise InputError(f"{name} is a {kind}; product_neuron takes floating point tensors")
        if not finite(t):
            raise InputError(f"{name} holds NaN or infinity")
    kinds = {t.dtype for t in named.values()}
    if len(kinds) > 1:
        raise InputError(f"product_neuron takes tensors of one type; these are {', '.join(sorted(map(str, kinds)))}")
    shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in named.items())
    wanted = "x (B, I), y (B, J), w (I, K), v (J, K), R (B, K), or x, y and R without B"
    if w.dim() != 2 or v.dim() != 2 or x.dim() not in (1, 2) or y.dim() != x.dim():
        raise InputError(f"product_neuron: {shapes}; needed are {wanted}")
    fits = x.shape[-1] == len(w) and y.shape[-1] == len(v) and w.shape[1] == v.shape[1] and x.shape[:-1] == y.shape[:-1]
    if not fits or (R is not None and tuple(R.shape) != (*x.shape[:-1], w.shape[1])):
        raise InputError(f"product_neuron: {shapes} do not fit together; needed are {wanted}")
    return bool(x.dim() == 1)
