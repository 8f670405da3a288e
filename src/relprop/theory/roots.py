"""Root points of the rules at ReLU neurons, and the Taylor expansion of the relevance model there.

Shapes everywhere: inputs `a` (samples, J), weights `w` (J, K) as the papers write them (`layer.weight.T` of nn.Linear),
biases `b` (K,) or None, relevance `R` and factors `c` (samples, K). Each neuron of each sample has a root point of its
own: (samples, J, K). All is computed in float64.

Every rule with a root point is a line search. From a, walk t · v, with a direction v that is the rule's choice, until
z_k = Σ_j a_j w_jk + b_k has fallen to 0, the hinge of the ReLU:

    ã = a − t v,    t = z_k / (Σ_j v_j w_jk + v_0 b_k + ε),

and the first-order terms (a_j − ã_j) w_jk c_k = v_j w_jk / (Σ_j v_j w_jk + v_0 b_k + ε) · R_k are the rule. ε stops
the walk before the hinge; it has the sign of the sum, which is negative only where a positive bias is held. The bias is
the neuron a_0 = 1 of weight b_k: it takes part in the walk (v_0 ≠ 0, `bias="absorb"`), or it is held (v_0 = 0,
`bias="ignore"`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import rules
from ..errors import CompositeError, InputError, TheoryError
from ..rules.parameters import check_parameters
from ..rules.registry import Rule, RuleFunction
from ..values import finite

Parameters = dict[str, Any]
Direction = Callable[[Tensor, Tensor, Tensor, Parameters], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Root:
    """Root points ã: `point` (samples, J, K) of the inputs, `bias` (samples, K) of the bias neuron, which is 1 at a."""

    point: Tensor
    bias: Tensor

    def distance(self, a: Tensor) -> Tensor:
        """‖ã − a‖ over the inputs, (samples, K), in units of the activations (Montavon et al. 2019, section 10.2.3).

        `a`: (samples, J). Raises `InputError` for another shape.

        >>> a, w = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0], [1.0]])
        >>> root("zero", a, w).distance(a)
        tensor([[5.]], dtype=torch.float64)
        """
        a = _table("a", a, 2)
        if a.shape != self.point.shape[:2]:
            raise InputError(f"a is {tuple(a.shape)}, the root points belong to inputs {tuple(self.point.shape[:2])}")
        far: Tensor = torch.linalg.vector_norm(a[..., None] - self.point, dim=1)
        return far


def root(
    rule: str | RuleFunction,
    a: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    **parameters: Any,
) -> Root:
    """The root point ã = a − t v of a rule at each neuron, in closed form.

    | rule     | direction v_j                          | source                                  |
    |----------|----------------------------------------|-----------------------------------------|
    | zero     | a_j, to ã = 0                          | Montavon et al. 2019, section 10.2.3    |
    | epsilon  | a_j, to ã = ε / (a_k + ε) · a          | the same                                |
    | gamma    | a_j (1 + γ 1[w_jk ≥ 0])                | the same                                |
    | z_plus   | a_j 1[w_jk > 0]                        | Montavon et al. 2017                    |
    | w_square | w_jk                                   | the same; 2019, appendix 10.A           |
    | z_box    | a_j − l_j 1[w_jk > 0] − h_j 1[w_jk < 0] | the same                                |

    `a`, `w`, `b`: (samples, J), (J, K), (K,) or None. `parameters`: those of the rule in `relprop.rules`, with two
    differences: ε is absolute, as in the papers, and that of `gamma` is 0 unless given. `bias`: "absorb" expands in
    the bias neuron too, "ignore" holds it; "share" is no expansion. The root point of a neuron that is not active,
    z_k <= 0, is a itself: its relevance model is 0 around it.

    For inputs of either sign, `gamma` and `z_plus` ask for the sign of a_j w_jk in place of that of w_jk, as relprop's
    rules do; for a_j >= 0 that is the same.

    Raises `TheoryError` for a rule without a root point (flat, alpha_beta, power) and where the line never meets the
    hinge, `InputError` for other shapes and for inputs outside the box of z_box, `CompositeError` for parameters that
    the rule does not take.

    >>> a, w = torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0], [-1.0]])      # contributions 3 and −1, a_k = 2
    >>> root("epsilon", a, w, epsilon=2.0).point.flatten()                    # half way to 0
    tensor([0.5000, 0.5000], dtype=torch.float64)
    >>> root("z_plus", a, w).point.flatten()                                  # on the hinge 3 a_1 = a_2
    tensor([0.3333, 1.0000], dtype=torch.float64)
    """
    declared, full = settled(rule, parameters)
    a, w, b = neurons(a, w, b)
    if declared.name == "z_box":
        full = full | {"low": _bound("low", full["low"], a), "high": _bound("high", full["high"], a)}
        if bool(((a[..., None] < full["low"]) | (a[..., None] > full["high"])).any()):
            raise InputError("a lies outside the box low ... high; give the bounds of the inputs")
    v, v_0 = DIRECTIONS[declared.name](a[..., None], w, b, full)
    v_0 = v_0 if full.get("bias", "ignore") == "absorb" else torch.zeros_like(b)
    z = (a[..., None] * w).sum(1) + b
    slope = (v * w).sum(1) + v_0 * b
    slope = slope + torch.copysign(torch.full_like(slope, full.get("epsilon", 0.0)), slope)
    active = z > 0
    _check_meets(declared.name, active & (slope == 0))
    t = torch.where(active, z / torch.where(active, slope, 1.0), 0.0)
    return Root(a[..., None] - t[:, None] * v, 1 - t * v_0)


# direction of the walk: of the inputs (samples, J, K), and of the bias neuron (K,)


def _scaled(a: Tensor, w: Tensor, b: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    return a.expand(-1, -1, w.shape[1]), torch.ones_like(b)


def _favoured(a: Tensor, w: Tensor, b: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    return a * (1 + p["gamma"] * (a * w >= 0)), 1 + p["gamma"] * (b >= 0)


def _positive(a: Tensor, w: Tensor, b: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    return a * (a * w > 0), (b > 0).to(b)


def _steepest(a: Tensor, w: Tensor, b: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    return w.expand(len(a), -1, -1), b


def _to_corner(a: Tensor, w: Tensor, b: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    # an input of weight 0 need not move
    return (a - p["low"]) * (w > 0) + (a - p["high"]) * (w < 0), torch.zeros_like(b)


DIRECTIONS: dict[str, Direction] = {
    "zero": _scaled,
    "epsilon": _scaled,
    "gamma": _favoured,
    "z_plus": _positive,
    "w_square": _steepest,
    "z_box": _to_corner,
}
WITHOUT = {
    "flat": "a first-order term is proportional to w_jk, but flat gives inputs of weight 0 a share too",
    "alpha_beta": "it is a Taylor expansion for alpha=1, beta=0 alone (Montavon et al. 2019, appendix 10.A): z_plus",
    "power": "its messages (a_j w_jk)^p are no first-order terms; power=1 is epsilon",
}


def settled(rule: str | RuleFunction, parameters: Parameters) -> tuple[Rule, Parameters]:
    """The declaration of a rule that has root points, and all its parameters. Raises as `root` does."""
    declared, bound = rules.get(rule)
    if declared.name not in DIRECTIONS:
        why = WITHOUT.get(declared.name, "it is not made for a neuron max(0, Σ a w + b)")
        raise TheoryError(f"{declared.name} has no root point: {why}; those that have are {', '.join(DIRECTIONS)}")
    given = bound | parameters
    unknown = sorted(set(given) - set(declared.parameters))
    if unknown:
        raise CompositeError(
            f"rule {declared.name!r} has no parameter {', '.join(unknown)}; it has {', '.join(declared.parameters)}"
        )
    check_parameters(declared, given)
    if given.get("epsilon_mode", "absolute") != "absolute":
        raise CompositeError(f"epsilon_mode={given['epsilon_mode']!r}: the papers' ε is absolute; leave it out")
    if given.get("bias") == "share":
        raise TheoryError(
            "bias='share' hands the bias's share out in equal parts, which is no Taylor expansion; 'absorb' expands in "
            "the bias neuron as well, 'ignore' holds it"
        )
    full = {k: v for k, v in declared.parameters.items() if v is not inspect.Parameter.empty}
    full |= {"epsilon": 0.0} if declared.name == "gamma" else {}
    full |= given
    return declared, (full | {"epsilon_mode": "absolute"} if "epsilon_mode" in full else full)


def _check_meets(rule: str, never: Tensor) -> None:
    """Refuse an active neuron whose activation does not change along the line."""
    if bool(never.any()):
        sample, k = never.nonzero()[0].tolist()
        raise TheoryError(
            f"{rule}: neuron {k} of sample {sample} is active, but no step along the rule's line changes it, so that "
            "there is no root point (its activation comes from the bias, or from negative inputs); bias='absorb' "
            "makes the bias part of the expansion, where the rule has it"
        )


# the relevance model


def relevance_model(a: Tensor, w: Tensor, b: Tensor | None, c: Tensor) -> Tensor:
    """R̂_k(a) = max(0, Σ_j a_j w_jk + b_k) · c_k, (samples, K) (Montavon et al. 2019, section 10.2.3).

    Raises `InputError` for shapes that do not fit.

    >>> relevance_model(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [1.0]]), None, torch.tensor([[2.0]]))
    tensor([[6.]], dtype=torch.float64)
    """
    a, w, b = neurons(a, w, b)
    return (a @ w + b).clamp(min=0) * _of_neurons("c", c, a, w)


def modulation(a: Tensor, w: Tensor, b: Tensor | None, R: Tensor) -> Tensor:
    """c_k = R_k / a_k, with which the relevance model equals R at a; 0 where both are 0. (samples, K).

    Raises `InputError` where relevance arrives at a neuron that is not active: R̂_k is 0 there, and no LRP rule of the
    layers above sends any.

    >>> modulation(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [1.0]]), None, torch.tensor([[6.0]]))
    tensor([[2.]], dtype=torch.float64)
    """
    a, w, b = neurons(a, w, b)
    R, z = _of_neurons("R", R, a, w), (a[..., None] * w).sum(1) + b
    lost = (z <= 0) & (R != 0)
    if bool(lost.any()):
        sample, k = lost.nonzero()[0].tolist()
        raise InputError(
            f"R[{sample}, {k}] is {R[sample, k]:.4g}, but that neuron is not active (z = {z[sample, k]:.4g}): the "
            "relevance model max(0, z) c is 0 there; give 0 for neurons with z <= 0"
        )
    return torch.where(z > 0, R / torch.where(z > 0, z, 1.0), 0.0)


def first_order_terms(a: Tensor, w: Tensor, b: Tensor | None, c: Tensor, root: Root | Tensor) -> tuple[Tensor, Tensor]:
    """(a_j − ã_j) w_jk c_k of the inputs, (samples, J, K), and (1 − ã_0) b_k c_k of the bias neuron, (samples, K).

    The expansion of the relevance model at `root`, on its active side (Montavon et al. 2019, section 10.2.3): together
    with `zero_order_term` they sum to R̂_k(a) exactly. `root`: a `Root`, or points of your own, (samples, J, K), that
    leave the bias where it is. Raises `InputError` for other shapes and for a point at which the neuron is inactive:
    there the slope of R̂ is 0, and its expansion says nothing of R̂(a).

    >>> a, w = torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0], [-1.0]])
    >>> terms, bias = first_order_terms(a, w, None, torch.tensor([[1.0]]), root("zero", a, w))
    >>> terms.flatten()
    tensor([ 3., -1.], dtype=torch.float64)
    """
    a, w, b = neurons(a, w, b)
    c, at = _of_neurons("c", c, a, w), _root_of(root, a, w)
    value = (at.point * w).sum(1) + at.bias * b
    slack = 1e-9 * ((at.point * w).abs().sum(1) + (a[..., None] * w).abs().sum(1) + b.abs())
    if bool(((value < -slack) & (c != 0)).any()):
        sample, k = ((value < -slack) & (c != 0)).nonzero()[0].tolist()
        raise InputError(
            f"neuron {k} of sample {sample} is inactive at the root point (z = {value[sample, k]:.4g}): the relevance "
            "model has slope 0 there; take a point on the hinge z = 0 or before it"
        )
    return (a[..., None] - at.point) * w * c[:, None], (1 - at.bias) * b * c


def zero_order_term(w: Tensor, b: Tensor | None, c: Tensor, root: Root) -> Tensor:
    """R̂_k(ã) = max(0, Σ_j ã_j w_jk + ã_0 b_k) · c_k, (samples, K): what no input and no bias gets.

    0 where the root point lies on the hinge, which is all rules but `epsilon` (and others with ε > 0): there it is
    what ε absorbs. Raises `InputError` for shapes that do not fit.

    >>> a, w = torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0], [-1.0]])
    >>> zero_order_term(w, None, torch.tensor([[1.0]]), root("epsilon", a, w, epsilon=2.0))
    tensor([[1.]], dtype=torch.float64)
    """
    a, w, b = neurons(root.point[..., 0], w, b)
    return ((root.point * w).sum(1) + root.bias * b).clamp(min=0) * _of_neurons("c", c, a, w)


# shapes


def neurons(a: Tensor, w: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, weights and biases in float64, fitting each other and finite."""
    a, w = _table("a", a, 2), _table("w", w, 2)
    if a.shape[1] != w.shape[0]:
        raise InputError(
            f"a is {tuple(a.shape)} and w {tuple(w.shape)}: w has one row an input and one column a neuron; of an "
            "nn.Linear give layer.weight.T"
        )
    b = w.new_zeros(w.shape[1]) if b is None else _table("b", b, 1)
    if b.shape != w.shape[1:]:
        raise InputError(f"b is {tuple(b.shape)}; one bias for each of the {w.shape[1]} neurons is needed")
    return a, w, b


