"""Requests explained in chunks of samples: equal to the whole, and refused where they cannot be cut."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import relprop
from checks import check_same_map
from nets import Net, convolutional, dense, images, rows
from networks import Shared, TwoInputs
from refusals import refuse
from relprop.errors import InputError, TargetError
from relprop.explanation import Explanation
from relprop.program import Ledger, OpEntry
from relprop.targets import Contrast, Logit, Token
from tiny_bert import SPELLINGS as BERTS
from tiny_bert import Sizes as BertSizes
from tiny_bert import TinyBert
from tiny_vit import SPELLINGS as VITS
from tiny_vit import Sizes as VitSizes
from tiny_vit import TinyVit

SAMPLES = 7


def check_same(actual: Explanation, expected: Explanation) -> None:
    """Every part of two explanations: structure, shapes, and values to rounding of the largest that passed an op."""
    moved = [t for t in pytree.tree_leaves((_parts(expected.ledger), expected.score)) if isinstance(t, Tensor)]
    scale = max(1.0, max(float(t.abs().max()) for t in moved))
    for name in ("relevance", "recorded", "output", "score", "target", "ledger"):
        (a, left), (b, right) = (pytree.tree_flatten(_parts(getattr(e, name))) for e in (actual, expected))
        assert left == right, name
        for x, y in zip(a, b, strict=True):
            if isinstance(y, Tensor):
                torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12 * scale, msg=lambda m: f"{name}: {m}")  # noqa: B023
            else:
                assert x == y, name


def _parts(x: Any) -> Any:
    """Targets and ledgers as trees of tensors and texts; callables as they are."""
    if isinstance(x, list):
        return [_parts(v) for v in x]
    if isinstance(x, (Token, Contrast, OpEntry)):
        return {f.name: _parts(getattr(x, f.name)) for f in fields(x)}
    if isinstance(x, Ledger):
        accounts = ("score", "input", "bias", "epsilon", "residual", "total", "error", "rtol", "by_op")
        return {n: _parts(getattr(x, n)) for n in accounts}
    return x


# Networks


@dataclass(frozen=True)
class Case:
    """A model, its inputs (of `SAMPLES` samples), a recipe and names of values to record."""

    model: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    composite: str = "epsilon"
    record: tuple[str, ...] = ()


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def tokens(*shape: int) -> Tensor:
    return torch.randint(11, shape, generator=torch.Generator().manual_seed(4))


def seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """The model with random parameters, the same at every call."""

    def made() -> nn.Module:
        torch.manual_seed(5)
        model = make()
        for p in model.parameters():
            nn.init.normal_(p, 0.0, 0.3)
        return model.double().eval()

    return made


def heads_in_front(m: Any, x: Tensor) -> Tensor:
    """Attention with the heads merged behind the samples, (samples · heads, places, width), and a sequence in front."""
    b, t, w = x.shape
    q, k, v = (p(x).view(b, t, 2, w // 2).transpose(1, 2).reshape(b * 2, t, w // 2) for p in (m.q, m.k, m.v))
    y = m.mix(torch.bmm(torch.bmm(q, k.mT).softmax(-1), v))
    places = m.places(y.view(b, 2, t, w // 2).permute(2, 0, 1, 3).flatten(2))  # places first
    return m.head(places.mean(0))


def with_heads() -> nn.Module:
    layers = {n: nn.Linear(6, 6) for n in ("q", "k", "v", "places")}
    return Net(heads_in_front, **layers, mix=nn.Linear(3, 3), head=nn.Linear(6, 4))


def recurrent() -> nn.Module:
    return Net(lambda m, x: m.head(m.cells(x)[0][:, -1]), cells=nn.LSTM(3, 5, batch_first=True), head=nn.Linear(5, 3))


def merged_time() -> nn.Module:
    """Time in front of the samples: of a value (time · samples, width) the samples are not blocks."""

    def forward(m: Any, x: Tensor) -> Tensor:
        steps = x.transpose(0, 1)
        return m.head(F.relu(m.inner(steps.reshape(-1, 3))).reshape(*steps.shape[:2], 5).sum(0))

    return Net(forward, inner=nn.Linear(3, 5), head=nn.Linear(5, 3))


def unrolled() -> nn.Module:
    """A loop over the samples: captured for a single one."""
    return Net(lambda m, x: torch.stack([m.net(row) for row in x]), net=nn.Linear(4, 3))


def images_and_captions() -> nn.Module:
    """Scores of every image for captions that all images share."""
    return Net(lambda m, x, y: m.image(x) @ m.text(y).T, image=nn.Linear(5, 4), text=nn.Linear(3, 4))


CASES: dict[str, Case] = {
    "dense": Case(dense, lambda: rows(SAMPLES), "gamma", ("0", "2")),
    "convolutional": Case(convolutional, lambda: images(SAMPLES), "epsilon_plus", ("0", "5")),
    "residual": Case(seeded(Shared), lambda: numbers(SAMPLES, 6), "alpha_beta"),
    "keywords and a constant": Case(
        seeded(TwoInputs),
        lambda: {"image": numbers(SAMPLES, 1, 4, 4), "vector": numbers(SAMPLES, 5), "scale": 0.5},
    ),
    "a mapping of a class of its own": Case(
        seeded(TwoInputs), lambda: UserDict(image=numbers(SAMPLES, 1, 4, 4), vector=numbers(SAMPLES, 5))
    ),
    "nested": Case(
        seeded(lambda: Net(lambda m, p: m.a(p["x"]) + m.a(p["more"][0]), a=nn.Linear(4, 3))),
        lambda: ({"x": numbers(SAMPLES, 4), "more": [numbers(SAMPLES, 4) + 1]},),
    ),
    "a mask all samples share": Case(
        seeded(lambda: Net(lambda m, x, mask: m.a(x * mask), a=nn.Linear(4, 3))),
        lambda: (numbers(SAMPLES, 4), torch.tensor([[True, False, True, True]])),
    ),
    "recurrent": Case(seeded(recurrent), lambda: numbers(SAMPLES, 4, 3), "attnlrp"),
    "heads behind the samples": Case(seeded(with_heads), lambda: numbers(SAMPLES, 5, 6), "attnlrp", ("mix", "places")),
    "time in front of the samples": Case(seeded(merged_time), lambda: numbers(SAMPLES, 4, 3), "epsilon", ("inner",)),
    "a single sample at a time": Case(unrolled, lambda: numbers(SAMPLES, 4), "epsilon", ("net",)),
    "captions all images share": Case(
        seeded(images_and_captions), lambda: (numbers(SAMPLES, 5), numbers(3, 3)), "epsilon", ("image",)
    ),
    "vision transformer": Case(
        seeded(lambda: TinyVit(VitSizes(), VITS["nn.MultiheadAttention"])), lambda: numbers(SAMPLES, 3, 8, 8), "attnlrp"
    ),
    "tokens and their mask": Case(
        seeded(lambda: TinyBert(BertSizes(), BERTS["fused"])),
        lambda: (tokens(SAMPLES, 6), torch.arange(6) <= 2 + torch.arange(SAMPLES)[:, None] % 4),
        "cp_lrp",
    ),
}


@pytest.mark.parametrize("max_batch", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_chunks_are_the_whole(case: str, max_batch: int) -> None:
    c = CASES[case]
    model, inputs, target = c.model(), c.inputs(), [None, torch.arange(SAMPLES) % 3]
    whole, parts = (relprop.Explainer(model, inputs, c.composite, max_batch=n) for n in (None, max_batch))
    expected, found = (e(inputs, target, ledger=True, record=c.record) for e in (whole, parts))
    check_same(found, expected)
    assert all(ledger.closes() for ledger in found.ledger)
    check_same(*(e(inputs, 1, record=c.record) for e in (parts, whole)))


@pytest.mark.parametrize("max_batch", [2, 6, SAMPLES, 100, "auto"])
def test_chunks_of_any_size(max_batch: Any) -> None:
    model, x = convolutional(), images(SAMPLES)
    expected = relprop.explain(model, x, None, "epsilon", ledger=True)
    check_same(relprop.explain(model, x, None, "epsilon", ledger=True, max_batch=max_batch), expected)


# Targets

LABELS = torch.arange(SAMPLES) % 5
SPREAD = numbers(SAMPLES, 5)

TARGETS: dict[str, Any] = {
    "arg-max": None,
    "a class": 2,
    "a number in a tensor": torch.tensor(2),
    "classes": LABELS,
    "initial relevance": SPREAD,
    "a logit a sample": Logit(LABELS),
    "contrast": Contrast(LABELS, Logit(0)),
    "contrast with a callable": Contrast(lambda z: z[:, 1], lambda z: z[:, 2] ** 2),
    "a callable": lambda z: z[:, 1] - z[:, 3:].logsumexp(1),
    "a module": nn.Sequential(nn.Linear(5, 1, bias=False), nn.Flatten(0)).double(),
    "several": [0, None, LABELS, SPREAD, lambda z: z[:, 4], Contrast(LABELS, 1)],
    "one in a list": [LABELS],
}


@pytest.fixture(scope="module")
def explainers() -> dict[int | None, relprop.Explainer]:
    return {n: relprop.Explainer(convolutional(), images(SAMPLES), "epsilon", max_batch=n) for n in (None, 1, 2, 5)}


@pytest.mark.parametrize("case", TARGETS)
@pytest.mark.parametrize("max_batch", [1, 5])
def test_targets(case: str, max_batch: int, explainers: Any) -> None:
    whole, parts = (explainers[n](images(SAMPLES), TARGETS[case], ledger=True) for n in (None, max_batch))
    check_same(parts, whole)


class Tagger(nn.Module):
    """Scores (samples, positions, tokens)."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.map(x)
        return y + y.mean(1, keepdim=True)


