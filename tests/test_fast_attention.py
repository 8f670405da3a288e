"""Rules of fused attention equal those of its matrix of weights, and no matrix of that size is stored."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import plain
import relprop
from checks import check_same_map
from relprop import rules
from relprop.composites import Composite, family

QUERIES, KEYS, HEADS, WIDTH = 7, 5, 4, 6
# In float32 the softmax's exponents and two sums are rounded; ε = 0.2 bounds what small outputs multiply that by.
BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-5}
RULES = {"values": "attention_values", "shared": "attention_shared"}


@dataclass(frozen=True)
class How:
    """A call of scaled_dot_product_attention: its options, and what they say in `plain.attention`."""

    given: dict[str, Any] = field(default_factory=dict)
    meant: dict[str, Any] = field(default_factory=dict)
    keys: int = QUERIES
    key_heads: int = HEADS
    value_width: int = WIDTH


def number(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


FLOATS = number(QUERIES, QUERIES, seed=5)
ALLOWED = (FLOATS > -0.8) | torch.eye(QUERIES).bool()
SLOPES = number(HEADS, QUERIES, QUERIES, seed=6)
HOW: dict[str, How] = {
    "self": How(),
    "causal": How({"is_causal": True}, {"causal": True}),
    "boolean mask": How({"attn_mask": ALLOWED}, {"mask": ALLOWED}),
    "float mask": How({"attn_mask": FLOATS}, {"mask": FLOATS}),
    "float mask with −∞": How({"attn_mask": FLOATS.masked_fill(~ALLOWED, -math.inf)}, {"mask": FLOATS.masked_fill(~ALLOWED, -math.inf)}),
    "a mask a head": How({"attn_mask": SLOPES}, {"mask": SLOPES}),
    "scale": How({"scale": 0.9}, {"scale": 0.9}),
    "scale and causal": How({"scale": 0.2, "is_causal": True}, {"scale": 0.2, "causal": True}),
    "cross": How(keys=KEYS),
    "cross, mask": How({"attn_mask": ALLOWED[:, :KEYS]}, {"mask": ALLOWED[:, :KEYS]}, keys=KEYS),
    "wide values": How(value_width=9),
    "grouped": How({"enable_gqa": True}, key_heads=2),
    "one head of keys": How({"enable_gqa": True, "is_causal": True}, {"causal": True}, key_heads=1),
    "all at once": How({"enable_gqa": True, "scale": 0.7, "attn_mask": ALLOWED[:, :KEYS]}, {"scale": 0.7, "mask": ALLOWED[:, :KEYS]}, keys=KEYS, key_heads=2, value_width=3),
}  # fmt: skip


class Attention(nn.Module):
    """Queries, keys and values as three inputs."""

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__()
        self.given = {k: v for k, v in given.items() if not isinstance(v, Tensor)}
        mask = given.get("attn_mask")
        self.register_buffer("mask", mask)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, **self.given)


def operands(how: How) -> tuple[Tensor, Tensor, Tensor]:
    return (
        number(2, HEADS, QUERIES, WIDTH, seed=1),
        number(2, how.key_heads, how.keys, WIDTH, seed=2),
        number(2, how.key_heads, how.keys, how.value_width, seed=3),
    )


@pytest.mark.parametrize(("e", "dtype"), [(0.0, torch.float64), (0.2, torch.float64), (0.2, torch.float32)])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", HOW)
def test_fused_attention_equals_its_matrix(case: str, rule: str, e: float, dtype: torch.dtype) -> None:
    how = HOW[case]
    model = Attention(how.given).to(dtype)
    qkv = tuple(t.to(dtype) for t in operands(how))
    R = number(2, HEADS, QUERIES, how.value_width, seed=4).to(dtype)
    meant = {n: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for n, v in how.meant.items()}
    composite = Composite([(family("attention"), partial(getattr(rules, RULES[rule]), epsilon=e))])
    got = relprop.explain(model, qkv, R, composite, ledger=True)
    expected = plain.attention(rule, *qkv, R, e, **meant)
    for name, r, wanted in zip("qkv", got.relevance, expected, strict=True):
        if rule == "values" and name != "v":
            assert not r.any()
        else:
            check_same_map(r, wanted, BOUNDS[dtype], (case, name))
    assert got.ledger.closes()
    wide = qkv[2].double().repeat_interleave(HEADS // how.key_heads, 1)
    y = plain.attention_matrix(*qkv[:2], **meant) @ wide
    check_same_map(got.output, y, BOUNDS[dtype])


@pytest.mark.parametrize("mode", ["std", "absolute"])
def test_other_scales_of_epsilon(mode: str) -> None:
    """As rms with the ε that is as large for one sample: each sample has its own scale."""
    how = HOW["causal"]
    q, k, v = operands(how)
    v = v * torch.tensor([1.0, 1e3]).double()[:, None, None, None]
    R = number(2, HEADS, QUERIES, WIDTH, seed=4)
    y = plain.attention_matrix(q, k, causal=True) @ v
    model = Attention(how.given).double()
    chosen = Composite([(family("attention"), partial(rules.attention_shared, epsilon=0.3, epsilon_mode=mode))])
    got = relprop.explain(model, (q, k, v), R, chosen).relevance
    for i in range(2):
        rms = float(y[i].square().mean().sqrt())
        size = float(y[i].std(correction=0)) if mode == "std" else 1.0
        at = slice(i, i + 1)
        expected = plain.attention("shared", q[at], k[at], v[at], R[at], 0.3 * size / rms, causal=True)
        for r, wanted in zip(got, expected, strict=True):
            check_same_map(r[at], wanted, 1e-9)


# Nothing of the size of the matrix is stored

STEPS = 29


class Stored(TorchDispatchMode):
    """Notes tensors with an entry for every pair of steps, in whatever shape."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tree_flatten(out)[0]:
            if isinstance(t, Tensor) and list(t.shape).count(STEPS) > 1:
                self.found.append(f"{func} {tuple(t.shape)}")
        return out


class Block(nn.Module):
    """Projections, fused attention and a linear layer, with a quarter of the heads for keys and values if `grouped`."""

    def __init__(self, how: str) -> None:
        super().__init__()
        pairs = 1 if how == "grouped" else 4
        self.how, self.q = how, nn.Linear(8, 16)
        self.k, self.v, self.o = nn.Linear(8, 4 * pairs), nn.Linear(8, 4 * pairs), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        options = {"causal": {"is_causal": True}, "grouped": {"enable_gqa": True}, "plain": {}}[self.how]
        y = F.scaled_dot_product_attention(q, k, v, **options)
        return self.o(y.transpose(1, 2).flatten(2)).mean(1)


@pytest.mark.parametrize("options", [{}, {"checkpoint": True}, {"precision": "bf16"}, {"max_batch": 1}], ids=str)
@pytest.mark.parametrize("composite", ["cp_lrp", "attnlrp", "auto"])
@pytest.mark.parametrize("how", ["plain", "causal", "grouped"])
def test_no_matrix_of_attention_weights_is_stored(how: str, composite: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, STEPS, 8)
    explain = relprop.Explainer(Block(how), x, composite, **options)
    with Stored() as watch:
        explain(x, 0, ledger=True)
        explain(x, [0, 1])
    assert watch.found == []
