"""The top layer in use: which class, which model, which way of running, what it costs, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import relprop
from checks import check_same_map
from nets import Net, convolutional, dense, images, rows
from relprop import cli, zoo
from relprop.errors import TargetError
from relprop.targets import Contrast, Logit, LogOdds, Margin, Probability, Token, initial, parse, words
from unchanged import unchanged

# Which class, which model, which way of running


@pytest.mark.parametrize("kind", [LogOdds, Margin, Probability])
def test_ways_to_say_which_class(kind: Any) -> None:
    z = torch.tensor([[1.0, 3.0, 2.0], [0.5, 0.0, -2.0]], dtype=torch.float64)
    each = torch.tensor([1, 0])
    for c in (None, Logit(), each, Logit(each), each.int()):
        R, score, resolved = initial(z, kind(c))
        for i, k in enumerate(each.tolist()):
            alone = initial(z[i : i + 1], kind(k))
            assert R[i].tolist() == alone[0][0].tolist()
            assert score[i].item() == alone[1].item()
        assert resolved.c.tolist() == [1, 0]
    assert initial(z[..., None, None], kind(2))[0].shape == (2, 3, 1, 1)  # a map of one pixel
    R, score, _ = initial(z, Contrast(kind(2), 0))
    assert R.tolist() == (initial(z, kind(2))[0] - initial(z, 0)[0]).tolist()


def test_whole_numbers_of_numpy_are_classes_and_tokens() -> None:
    z, text = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[[1.0, 2.0, 4.0], [4.0, 3.0, 0.0]]])
    one, two = np.int64(1), np.int32(2)
    pairs: list[tuple[Tensor, Any, Any]] = [
        (z, LogOdds(one), LogOdds(1)), (z, Margin(one, two), Margin(1, 2)), (z, Probability(one), Probability(1)),
        (z, Contrast(LogOdds(one), 0), Contrast(LogOdds(1), 0)),
        (text, Token(np.int64(-1), one), Token(-1, 1)), (text, Margin(Token(one, two), one), Margin(Token(1, 2), 1)),
    ]  # fmt: skip
    for output, given, plain in pairs:
        for a, b in zip(initial(output, given)[:2], initial(output, plain)[:2], strict=True):
            assert torch.equal(a, b)
    for wrong in (LogOdds(np.float64(1)), Margin(0, np.bool_(True)), LogOdds(np.int64(3))):
        with pytest.raises(TargetError):
            initial(z, wrong)


@pytest.mark.parametrize("kind", [LogOdds, Margin, Probability])
def test_tokens_against_all_others(kind: Any) -> None:
    """A language model's output: the tokens of the chosen position are the classes."""
    z = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    place, ids = torch.tensor([2, 0]), torch.tensor([4, 1])
    R, score, resolved = initial(z, kind(Token(place - 3, ids)))
    expected, scores, _ = initial(z[torch.arange(2), place], kind(ids))
    assert R[torch.arange(2), place].tolist() == expected.tolist()
    assert R.count_nonzero() == expected.count_nonzero()
    assert score.tolist() == scores.tolist()
    assert resolved.c.position.tolist() == [2, 0]
    assert resolved.c.id.tolist() == [4, 1]


FINAL: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda z: z.softmax(1),
    "log-softmax": lambda z: z.log_softmax(1),
    "log of softmax": lambda z: z.softmax(1).log(),
}


@pytest.mark.parametrize("case", FINAL)
def test_a_model_with_a_final_softmax_is_explained_at_its_logits(case: str) -> None:
    model, x = convolutional(), images(4)
    ends = Net(lambda m, v: FINAL[case](m.net(v)), net=convolutional())
    targets = [LogOdds(2), Margin(2), Probability(2)]
    found, expected = (relprop.explain(m, x, targets, "epsilon", ledger=True) for m in (ends, model))
    check_same_map(found.relevance, expected.relevance, 1e-12)
    torch.testing.assert_close(found.score, expected.score, rtol=1e-12, atol=0)
    P = model(x).softmax(1)[:, 2].detach()
    torch.testing.assert_close(found.score[0], (P / (1 - P)).log(), rtol=1e-9, atol=0)
    torch.testing.assert_close(found.score[2], P, rtol=1e-9, atol=0)


