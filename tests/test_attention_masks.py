"""Fused attention stays fused: masks written plainly, no matrix of attention weights, forward or backward."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import relprop
from relprop import rules

STEPS, HEADS = 25, 2


class Attention(nn.Module):
    """One attention layer; `mask(steps, x)` is made in forward, as language models do."""

    def __init__(self, mask: Any = None, *, causal: bool = False, written: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 3)
        self.mask, self.causal, self.written = mask, causal, written
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (HEADS, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        mask = None if self.mask is None else self.mask(x)
        if self.written:
            bias = torch.zeros(STEPS, STEPS, dtype=x.dtype) if mask is None else mask
            bias = (
                bias
                if bias.is_floating_point()
                else torch.zeros(bias.shape, dtype=x.dtype).masked_fill(~bias, -math.inf)
            )
            y = ((q @ k.mT) / 2 + bias).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal)
        return self.head(y.transpose(1, 2).flatten(2)).mean(1)


def triangle(x: Tensor) -> Tensor:
    return torch.arange(STEPS)[:, None] >= torch.arange(STEPS)


MASKS: dict[str, tuple[Any, bool, bool]] = {  # mask; is_causal afterwards; a mask left afterwards
    "none": (None, False, False),
    "boolean triangle": (triangle, True, False),
    "a triangle for every sample": (lambda x: triangle(x).expand(x.shape[0], 1, STEPS, STEPS), True, False),
    "−∞ above": (lambda x: torch.full((STEPS, STEPS), -math.inf, dtype=x.dtype).triu(1)[None, None].expand(x.shape[0], -1, -1, -1), True, False),
    "all allowed": (lambda x: torch.ones(x.shape[0], 1, STEPS, STEPS, dtype=torch.bool), False, False),
    "a bias by distance": (lambda x: -(torch.arange(STEPS)[:, None] - torch.arange(STEPS)).abs().to(x.dtype).expand(x.shape[0], 1, STEPS, STEPS), False, True),
    "a mild bias above": (lambda x: -torch.ones(STEPS, STEPS, dtype=x.dtype).triu(1).expand(x.shape[0], 1, STEPS, STEPS), False, True),
    "of the input": (lambda x: (x[:, None, None, :, 0] > -1).expand(-1, 1, STEPS, -1) | torch.eye(STEPS, dtype=torch.bool), False, True),
}  # fmt: skip


def sample(n: int = 2) -> Tensor:
    return torch.randn(n, STEPS, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("case", MASKS)
def test_masks_are_written_plainly_and_the_map_is_that_of_attention_written_out(case: str) -> None:
    mask, causal, left = MASKS[case]
    explainer = relprop.Explainer(Attention(mask), sample(), "attnlrp", epsilon=0.0)
    op = torch.ops.aten.scaled_dot_product_attention.default
    (call,) = explainer.program.graph.find_nodes(op="call_function", target=rules.attend)
    assert call.args[0].args[0] is op
    given = dict(enumerate(call.args[0].args[1]))
    assert given.get(5, False) is causal
    assert (given.get(3) is not None) is left
    expected = relprop.explain(Attention(mask, written=True), sample(3), 1, "attnlrp", epsilon=0.0).relevance
    got = explainer(sample(3), 1, ledger=True)  # at another batch size than captured
    torch.testing.assert_close(got.relevance, expected, rtol=1e-9, atol=1e-12)
    assert got.ledger.closes()


class Square(TorchDispatchMode):
    """Notes every tensor of the shape of attention weights."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(t, Tensor) and t.shape[-2:] == (STEPS, STEPS):
                self.found.append(str(func))
        return out


@pytest.mark.parametrize("composite", ["cp_lrp", "attnlrp", "auto"])
def test_no_matrix_of_attention_weights_is_built(composite: str) -> None:
    explainer = relprop.Explainer(Attention(triangle), sample(), composite)
    with Square() as square:
        explainer(sample(), 0)
    assert square.found == []
    with Square() as square:  # the check finds one where there is one
        relprop.Explainer(Attention(triangle, written=True), sample(), composite)(sample(), 0)
    assert "aten.softmax.int" in square.found or "aten._softmax.default" in square.found
