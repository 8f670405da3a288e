"""That a rule of relprop is the Taylor expansion theory says it is, and that it is one in the domain of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import rules
from ..errors import TheoryError
from ..rules.registry import Rule, RuleFunction
from .roots import Root, first_order_terms, modulation, neurons, root, settled, zero_order_term

LINEAR = torch.ops.aten.linear.default


@dataclass(frozen=True)
class Expansion:
    """The Taylor expansion of the relevance model that is a rule: R = zero_order + Σ_j terms + bias.

    `root`: the points of expansion. `terms` (samples, J, K): what neuron k sends to input j. `bias`, `zero_order`
    (samples, K): what the bias neuron takes and what is left at the root point. `distance` (samples, K): ‖ã − a‖.
    `error`: largest difference between the terms and the messages of relprop's rule, relative to the neuron's
    largest |a_j w_jk| c_k or message.
    """

    root: Root
    terms: Tensor
    bias: Tensor
    zero_order: Tensor
    distance: Tensor
    error: float


def check_rule(
    rule: str | RuleFunction,
    a: Tensor,
    w: Tensor,
    b: Tensor | None,
    R: Tensor,
    *,
    rtol: float = 1e-9,
    **parameters: Any,
) -> Expansion:
    """Raise unless the first-order terms at the rule's root point equal the messages of relprop's own rule.

    The messages are those of the function in `relprop.rules`, run on a linear layer with weights `w` and biases `b`
    for one neuron at a time. Checked too: that the terms, the bias's term and the zero-order term sum to R_k.

    With `bias="absorb"`, the default of `zero`, `epsilon`, `gamma` and `z_plus`, that holds for any bias, as the bias
    neuron a_0 = 1 is part of the expansion; with `bias="ignore"`, and for `w_square` and `z_box`, for any bias as well,
    which is then held: the root point is another. What needs b <= 0 or the like is that ã lies in the domain of
    activations: see `check_domain`.

    `a`, `w`, `b`, `R`: (samples, J), (J, K), (K,) or None, (samples, K). `rtol`: see `Expansion.error`. `parameters`:
    as for `root`. Returns the `Expansion`. Raises `TheoryError` if the two differ, and as `root` and `modulation` do.
    Source: Montavon et al. 2019, section 10.2.3; Montavon et al. 2017.

    >>> a, w, R = torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0], [-1.0]]), torch.tensor([[2.0]])
    >>> expansion = check_rule("gamma", a, w, None, R, gamma=1.0)
    >>> expansion.terms.flatten(), expansion.zero_order.flatten()
    (tensor([ 2.4000, -0.4000], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    at = root(rule, a, w, b, **parameters)
    declared, full = settled(rule, parameters)
    c = modulation(a, w, b, R)
    terms, of_bias = first_order_terms(a, w, b, c, at)
    left = zero_order_term(w, b, c, at)
    a, w, biases = neurons(a, w, b)
    R = torch.as_tensor(R).detach().to(torch.float64)
    sent = messages(declared, a, w, None if b is None else biases, R, full)
    size = torch.maximum((a[..., None] * w * c[:, None]).abs(), sent.abs()).amax(1)
    wrong = _relative((terms - sent).abs().amax(1), size)
    if not bool((wrong <= rtol).all()):
        sample, k = divmod(int(wrong.nan_to_num(torch.inf).argmax()), w.shape[1])
        raise TheoryError(
            f"{declared.name}: neuron {k} of sample {sample} sends {_few(sent[sample, :, k])}, but the first-order "
            f"terms at its root point are {_few(terms[sample, :, k])}; they differ by {float(wrong[sample, k]):.3g} "
            f"> {rtol:g}"
        )
    gap = _relative((left + terms.sum(1) + of_bias - R).abs(), torch.maximum(size, (biases * c).abs()))
    if not bool((gap <= rtol).all()):
        sample, k = divmod(int(gap.nan_to_num(torch.inf).argmax()), w.shape[1])
        total = float((left + terms.sum(1) + of_bias)[sample, k])
        raise TheoryError(
            f"{declared.name}: at neuron {k} of sample {sample} the Taylor terms sum to {total:.10g}, the relevance is "
            f"{float(R[sample, k]):.10g}"
        )
    return Expansion(at, terms, of_bias, left, at.distance(a), float(wrong.max()))


def messages(rule: Rule, a: Tensor, w: Tensor, b: Tensor | None, R: Tensor, parameters: dict[str, Any]) -> Tensor:
    """What relprop's rule sends from each neuron to each input, (samples, J, K): one row a sample and neuron."""
    samples, K = R.shape
    rows = a.repeat_interleave(K, 0)
    one_each = torch.diag_embed(R).reshape(samples * K, K)
    weight = w.T.contiguous()
    # as a program calls it under a ReLU: relevance arrives where z > 0 alone
    f = rules.Call(LINEAR, (rows, weight, b), LINEAR(rows, weight, b), nonneg=bool((a >= 0).all()), rectified=True)
    if rule.name == "z_box":
        bounds = {k: torch.as_tensor(parameters[k]).to(a).expand(a.shape) for k in ("low", "high")}
        parameters = parameters | {k: v.repeat_interleave(K, 0) for k, v in bounds.items()}
    with torch.no_grad():
        sent: Tensor = rule.function(one_each, f, **parameters)
    return sent.reshape(samples, K, -1).transpose(1, 2)


def check_domain(
    root: Root, *, low: float | Tensor = 0.0, high: float | Tensor = torch.inf, atol: float = 1e-9
) -> None:
    """Raise unless every root point lies in the domain of the inputs, low <= ã_j <= high (by default ã ⪰ 0).

    For inputs that are activations, a ⪰ 0, root points of `zero`, `epsilon`, `gamma` and `z_plus` do with
    `bias="absorb"` (Montavon et al. 2019, section 10.2.3). With `bias="ignore"` they do where b_k <= 0, which is what
    Montavon et al. 2017 ask of biases. Root points of `z_box` lie in the box where the neuron is inactive somewhere
    in it, Σ_j (l_j w_jk⁺ + h_j w_jk⁻) + b_k <= 0, as with b_k <= 0 and l <= 0 <= h. Those of `w_square` may lie
    anywhere: its domain is all of ℝᴶ.

    `low`, `high`: numbers, or tensors that broadcast to (samples, J). `atol`: in units of the activations.
    Raises `TheoryError`.

    >>> a, w = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0], [0.5]])
    >>> check_domain(root("gamma", a, w))
    >>> check_domain(root("zero", a, w, torch.tensor([1.0]), bias="ignore"))
    Traceback (most recent call last):
    relprop.errors.TheoryError: sample 0, neuron 0: input 0 of the root point is -0.6667, outside 0 ... inf; the ...
    """
    point = root.point
    lows, highs = (torch.as_tensor(v).to(point).expand(point.shape[:2])[..., None] for v in (low, high))
    outside = (point < lows - atol) | (point > highs + atol)
    if bool(outside.any()):
        sample, j, k = outside.nonzero()[0].tolist()
        raise TheoryError(
            f"sample {sample}, neuron {k}: input {j} of the root point is {float(point[sample, j, k]):.4g}, outside "
            f"{float(lows[sample, j, 0]):.4g} ... {float(highs[sample, j, 0]):.4g}; the relevance model is expanded at "
            "an input that cannot occur. Positive biases cause that where they are held: take bias='absorb', or "
            "constrain the network to biases <= 0"
        )


def _relative(difference: Tensor, size: Tensor) -> Tensor:
    """difference / size, 0 where both are 0."""
    return torch.where(difference == 0, 0.0, difference / size)


def _few(values: Tensor) -> list[float]:
    return [float(f"{v:.6g}") for v in values[:6].tolist()]
