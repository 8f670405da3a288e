"""Max-pooling by the places of its maxima: the same as by definition, and the way that is taken; values written in place."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop
from checks import check_same_map
from relprop import rules
from relprop.rules import Call, pool

GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 2},
    {"kernel_size": [2, 3], "stride": [1, 2]},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": [3, 2], "stride": 2, "padding": [1, 0], "ceil_mode": True},
    {"kernel_size": 2, "stride": 3, "dilation": 2},
]
MAX_POOL = torch.ops.aten.max_pool2d.default


def by_definition(a: Tensor, R: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
                  ceil_mode: bool = False) -> Tensor:  # fmt: skip
    """Window by window in Python's numbers: R_k in equal parts to the entries that equal the maximum."""

    def two(v: Any) -> list[int]:
        return list(v) if isinstance(v, list) else [v, v]

    k, p, d = two(kernel_size), two(padding), two(dilation)
    s = k if stride is None else two(stride)
    out = torch.zeros_like(R.new_empty(a.shape))
    for n, c, i, j in torch.cartesian_prod(*map(torch.arange, R.shape)).tolist():
        rows = [i * s[0] - p[0] + d[0] * u for u in range(k[0])]
        columns = [j * s[1] - p[1] + d[1] * v for v in range(k[1])]
        inside = [(y, x) for y in rows for x in columns if 0 <= y < a.shape[2] and 0 <= x < a.shape[3]]
        most = max(float(a[n, c, y, x]) for y, x in inside)
        winners = [(y, x) for y, x in inside if float(a[n, c, y, x]) == most]
        for y, x in winners:
            out[n, c, y, x] += R[n, c, i, j] / len(winners)
    return out


def won(a: Tensor, R: Tensor, geometry: dict[str, Any]) -> Tensor:
    """As a program does it: the rule's own forward, then the rule."""
    with torch.no_grad():
        y, saved = pool.located(Call(MAX_POOL, (a,), None, geometry))
        torch.testing.assert_close(y, F.max_pool2d(a, **geometry), rtol=0, atol=0, equal_nan=True)
        assert saved is not None
        return rules.winner(R, Call(MAX_POOL, (a,), y, geometry, saved=saved))


def drawn(kind: str, dtype: torch.dtype) -> Tensor:
    torch.manual_seed(3)
    a = torch.randn(2, 3, 9, 10, dtype=dtype)
    if kind == "ties":  # many equal values, positive ones too
        return (2 * a).round() / 2
    if kind == "flat":
        a[:, 1], a[1] = 1.5, -2.0
    return a.relu() if kind == "rectified" else a


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("kind", ["apart", "rectified", "ties", "flat"])
@pytest.mark.parametrize("part", [1, 150, 1 << 18])
def test_places_of_maxima_are_the_definition(geometry: dict[str, Any], kind: str, part: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(pool, "PART", part)
    a = drawn(kind, torch.float64)
    y = F.max_pool2d(a, **geometry)
    R = torch.randn_like(y) * (y != 0)
    check_same_map(won(a, R, geometry), by_definition(a, R, **geometry), 1e-14)


@pytest.mark.parametrize("geometry", GEOMETRIES[:3], ids=str)
def test_equal_zeros_that_receive_nothing_are_no_ties(geometry: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(pool, "_shared", None)  # the definition, which counts equals, is not asked
    a = drawn("rectified", torch.float64)
    a[:, :, :4] = 0.0
    y = F.max_pool2d(a, **geometry)
    assert (y == 0).any()
    won(a, torch.ones_like(y) * (y > 0), geometry)
    with pytest.raises(TypeError):  # but one that receives something is
        won(a, torch.ones_like(y), geometry)


def test_memory_formats_and_maps_without_a_batch() -> None:
    a = drawn("ties", torch.float32)
    geometry = GEOMETRIES[2]
    y = F.max_pool2d(a, **geometry)
    R = torch.randn_like(y)
    expected = by_definition(a, R, **geometry)
    swapped = a.to(memory_format=torch.channels_last), R.to(memory_format=torch.channels_last)
    check_same_map(won(*swapped, geometry), expected, 1e-6)
    check_same_map(won(a[0], R[0], geometry), expected[0], 1e-6)
    check_same_map(won(a.transpose(2, 3).contiguous().transpose(2, 3), R, geometry), expected, 1e-6)


def test_a_value_that_is_not_finite_stays_so() -> None:
    a = drawn("apart", torch.float64)
    a[0, 0, 0, 0] = math.nan
    y = F.max_pool2d(a, 2)
    assert won(a, torch.ones_like(y), GEOMETRIES[0])[1].isfinite().all()


@pytest.mark.parametrize("way", [{}, {"checkpoint": True}, {"max_batch": 2}, {"compile": True}])
def test_ties_in_a_network_share_however_it_is_run(way: dict[str, Any]) -> None:
    """A black border with a positive bias gives equal maxima that receive relevance."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(),
        nn.Linear(16, 3),
    ).double()  # fmt: skip
    nn.init.constant_(model[0].bias, 0.5)
    x = torch.zeros(3, 1, 15, 15, dtype=torch.float64)
    x[:, :, 5:9, 4:8] = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    explain = relprop.Explainer(model, x, "epsilon", **way)
    e = explain(x, target=1, ledger=True)
    assert e.ledger.closes(1e-10)
    # symmetric inputs have symmetric maps, if no order of pixels breaks the ties: mirror image in, mirror image out
    mirrored = _mirrored(model)
    check_same_map(relprop.explain(mirrored, x.flip(3), 1, "epsilon").relevance.flip(3), e.relevance, 1e-10)


def _mirrored(model: nn.Sequential) -> nn.Sequential:
    other = copy.deepcopy(model)
    for i in (0, 3):
        other[i].weight.data = model[i].weight.data.flip(3)
    other[7].weight.data = model[7].weight.data.reshape(3, 4, 2, 2).flip(3).reshape(3, 16)
    return other


# Rectified in place


class Both(nn.Module):
    """A layer whose value is read by a ReLU and, before or after it, by something else."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.last, self.how = nn.Linear(5, 6), nn.Linear(6, 3), how

    def forward(self, x: Tensor) -> Any:
        z = self.first(x)
        view = z.view(-1, 2, 3)
        y = F.relu(z)
        if self.how == "output":
            return self.last(y) + z[:, :3]
        if self.how == "view":
            return self.last(y) + view.sum(1)
        return self.last(y + z.sigmoid())


@pytest.mark.parametrize("how", ["output", "view", "later"])
@pytest.mark.parametrize("composite", ["epsilon", "z_plus", "gamma"])
def test_a_value_that_something_else_reads_is_not_overwritten(how: str, composite: str) -> None:
    torch.manual_seed(1)
    model, x = Both(how).double(), torch.randn(4, 5, dtype=torch.float64)
    explain = relprop.Explainer(model, x, composite)
    assert "rectify" not in explain.code
    assert torch.equal(explain(x).output, model(x))


def test_a_value_that_only_the_rectifier_reads_is() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    explain = relprop.Explainer(model, x, "epsilon")
    assert explain.code.count("rules.rectify(") == 1
    first, again = explain(x), explain(x)
    assert torch.equal(first.output, model(x))
    assert torch.equal(first.relevance, again.relevance)
    several = explain(x, [0, 1, 2])
    assert torch.allclose(several.relevance[1], explain(x, 1).relevance, rtol=1e-13)
