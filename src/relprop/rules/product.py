"""Rules for products of two live values, y = a · b entry by entry or a contraction y = a b of matrices."""

from __future__ import annotations

from torch import Tensor

from ..ops import Family, name
from .affine import spread
from .call import Call
from .registry import rule

ELEMENTWISE = ("mul", "div")


@rule(Family.PRODUCT, feeds="signal", source="Arras et al. 2017; Ali et al. 2022; Montavon et al. 2019, section 10.4")
def signal(R: Tensor, f: Call, *, epsilon: float = 1e-6, epsilon_mode: str = "rms") -> Tensor:
    """R_signal = R, R_gate = 0: the gate weighs the signal, the signal takes all

    A contraction with weights held is an affine map of the signal, which takes LRP-ε.
    """
    if name(f.op) in ELEMENTWISE:
        return R.sum_to_size(f.a.shape)
    return spread(R, f, [(f.a, f.linear())], None, z=f.z, epsilon=epsilon, epsilon_mode=epsilon_mode)


@rule(Family.PRODUCT, source="Achtibat et al. 2024 (uniform rule)")
def half(R: Tensor, f: Call, *, epsilon: float = 1e-6, epsilon_mode: str = "rms") -> tuple[Tensor, ...]:
    """R_a = R_b = R / 2: both factors of a product share equally

    For a contraction y_jp = Σ_i a_ji b_ip each term's half goes to its two factors:
    R_ji = ½ Σ_p a_ji b_ip / (y_jp + ε sign(y_jp)) · R_jp, and R_ip = ½ Σ_j of the same.
    """
    if name(f.op) in ELEMENTWISE:
        return tuple((R / 2).sum_to_size(x.shape) for x in f.operands)
    pairs = ((x, f.linear(operand=i)) for i, x in enumerate(f.operands))
    return tuple(spread(R / 2, f, [pair], None, z=f.z, epsilon=epsilon, epsilon_mode=epsilon_mode) for pair in pairs)