EACH = torch.arange(7) % 5
TARGETS: dict[str, Any] = {
    "log-odds": LogOdds(3),
    "of the predicted class": LogOdds(),
    "a class a sample": LogOdds(EACH),
    "margin": Margin(EACH),
    "a rival a sample": Margin(EACH, (EACH + 2) % 5),
    "probability": Probability(EACH),
    "contrast": Contrast(LogOdds(EACH), Margin(0)),
    "several": [LogOdds(EACH), 1, Margin(), Probability(2), lambda z: z[:, 0]],
}


@pytest.fixture(scope="module")
def whole() -> relprop.Explainer:
    return relprop.Explainer(convolutional(), images(7), "epsilon")


@pytest.mark.parametrize("case", TARGETS)
def test_chunks_are_the_whole(case: str, whole: relprop.Explainer) -> None:
    x, target = images(7), TARGETS[case]
    parts = relprop.Explainer(whole.model, x, "epsilon", max_batch=3)
    found, expected = (e(x, target, ledger=True) for e in (parts, whole))
    check_same_map(found.relevance, expected.relevance, 1e-12)
    torch.testing.assert_close(found.score, expected.score, rtol=1e-12, atol=1e-14)
    assert_same_target(found.target, expected.target)
    for ledger in found.ledger if isinstance(target, list) else [found.ledger]:
        assert ledger.closes()


def assert_same_target(found: Any, expected: Any) -> None:
    if isinstance(expected, Tensor):
        assert found.tolist() == expected.tolist()
    elif isinstance(expected, list):
        for a, b in zip(found, expected, strict=True):
            assert_same_target(a, b)
    elif hasattr(expected, "__dataclass_fields__"):
        assert type(found) is type(expected)
        for name in vars(expected):
            assert_same_target(getattr(found, name), getattr(expected, name))
    else:
        assert found is expected


def test_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the compiler's code generator, which is not at stake: these targets lie between its two parts."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    model, x = dense(), rows(3)
    target = [LogOdds(torch.tensor([0, 2, 1])), Margin(1), Probability()]
    eager, compiled = (relprop.Explainer(model, x, "epsilon", compile=c)(x, target) for c in (False, True))
    check_same_map(compiled.relevance, eager.relevance, 1e-9)
    torch.testing.assert_close(compiled.score, eager.score)


@pytest.mark.parametrize("target", [LogOdds(1), Margin(1), Probability(1), LogOdds()])
def test_the_program_takes_these_targets(target: Any) -> None:
    """As a graph module, compiled as one graph, and as Python text."""
    model, x = dense(), rows(3)
    explainer = relprop.Explainer(model, x, "epsilon")
    expected = explainer(x, target)
    scope: dict[str, Any] = {"__name__": "program"}
    exec(compile(explainer.code, "program.py", "exec"), scope)
    with torch.no_grad():
        graph = explainer.program(x, target)
        text = scope["program"](explainer.program.state_dict(), x, target)
        one = torch.compile(explainer.program, fullgraph=True, backend="eager")(x, target)
    for result in (graph, text, one):
        check_same_map(result[3][0], expected.relevance, 1e-12)
        torch.testing.assert_close(result[1], expected.score)


@pytest.mark.parametrize("kind", [LogOdds, Margin, Probability])
def test_the_relevance_has_the_derivative_of_finite_differences(kind: Any) -> None:
    explainer = relprop.Explainer(dense(), rows(2), "epsilon", epsilon=0.1)
    assert torch.autograd.gradcheck(lambda v: explainer(v, kind(1)).relevance, (rows(2).requires_grad_(),))


# Cost


