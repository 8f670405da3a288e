"""Rules for affine maps z_k = Σ_j a_j w_jk + b_k: the chapter's four steps, once.

Every rule is one or two applications of `spread`: z = f(a), s = R / (z + ε), c = fᵀ(s), R_a = a ⊙ c
(Montavon et al. 2019, section 10.2.2), with weights, inputs and bias put through maps of the rule's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import CompositeError, InputError, RuleError
from ..ops import Family, name
from ..values import concrete, owned
from .call import Call
from .denominator import Denominator, quotient, without_zeros
from .linear import Linear, beside, negative, ones, positive, raised, square
from .registry import rule

# max-pooling may be treated as sum-pooling (Montavon et al. 2019, section 10.3.2)
LINEAR = (Family.AFFINE, Family.AVERAGE, Family.BATCH_NORM, Family.MAX_POOL)

Pair = tuple[Tensor, Linear]


def spread(
    R: Tensor,
    f: Call,
    pairs: list[Pair],
    b: Tensor | None,
    *,
    z: Tensor | None = None,
    sign: int = 0,
    share: float = 1.0,
    epsilon: float = 0.0,
    epsilon_mode: str = "rms",
    bias: str = "absorb",
) -> Tensor:
    """R_j = Σ_k (Σ_pairs â_j ŵ_jk) / (Σ_pairs Σ_j â_j ŵ_jk + b̂_k + e_k) · R_k, where (â, ŵ) runs over `pairs`.

    `z` is the denominator (with bias, without ε) where it is known already; `sign`: 1 if it is never negative, -1 if
    it is never positive. `share`: what part of R is spread.
    """
    scale = None if z is None or bias == "ignore" else f.scale
    if bias == "ignore":
        z, b = None if z is None else (z if b is None else z - b), None
    spare = z is None and f.weighted  # else a map may hand back its input
    if z is None:
        z = added(*(w(a) for a, w in pairs))
        z = z if b is None else added(z, b)
    d = Denominator(
        z, epsilon, epsilon_mode, f.batch, relative_to=scale, sign=1 if scale is not None else sign, spare=spare
    )
    s = divided(R if share == 1 else share * R, f, d)
    like = pairs[0][0]
    return with_bias(added(*(w.times(a, s, like) for a, w in pairs)), f, s, b, bias)


def of_both_signs(f: Call, p: Tensor, n: Tensor, *, up: bool) -> list[Pair]:
    """Inputs p for w⁺ and n for w⁻ (unless `up` for w⁻ and w⁺): beside each other in one map where that is possible."""
    if f.features is None:
        same, other = (positive, negative) if up else (negative, positive)
        return [(p, f.linear(same)), (n, f.linear(other))]
    return [(torch.cat([p, n], f.features), f.linear(beside(up), beside=f.features))]


def added(first: Tensor, *more: Tensor) -> Tensor:
    """The sum, in place of the first term, which nothing else needs."""
    for t in more:
        first = first.add_(t) if owned(first) and first.dtype is t.dtype else first + t
    return first


def divided(R: Tensor, f: Call, d: Denominator) -> Tensor:
    """s = R / (z + e), with what the denominator took booked."""
    if not f.ledger:
        return d.under(R, last=True)
    s = d.under(R)
    taken, lost = d.amounts(R, s)
    f.keep(epsilon=taken, residual=lost)
    return s


def with_bias(out: Tensor, f: Call, s: Tensor, b: Tensor | None, bias: str) -> Tensor:
    """The inputs' relevance once the bias's part s ⊙ b is absorbed, or shared among them."""
    if b is not None and bias == "share":
        return added(out, _even(f, s * b))
    if b is not None and f.ledger:
        f.keep(bias=s * b)
    return out


def _ones(f: Call) -> Linear:
    if not f.weighted and not f.row.uniform:
        raise RuleError(f"{name(f.op)}: flat and w_square are not defined for it; use epsilon")
    return f.linear(ones)


def _even(f: Call, t: Tensor) -> Tensor:
    """Each output's amount t_k in equal parts to the inputs it is connected with."""
    same = _ones(f)
    return same.T(quotient(t, same(torch.ones_like(f.a[:1] if f.batch == 0 else f.a))), f.a)


