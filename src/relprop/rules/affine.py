"""Rules for affine maps z_k = Σ_j a_j w_jk + b_k: the chapter's four steps, once.

Every rule is one or two applications of `spread`: z = f(a), s = R / (z + ε), c = fᵀ(s), R_a = a ⊙ c
(Montavon et al. 2019, section 10.2.2), with weights, inputs and bias put through maps of the rule's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import CompositeError, InputError, RuleError
from ..ops import Family, name
from ..samples import Batch
from ..values import concrete
from .call import Call, Linear, by_sample
from .parameters import complete_alpha_beta
from .registry import rule

# max-pooling may be treated as sum-pooling (Montavon et al. 2019, section 10.3.2)
LINEAR = (Family.AFFINE, Family.AVERAGE, Family.BATCH_NORM, Family.MAX_POOL)

Pair = tuple[Tensor, Linear]


def stabilizer(z: Tensor, epsilon: float, mode: str, batch: Batch = 0, *, of: Tensor | None = None) -> Tensor:
    """e_k = ε · scale · sign(z_k), sign(0) = +1; scale 1, or rms or std of z over one sample's layer output.

    `of`: what to take the scale of instead of z, where z holds a constant that says nothing of scale.
    """
    samples, dims = by_sample(z if of is None else of, batch)
    if mode == "absolute":
        scale = z.new_ones(())
    elif mode == "std":
        scale = samples.std(dims, correction=0, keepdim=True) if dims else torch.zeros_like(z)
    else:
        scale = samples.square().mean(dims, keepdim=True).sqrt() if dims else samples.abs()
    signed = by_sample(z, batch)[0] + 0.0  # of −0 the sign is + too
    return torch.copysign((epsilon * scale).expand(signed.shape), signed).reshape(z.shape)


def quotient(R: Tensor, d: Tensor) -> Tensor:
    """R / d with 0 where d = 0."""
    empty = d == 0
    return torch.where(empty, 0.0, R / torch.where(empty, 1.0, d))


def spread(
    R: Tensor,
    f: Call,
    pairs: list[Pair],
    b: Tensor | None,
    *,
    z: Tensor | None = None,
    epsilon: float = 0.0,
    epsilon_mode: str = "rms",
    bias: str = "absorb",
) -> Tensor:
    """R_j = Σ_k (Σ_pairs â_j ŵ_jk) / (Σ_pairs Σ_j â_j ŵ_jk + b̂_k + e_k) · R_k, where (â, ŵ) runs over `pairs`.

    `z` is the denominator (with bias, without ε) where it is known already.
    """
    if bias == "ignore":
        z, b = None if z is None else (z if b is None else z - b), None
    if z is None:
        z = sum((w(a) for a, w in pairs[1:]), pairs[0][1](pairs[0][0]))
        z = z if b is None else z + b
    e = stabilizer(z, epsilon, epsilon_mode, f.batch) if epsilon else torch.zeros_like(z)
    s = quotient(R, z + e)
    if f.ledger:
        f.keep(epsilon=s * e, residual=torch.where(z + e == 0, R, 0.0))
    out = sum((a * w.T(s, a) for a, w in pairs[1:]), pairs[0][0] * pairs[0][1].T(s, pairs[0][0]))
    if b is None:
        return out
    if bias == "share":
        return out + _even(f, s * b)
    if f.ledger:
        f.keep(bias=s * b)
    return out


def _ones(f: Call) -> Linear:
    if not f.weighted and not f.row.uniform:
        raise RuleError(f"{name(f.op)}: flat and w_square are not defined for it; use epsilon")
    return f.linear(torch.ones_like)


def _even(f: Call, t: Tensor) -> Tensor:
    """Each output's amount t_k in equal parts to the inputs it is connected with."""
    ones = _ones(f)
    return ones.T(quotient(t, ones(torch.ones_like(f.a[:1] if f.batch == 0 else f.a))), f.a)


def positive(w: Tensor) -> Tensor:
    """(·)⁺ = max(0, ·)."""
    return w.clamp(min=0)


def negative(w: Tensor) -> Tensor:
    """(·)⁻ = min(0, ·)."""
    return w.clamp(max=0)


def _signed(f: Call, sign: int) -> list[Pair]:
    """Pairs (â, ŵ) whose products are the positive (+1) or negative (−1) parts of a_j w_jk."""
    same, other = (positive, negative) if sign > 0 else (negative, positive)
    _check_sign(f)
    if not f.weighted:  # fixed weights >= 0: the sign is the input's
        return [(same(f.a), f.linear())]
    pairs = [(positive(f.a), f.linear(same))]
    return pairs if f.nonneg else [*pairs, (negative(f.a), f.linear(other))]


def _check_sign(f: Call) -> None:
    if f.row.signed:
        raise RuleError(f"{name(f.op)} has fixed weights of both signs, which no rule parts by sign; use epsilon")


def _part(b: Tensor | None, sign: int) -> Tensor | None:
    return None if b is None else (positive(b) if sign > 0 else negative(b))


@rule(*LINEAR, Family.SUM, source="Bach et al. 2015; Montavon et al. 2019, section 10.2.1")
def zero(R: Tensor, f: Call, *, bias: str = "absorb") -> Tensor | tuple[Tensor, ...]:
    """LRP-0: R_j = Σ_k a_j w_jk / Σ_{0,j} a_j w_jk · R_k

    Applied to the whole of a ReLU network it equals gradient × input. 0/0 is 0.
    """
    return epsilon(R, f, epsilon=0.0, bias=bias)