@pytest.mark.parametrize(
    "target",
    [
        Token(),
        Token(torch.arange(SAMPLES) % 3, torch.arange(SAMPLES) % 4),
        Contrast(Token(-1, torch.arange(SAMPLES) % 4), Token(torch.arange(SAMPLES) % 3)),
        [Token(-1, 2), Token(torch.arange(SAMPLES) % 3)],
    ],
)
def test_tokens(target: Any) -> None:
    model, x = seeded(Tagger)(), numbers(SAMPLES, 3, 2)
    expected = relprop.explain(model, x, target, "lrp_zero")
    check_same(relprop.explain(model, x, target, "lrp_zero", max_batch=2), expected)


# A target that needs all samples together: wrong rows for every chunk but the first, if nobody looked.
TOGETHER: dict[str, Callable[[Tensor], Tensor]] = {
    "too many rows": lambda z: z[torch.arange(SAMPLES), LABELS],
    "rows that do not fit": lambda z: (z * SPREAD).sum(1),
    "a loop": lambda z: torch.stack([z[i, LABELS[i]] for i in range(len(z))]),
    "the first rows": lambda z: z[torch.arange(len(z)), LABELS[: len(z)]],
    "a diagonal": lambda z: z[:, LABELS.tolist()].diagonal(),
    "weights of the first rows": lambda z: (z * SPREAD[: len(z)]).sum(1),
    "the batch's mean": lambda z: z[:, 1] - z.mean(0)[1],
    "one sample": lambda z: z[:, 0] + z[0, 1],
}


