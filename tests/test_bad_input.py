"""Bad input: the error has its type, names what is wrong, where and what to write instead, and changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
from nets import Net, convolutional, dense, images, rows
from refusals import line_of, refuse
from relprop import composites, errors, ops, rules
from relprop.composites import Composite
from relprop.errors import CaptureError, CompositeError, InputError, NonFiniteError, RelpropError, TargetError


def test_all_errors_are_relprops_and_bad_arguments_are_value_errors() -> None:
    found = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert [e for e in found if issubclass(e, Warning)] == [errors.AmplifiedWarning]
    found.remove(errors.AmplifiedWarning)
    assert all(issubclass(e, RelpropError) for e in found)
    assert all(issubclass(e, ValueError) for e in (InputError, TargetError, CompositeError))


# Inputs

MODEL = dense()
PHOTO = torch.zeros(1, 2, 6, 6, dtype=torch.uint8)
REAL = r"\.float\(\)|\.double\(\)|\.to\("  # the remedy


@pytest.fixture(scope="module")
def explainer() -> relprop.Explainer:
    return relprop.Explainer(MODEL, rows(), "epsilon")


INPUTS: dict[str, tuple[type[Exception], list[str], Any]] = {
    "too many": (InputError, [r"\(3, 4\)", "positional arguments|takes"], (rows(), rows())),
    "by a wrong name": (InputError, ["unexpected keyword|pixels"], {"pixels": rows()}),
    "wrong shape": (InputError, [r"\(3, 5\)", "shape"], rows(width=5)),
    "none": (InputError, ["inputs", "NoneType", "Tensor"], None),
    "no tensor": (InputError, ["inputs", "list", "Tensor"], [[1.0, 2.0, 3.0, 4.0]]),
    "no samples": (InputError, ["inputs", r"\(0, 4\)", "at least one"], rows(0)),
    "a number": (InputError, ["inputs", r"\(\)", "samples"], torch.tensor(1.0, dtype=torch.float64)),
    "integers": (InputError, ["inputs", "int64", REAL], torch.ones(3, 4).long()),
    "single precision": (InputError, ["inputs", "float32", REAL], rows().float()),
    "NaN": (NonFiniteError, ["inputs", "2 NaN"], torch.where(rows() == rows().max(1, True).values, torch.nan, rows())[:2]),
    "infinity": (NonFiniteError, ["inputs", "infinit"], rows() / 0),
    "on no device": (InputError, ["inputs", "meta", "cpu", r"\.to\('cpu'\)"], rows().to("meta")),
}  # fmt: skip


@pytest.mark.parametrize("case", INPUTS)
def test_inputs(case: str) -> None:
    error, words, inputs = INPUTS[case]
    refuse(error, words, lambda: relprop.explain(MODEL, inputs, composite="epsilon"), MODEL)


LATER: dict[str, tuple[type[Exception], list[str], Any]] = {
    "too many": (InputError, ["inputs", "structure"], (rows(), rows())),
    "another structure": (InputError, ["inputs", "structure"], {"input": rows()}),
    "wrong shape": (InputError, ["inputs", r"\(3, 5\)", r"\(batch, 4\)", "new Explainer"], rows(width=5)),
    "wrong dimensions": (InputError, ["inputs", r"\(3, 4, 1\)", r"\(batch, 4\)"], rows()[:, :, None]),
    "no samples": (InputError, ["inputs", r"\(0, 4\)"], rows(0)),
    "integers": (InputError, ["inputs", "int64", r"\.to\(torch.float64\)"], torch.ones(3, 4).long()),
    "NaN": (NonFiniteError, ["inputs", "NaN"], rows() * torch.nan),
    "on no device": (InputError, ["inputs", "meta", r"\.to\('cpu'\)"], rows().to("meta")),
}


@pytest.mark.parametrize("case", LATER)
def test_inputs_of_a_later_call(case: str, explainer: relprop.Explainer) -> None:
    error, words, inputs = LATER[case]
    refuse(error, words, lambda: explainer(inputs), MODEL)


def test_one_of_several_inputs_is_named() -> None:
    model = Net(lambda m, a, b: m.f(a) + m.g(b), f=nn.Linear(4, 3), g=nn.Linear(4, 3))
    explainer = relprop.Explainer(model, {"a": rows(), "b": rows()}, "epsilon")
    named = r"inputs\['b'\]|inputs\.b|\bb\b"
    for bad, words in ((rows(2), ["2 samples"]), (rows().float(), ["float32"]), (rows() / 0, ["infinit"])):
        error = NonFiniteError if words == ["infinit"] else InputError
        refuse(error, [named, *words], partial(explainer, {"a": rows(), "b": bad}), model)
    refuse(NonFiniteError, [r"inputs\[1\]"], lambda: relprop.explain(model, (rows(), rows() / 0)), model)


def test_integer_images() -> None:
    model = convolutional()
    refuse(InputError, ["inputs", "uint8", REAL], lambda: relprop.explain(model, PHOTO), model)
    converting = Net(lambda m, x: m.net(x.double() / 255), net=convolutional())
    refuse(InputError, ["inputs", "uint8", r"\.float\(\)"], lambda: relprop.explain(converting, PHOTO), converting)


@pytest.mark.parametrize("of", ["meta weights", "meta weights and inputs"])
def test_a_model_on_another_device(of: str) -> None:
    model, x = dense().to("meta"), rows().to("meta" if "inputs" in of else "cpu")
    refuse(InputError, ["meta"], lambda: relprop.explain(model, x), model)


def test_the_model_is_a_module() -> None:
    for function in (torch.relu, None, dense):
        with pytest.raises(RelpropError, match="Module"):
            relprop.explain(function, rows())  # type: ignore[arg-type]


# Numbers that are none


def test_nan_in_weights_is_named_by_the_parameter() -> None:
    for name, value in (("2.bias", torch.nan), ("0.weight", -torch.inf)):
        model = dense()
        explainer = relprop.Explainer(model, rows(), "epsilon")
        with torch.no_grad():
            model.get_parameter(name).flatten()[1] = value
        for call in (lambda m=model: relprop.explain(m, rows()), lambda e=explainer: e(rows())):
            refuse(NonFiniteError, [re.escape(name)], call, model)


def test_nan_in_a_buffer_is_named() -> None:
    model = convolutional()
    model[1].running_mean[2] = torch.nan
    refuse(NonFiniteError, [r"1\.running_mean"], lambda: relprop.explain(model, images()), model)


class Overflowing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.head = dense(), nn.Linear(3, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.exp(self.net(x))
        return self.head(x)


def test_an_overflow_is_named_by_node_module_and_line() -> None:
    model = Overflowing()
    words = ["exp", line_of(Overflowing.forward, "x = torch.exp(self.net(x))")]
    refuse(NonFiniteError, words, lambda: relprop.explain(model, 1e6 * rows().abs()), model)
    explainer = relprop.Explainer(model, rows(), "epsilon")
    refuse(NonFiniteError, words, lambda: explainer(1e6 * rows().abs()), model)


def test_an_overflow_inside_a_module_names_its_path() -> None:
    model = nn.Sequential(dense(), nn.BatchNorm1d(3), nn.Linear(3, 2)).double().eval()
    model[1].running_var.fill_(-1.0)
    refuse(NonFiniteError, ["'1'"], lambda: relprop.explain(model, rows()), model)


def test_relevance_that_is_not_finite_names_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules.registry, "_RULES", dict(rules.registry._RULES))

    @rules.rule(ops.Family.AFFINE, source="this test")
    def explode(R: Tensor, f: rules.Call) -> Tensor:
        """R_j = ∞"""
        return torch.full_like(f.a, torch.inf)

    composite = Composite([("2", explode), (composites.everything, "epsilon")])
    call = partial(relprop.explain, MODEL, rows(), composite=composite)
    refuse(NonFiniteError, ["explode", "linear", "'2'"], call, MODEL)


# Targets

TARGETS: dict[str, tuple[Any, list[str]]] = {
    "too large": (3, ["3", "out of range", "0 to 2"]),
    "negative": (-1, ["-1", "out of range", "0 to 2"]),
    "one of them too large": (torch.tensor([0, 1, 5]), ["5", "out of range", "0 to 2"]),
    "too few": (torch.tensor([0, 1]), [r"\(2,\)", "3 samples"]),
    "two-dimensional": (torch.tensor([[0, 1, 2]]), [r"\(1, 3\)", "3 samples"]),
    "real indices": (torch.tensor([0.0, 1.0, 2.0]), [r"\(3,\)", r"\(3, 3\)", "LongTensor"]),
    "booleans": (torch.tensor([True, False, True]), ["bool", "long"]),
    "a name": ("frog", ["'frog'", "class index"]),
    "a real number": (1.5, ["1.5", "class index"]),
    "True": (True, ["True", "class index"]),
    "a tuple": ((0, 1, 2), ["class index"]),
    "relevance of another shape": (torch.zeros(3, 4), [r"\(3, 4\)", r"\(3, 3\)"]),
    "relevance with NaN": (torch.full((3, 3), torch.nan), ["NaN"]),
    "a callable: all outputs": (lambda out: out, [r"\(3, 3\)", "one score a sample"]),
    "a callable: one number": (lambda out: out.sum(), [r"\(\)", "one score a sample"]),
    "a callable: no tensor": (lambda out: 3.0, ["float", "one score a sample"]),
    "a callable: decisions": (lambda out: out.argmax(1), ["arg-max|depend"]),
    "one of several": ([0, 7], ["7", "out of range"]),
    "no targets": ([], ["empty", "target"]),
}


@pytest.mark.parametrize("case", TARGETS)
def test_targets(case: str, explainer: relprop.Explainer) -> None:
    target, words = TARGETS[case]
    refuse(TargetError, words, lambda: explainer(rows(), target=target), MODEL)


def test_targets_of_outputs_that_are_images() -> None:
    model = nn.Conv2d(2, 3, 3).double()
    refuse(TargetError, [r"\(3, 3, 4, 4\)", "callable"], lambda: relprop.explain(model, images(), target=1), model)


# Outputs and forwards

OUTPUTS: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "tuple": (lambda m, x: (m.net(x).argmax(1), 1.0), ["tuple", "forward", "self.model"]),
    "dict": (lambda m, x: {"scores": m.net(x)[0, :2], "classes": 3}, ["dict", "forward", r"scores \(2,\) float64"]),
    "None": (lambda m, x: None, ["NoneType"]),
    "number": (lambda m, x: 1.0, ["float"]),
    "decisions": (lambda m, x: m.net(x).argmax(1), ["int64", "argmax"]),
    "complex": (lambda m, x: m.net(x) + 1j, ["complex"]),
    "no batch dimension": (lambda m, x: m.net(x).sum(), [r"\(\)"]),
    "fewer samples": (lambda m, x: m.net(x)[:2], [r"\(2, 3\)"]),
    "some samples": (lambda m, x: m.net(x[x[:, 0] > 0]), [r"\(\d, 3\)|exported"]),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs(case: str) -> None:
    how, words = OUTPUTS[case]
    model = Net(how, net=dense())
    refuse(CaptureError, words, lambda: relprop.explain(model, rows()), model)


def decides(m: Net, x: Tensor) -> Tensor:
    if x.sum() > 0:
        return m.net(x)
    return m.net(-x)


def counts(m: Net, x: Tensor) -> Tensor:
    steps = int(x.abs().max()) + 1
    return m.net(x) * steps


def leaves_torch(m: Net, x: Tensor) -> Tensor:
    return m.net(torch.from_numpy(x.numpy() * 2))


def throws_dice(m: Net, x: Tensor) -> Tensor:
    return m.net(x + torch.rand_like(x))


FORWARDS: dict[str, tuple[Callable[..., Tensor], list[str]]] = {
    "if on values": (decides, [line_of(decides, "if x.sum() > 0:"), "torch.where"]),
    "int of a value": (counts, [line_of(counts, "steps = int(x.abs().max()) + 1"), "torch.where"]),
    "numpy": (leaves_torch, [line_of(leaves_torch, "x.numpy()"), "tensor operations"]),
    "random": (throws_dice, ["random", "deterministic"]),
}


@pytest.mark.parametrize("case", FORWARDS)
def test_forwards_that_cannot_be_exported(case: str) -> None:
    how, words = FORWARDS[case]
    model = Net(how, net=dense())
    refuse(CaptureError, words, lambda: relprop.explain(model, rows()), model)


def test_an_output_that_does_not_depend_on_the_input() -> None:
    model = Net(lambda m, x: m.net(torch.ones_like(x)), net=dense())
    refuse(RelpropError, ["depend"], lambda: relprop.explain(model, rows()), model)
