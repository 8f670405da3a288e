"""Support vector machines: what speaks for one side of f(x) = Σ_j c_j k(x, u_j) + b against the other.

With k(x, u) = exp(−γ ‖x − u‖²), S⁺ the sum of c_j k over c_j > 0 and S⁻ that of |c_j| k over c_j < 0, each is a soft
minimum o >= 0 of squared distances: S = A exp(−γ o) with A = Σ |c_j|. Relevance is that of
t = log S⁺ − log S⁻ = γ Σ_j (q_j − p_j) h_j + ..., with the shares p and q of support vectors in S⁺ and S⁻ held: a
feature speaks for the positive side where x is far from negative support vectors, against it where x is far from
positive ones, and the closest support vectors count most. What is left, the shares' entropies, is booked as bias. The
decision function is S⁺ − S⁻ + b = (S⁺ + S⁻) tanh(t / 2) + b, whose first factor weighs and whose second one is weighed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..pooling import contrasts, shifted, soft_min
from .affine import Linear, fitted, given_point
from .distances import Differences, Kernel, Readout, Squared, Total
from .linear import for_each_class
from .registry import check_gamma, choose, neuralizes


@neuralizes("SVC", "NuSVC")
def classification(estimator: Any, *, output: str = "decision", reference: Any = None) -> nn.Module:
    """`decision`: decision_function; of two classes one score for `classes_[1]`, else as decision_function_shape says.

    `classes`: of two classes a score for each, (−f, f). `ovo`: one score for each pair of classes (0, 1), (0, 2), ...,
    positive for the first. `log_ratio` (rbf): t, with the constant b on its side: of the sign of f. `reference`: x₀ of
    kernel="linear".
    """
    name = type(estimator).__name__
    choose(name, output, ("decision", "classes", "ovo", "log_ratio"))
    coefficients, bias = pairs(estimator)
    classes = len(estimator.classes_)
    scores = _scores(estimator, coefficients, bias, output == "log_ratio", reference)
    if output == "classes" and classes == 2:
        return nn.Sequential(*_flat(scores), Linear(for_each_class(torch.eye(1).double()), torch.zeros(2).double()))
    if classes > 2 and output in ("decision", "classes") and estimator.decision_function_shape == "ovr":
        return nn.Sequential(*_flat(scores), OneAgainstRest(classes))
    return scores


@neuralizes("SVR", "NuSVR")
def regression(estimator: Any, *, output: str = "prediction", reference: Any = None) -> nn.Module:
    """The prediction Σ_j c_j k(x, u_j) + b, relevance being what it differs from b by: the value far from all data.

    `log_ratio` (rbf): t, with b on its side. `reference`: x₀ of kernel="linear".
    """
    choose(type(estimator).__name__, output, ("prediction", "log_ratio"))
    coefficients, bias = fitted(estimator.dual_coef_), fitted(estimator.intercept_)
    return _scores(estimator, coefficients, bias, output == "log_ratio", reference)


@neuralizes("KernelRidge")
def kernel_ridge(estimator: Any, *, reference: Any = None) -> nn.Module:
    """The prediction Σ_j c_j k(x, x_j) of kernel ridge regression; `reference`: x₀ of kernel="linear"."""
    coefficients = fitted(estimator.dual_coef_)
    coefficients = coefficients[None] if coefficients.dim() == 1 else coefficients.T.contiguous()
    bias = torch.zeros(len(coefficients), dtype=torch.float64)
    return _scores(estimator, coefficients, bias, False, reference)


def pairs(estimator: Any) -> tuple[Tensor, Tensor]:
    """Coefficients (pairs, support vectors) and constants (pairs,) of a classifier's one-against-one decisions.

    Of pair (i, j), support vectors of class i have row j − 1 of `dual_coef_`, those of class j have row i.
    """
    dual, bias = fitted(estimator.dual_coef_), fitted(estimator.intercept_)
    sizes = [int(n) for n in estimator.n_support_]
    if len(sizes) == 2:
        return dual, bias
    first = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    rows = []
    for i in range(len(sizes)):
        for j in range(i + 1, len(sizes)):
            row = torch.zeros(dual.shape[1], dtype=torch.float64)
            row[first[i] : first[i + 1]] = dual[j - 1, first[i] : first[i + 1]]
            row[first[j] : first[j + 1]] = dual[i, first[j] : first[j + 1]]
            rows.append(row)
    return torch.stack(rows), bias


def _scores(estimator: Any, coefficients: Tensor, bias: Tensor, ratio: bool, reference: Any) -> nn.Module:
    """Layers from the features to Σ_j c_pj k(x, u_j) + b_p, or to log-ratios."""
    name = type(estimator).__name__
    points = fitted(estimator.X_fit_ if hasattr(estimator, "X_fit_") else estimator.support_vectors_)
    if not coefficients.numel():
        raise InputError(f"this {name} has no support vectors: its output is a constant, there is nothing to explain")
    if estimator.kernel == "linear":
        if ratio:
            raise InputError(f'output="log_ratio" is for kernel="rbf"; this {name} has kernel="linear"')
        return Linear(coefficients @ points, bias, given_point(reference, points.shape[1], None, name))
    if estimator.kernel != "rbf":
        raise InputError(
            f'{name} with kernel={estimator.kernel!r} cannot be neuralized; fit it with kernel="rbf" or "linear"'
        )
    if reference is not None:
        raise InputError(f'reference is for kernel="linear"; {name} with kernel="rbf" compares with support vectors')
    gamma = _gamma(estimator, points.shape[1])
    check_gamma(name, gamma)
    return nn.Sequential(Differences(points), Squared(), Total(), _sums(coefficients, bias, gamma, ratio, name))


def _sums(coefficients: Tensor, bias: Tensor, gamma: float, ratio: bool, name: str) -> nn.Module:
    """Σ_j c_pj exp(−γ h_j) + b_p of squared distances h, or log-ratios: by Balance where an output has two sides.

    Coefficients of one sign (targets of one sign, say) weigh nothing against each other: Σ_j c_j (exp(−γ h_j) − 1),
    what distance takes away from Σ_j c_j + b.
    """
    one_sided = ~((coefficients > 0).any(1) & (coefficients < 0).any(1))
    if ratio or not bool(one_sided.any()):
        return Balance(coefficients, bias, gamma, ratio, name)
    if not bool(coefficients.any()):
        raise InputError(f"all coefficients of this {name} are 0: its output is a constant, nothing to explain")
    c, b = coefficients[one_sided], bias[one_sided]
    alone = nn.Sequential(Kernel(gamma), Readout(c, b + c.sum(1)))
    if bool(one_sided.all()):
        return alone
    two = Balance(coefficients[~one_sided], bias[~one_sided], gamma, False, name)
    return _Apart(two, alone, one_sided)


def _gamma(estimator: Any, features: int) -> float:
    gamma = getattr(estimator, "_gamma", estimator.gamma)
    return 1.0 / features if gamma is None else float(gamma)


def _flat(module: nn.Module) -> Iterator[nn.Module]:
    yield from module if isinstance(module, nn.Sequential) else [module]


@final
class _Apart(nn.Module):
    """Outputs of two modules in an order of their own: `second` says which are the second one's."""

    order: Tensor

    def __init__(self, a: nn.Module, b: nn.Module, second: Tensor) -> None:
        super().__init__()
        self.a, self.b = a, b
        self.register_buffer("order", second.int().argsort(stable=True).argsort())

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat([self.a(h), self.b(h)], 1).index_select(1, self.order)


