"""Targets: which outputs are explained, by hand; and which tensor of a model's output it is."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
from relprop.errors import CaptureError, TargetError
from relprop.targets import Contrast, Logit, Token, initial

Z = torch.tensor(
    [[[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]], [[-7.0, 8.0, 9.0], [10.0, -11.0, 12.0]]], dtype=torch.float64
)  # samples, positions, tokens


def placed(*entries: tuple[int, int, int, float]) -> Tensor:
    """An initial relevance of zeros but for these entries: sample, position, token, value."""
    R = torch.zeros_like(Z)
    for b, s, v, value in entries:
        R[b, s, v] = value
    return R


TOKENS: dict[str, tuple[Any, Tensor, list[float]]] = {
    "last position, arg-max": (Token(), placed((0, 1, 1, 5.0), (1, 1, 2, 12.0)), [5.0, 12.0]),
    "an id": (Token(-1, 0), placed((0, 1, 0, 4.0), (1, 1, 0, 10.0)), [4.0, 10.0]),
    "a position a sample": (Token(torch.tensor([0, -1]), 1), placed((0, 0, 1, -2.0), (1, 1, 1, -11.0)), [-2.0, -11.0]),
    "an id a sample": (Token(0, torch.tensor([2, 0])), placed((0, 0, 2, 3.0), (1, 0, 0, -7.0)), [3.0, -7.0]),
    "contrast": (
        Contrast(Token(-1, 2), Token(-1, 0)),
        placed((0, 1, 2, -6.0), (0, 1, 0, -4.0), (1, 1, 2, 12.0), (1, 1, 0, -10.0)),
        [-10.0, 2.0],
    ),
    "contrast with another position": (
        Contrast(Token(0, 1), lambda out: out[:, 1, 1]),
        placed((0, 0, 1, -2.0), (0, 1, 1, -5.0), (1, 0, 1, 8.0), (1, 1, 1, 11.0)),
        [-7.0, 19.0],
    ),
}


@pytest.mark.parametrize("case", TOKENS)
def test_tokens(case: str) -> None:
    target, expected, score = TOKENS[case]
    R, found, _ = initial(Z, target)
    torch.testing.assert_close(R, expected, rtol=0, atol=0)
    assert found.tolist() == score


def test_what_a_target_resolves_to() -> None:
    resolved = initial(Z, Contrast(Token(-1), Token(torch.tensor([0, -1]), 2)))[2]
    assert [t.tolist() for t in (resolved.a.position, resolved.a.id)] == [[1, 1], [1, 2]]
    assert [t.tolist() for t in (resolved.b.position, resolved.b.id)] == [[0, 1], [2, 2]]


def test_classes() -> None:
    z = torch.tensor([[1.0, 2.0], [4.0, 3.0]], dtype=torch.float64)
    R, score, _ = initial(z, Contrast(Logit(), 0))  # the predicted class against the first one
    assert R.tolist() == [[-1.0, 2.0], [0.0, 0.0]]
    assert score.tolist() == [1.0, 0.0]
    assert initial(z, Logit(1))[0].tolist() == initial(z, 1)[0].tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_outputs_in_half_precision_start_in_float32(dtype: torch.dtype) -> None:
    """1000 + 1 is 1000 in bfloat16."""
    R, score, _ = initial(torch.tensor([[1000.0, 1.0]], dtype=dtype), Contrast(0, 1))
    assert R.dtype == score.dtype == torch.float32
    assert score.item() == 999.0


REFUSED: dict[str, tuple[Any, str]] = {
    "nothing said": (None, r"relprop\.targets\.Token\(position=-1"),
    "a class": (1, r"relprop\.targets\.Token\(position=-1"),
    "a position that is not there": (Token(2), "position 2 is out of range: the output has 2 positions"),
    "one before the first": (Token(-3), "position -3"),
    "a broken position": (Token(1.0), r"position=1\.0"),  # type: ignore[arg-type]
    "positions of other samples": (Token(torch.tensor([0, 1, 1])), r"shape \(3,\)"),
    "a token that is not there": (Token(-1, 3), "3 is out of range"),
    "a word": (Token(-1, "Paris"), "id='Paris'"),  # type: ignore[arg-type]
    "a word alone": ("Paris", "target='Paris'|relprop.targets.Token"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_tokens(case: str) -> None:
    target, words = REFUSED[case]
    with pytest.raises(TargetError, match=words):
        initial(Z, target)


def test_a_token_of_a_classifier_is_refused() -> None:
    with pytest.raises(TargetError, match=r"shape \(2, 3\).*target=0"):
        initial(Z[:, 0], Token(-1, 1))


class Tagger(nn.Module):
    """Scores (samples, positions, 3) of inputs (samples, positions, 2): an affine map of each position, and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(2, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.map(x)
        return y + y.mean(1, keepdim=True)


def test_relevance_of_a_contrast_closes_and_is_gradient_times_input() -> None:
    """A linear model: R = x ⊙ ∂(z_a − z_b)/∂x, and ΣR is the score."""
    torch.manual_seed(0)
    model, x = Tagger().double(), torch.randn(3, 4, 2, dtype=torch.float64)
    targets = [Contrast(Token(-1, 2), Token(-1, 0)), Token(torch.tensor([0, 1, 2]), 1)]
    e = relprop.explain(model, x, target=targets, composite="lrp_zero", ledger=True)
    at = x.clone().requires_grad_()
    out = model(at)
    scores = [out[:, 3, 2] - out[:, 3, 0], out[torch.arange(3), torch.tensor([0, 1, 2]), 1]]
    for k, score in enumerate(scores):
        (slope,) = torch.autograd.grad(score.sum(), at, retain_graph=True)
        torch.testing.assert_close(e.relevance[k], x * slope, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(e.score[k], score.detach(), rtol=1e-12, atol=0)
        assert e.ledger[k].closes()
    assert "rather than" in repr(relprop.explain(model, x, target=targets[0], composite="lrp_zero"))


# Which tensor of the output


class Gives(nn.Module):
    def __init__(self, how: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.how, self.net = how, nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Any:
        return self.how(self.net(x), x)


@dataclass
class Answer:
    hidden: Tensor
    logits: Tensor
    cache: object = None


Named = namedtuple("Named", ["first", "logits"])

# the scores z are picked everywhere; x, the input, has one row a sample too
PICKED: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    "dictionary": (lambda z, x: {"hidden": x, "logits": z}, "logits"),
    "dataclass": (lambda z, x: Answer(x, z), "logits"),
    "named tuple": (lambda z, x: Named(x, z), "logits"),
    "tuple": (lambda z, x: (z, x), "0"),
    "nested": (lambda z, x: (x, {"logits": z}), "1.logits"),
    "segmentation": (lambda z, x: OrderedDict(aux=x, out=z), "out"),
    "image and text": (lambda z, x: {"text_embeds": x, "logits_per_image": z}, "logits_per_image"),
    "no scores by name": (lambda z, x: {"loss": z.sum(), "ids": z.argmax(1), "start": z, "end": x}, "start"),
}


@pytest.mark.parametrize("case", PICKED)
def test_what_is_explained_of_several_outputs(case: str) -> None:
    how, name = PICKED[case]
    model, x = Gives(how).double(), torch.randn(5, 3, dtype=torch.float64)
    explainer = relprop.Explainer(model, x, composite="lrp_zero")
    e = explainer(x, target=1)
    torch.testing.assert_close(e.output, model.net(x).detach())
    torch.testing.assert_close(e.relevance, x * model.net.weight[1].detach(), rtol=1e-9, atol=1e-12)
    assert any(f"explained is {name!r}" in note for note in explainer.rules.notes)


def test_a_plain_output_needs_no_note() -> None:
    assert not any("explained is" in n for n in relprop.Explainer(nn.Linear(3, 2), torch.ones(1, 3)).rules.notes)


def test_nothing_to_pick_names_what_there_is() -> None:
    model = Gives(lambda z, x: {"scores": z[0], "classes": z.argmax(1), "loss": z.sum()})
    with pytest.raises(CaptureError, match=r"Gives returns a dict holding scores \(2,\) float32, classes \(5,\) int64"):
        relprop.explain(model, torch.ones(5, 3))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.uint32, torch.uint64])
def test_indices_of_any_whole_number(dtype: torch.dtype) -> None:
    output = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    R, score, chosen = initial(output, torch.tensor([1, 2]).to(dtype))
    assert (score.tolist(), chosen.tolist(), R.sum().item()) == ([2.0, 6.0], [1, 2], 8.0)
    with pytest.raises(TargetError, match="target 3 is out of range"):
        initial(output, torch.tensor([1, 3]).to(dtype))