@pytest.mark.parametrize("max_batch", [1, 2, 5])
@pytest.mark.parametrize("case", TOGETHER)
def test_targets_that_need_all_samples_are_refused(case: str, max_batch: int, explainers: Any) -> None:
    x, call = images(SAMPLES), TOGETHER[case]
    explainers[None](x, call)
    words = ["max_batch", "LongTensor", f"{SAMPLES} samples"]
    explainer = explainers[max_batch]
    for target in (call, [0, call], Contrast(0, call)):
        refuse(TargetError, words, lambda t=target: explainer(x, t), explainer.model)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (LABELS[:6], r"\(6,\).*7 samples"),
        (torch.cat([LABELS, LABELS]), r"\(14,\).*7 samples"),
        (SPREAD[:3], r"\(3, 5\).*7 samples"),
        (Contrast(0, LABELS[:2]), r"\(2,\).*7 samples"),
        (LABELS[:, None], "one index for each"),
        (9, "9 is out of range"),
        ([], "empty"),
        ("cat", "target='cat'"),
    ],
)
def test_targets_refused_whole_are_refused_in_chunks(target: Any, words: str, explainers: Any) -> None:
    for max_batch, said in ((None, "."), (2, words)):
        with pytest.raises(TargetError, match=said):
            explainers[max_batch](images(SAMPLES), target)


