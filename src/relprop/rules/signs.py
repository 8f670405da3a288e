"""Rules that tell positive from negative contributions a_j w_jk: γ, αβ and z⁺, by as few products as exactness allows.

For a >= 0 the parts are a w⁺ and a w⁻. For a of either sign v = |w| |a| tells them: Σ_j (a_j w_jk)^± = (z_k ± v_k) / 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import RuleError
from ..ops import name
from ..values import concrete
from .affine import LINEAR, Pair, added, divided, of_both_signs, spread, with_bias
from .call import Call, by_sample
from .denominator import Denominator, scale
from .linear import favoured, magnitude, negative, positive
from .parameters import complete_alpha_beta
from .registry import rule

# A part smaller than this times |w| |a| is not got from z: the subtraction would leave too few digits.
CANCELLED = 2.0**-10
# With fewer inputs than that, some neuron has all its contributions of one sign, or nearly so. One part alone is also
# cheap to compute by itself.
NARROW, NARROW_ALONE = 16, 64


def check_sign(f: Call) -> None:
    """Refuse fixed weights of both signs."""
    if f.row.signed:
        raise RuleError(f"{name(f.op)} has fixed weights of both signs, which no rule parts by sign; use epsilon")


@rule(*LINEAR, source="Montavon et al. 2019, section 10.2.1; generalized to signed inputs and outputs")
def gamma(
    R: Tensor,
    f: Call,
    *,
    gamma: float = 0.25,
    epsilon: float = 1e-6,
    epsilon_mode: str = "rms",
    bias: str = "absorb",
) -> Tensor:
    """LRP-γ: R_j = Σ_k a_j (w_jk + γ w_jk⁺) / Σ_{0,j} a_j (w_jk + γ w_jk⁺) · R_k, for a ≥ 0, z > 0

    For signed activations, contributions of the sign of z_k are favoured: the numerator is
    a_j w_jk + γ (a_j w_jk)⁺ where z_k ≥ 0 and a_j w_jk + γ (a_j w_jk)⁻ where z_k < 0. The two agree for
    a ≥ 0 and z_k > 0; the second never has a denominator near zero unless z_k is.
    """
    b = f.bias
    if f.nonneg and f.rectified and f.weighted:
        pair = f.a, f.linear(favoured(gamma))
        b = None if b is None else b + gamma * positive(b)
        return spread(R, f, [pair], b, epsilon=epsilon, epsilon_mode=epsilon_mode, bias=bias)
    return _gamma(R, f, gamma, b, epsilon, epsilon_mode, bias)


def _gamma(R: Tensor, f: Call, gamma: float, b: Tensor | None, epsilon: float, mode: str, bias: str) -> Tensor:
    """γ for z of either sign, from z and v = |w| |a|: Σ_j (a_j w_jk)^± = (z_k ± v_k) / 2.

    The part of the sign of z_k is the larger one, so nothing cancels: it takes one product forward and two back.
    """
    check_sign(f)
    w, m, size = f.linear(), f.linear(magnitude), f.a if f.nonneg else f.a.abs()
    z = w(f.a) if f.z is None else f.z if b is None else f.z - b
    v = m(size)
    b = None if bias == "ignore" else b
    sign = torch.copysign(torch.ones_like(z), z if b is None else z + b)
    half = gamma / 2
    up, down = z + half * (z + v), z + half * (z - v)
    if b is not None:
        up, down = up + (b + gamma * positive(b)), down + (b + gamma * negative(b))
    # of the two denominators the one of z's sign, its ε relative to its own scale
    e = None
    if epsilon and mode != "absolute":
        view, _ = by_sample(sign, f.batch)
        e = _either(scale(up, mode, f.batch), scale(down, mode, f.batch), view)
    s = divided(R, f, Denominator(_either(up, down, sign), epsilon, mode, f.batch, relative_to=e))
    out = w.times(f.a, s * (1 + half), f.a) + m.times(size, s * sign * half, size)
    return out if b is None else with_bias(out, f, s, b + gamma * _either(positive(b), negative(b), sign), bias)


def _either(up: Tensor, down: Tensor, sign: Tensor) -> Tensor:
    """`up` where the sign is +1, `down` where it is −1; exact, and cheaper than a mask."""
    return torch.lerp(down.to(sign.dtype), up.to(sign.dtype), (sign + 1) / 2)


def parts(f: Call) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """The value of a weighted map of a >= 0 as the sum of its positive and negative parts, which are kept for the rule.

    Neither is got by a subtraction, so that both are exact where one is far smaller than the other.
    """
    if not (f.nonneg and f.weighted):
        return f.at(*f.operands), None
    p, n = f.linear(positive)(f.a), f.linear(negative)(f.a)
    return (p + n if f.bias is None else p + n + f.bias), (p, n)


@rule(
    *LINEAR,
    conserves=False,
    forward=parts,
    source="Bach et al. 2015; Montavon et al. 2019, appendix 10.A; Binder et al. 2016, eq. 6",
)
def alpha_beta(
    R: Tensor, f: Call, *, alpha: float | None = None, beta: float | None = None, bias: str = "absorb"
) -> Tensor:
    """LRP-αβ: R_j = Σ_k (α (a_j w_jk)⁺ / Σ_{0,j} (a_j w_jk)⁺ − β (a_j w_jk)⁻ / Σ_{0,j} (a_j w_jk)⁻) · R_k

    α − β = 1; one of the two is enough (Binder's β rule has α = 1 + β). Without either, α = 2 and β = 1. Where
    a neuron has no negative (or no positive) contribution, that part is lost and booked as residual.
    """
    alpha, beta = complete_alpha_beta(alpha, beta)
    return by_sign(R, f, alpha, -beta, bias)


@rule(*LINEAR, conserves=False, source="Montavon et al. 2017 (z⁺ rule); Zhang et al. 2016 (excitation backprop)")
def z_plus(R: Tensor, f: Call, *, bias: str = "absorb") -> Tensor:
    """z⁺: R_j = Σ_k (a_j w_jk)⁺ / Σ_{0,j} (a_j w_jk)⁺ · R_k

    Equals LRP-αβ with α = 1, β = 0, and LRP-γ as γ → ∞.
    """
    return by_sign(R, f, 1.0, 0.0, bias)


def by_sign(R: Tensor, f: Call, to_positive: float, to_negative: float, bias: str) -> Tensor:
    """R_j = Σ_k (to_positive · (a_j w_jk)⁺ / Σ (a_j w_jk)⁺ + to_negative · (a_j w_jk)⁻ / Σ (a_j w_jk)⁻) · R_k"""
    check_sign(f)
    b = None if bias == "ignore" else f.bias
    if f.weighted and not f.nonneg:
        out = _by_magnitude(R, f, to_positive, to_negative, b, bias)
        if out is not None:
            return out
    total: Tensor | None = None
    for i, (share, part) in enumerate(((to_positive, positive), (to_negative, negative))):
        if share:
            known = None if f.saved is None else f.saved[i]
            held = None if b is None else part(b)
            z = known if known is None or held is None else known + held
            pairs, sign = _pairs(f, i == 0), 1 - 2 * i
            sent = spread(R, f, pairs, held, z=z, sign=sign, share=share, bias=bias)
            total = sent if total is None else added(total, sent)
    return torch.zeros_like(f.a) if total is None else total


def _pairs(f: Call, up: bool) -> list[Pair]:
    """Pairs (â, ŵ) whose products are the positive or the negative parts of a_j w_jk."""
    same = positive if up else negative
    if not f.weighted:  # fixed weights >= 0: the sign is the input's
        return [(same(f.a), f.linear())]
    if f.nonneg:
        return [(f.a, f.linear(same))]
    return of_both_signs(f, positive(f.a), negative(f.a), up=up)


def _by_magnitude(
    R: Tensor, f: Call, to_positive: float, to_negative: float, b: Tensor | None, bias: str
) -> Tensor | None:
    """`by_sign` from z and v = |w| |a|: one product forward and two back instead of four and four.

    None where a part that takes relevance is so small that it would drown in the rounding of z and v.
    """
    if f.half is not None or f.z is None or not f.choice or f.fan_in < (NARROW if to_negative else NARROW_ALONE):
        return None
    w, m, size = f.linear(), f.linear(magnitude), f.a.abs()
    z = f.z if f.bias is None else f.z - f.bias
    v = m(size)
    if not (v.is_meta or (concrete(v) and concrete(R))):  # mapped: values may not be looked at
        return None
    p, n = (z + v) / 2, (z - v) / 2
    if b is not None:
        p, n = p + positive(b), n + negative(b)
    if not v.is_meta and _drowned(R, p, n if to_negative else -p, v if f.bias is None else v + f.bias.abs()):
        return None
    s_p = divided(to_positive * R, f, Denominator(p))
    s_n = divided(to_negative * R, f, Denominator(n)) if to_negative else torch.zeros_like(s_p)
    out = w.times(f.a, (s_p + s_n) / 2, f.a) + m.times(size, (s_p - s_n) / 2, size)
    if b is None:
        return out
    return with_bias(with_bias(out, f, s_p, positive(b), bias), f, s_n, negative(b), bias)


def _drowned(R: Tensor, p: Tensor, n: Tensor, size: Tensor) -> bool:
    """Whether p or −n is small beside the size of what it was subtracted from, where relevance arrives."""
    spare = torch.minimum(p, -n) - CANCELLED * size
    return bool(spare.amin() < 0) and bool(((spare < 0) & (R != 0)).any())
