"""Tokens masked or removed, and columns of tables replaced, against loops over single tokens and cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from relprop.evaluate import Curves, feature_deletion, join, token_deletion

PAD, MASK, WORDS = 0, 1, 12
TEXTS = torch.tensor([[5, 7, 3, 9, 4, 0, 0], [6, 2, 8, 0, 0, 0, 0], [9, 3, 5, 7, 2, 4, 8]])
# the first word is special, and padding is never touched
KEEP = (TEXTS == PAD) | (torch.arange(7) == 0)


class Reader(nn.Module):
    """The mean over words of tanh(embedding · position); takes no notice of padding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embedding = nn.Embedding(WORDS, 6)
        self.out = nn.Linear(6, 3)
        self.double().eval()

    def forward(self, tokens: Tensor) -> Tensor:
        there = (tokens != PAD)[..., None]
        position = torch.arange(1, tokens.shape[1] + 1)[:, None]
        read = torch.tanh(self.embedding(tokens) * position) * there
        return self.out(read.sum(1) / there.sum(1).clamp(min=1))  # type: ignore[no-any-return]


def token_relevance() -> Tensor:
    return torch.randn(3, 7, generator=torch.Generator().manual_seed(6)).double()


def loops(
    score: Callable[[list[int]], float], text: list[int], rel: list[float], free: list[int], counts: list[int],
    highest: bool, delete: bool,
) -> list[float]:  # fmt: skip
    """One text, one token at a time."""
    order = sorted(free, key=lambda i: -rel[i] if highest else rel[i])
    curve = []
    for count in counts:
        gone = order[:count]
        if delete:
            left = [token for i, token in enumerate(text) if i not in gone]
            changed = left + [PAD] * (len(text) - len(left))
        else:
            changed = [MASK if i in gone else token for i, token in enumerate(text)]
        curve.append(score(changed))
    return curve


def all_loops(rel: Tensor, keep: Tensor, counts: list[list[int]], order: str, delete: bool) -> Tensor:
    model, rows = Reader(), []
    for text, r, kept, points in zip(TEXTS, rel, keep, counts, strict=True):
        k = int(model(text[None]).argmax())
        score = lambda t, k=k: float(model(torch.tensor([t])).detach()[0, k])  # noqa: E731
        free = [i for i in range(7) if not kept[i]]
        rows.append(loops(score, text.tolist(), r.tolist(), free, points, order == "highest", delete))
    return torch.tensor(rows, dtype=torch.float64)


WAYS: dict[bool, dict[str, Any]] = {False: {"mask_token": MASK}, True: {"delete": True, "pad_token": PAD}}


