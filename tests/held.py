"""Relevance in its g = R / a form, by plain autograd: input × gradient of a model with some of its parts held constant.

With ε = 0, every rule of attention recipes has a g form. Weighted layers, sums, means and movements have their own
gradient; an activation has its secant f(a) / a; a normalization has the gradient with its statistic held; a product has
½ of its gradient, or the gradient of one factor with the other held; the softmax has its own gradient, or none
(Achtibat et al. 2024, section 3; Ali et al. 2022, section 4). So the relevance of an input x is x ∂y/∂x, and what a
bias b took is b ∂y/∂b, for the function y in which `detach` stands on whatever is held. Nothing here imports the
package under test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Binary = Callable[[Tensor, Tensor], Tensor]
Unary = Callable[[Tensor], Tensor]
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """What is held. `attention`: the weights ("value"), or nothing ("attnlrp"). `gated`: a gate act(a) that is not
    bounded, SwiGLU's silu, takes "half" or, held, nothing ("signal")."""

    attention: str
    gated: str

    def product(self, a: Tensor, b: Tensor, op: Binary = torch.mul) -> Tensor:
        """a · b with half of the relevance for each factor: ½ (ā · b + a · b̄), where a bar marks what is held."""
        return (op(a.detach(), b) + op(a, b.detach())) / 2

    def gate(self, act: Unary, a: Tensor, b: Tensor) -> Tensor:
        """act(a) ⊙ b for an act with act(0) = 0."""
        return act(a).detach() * b if self.gated == "signal" else self.product(secant(act, a), b)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0, scale: float | None = None) -> Tensor:
        """softmax(scale · q kᵀ + bias) v; q, k, v are (..., length, width)."""
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        if self.attention == "value":
            return torch.softmax(q @ k.mT * scale + bias, -1).detach() @ v
        weights = torch.softmax(self.product(q, k.mT, torch.matmul) * scale + bias, -1)
        return self.product(weights, v, torch.matmul)


RECIPES = {
    "cp_lrp": Recipe("value", "signal"),
    "attnlrp": Recipe("attnlrp", "half"),
    "lrp_zero": Recipe("value", "half"),
}


def secant(act: Unary, a: Tensor) -> Tensor:
    """act(a) as act(0) + a · (act(a) − act(0)) / a with the ratio held: relevance passes, act(0) is a bias."""
    origin = act(torch.zeros_like(a))
    return origin.detach() + a * ((act(a) - origin) / a).detach()


def normalized(x: Tensor, dims: tuple[int, ...], eps: float = 1e-5, *, centre: bool = True) -> Tensor:
    """(x − mean) / σ with σ held, without scale and shift; `centre=False`: x / rms."""
    x = x - x.mean(dims, keepdim=True) if centre else x
    return x / (x.square().mean(dims, keepdim=True) + eps).sqrt().detach()


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """LayerNorm over the last dimension with 1/σ held."""
    return normalized(x, (-1,), eps) * weight + bias


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension with 1/rms held."""
    return normalized(x, (-1,), eps, centre=False) * weight


def heads(x: Tensor, count: int) -> Tensor:
    """(batch, length, count · width) -> (batch, count, length, width)."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """(batch, count, length, width) -> (batch, length, count · width)."""
    return x.transpose(1, 2).flatten(2)


def causal(length: int) -> Tensor:
    """−∞ above the diagonal, 0 elsewhere: (length, length), float64."""
    return torch.full((length, length), -torch.inf, dtype=torch.float64).triu(1)


def relevance(score: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """x ∂ Σ_b score_b / ∂x for each input; 0 for one the score does not depend on."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    grads = torch.autograd.grad(score(*leaves).sum(), leaves, materialize_grads=True)
    return [(x * g).detach() for x, g in zip(leaves, grads, strict=True)]


def shares(score: Callable[[Weights], Tensor], weights: Weights, constants: tuple[str, ...]) -> dict[str, Tensor]:
    """What constants of the network took: Σ b ∂ score_s / ∂b for each sample s.

    The constants are the weights whose names end in one of these: biases, positions, class tokens. One name with all
    of its samples' amounts is one entry.
    """
    named = {n: w.detach().clone().requires_grad_(n.endswith(constants)) for n, w in weights.items()}
    leaves = {n: w for n, w in named.items() if w.requires_grad}
    taken: dict[str, list[Tensor]] = {n: [] for n in leaves}
    scores = score(named)
    for one in scores:
        grads = torch.autograd.grad(one, list(leaves.values()), retain_graph=True, materialize_grads=True)
        for (n, w), g in zip(leaves.items(), grads, strict=True):
            taken[n].append((w * g).sum().detach())
    return {n: torch.stack(amounts) for n, amounts in taken.items()}


def random_weights(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in float64 and evaluation mode, its vectors and matrices drawn anew: biases too, no two scales equal."""
    torch.manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            near_one = p.dim() == 1 and name.endswith("weight")
            spread = 0.3 if p.dim() == 1 else 1.5 * p[0].numel() ** -0.5
            p.copy_(torch.randn_like(p) * spread + float(near_one))
    return model


def without(model: nn.Module, constants: tuple[str, ...]) -> nn.Module:
    """The model with these constants set to 0, so that all of the score is the input's."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(constants):
                p.zero_()
    return model