def flops(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def test_all_classes_take_one_forward_pass_and_a_way_back_each() -> None:
    model, x = convolutional(), images(4)
    explainer = relprop.Explainer(model, x, "epsilon")
    with torch.no_grad():
        forward = flops(lambda: model(x))
    one = flops(lambda: explainer(x, [LogOdds(0)]))
    back = one - forward
    assert 0 < back <= forward
    assert flops(lambda: explainer(x, [LogOdds(c) for c in range(5)])) == forward + 5 * back
    assert flops(lambda: explainer(x, [0])) == one  # the top layer itself costs no product


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(t.numel() for t in tree_leaves(out) if isinstance(t, Tensor))])
        return out


@pytest.mark.parametrize("kind", [LogOdds, Margin, Probability])
def test_memory_is_linear_in_the_number_of_classes(kind: Any) -> None:
    """No tensor of pairs: 20,000 classes would need 3 GB for it."""
    z = torch.randn(2, 20_000)
    with Largest() as largest:
        R, score, _ = initial(z, kind(torch.tensor([5, 19_999])))
    assert R.shape == z.shape
    assert torch.isfinite(score).all()
    assert largest.elements == z.numel()


# Refused

REFUSED: dict[str, tuple[Any, tuple[int, ...], str]] = {
    "one class": (LogOdds(), (4, 1), r"LogOdds .*\(4, 1\), has one score a sample.*target=0"),
    "one number a sample": (Margin(0), (4,), r"Margin .*one score a sample.*target=0"),
    "one class's probability": (Probability(0), (4, 1), "Probability .*one score a sample"),
    "a class that is not there": (LogOdds(3), (4, 3), "target 3 is out of range: the model has 3 outputs"),
    "a rival that is not there": (Margin(0, -1), (4, 3), "target -1 is out of range"),
    "its own rival": (Margin(torch.tensor([0, 1, 2, 0]), 2), (4, 3), "class 2 with itself in sample 2.*None"),
    "a name": (LogOdds("cat"), (4, 3), "LogOdds c='cat': give None, a class index"),
    "a number with a point": (Probability(1.0), (4, 3), r"Probability c=1\.0"),
    "a truth": (Margin(0, True), (4, 3), "Margin rival=True"),
    "other samples": (LogOdds(torch.tensor([0, 1])), (4, 3), r"shape \(2,\).*4 samples"),
    "a mask": (LogOdds(torch.zeros(4, dtype=torch.bool)), (4, 3), "dtype torch.bool"),
    "relevance": (LogOdds(torch.zeros(4)), (4, 3), "indices are integers"),
    "a map of scores": (LogOdds(0), (4, 3, 2, 2), "more than one score a class"),
    "positions": (LogOdds(0), (4, 3, 5), r"relprop\.targets\.Token"),
    "a token of a classifier": (LogOdds(Token()), (4, 3), "Token is for language models"),
    "another target": (LogOdds(Contrast(0, 1)), (4, 3), "LogOdds c=Contrast"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    target, shape, said = REFUSED[case]
    model = nn.Linear(2, 2)
    with unchanged(model), pytest.raises(TargetError, match=said):
        initial(torch.ones(shape), target)


def test_a_remedy_for_one_output_works() -> None:
    """A single logit behind a sigmoid is the log-odds of the positive class against the other."""
    model = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()).double()
    with pytest.raises(TargetError, match=r"log-odds of .*explains it"):
        relprop.explain(model, rows(3), LogOdds(0))
    e = relprop.explain(model, rows(3), 0, "lrp_zero")
    P = model(rows(3))[:, 0].detach()
    torch.testing.assert_close(e.score, (P / (1 - P)).log(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("target", [LogOdds(1), [0, Probability()], Contrast(0, LogOdds(1))], ids=str)
@pytest.mark.parametrize("final", [nn.Sigmoid, nn.LogSigmoid])
def test_outputs_with_a_sigmoid_each_do_not_compete(final: type[nn.Module], target: Any) -> None:
    """P_c = σ(z_c): log-odds z_c, whatever the other outputs are."""
    model, x = nn.Sequential(nn.Linear(4, 3), final()).double(), rows(3)
    words_needed = "ends in a sigmoid: there each output is itself the log-odds of its class, and target=c"
    with unchanged(model), pytest.raises(TargetError, match=words_needed):
        relprop.explain(model, x, target)
    score = relprop.explain(model, x, 1, "lrp_zero").score
    P = model[0](x)[:, 1].sigmoid().detach()
    torch.testing.assert_close(score, (P / (1 - P)).log(), rtol=1e-9, atol=1e-12)


def test_a_target_is_named_in_the_explanation() -> None:
    said = {"[1, 1, 1] against all others": LogOdds(1), "[1, 1, 1] rather than [0, 0, 0]": Margin(1, 0)}
    for text, target in said.items():
        assert f"target {text}, score" in repr(relprop.explain(dense(), rows(3), target, "epsilon"))


# In words, and on the command line


def test_words() -> None:
    names = ["airplane", "automobile", "bird", "cat"]

    def name(c: Any) -> str:
        return f"{names[c.id]} at {c.position}" if isinstance(c, Token) else names[c]

    cases = {
        3: "cat",
        LogOdds(3): "cat against all others",
        Margin(3, 2): "cat rather than bird",
        Margin(Token(7, 3), 2): "cat at 7 rather than bird at 7",
        Probability(1): "probability of automobile",
        Contrast(Probability(1), LogOdds(0)): "probability of automobile rather than airplane against all others",
    }
    assert {target: words(target, name) for target in cases} == cases


PARSED: dict[str, Any] = {
    "frog": 2,
    "odds:dog": LogOdds(1),
    "odds": LogOdds(),
    "ODDS: cat": LogOdds(0),
    "margin:cat": Margin(0),
    "margin:cat,frog": Margin(0, 2),
    "margin:, frog": Margin(None, 2),
    "margin": Margin(),
    "probability:dog": Probability(1),
}


def test_targets_from_text() -> None:
    assert {text: parse(text, ["cat", "dog", "frog"].index) for text in PARSED} == PARSED


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("odds:cat,dog", "odds takes a class, not 2 classes"),
        ("margin:cat,dog,frog", "margin takes a class and a rival, not 3"),
    ],
)
def test_too_many_classes_in_a_text(text: str, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        parse(text, ["cat", "dog", "frog"].index)


def command(tmp_path: Any, target: str) -> Any:
    picture = tmp_path / "heat.png"
    arguments = ["explain", str(zoo.samples()["cat"]), "--target", target, "--composite", "epsilon", "-o", str(picture)]
    return CliRunner().invoke(cli.app, arguments)


@pytest.mark.parametrize(
    ("text", "target", "said"),
    [("odds", LogOdds(3), "cat against all others"), ("margin:cat,frog", Margin(3, 6), "cat rather than frog")],
)
def test_targets_on_the_command_line(
    text: str, target: Any, said: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.out, "_width", 250)
    result = command(tmp_path, text)
    assert result.exit_code == 0, result.output
    e = relprop.explain(zoo.cifar10_lrn(), zoo.sample("cat"), target, "epsilon", ledger=True)
    accounts = [e.score, e.ledger.input, e.ledger.bias, e.ledger.epsilon, e.ledger.residual]
    row = next(line for line in result.output.splitlines() if said in line)
    assert [float(cell) for cell in row.split()[-5:]] == pytest.approx([float(a) for a in accounts], rel=2e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("text", "said"), [("odds:unicorn", "no class of this name"), ("margin:cat,cat", "with itself")]
)
def test_refused_on_the_command_line(text: str, said: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.err, "_width", 250)
    result = command(tmp_path, text)
    assert result.exit_code == 2
    assert said in result.output
    assert not list(tmp_path.iterdir())
