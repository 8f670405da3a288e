"""The kinds of targets, as their names and arguments; what they start from is computed elsewhere in this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Logit:
    """One class of each sample: the same as the index `c` itself, for use in a `Contrast`.

    `c`: an index, a LongTensor with one index a sample, or None for the largest output.
    """

    c: int | Tensor | None = None


@dataclass(frozen=True)
class Token:
    """One token of a language model's output (samples, positions, ids): the logit of `id` at `position`.

    `position`: an index, negative from the end, or a LongTensor with one a sample. `id`: a token id, a LongTensor with
    one a sample, or None for the largest logit there. A causal model scores at position t the token that follows t.

    >>> import torch, relprop
    >>> z = torch.tensor([[[1.0, 2.0], [4.0, 3.0]]])
    >>> relprop.targets.initial(z, Token(-1))[1]
    tensor([4.])
    """

    position: int | Tensor = -1
    id: int | Tensor | None = None


@dataclass(frozen=True)
class Contrast:
    """Why `a` rather than `b`: the score z_a − z_b, of any two targets.

    >>> import torch, relprop
    >>> relprop.targets.initial(torch.tensor([[1.0, 2.0, 4.0]]), Contrast(2, 0))[:2]
    (tensor([[-1.,  0.,  4.]]), tensor([3.]))
    """

    a: Any
    b: Any


@dataclass(frozen=True)
class LogOdds:
    """The log-odds of a class, η_c = log P_c/(1 − P_c) = −log Σ_{c'≠c} exp(−z_cc') with z_cc' = z_c − z_c' and
    P = softmax(z): the evidence for the class against all others (Montavon et al. 2019, section 10.3.1).

    The chapter writes η_c as two layers on top of the model: the differences z_cc', then a soft minimum over them.
    The soft minimum is redistributed by its min-take-most rule, R_cc' = p_c' z_cc', where

        p_c' = exp(−z_cc') / Σ_{c''≠c} exp(−z_cc'') = exp(z_c') / Σ_{c''≠c} exp(z_c'')

    is the softmax over the rivals alone. LRP-0 takes the difference z_cc' = 1 · z_c + (−1) · z_c' apart: of R_cc', the
    share z_c / z_cc' goes to z_c and −z_c' / z_cc' to z_c'. Summed over the rivals, with Σ p = 1,

        R_c = Σ_{c'≠c} p_c' z_c = z_c,        R_c' = −p_c' z_c'

    so no pair is ever stored, and nothing is divided. This is z ⊙ ∂η_c/∂z. It sums to Σ p_c' z_cc' = η_c + H(p), for
    z_cc' = η_c − log p_c': more than η_c by the entropy H of the rivals, 0 ≤ H ≤ log(classes − 1). The ledger's
    `residual` has −H. With two classes H = 0 and η_c = z_c − z_c'.

    `c`: a class index, a LongTensor with one a sample, None for the largest output, or a `Token` for the odds of a
    token against all others at its position. The score η_c is in nats: 0 at P = 1/2, and exact where P rounds to 1.
    Meant for classes of which one is right, as behind a softmax, which need not be part of the model. Where each
    output is a sigmoid of its own, the log-odds of class c are z_c: explain the index c itself.
    Raises `TargetError`: one output alone, an index out of range, and what is neither index nor token.

    >>> import torch, relprop
    >>> z = torch.tensor([[4.0, 3.0, 1.0]])
    >>> relprop.targets.initial(z, LogOdds(0))[:2]
    (tensor([[ 4.0000, -2.6424, -0.1192]]), tensor([0.8731]))
    >>> P = z.softmax(1)[:, 0]
    >>> (P / (1 - P)).log()
    tensor([0.8731])
    """

    c: int | Tensor | Token | None = None


@dataclass(frozen=True)
class Margin:
    """A class against one rival: the score z_c − z_c', as R_c = z_c, R_c' = −z_c'.

    Behind a softmax, and only there, it is the log-ratio log P_c/P_c' of the two probabilities. It is one difference of
    the first layer in section 10.3.1 of Montavon et al. 2019. `rival` None is the largest other output of each sample:
    what `LogOdds` tends to when one rival outweighs the others. With a rival given, it is `Contrast(c, rival)`; that
    one takes targets of any kind, this one chooses the rival.

    `c`: as for `LogOdds`. `rival`: an index, a LongTensor with one a sample, or None; with a `Token` as c, an id.
    The score is negative where the rival's output is larger.
    Raises `TargetError`: one output alone, an index out of range, a class that is its own rival.

    >>> import torch, relprop
    >>> relprop.targets.initial(torch.tensor([[4.0, 3.0, 1.0]]), Margin(0))
    (tensor([[ 4., -3.,  0.]]), tensor([1.]), Margin(c=tensor([0]), rival=tensor([1])))
    """

    c: int | Tensor | Token | None = None
    rival: int | Tensor | None = None


@dataclass(frozen=True)
class Probability:
    """The probability P_c = exp(z_c) / Σ_c' exp(z_c') by its first-order terms R = z ⊙ ∂P_c/∂z.

    Since P_c is the logistic function of η_c, ∂P_c/∂z = P_c (1 − P_c) ∂η_c/∂z: the map is that of `LogOdds` times
    P_c (1 − P_c) ≤ 1/4, one number a sample. It shows nothing else, and fades the surer the model is: at P_c = 0.999
    it has a thousandth of the size, and what remains of the score, P_c − ΣR, is booked as residual. `LogOdds` is
    therefore nearly always the better choice; this target is there for attributions in units of probability.

    `c`, errors: as for `LogOdds`. The score is without unit, between 0 and 1.

    >>> import torch, relprop
    >>> relprop.targets.initial(torch.tensor([[4.0, 3.0, 1.0]]), Probability(0))[:2]
    (tensor([[ 0.8313, -0.5491, -0.0248]]), tensor([0.7054]))
    """

    c: int | Tensor | Token | None = None


Target = (
    None
    | int
    | Tensor
    | Logit
    | Token
    | Contrast
    | LogOdds
    | Margin
    | Probability
    | Callable[[Tensor], Tensor]
    | list[Any]
)

# Targets whose arguments are targets, indices or None.
COMPOSED = (Logit, Token, Contrast, LogOdds, Margin, Probability)