@final
class Balance(nn.Module):
    """(S⁺ + S⁻) tanh(t / 2) + b from squared distances h: (samples, J) to (samples, P), for coefficients (P, J).

    `ratio`: t alone, the constant b counting as a support vector at distance 0.
    """

    own: Tensor
    other: Tensor
    all: Tensor
    mass: Tensor
    balance: Tensor
    constant: Tensor

    def __init__(self, coefficients: Tensor, bias: Tensor, gamma: float, ratio: bool, name: str) -> None:
        super().__init__()
        self.gamma, self.ratio = gamma, ratio
        c = torch.cat([coefficients, bias[:, None]], 1) if ratio else coefficients
        positive, negative = c.clamp(min=0), (-c).clamp(min=0)
        totals = positive.sum(1), negative.sum(1)
        if not bool((torch.stack(totals) > 0).all()):
            raise InputError(
                f"all coefficients of an output of {name} have the same sign, that of its constant too: there is "
                "nothing it weighs against each other, and no log-ratio; explain its output itself"
            )
        for key, part in (("own", positive), ("other", negative), ("all", c.abs())):
            self.register_buffer(key, (part / part.sum(1, keepdim=True)).log())
        self.register_buffer("mass", totals[0] + totals[1])
        self.register_buffer("balance", torch.log(totals[0] / totals[1]))
        self.register_buffer("constant", bias.clone())

    def forward(self, h: Tensor) -> Tensor:
        """(samples, J) to (samples, P)."""
        if self.ratio:
            h = F.pad(h, (0, 1))
        h = h.unsqueeze(1)
        t = self._ratio(h)
        if self.ratio:
            return t
        near = soft_min(h.expand(-1, len(self.mass), -1), self.all, self.gamma)
        mass = torch.exp(near * -self.gamma) * self.mass
        return shifted(mass * torch.tanh(0.5 * t), self.constant)

    def _ratio(self, h: Tensor) -> Tensor:
        """t = γ Σ_j (q_j − p_j) h_j + what the shares' entropies leave, the shares held.

        A soft minimum is stationary in its shares: the first derivative by h is that of t itself.
        """
        held = -self.gamma * h.detach()
        own, other = held + self.own, held + self.other
        shares = torch.stack([own.softmax(-1), other.softmax(-1)], -2) * self.gamma
        t = contrasts(shares * h.unsqueeze(-2))[..., 0, 1]
        return shifted(t, own.logsumexp(-1) - other.logsumexp(-1) + self.balance - t.detach())


@final
class OneAgainstRest(nn.Module):
    """decision_function_shape="ovr": votes_c + s_c / (3 (|s_c| + 1)), s_c the sum of scores against others.

    Scores are those of pairs (0, 1), (0, 2), ..., positive for the first. Votes are constants, a bias in the ledger.
    """

    signs: Tensor
    wins: Tensor
    losses: Tensor
    both: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        couples = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
        first = F.one_hot(torch.tensor([i for i, _ in couples]), classes).T.double()
        second = F.one_hot(torch.tensor([j for _, j in couples]), classes).T.double()
        one = torch.eye(classes, dtype=torch.float64)
        for key, values in (("wins", first), ("losses", second), ("signs", first - second)):
            self.register_buffer(key, values)
        self.register_buffer("both", torch.cat([one, one], 1))

    def forward(self, pairs: Tensor) -> Tensor:
        """(samples, pairs) to (samples, classes)."""
        won = (pairs >= 0).to(pairs.dtype)
        votes = F.linear(won, self.wins) + F.linear(1 - won, self.losses)
        s = F.linear(pairs, self.signs)
        # a weighted sum: the votes' part is theirs under every recipe
        return F.linear(torch.cat([s / (3 * (s.abs() + 1)), votes], 1), self.both)