@rule(*LINEAR, Family.SUM, rectified=True, source="Bach et al. 2015; Montavon et al. 2019, section 10.2.1")
def zero(R: Tensor, f: Call, *, bias: str = "absorb") -> Tensor | tuple[Tensor, ...]:
    """LRP-0: R_j = Σ_k a_j w_jk / Σ_{0,j} a_j w_jk · R_k

    Applied to the whole of a ReLU network it equals gradient × input. 0/0 is 0.
    """
    return epsilon(R, f, epsilon=0.0, bias=bias)


@rule(
    *LINEAR,
    Family.SUM,
    rectified=True,
    source="Bach et al. 2015; Montavon et al. 2019, section 10.2.1; Binder et al. 2016, eq. 5",
)
def epsilon(
    R: Tensor, f: Call, *, epsilon: float = 1e-6, epsilon_mode: str = "rms", bias: str = "absorb"
) -> Tensor | tuple[Tensor, ...]:
    """LRP-ε: R_j = Σ_k a_j w_jk / (Σ_{0,j} a_j w_jk + ε sign(z_k)) · R_k

    `epsilon_mode`: ε as it is ("absolute"), or times the root mean square ("rms") or the standard deviation
    ("std") of z over one sample's layer output. On a sum of branches, the summands are the contributions.
    """
    if f.family is Family.SUM:
        return _shares(R, f, epsilon, epsilon_mode)
    return spread(R, f, [(f.a, f.linear())], f.bias, z=f.z, epsilon=epsilon, epsilon_mode=epsilon_mode, bias=bias)


def terms(f: Call) -> tuple[Tensor, ...]:
    """The signed summands of the live operands of a + αb, a − αb, c − a."""
    short = name(f.op)
    alpha = f.args[2] if short == "rsub" and len(f.args) > 2 else f.kwargs.get("alpha", 1)
    factors = {"add": [1.0, alpha], "sub": [1.0, -alpha], "rsub": [-alpha, 1.0]}[short]
    return tuple(x if factors[int(p)] == 1 else x * factors[int(p)] for p, x in zip(f.live, f.operands, strict=True))  # type: ignore[arg-type]


def _shares(R: Tensor, f: Call, epsilon: float, epsilon_mode: str) -> Tensor | tuple[Tensor, ...]:
    """R_i = t_i / (Σ t + e) · R for the summands t; a constant summand counts as bias."""
    z, t = f.y, terms(f)
    # a mask of −10⁹ or −∞ is no measure of the scores it is added to
    live = t[0].expand(z.shape) if len(t) < 2 else None
    scale = f.scale if live is None else None
    d = Denominator(z, epsilon, epsilon_mode, f.batch, of=live, relative_to=scale, sign=int(scale is not None))
    s = divided(R, f, d)
    if f.ledger and live is not None:
        f.keep(bias=torch.where(z.isinf(), 0.0, s * (z - live)))
    out = tuple((x * s).sum_to_size(x.shape) for x in t)
    return out if len(out) > 1 else out[0]


@rule(Family.SUM, source="relprop; bounded shares for sums whose terms nearly cancel")
def magnitude(R: Tensor, f: Call) -> Tensor | tuple[Tensor, ...]:
    """R_i = |t_i| / Σ |t| · R

    Every share lies between 0 and 1, so that two branches that nearly cancel cannot amplify relevance.
    """
    t = [x.abs() for x in terms(f)]
    if len(t) < 2:  # a constant summand is the bias
        t.append((f.y - terms(f)[0]).abs())
    d = sum(t[1:], t[0])
    s = R / without_zeros(d, sign=1, spare=not f.ledger)
    live = t[: len(f.live)]
    if f.ledger:
        f.keep(bias=s * t[1] if len(f.live) < 2 else None, residual=torch.where(d == 0, R, 0.0))
    out = tuple((x * s).sum_to_size(o.shape) for x, o in zip(live, f.operands, strict=True))
    return out if len(out) > 1 else out[0]


