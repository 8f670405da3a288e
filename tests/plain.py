"""The rules by their definitions, one neuron after another, in Python's numbers with exactly rounded sums.

An operation is the table of its weights w_kj, each row the answer of all outputs to one unit vector; a rule is what each
contribution a_j w_kj becomes, and the relevance R_k of a neuron is handed out in proportion. Every sum is `math.fsum`: no
rounding piles up, and nothing cancels but what cancels in the definition. Nothing here imports the package under test.

`epsilon`, `bias` and the sums of both signs are as docs/rules.md states them: e_k = ε · scale · sign(z_k) with sign(0) = +1,
the scale that of the denominators over all outputs of one sample's layer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Numbers = list[float]


@dataclass(frozen=True)
class Table:
    """An affine operation on one sample: weights [K][J], biases [K], the shape of the input."""

    weights: list[Numbers]
    biases: Numbers
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One way a rule looks at the neurons of a layer: a contribution for each pair, one for each bias, and `part`.

    `part[k]` of R_k is handed out in proportion to `inputs[k][j]` and `biases[k]`; `stabilized` by e_k.
    """

    part: Numbers
    inputs: list[Numbers]
    biases: Numbers
    stabilized: bool = False


@dataclass(frozen=True)
class Result:
    """Relevance of the inputs, and what was not passed on, for each sample."""

    relevance: Tensor
    bias: Tensor
    epsilon: Tensor
    residual: Tensor


def table(module: nn.Module, shape: tuple[int, ...]) -> Table:
    """The weights by the module's action on unit vectors, without its bias so that nothing is rounded."""
    linear = copy.deepcopy(module).double()
    origin = torch.zeros(1, *shape, dtype=torch.float64)
    with torch.no_grad():
        biases = linear(origin).flatten()
        if linear.bias is not None:
            linear.bias.zero_()
        units = torch.eye(origin.numel(), dtype=torch.float64).reshape(-1, *shape)
        weights = linear(units).flatten(1).T
    return Table(weights.tolist(), biases.tolist(), shape)


def outputs(t: Table, a: Numbers) -> Numbers:
    """z_k = Σ_j a_j w_kj + b_k."""
    return [
        math.fsum([x * w for x, w in zip(a, row, strict=True)] + [b])
        for row, b in zip(t.weights, t.biases, strict=True)
    ]


def above(x: float) -> float:
    return max(0.0, x)


def below(x: float) -> float:
    return min(0.0, x)


def _mapped(t: Table, a: Numbers, f: Callable[[float], float], part: Numbers | float, stabilized: bool) -> Layer:
    """Every contribution, and every bias, through f."""
    inputs = [[f(x * w) for x, w in zip(a, row, strict=True)] for row in t.weights]
    parts = part if isinstance(part, list) else [part] * len(inputs)
    return Layer(parts, inputs, [f(b) for b in t.biases], stabilized)


def zero(t: Table, a: Numbers) -> list[Layer]:
    return [_mapped(t, a, lambda c: c, 1.0, False)]


def epsilon(t: Table, a: Numbers) -> list[Layer]:
    return [_mapped(t, a, lambda c: c, 1.0, True)]


def gamma(t: Table, a: Numbers, gamma: float = 0.25) -> list[Layer]:
    """c + γ c⁺ for the neurons with z_k ≥ 0, c + γ c⁻ for those with z_k < 0."""
    z = outputs(t, a)
    return [
        _mapped(t, a, lambda c: c + gamma * above(c), [float(v >= 0) for v in z], True),
        _mapped(t, a, lambda c: c + gamma * below(c), [float(v < 0) for v in z], True),
    ]


def alpha_beta(t: Table, a: Numbers, alpha: float = 2.0, beta: float = 1.0) -> list[Layer]:
    return [_mapped(t, a, above, alpha, False), _mapped(t, a, below, -beta, False)]


def z_plus(t: Table, a: Numbers) -> list[Layer]:
    return [_mapped(t, a, above, 1.0, False)]


def power(t: Table, a: Numbers, power: int = 2) -> list[Layer]:
    return [_mapped(t, a, lambda c: c**power, 1.0, True)]


def w_square(t: Table, a: Numbers) -> list[Layer]:
    return [Layer([1.0] * len(t.weights), [[w * w for w in row] for row in t.weights], [0.0] * len(t.biases))]


def flat(t: Table, a: Numbers) -> list[Layer]:
    """1 for each connected pair: weights that are exactly 0 do not occur in the tests of it."""
    return [Layer([1.0] * len(t.weights), [[float(w != 0) for w in row] for row in t.weights], [0.0] * len(t.biases))]


def z_box(t: Table, a: Numbers, low: float = -1.0, high: float = 1.0) -> list[Layer]:
    inputs = [
        [math.fsum((x * w, -low * above(w), -high * below(w))) for x, w in zip(a, row, strict=True)]
        for row in t.weights
    ]
    return [Layer([1.0] * len(inputs), inputs, [0.0] * len(inputs))]


RULES: dict[str, Callable[..., list[Layer]]] = {
    "zero": zero,
    "epsilon": epsilon,
    "gamma": gamma,
    "alpha_beta": alpha_beta,
    "z_plus": z_plus,
    "power": power,
    "w_square": w_square,
    "flat": flat,
    "z_box": z_box,
}