@rule(*LINEAR, Family.SUM, source="Bach et al. 2015; Montavon et al. 2019, section 10.2.1; Binder et al. 2016, eq. 5")
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
    e = stabilizer(z, epsilon, epsilon_mode, f.batch, of=live) if epsilon else torch.zeros_like(z)
    s = quotient(R, z + e)
    if f.ledger:
        constant = torch.where(z.isinf(), 0.0, s * (z - t[0])) if len(t) < 2 else None
        f.keep(epsilon=s * e, bias=constant, residual=torch.where(z + e == 0, R, 0.0))
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
    s = quotient(R, d)
    live = t[: len(f.live)]
    if f.ledger:
        f.keep(bias=s * t[1] if len(f.live) < 2 else None, residual=torch.where(d == 0, R, 0.0))
    out = tuple((x * s).sum_to_size(o.shape) for x, o in zip(live, f.operands, strict=True))
    return out if len(out) > 1 else out[0]


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
    options = {"epsilon": epsilon, "epsilon_mode": epsilon_mode, "bias": bias}
    b = f.bias
    if f.nonneg and f.rectified and f.weighted:
        return spread(R, f, _favoured(f, gamma, +1), _favoured_bias(b, gamma, +1), **options)  # type: ignore[arg-type]
    z = f.linear()(f.a) if f.z is None else f.z
    z = z if b is None or bias != "ignore" else z - b
    up = spread(torch.where(z < 0, 0.0, R), f, _favoured(f, gamma, +1), _favoured_bias(b, gamma, +1), **options)  # type: ignore[arg-type]
    down = spread(torch.where(z < 0, R, 0.0), f, _favoured(f, gamma, -1), _favoured_bias(b, gamma, -1), **options)  # type: ignore[arg-type]
    return up + down


def _favoured(f: Call, gamma: float, sign: int) -> list[Pair]:
    """Pairs for a_j w_jk + γ (a_j w_jk)^±: w + γ w^± meets a⁺, and w + γ w^∓ meets a⁻."""
    same, other = (positive, negative) if sign > 0 else (negative, positive)
    _check_sign(f)
    if not f.weighted:
        return [(f.a + gamma * same(f.a), f.linear())]
    if f.nonneg:
        return [(f.a, f.linear(lambda w: w + gamma * same(w)))]
    return [
        (positive(f.a), f.linear(lambda w: w + gamma * same(w))),
        (negative(f.a), f.linear(lambda w: w + gamma * other(w))),
    ]


def _favoured_bias(b: Tensor | None, gamma: float, sign: int) -> Tensor | None:
    part = _part(b, sign)
    return None if b is None or part is None else b + gamma * part


@rule(
    *LINEAR, conserves=False, source="Bach et al. 2015; Montavon et al. 2019, appendix 10.A; Binder et al. 2016, eq. 6"
)
def alpha_beta(
    R: Tensor, f: Call, *, alpha: float | None = None, beta: float | None = None, bias: str = "absorb"
) -> Tensor:
    """LRP-αβ: R_j = Σ_k (α (a_j w_jk)⁺ / Σ_{0,j} (a_j w_jk)⁺ − β (a_j w_jk)⁻ / Σ_{0,j} (a_j w_jk)⁻) · R_k

    α − β = 1; one of the two is enough (Binder's β rule has α = 1 + β). Without either, α = 2 and β = 1. Where
    a neuron has no negative (or no positive) contribution, that part is lost and booked as residual.
    """
    alpha, beta = complete_alpha_beta(alpha, beta)
    b = f.bias
    out = spread(alpha * R, f, _signed(f, +1), _part(b, +1), bias=bias) if alpha else torch.zeros_like(f.a)
    return out if beta == 0 else out + spread(-beta * R, f, _signed(f, -1), _part(b, -1), bias=bias)


@rule(*LINEAR, conserves=False, source="Montavon et al. 2017 (z⁺ rule); Zhang et al. 2016 (excitation backprop)")
def z_plus(R: Tensor, f: Call, *, bias: str = "absorb") -> Tensor:
    """z⁺: R_j = Σ_k (a_j w_jk)⁺ / Σ_{0,j} (a_j w_jk)⁺ · R_k

    Equals LRP-αβ with α = 1, β = 0, and LRP-γ as γ → ∞.
    """
    return spread(R, f, _signed(f, +1), _part(f.bias, +1), bias=bias)


@rule(*LINEAR, source="Lapuschkin et al. 2019; Montavon et al. 2019, appendix 10.A")
def flat(R: Tensor, f: Call) -> Tensor:
    """♭: R_j = Σ_k 1 / Σ_j 1 · R_k, over the inputs j connected with k"""
    return spread(R, f, [(torch.ones_like(f.a), _ones(f))], None)


@rule(*LINEAR, source="Montavon et al. 2017; Montavon et al. 2019, appendix 10.A")
def w_square(R: Tensor, f: Call, *, bias: str = "ignore") -> Tensor:
    """w²: R_i = Σ_j w_ij² / Σ_i w_ij² · R_j, for inputs in ℝᵈ"""
    if not f.weighted:
        return flat(R, f)
    b = f.bias
    return spread(R, f, [(torch.ones_like(f.a), f.linear(torch.square))], None if b is None else b.square(), bias=bias)


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
    pairs = [(f.a, f.linear()), (-lo, f.linear(positive))]
    return spread(R, f, [*pairs, (-hi, f.linear(negative))] if f.weighted else pairs, None)


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
    weights = f.linear(lambda w: w**p)
    return spread(
        R, f, [(f.a**p, weights)], None if b is None else b**p,
        epsilon=epsilon, epsilon_mode=epsilon_mode, bias=bias,
    )  # fmt: skip