@rule(*LINEAR, source="Lapuschkin et al. 2019; Montavon et al. 2019, appendix 10.A")
def flat(R: Tensor, f: Call) -> Tensor:
    """♭: R_j = Σ_k 1 / Σ_j 1 · R_k, over the inputs j connected with k"""
    return spread(R, f, [(torch.ones_like(f.a), _ones(f))], None, sign=1)


@rule(*LINEAR, source="Montavon et al. 2017; Montavon et al. 2019, appendix 10.A")
def w_square(R: Tensor, f: Call, *, bias: str = "ignore") -> Tensor:
    """w²: R_i = Σ_j w_ij² / Σ_i w_ij² · R_j, for inputs in ℝᵈ"""
    if not f.weighted:
        return flat(R, f)
    b = f.bias
    return spread(
        R, f, [(torch.ones_like(f.a), f.linear(square))], None if b is None else b.square(), sign=1, bias=bias
    )


@rule(*LINEAR, source="Montavon et al. 2017; Montavon et al. 2019, appendix 10.A")
def z_box(R: Tensor, f: Call, *, low: float | Tensor, high: float | Tensor) -> Tensor:
    """zᴮ: R_i = Σ_j (x_i w_ij − l_i w_ij⁺ − h_i w_ij⁻) / Σ_i (x_i w_ij − l_i w_ij⁺ − h_i w_ij⁻) · R_j

    For inputs in a box, l_i ≤ x_i ≤ h_i. `low` and `high` are numbers or tensors that broadcast to one sample
    (a value a channel: shape (3, 1, 1)). The bias cancels.
    """
    lo, hi = (torch.as_tensor(v, dtype=f.a.dtype, device=f.a.device) for v in (low, high))
    try:
        lo, hi = lo.expand(f.a.shape), hi.expand(f.a.shape)
    except RuntimeError:
        raise CompositeError(
            f"low {tuple(lo.shape)} and high {tuple(hi.shape)} do not broadcast to the input {tuple(f.a.shape)}"
        ) from None
    check_box(f.a, lo, hi)
    if not f.weighted:  # fixed weights >= 0
        return spread(R, f, [(f.a - lo, f.linear())], None)
    # summed so, no two terms of a denominator cancel: (x_i − l_i) w_ij⁺ >= 0 and (x_i − h_i) w_ij⁻ >= 0
    return spread(R, f, of_both_signs(f, f.a - lo, f.a - hi, up=True), None)


def check_box(x: Tensor, low: Tensor, high: Tensor) -> None:
    """Refuse an input outside the box (by more than a thousandth of its width)."""
    if not concrete(x):
        return
    slack = 1e-3 * (high - low)
    if bool(((x < low - slack) | (x > high + slack)).any()):
        raise InputError(
            f"the input runs from {x.min():.4g} to {x.max():.4g}, outside the box low={low.min():.4g}..., "
            f"high={high.max():.4g}... of the zB rule; give the bounds of the normalized input as low= and high="
        )


@rule(*LINEAR, source="Binder et al. 2016, equation 5 (with exponent p)")
def power(
    R: Tensor,
    f: Call,
    *,
    power: int = 2,
    epsilon: float = 1e-6,
    epsilon_mode: str = "rms",
    bias: str = "absorb",
) -> Tensor:
    """R_i = Σ_j z_ij / (z_j + ε sign(z_j)) · R_j with z_ij = (w_ij x_i)ᵖ"""
    p, b = int(power), f.bias
    if not f.weighted and not (f.row.uniform and (epsilon == 0 or epsilon_mode != "absolute")):
        # fixed weights are not raised to p: that changes nothing but the scale of z, where they are equal
        raise RuleError(f"{name(f.op)}: power is not defined for it with an absolute epsilon; use epsilon")
    weights = f.linear(raised(p))
    return spread(
        R, f, [(f.a**p, weights)], None if b is None else b**p,
        epsilon=epsilon, epsilon_mode=epsilon_mode, bias=bias,
    )  # fmt: skip