def scale(z: Sequence[float], mode: str) -> float:
    """1, or the root mean square or standard deviation of one sample's denominators."""
    if mode == "absolute":
        return 1.0
    mean = math.fsum(z) / len(z) if mode == "std" else 0.0
    return math.sqrt(math.fsum((v - mean) ** 2 for v in z) / len(z))


def _hand_out(layers: list[Layer], R: Numbers, size: int, e: float, mode: str) -> tuple[Numbers, Numbers]:
    """Of one sample: the relevance of every input; what the bias, ε and empty denominators took."""
    sent: list[Numbers] = [[] for _ in range(size)]
    kept: list[Numbers] = [[], [], []]
    for layer in layers:
        sums = [math.fsum([*row, b]) for row, b in zip(layer.inputs, layer.biases, strict=True)]
        share = e * scale(sums, mode) if layer.stabilized else 0.0
        for k, total in enumerate(sums):
            stabilizer = share if total >= 0 else -share
            arrived, denominator = layer.part[k] * R[k], total + stabilizer
            if denominator == 0:
                kept[2].append(arrived)
                continue
            for j, c in enumerate(layer.inputs[k]):
                sent[j].append(c / denominator * arrived)
            kept[0].append(layer.biases[k] / denominator * arrived)
            kept[1].append(stabilizer / denominator * arrived)
    return [math.fsum(s) for s in sent], [math.fsum(k) for k in kept]


def relevance(
    rule: str, t: Table, a: Tensor, R: Tensor, *, epsilon: float = 1e-6, epsilon_mode: str = "rms", **options: Any
) -> Result:
    """R_j = Σ_k n_kj / (Σ_j n_kj + n_k0 + e_k) · R_k for inputs a [B, ...] and relevance R [B, ...], in float64."""
    rows, kept = [], []
    for x, r in zip(a.double().flatten(1).tolist(), R.double().flatten(1).tolist(), strict=True):
        sent, taken = _hand_out(RULES[rule](t, x, **options), r, len(x), epsilon, epsilon_mode)
        rows.append(sent)
        kept.append(taken)
    amounts = torch.tensor(kept, dtype=torch.float64).T
    return Result(torch.tensor(rows, dtype=torch.float64).reshape(len(a), *t.shape), *amounts)


# Attention, by its matrix of weights


def attention_matrix(
    q: Tensor, k: Tensor, *, scale: float | None = None, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """A = softmax(q kᵀ · scale + m), row by row: (..., queries, keys); a boolean mask says what is allowed."""
    q, k = q.double(), k.double().repeat_interleave(q.shape[-3] // k.shape[-3], -3)
    scores = torch.einsum("...id,...jd->...ij", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    allowed = torch.ones(scores.shape[-2:], dtype=torch.bool)
    if causal:
        allowed = allowed.tril()
    if mask is not None and mask.dtype is torch.bool:
        allowed = allowed & mask
    elif mask is not None:
        scores = scores + mask.double()
    e = torch.where(allowed, (scores - scores.amax(-1, keepdim=True)).exp(), 0.0)
    return e / e.sum(-1, keepdim=True)


def attention(
    rule: str, q: Tensor, k: Tensor, v: Tensor, R: Tensor, e: float = 0.0, **how: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Relevance of q, k and v for that of y = A v, in float64, by matrices of all steps.

    "values": R_v = v ⊙ Aᵀ s with s = R / (y + ε rms(y) sign(y)). "shared": ½ of it; the other half goes to the weights,
    R_A = ½ A ⊙ s vᵀ, through the softmax, R_scores = z ⊙ (R_A − A Σ R_A), and in halves to q and k:
    R_q = ½ q ⊙ (R_scores / z) k · scale.
    """
    A, groups = attention_matrix(q, k, **how), q.shape[-3] // v.shape[-3]
    wide = v.double().repeat_interleave(groups, -3)
    y = torch.einsum("...ij,...jd->...id", A, wide)
    rms = y.square().mean((1, 2, 3), keepdim=True).sqrt()
    s = R.double() / (y + e * rms * torch.where(y >= 0, 1.0, -1.0))
    to_values = wide * torch.einsum("...ij,...id->...jd", A, s)
    if rule == "values":
        return torch.zeros_like(q).double(), torch.zeros_like(k).double(), _grouped(to_values, groups)
    to_weights = 0.5 * A * torch.einsum("...id,...jd->...ij", s, wide)
    to_scores = to_weights - A * to_weights.sum(-1, keepdim=True)  # divided by the scores
    factor = q.shape[-1] ** -0.5 if how.get("scale") is None else how["scale"]
    keys = k.double().repeat_interleave(groups, -3)
    to_q = 0.5 * q.double() * torch.einsum("...ij,...jd->...id", to_scores, keys) * factor
    to_k = 0.5 * keys * torch.einsum("...ij,...id->...jd", to_scores, q.double()) * factor
    return to_q, _grouped(to_k, groups), _grouped(0.5 * to_values, groups)


def _grouped(t: Tensor, groups: int) -> Tensor:
    """Heads of queries that share a head of keys: their sum."""
    return t.unflatten(-3, (-1, groups)).sum(-3)