def _table(name: str, value: Any, dims: int) -> Tensor:
    try:
        t = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError) as e:
        raise InputError(f"{name} is a {type(value).__name__} that is no tensor ({e}): give one, or an array") from e
    if t.is_complex():
        raise InputError(f"{name} holds complex numbers; rules are of real ones")
    t = t.to(torch.float64)
    if t.dim() != dims or t.numel() == 0:
        wanted = {"a": "(samples, J)", "w": "(J, K)", "b": "(K,)"}.get(name, "(samples, K)")
        raise InputError(f"{name} is {tuple(t.shape)}; give {wanted}")
    if not finite(t):
        raise InputError(f"{name} holds NaN or infinity")
    return t


def _of_neurons(name: str, value: Any, a: Tensor, w: Tensor) -> Tensor:
    t = _table(name, value, 2)
    if t.shape != (len(a), w.shape[1]):
        raise InputError(
            f"{name} is {tuple(t.shape)}; one number for each of {len(a)} samples and {w.shape[1]} neurons is needed"
        )
    return t


def _bound(name: str, value: Any, a: Tensor) -> Tensor:
    t = torch.as_tensor(value).detach().to(a)
    try:
        return t.expand(a.shape)[..., None]
    except RuntimeError:
        raise CompositeError(f"{name} {tuple(t.shape)} does not broadcast to the inputs {tuple(a.shape)}") from None


def _root_of(root: Root | Tensor, a: Tensor, w: Tensor) -> Root:
    if not isinstance(root, Root):
        root = Root(torch.as_tensor(root).detach().to(torch.float64), a.new_ones(len(a), w.shape[1]))
    if root.point.shape != (*a.shape, w.shape[1]):
        raise InputError(
            f"root points are {tuple(root.point.shape)}; inputs {tuple(a.shape)} and weights {tuple(w.shape)} need "
            f"{(*a.shape, w.shape[1])}, one point for each sample and neuron"
        )
    return root