@pytest.mark.parametrize("order", ["highest", "lowest"])
@pytest.mark.parametrize("delete", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_tokens_equal_the_loops(order: str, delete: bool, batch_size: int) -> None:
    rel = token_relevance()
    curves = token_deletion(Reader(), TEXTS, rel, **WAYS[delete], orders=(order,), batch_size=batch_size)
    assert curves.counts.tolist() == list(range(8))
    expected = all_loops(rel, torch.zeros(3, 7, dtype=torch.bool), [list(range(8))] * 3, order, delete)
    torch.testing.assert_close(curves.of("relevance", order), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", ["highest", "lowest"])
@pytest.mark.parametrize("delete", [False, True])
@pytest.mark.parametrize("steps", [32, 3, [1, 4, 7], [2, 5]])
def test_kept_tokens_are_never_touched_and_counts_are_shares(order: str, delete: bool, steps: Any) -> None:
    rel = token_relevance()
    curves = token_deletion(Reader(), TEXTS, rel, **WAYS[delete], keep=KEEP, orders=(order,), steps=steps)
    of_seven = {"32": list(range(8)), "3": [0, 2, 5, 7], "[1, 4, 7]": [0, 1, 4, 7], "[2, 5]": [0, 2, 5]}[str(steps)]
    assert curves.counts.tolist() == of_seven
    assert curves.fraction.tolist() == [c / 7 for c in of_seven]
    # of 4, 2 and 6 tokens that may go; halves up
    counts = [[int(np.floor(c / 7 * own + 0.5)) for c in of_seven] for own in (4, 2, 6)]
    expected = all_loops(rel, KEEP, counts, order, delete)
    torch.testing.assert_close(curves.of("relevance", order), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("delete", [False, True])
def test_the_random_order_touches_all_that_may_go_and_nothing_else(delete: bool) -> None:
    seen: list[Tensor] = []

    def model(tokens: Tensor) -> Tensor:
        seen.append(tokens.clone())
        return tokens.sum(1).double()

    token_deletion(model, TEXTS, token_relevance(), **WAYS[delete], keep=KEEP, orders=("random",), steps=7)
    assert seen[0].tolist() == TEXTS.tolist()
    if delete:
        assert seen[1].tolist() == [[first] + [0] * 6 for first in (5, 6, 9)]
        lengths = [[int((row != PAD).sum()) for row in step] for step in [seen[0], *seen[2:], seen[1]]]
        own = [[round_up(k * n, 7) for k in range(8)] for n in (4, 2, 6)]
        assert [list(row) for row in zip(*lengths, strict=True)] == [
            [5 - k for k in own[0]], [3 - k for k in own[1]], [7 - k for k in own[2]]
        ]  # fmt: skip
    else:
        assert seen[1].tolist() == [[5, 1, 1, 1, 1, 0, 0], [6, 1, 1, 0, 0, 0, 0], [9, 1, 1, 1, 1, 1, 1]]
        for step in seen[2:]:
            assert bool(((step == TEXTS) | ((step == MASK) & ~KEEP)).all())


def round_up(a: int, b: int) -> int:
    return (2 * a + b) // (2 * b)


def test_texts_of_arrays_go_to_a_module_as_integers_and_to_a_function_as_arrays() -> None:
    rel = token_relevance()
    tensors = token_deletion(Reader(), TEXTS, rel, mask_token=MASK)
    small = token_deletion(Reader(), TEXTS.numpy().astype(np.int16), rel.numpy(), mask_token=MASK)
    table = Reader()(torch.arange(WORDS)[:, None]).detach().numpy()

    def bag(tokens: np.ndarray) -> np.ndarray:
        assert isinstance(tokens, np.ndarray)
        return table[tokens].sum(1)

    arrays = token_deletion(bag, TEXTS.numpy(), rel.numpy(), mask_token=MASK)
    by_tensor = token_deletion(lambda t: torch.tensor(table)[t].sum(1), TEXTS, rel, mask_token=MASK)
    for one, two in ((tensors, small), (arrays, by_tensor)):
        for key in one.values:
            torch.testing.assert_close(one.values[key], two.values[key], rtol=0, atol=1e-12)


def test_removing_keeps_the_order_of_a_long_text() -> None:
    """Sorting routines that are not stable often are for few values."""
    seen: list[Tensor] = []
    words = torch.arange(1, 1001)[None]
    rel = torch.rand(1, 1000, generator=torch.Generator().manual_seed(0))

    def model(tokens: Tensor) -> Tensor:
        seen.append(tokens.clone())
        return tokens.sum(1).double()

    token_deletion(model, words, rel, delete=True, pad_token=0, orders=("lowest",), steps=[300, 800])
    for count, text in zip((300, 800), seen[1:], strict=True):
        gone = set(sorted(range(1000), key=lambda i: float(rel[0, i]))[:count])
        assert text[0].tolist() == [i + 1 for i in range(1000) if i not in gone] + [0] * count


def test_a_constant_map_is_one_that_is_constant_where_tokens_may_go() -> None:
    rel = torch.zeros(3, 7)
    rel[0, 0] = 5.0  # a kept token
    rel[2, 1] = 1.0
    curves = token_deletion(Reader(), TEXTS, rel, mask_token=MASK, keep=KEEP)
    assert curves.constant["relevance"].tolist() == [True, True, False]


def test_chunks_of_texts_join() -> None:
    rel = token_relevance()
    whole = token_deletion(Reader(), TEXTS, rel, mask_token=MASK, keep=KEEP, seed=3)
    parts = [
        token_deletion(
            Reader(), TEXTS[i : i + 1], rel[i : i + 1], mask_token=MASK, keep=KEEP[i : i + 1], seed=3, first=i
        )
        for i in range(3)
    ]
    joined = join(parts)
    for key in whole.values:
        torch.testing.assert_close(joined.values[key], whole.values[key], rtol=0, atol=1e-12)


N, F = 5, 6


def table() -> Tensor:
    return torch.randn(N, F, generator=torch.Generator().manual_seed(7)).double()


def weights() -> Tensor:
    return torch.randn(F, 3, generator=torch.Generator().manual_seed(8)).double()


def row_loops(x: Tensor, other: Tensor, rel: Tensor, order: str) -> Tensor:
    w, rows = weights(), []
    for i in range(N):
        k = int((x[i] @ w).argmax())
        first = sorted(range(F), key=lambda f: -float(rel[i, f]) if order == "highest" else float(rel[i, f]))
        curve = []
        for count in range(F + 1):
            row = [float(other[i, f]) if f in first[:count] else float(x[i, f]) for f in range(F)]
            curve.append(sum(row[f] * float(w[f, k]) for f in range(F)))
        rows.append(curve)
    return torch.tensor(rows, dtype=torch.float64)


REFERENCE = torch.arange(18.0).reshape(3, 6).double()
REPLACEMENTS: dict[str, tuple[dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "mean": ({}, lambda x: torch.stack([x.sum(0) / N] * N)),
    "mean of others": ({"reference": REFERENCE}, lambda x: torch.arange(6.0, 12.0).double().expand_as(x)),
    "zero": ({"replace": "zero"}, torch.zeros_like),
    "number": ({"replace": -2}, lambda x: torch.full_like(x, -2)),
    "row": ({"replace": REFERENCE[1]}, lambda x: REFERENCE[1].expand_as(x)),
    "function": ({"replace": lambda x: x.flip(1)}, lambda x: x.flip(1)),
}


@pytest.mark.parametrize("name", REPLACEMENTS)
@pytest.mark.parametrize("order", ["highest", "lowest"])
def test_features_equal_the_loops(name: str, order: str) -> None:
    options, other = REPLACEMENTS[name]
    x, rel, w = table(), torch.randn(N, F, generator=torch.Generator().manual_seed(9)).double(), weights()
    curves = feature_deletion(lambda x: x @ w, x, rel, **options, orders=(order,), batch_size=2)
    assert curves.unit == "feature"
    expected = row_loops(x, other(x), rel, order)
    torch.testing.assert_close(curves.of("relevance", order), expected, rtol=0, atol=1e-12)


def test_random_features_come_from_their_own_column() -> None:
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x.sum(1)

    def run(**options: Any) -> tuple[Tensor, Curves]:
        seen.clear()
        curves = feature_deletion(model, x, x, replace="random", orders=("highest",), steps=1, **options)
        return seen[1], curves

    x = torch.arange(400.0).reshape(100, 4)
    replaced, curves = run(seed=1)
    assert bool((replaced % 4 == torch.arange(4.0)).all())  # column f holds the numbers f + 4 i
    assert len({tuple((row // 4).tolist()) for row in replaced}) > 90  # each cell by itself, not whole rows
    assert not bool((replaced // 4 == (replaced // 4)[:, :1]).all(1).any())
    rows_taken = (replaced // 4).unique()
    assert len(rows_taken) > 90  # of 100 rows, 400 draws miss 1.8 on average
    again, _ = run(seed=1)
    assert torch.equal(again, replaced)
    other, _ = run(seed=2)
    assert not torch.equal(other, replaced)
    part = feature_deletion(
        model, x[40:], x[40:], replace="random", orders=("highest",), steps=1, reference=x, seed=1, first=40
    )
    assert torch.equal(part.of("relevance"), curves.of("relevance")[40:])


def test_a_table_for_a_function_of_arrays() -> None:
    x, w = table(), weights()
    for replace in ("mean", "zero", "random"):
        arrays = feature_deletion(lambda x: x @ w.numpy(), x.numpy(), x.numpy(), replace=replace)
        tensors = feature_deletion(lambda x: x @ w, x, x, replace=replace)
        for key in arrays.values:
            torch.testing.assert_close(arrays.values[key], tensors.values[key], rtol=0, atol=1e-12)
