"""Small networks of tests, and gradient × input, which LRP-0 equals on affine layers, ReLU and max-pooling.

Nothing here imports the package under test. (Shrikumar et al. 2016; Montavon et al. 2019, section 10.2.1.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Modules put together by a function of this module and the inputs; in float64 and evaluation mode."""

    def __init__(self, how: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.how = how
        for name, module in modules.items():
            self.add_module(name, module)
        self.double().eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.how(self, *args, **kwargs)


def randomized(norm: nn.Module) -> nn.Module:
    """A BatchNorm as after training: statistics and, where there are any, scales of both signs and shifts."""
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


def convolutional() -> nn.Sequential:
    """For images (2, 6, 6): convolution, BatchNorm, ReLU, max-pooling, linear to 5 classes."""
    torch.manual_seed(4)
    layers = [nn.Conv2d(2, 4, 3, padding=1), randomized(nn.BatchNorm2d(4)), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(36, 5)).double().eval()


def dense() -> nn.Sequential:
    """For 4 features: linear, ReLU, linear to 3 classes."""
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double().eval()


def images(samples: int = 3) -> Tensor:
    """Inputs of `convolutional`; more samples begin with the same ones."""
    return torch.randn(7, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))[:samples]


def rows(samples: int = 3, width: int = 4) -> Tensor:
    """Inputs of `dense`."""
    return torch.randn(7, width, dtype=torch.float64, generator=torch.Generator().manual_seed(6))[:samples]


def gradient_times_input(model: nn.Module, inputs: tuple[Any, ...], target: Tensor | int | None = None) -> list[Tensor]:
    """x ⊙ ∂ score / ∂ x for every floating point tensor of the positional inputs, on a copy in evaluation mode."""
    model = copy.deepcopy(model).eval()
    leaves: list[Tensor] = []

    def leaf(x: Any) -> Any:
        if isinstance(x, dict):
            return {k: leaf(v) for k, v in x.items()}
        if isinstance(x, (list, tuple)):
            return type(x)(leaf(v) for v in x)
        if isinstance(x, Tensor) and x.is_floating_point():
            leaves.append(x.detach().clone().requires_grad_())
            return leaves[-1].clone()  # a model may change its input in place
        return x

    out = model(*(leaf(x) for x in inputs))
    index = out.argmax(1) if target is None else torch.as_tensor(target).expand(len(out))
    score = out.gather(1, index[:, None]).sum()
    return [(x * g).detach() for x, g in zip(leaves, torch.autograd.grad(score, leaves), strict=True)]