# What max_batch may be, and what can be cut


@pytest.mark.parametrize("max_batch", [0, -1, True, "many", 2.0, "3"])
def test_max_batch_is_a_number_of_samples(max_batch: Any) -> None:
    model = dense()
    words = ["max_batch", repr(max_batch), '"auto"', "1 or more"]
    refuse(InputError, words, lambda: relprop.explain(model, rows(), max_batch=max_batch), model)
    refuse(InputError, words, lambda: relprop.Explainer(model, rows(), max_batch=max_batch), model)


@pytest.mark.parametrize("max_batch", [1, 2, "auto"])
def test_no_and_one_sample(max_batch: Any) -> None:
    model = dense()
    for x, words in ((rows(0), ["at least one"]), (torch.tensor(1.0).double(), ["samples"])):
        refuse(InputError, words, lambda x=x: relprop.explain(model, x, max_batch=max_batch), model)
    explainer = relprop.Explainer(model, rows(), "epsilon", max_batch=max_batch)
    refuse(InputError, ["at least one"], lambda: explainer(rows(0)), model)
    check_same(explainer(rows(1)), relprop.explain(model, rows(1), composite="epsilon"))


def test_inputs_are_checked_before_they_are_cut() -> None:
    model = seeded(TwoInputs)()
    explainer = relprop.Explainer(model, {"image": numbers(2, 1, 4, 4), "vector": numbers(2, 5)}, max_batch=2)
    wrong = {"image": numbers(4, 1, 4, 4), "vector": numbers(6, 5)}
    refuse(InputError, ["6 samples", "4"], lambda: explainer(wrong), model)


def test_a_graph_for_one_batch_size_is_not_cut() -> None:
    """An initial state has its layers in front: torch.nn.LSTM wants (layers, samples, width)."""

    def forward(m: Any, x: Tensor, h: Tensor) -> Tensor:
        assert h.shape[1] == 4
        return m.head(m.cells(x, h)[0][:, -1])

    model = seeded(lambda: Net(forward, cells=nn.GRU(3, 5, batch_first=True), head=nn.Linear(5, 3)))()
    inputs = (numbers(4, 2, 3), numbers(1, 4, 5))
    expected = relprop.explain(model, inputs, 0, "attnlrp")
    for enough in (4, 9, "auto"):
        check_same(relprop.explain(model, inputs, 0, "attnlrp", max_batch=enough), expected)
    words = ["max_batch=3", "one batch size alone", "4 samples"]
    refuse(InputError, words, lambda: relprop.explain(model, inputs, 0, "attnlrp", max_batch=3), model)


def test_changed_weights_are_captured_anew_from_a_few_samples() -> None:
    model, x = dense(), rows(SAMPLES)
    explainer = relprop.Explainer(model, x, "epsilon", max_batch=2)
    explainer(x, 0)
    with torch.no_grad():
        model[0].weight.mul_(-0.5)
    check_same(explainer(x, 0), relprop.explain(model, x, 0, "epsilon"))


@pytest.mark.parametrize("max_batch", [1, 4, "auto"])
def test_a_model_is_captured_by_few_samples(max_batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither capture nor a check of it runs the model on more samples than a chunk may have."""
    seen: list[Any] = []
    model = Net(lambda m, x: (seen.append(x.shape[0]), m.net(x))[1], net=nn.Linear(4, 3))
    explainer = relprop.Explainer(model, rows(SAMPLES), "epsilon", max_batch=max_batch)
    assert max(n for n in seen if isinstance(n, int)) == 2  # beside sizes left open
    assert explainer._any.captured.dynamic
    seen.clear()
    explainer(rows(SAMPLES), 0)
    assert max(seen, default=0) <= (SAMPLES if max_batch == "auto" else max_batch)


def test_gradients_flow_through_chunks() -> None:
    model, x = dense(), rows(SAMPLES).requires_grad_()
    one, parts = (relprop.explain(model, x, 0, "epsilon", max_batch=n) for n in (None, 2))
    (a,), (b,) = (torch.autograd.grad((e.relevance**2).sum(), x) for e in (one, parts))
    check_same_map(b, a, 1e-12)
