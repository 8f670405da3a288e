"""The function for Quantus by itself: shapes, types, targets, refusals, and when a capture may serve a further call.

The oracle is gradient × input, which LRP-0 equals on networks of affine layers, ReLU and max-pooling.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import relprop
from nets import gradient_times_input
from relprop.composites import family
from relprop.errors import CaptureError, CompositeError, InputError, RelpropError, TargetError
from relprop.integrations import quantus as adapter
from relprop.integrations.quantus import explain_func
from unchanged import unchanged


def network(bias: bool = True) -> nn.Sequential:
    """For colour images (3, 8, 8): two convolutions, ReLU, max-pooling, linear to 5 classes; float32, as Quantus needs."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=bias), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 3, padding=1, bias=bias), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5, bias=bias),
    ).eval()  # fmt: skip


def colours(samples: int = 3) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((samples, 3, 8, 8)).astype(np.float32)


CLASSES = np.array([4, 0, 2])


def direct(model: nn.Module, x: np.ndarray, targets: np.ndarray, **options: Any) -> np.ndarray:
    """What the adapter promises, without it: one capture a call."""
    return relprop.explain(model, torch.from_numpy(x), torch.from_numpy(targets), **options).relevance.numpy()


def slope(model: nn.Module, inputs: Any, targets: Any) -> np.ndarray:
    """Gradient × input."""
    return gradient_times_input(model, (torch.as_tensor(inputs),), torch.as_tensor(targets))[0].numpy()


@pytest.mark.parametrize("composite", ["lrp_zero", "epsilon", "gamma", "z_plus", "auto"])
def test_relevance_sums_to_the_logit_of_the_target(composite: str) -> None:
    model, x = network(bias=False), colours()
    with torch.no_grad():
        logits = model(torch.from_numpy(x)).numpy()
    for y in (CLASSES, np.array([0, 1, 2])):
        R = explain_func(model, x, y, composite=composite)
        np.testing.assert_allclose(R.sum((1, 2, 3)), logits[np.arange(3), y], rtol=1e-3)
        summed = explain_func(model, x, y, composite=composite, channels="sum")
        assert summed.shape == (3, 1, 8, 8)
        np.testing.assert_allclose(summed[:, 0], R[:, 0] + R[:, 1] + R[:, 2], atol=1e-6)


@pytest.mark.parametrize(
    ("given", "meant"),
    [(CLASSES, CLASSES), (CLASSES.astype(np.int32), CLASSES), ([4, 0, 2], CLASSES), (torch.tensor([4, 0, 2]), CLASSES),
     (3, np.full(3, 3)), (np.int64(3), np.full(3, 3)), (np.array(3, np.uint8), np.full(3, 3))],
    ids=["int64", "int32", "list", "tensor", "int", "numpy scalar", "array of no dimension"],
)  # fmt: skip
def test_targets_in_any_form(given: Any, meant: np.ndarray) -> None:
    model, x = network(), colours()
    np.testing.assert_allclose(explain_func(model, x, given, composite="lrp_zero"), slope(model, x, meant), atol=1e-6)


def test_without_targets_the_largest_output_is_explained() -> None:
    model, x = network(), colours()
    largest = model(torch.from_numpy(x)).argmax(1).numpy()
    np.testing.assert_allclose(explain_func(model, x, composite="lrp_zero"), slope(model, x, largest), atol=1e-6)


def read_only(x: np.ndarray) -> np.ndarray:
    y = x.copy()
    y.flags.writeable = False
    return y


@pytest.mark.parametrize(
    "form",
    [lambda x: x.astype(np.float64), lambda x: x.astype(">f4"), read_only, lambda x: x[:, ::-1].copy()[:, ::-1],
     lambda x: np.asfortranarray(x), torch.from_numpy, lambda x: torch.from_numpy(x).double().requires_grad_()],
    ids=["float64", "big-endian", "read-only", "reversed", "Fortran", "tensor", "double tensor with gradient"],
)  # fmt: skip
def test_inputs_in_any_form(form: Callable[[np.ndarray], Any]) -> None:
    model, x = network(), colours()
    given = form(x)
    with unchanged(model):
        R = explain_func(model, given, CLASSES, composite="lrp_zero")
    assert type(R) is np.ndarray
    assert R.dtype == np.float32
    assert R.flags.c_contiguous
    assert R.flags.writeable
    np.testing.assert_allclose(R, slope(model, x, CLASSES), atol=1e-6)
    kept = R.copy()
    R[:] = 0
    np.testing.assert_array_equal(explain_func(model, given, CLASSES, composite="lrp_zero"), kept)
    assert np.array_equal(given.detach() if isinstance(given, torch.Tensor) else given, x)


@pytest.mark.parametrize(
    ("dtype", "returned", "error"), [(torch.float64, np.float64, 1e-9), (torch.bfloat16, np.float32, 2**-5)]
)
def test_relevance_has_the_type_of_the_model(dtype: torch.dtype, returned: type, error: float) -> None:
    torch.manual_seed(5)
    model, x = nn.Linear(6, 5).to(dtype), colours().reshape(-1, 6)[:3]
    R = explain_func(model, x, CLASSES, composite="lrp_zero")
    assert R.dtype == returned
    weights = model.weight.detach().double().numpy()
    expected = np.array([[x[n, i] * weights[CLASSES[n], i] for i in range(6)] for n in range(3)], float)
    assert np.abs(R - expected).max() < error * np.abs(expected).max()


def test_rows_of_a_table() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval(), colours().reshape(-1, 4)[:5]
    y = np.array([0, 1, 2, 0, 1])
    np.testing.assert_allclose(explain_func(model, x, y, composite="lrp_zero"), slope(model, x, y), atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_in_parts_as_at_once(size: int) -> None:
    model, x = network(), colours()
    R = explain_func(model, x, CLASSES, composite="lrp_zero", batch_size=size)
    np.testing.assert_allclose(R, slope(model, x, CLASSES), atol=1e-6)


class Scaled(nn.Module):
    """A network with all that may change about one: weights, modules, an attribute, hooks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.last, self.factor = nn.Linear(4, 6), nn.Linear(6, 3), 1.0
        self.act: nn.Module = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * self.last(self.act(self.first(x)))


def in_place(model: Scaled) -> None:
    with torch.no_grad():
        model.first.weight.mul_(-1.5)


def replaced(model: Scaled) -> None:
    model.act = nn.Identity()


@pytest.mark.parametrize(
    "change",
    [in_place, replaced, lambda m: m.first.weight.data.mul_(-1.5), lambda m: m.last.reset_parameters(),
     lambda m: m.load_state_dict({k: 2 - v for k, v in m.state_dict().items()}), lambda m: setattr(m, "factor", -2.0),
     lambda m: m.last.register_forward_hook(lambda module, args, out: 3 * out)],
    ids=["in place", "module", "data", "reset", "loaded", "attribute", "hook"],
)  # fmt: skip
def test_a_changed_model_is_captured_anew(change: Callable[[Scaled], Any]) -> None:
    model, x, y = Scaled(), colours().reshape(-1, 4)[:5], np.array([0, 1, 2, 0, 1])
    before = explain_func(model, x, y, composite="lrp_zero")
    np.testing.assert_allclose(before, slope(model, x, y), atol=1e-6)
    change(model)
    now = explain_func(model, x, y, composite="lrp_zero")
    np.testing.assert_allclose(now, slope(model, x, y), atol=1e-5)
    assert not np.allclose(now, before, atol=1e-3)


def test_models_by_turns_and_models_that_die() -> None:
    """A new model may get the address of a dead one."""
    x, y = colours().reshape(-1, 4)[:5], 1
    first = Scaled()
    for i in range(6):
        other = Scaled()
        other.factor = 1.0 + i
        for model in (other, first):
            expected = slope(model, x, np.full(5, y))
            np.testing.assert_allclose(explain_func(model, x, y, composite="lrp_zero"), expected, atol=1e-5)
        del other, model


def test_what_is_kept_does_not_keep_the_model() -> None:
    model = Scaled()
    explain_func(model, colours().reshape(-1, 4)[:5], 1)
    alive = weakref.ref(model)
    assert [kept.model() for kept in adapter._LATEST] == [model]
    del model
    gc.collect()
    assert alive() is None
    assert adapter._LATEST == []


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The explainers made by the adapter."""
    made: list[Any] = []

    def make(*args: Any, **options: Any) -> relprop.Explainer:
        made.append(relprop.Explainer(*args, **options))
        return made[-1]

    monkeypatch.setattr(adapter, "Explainer", make)
    monkeypatch.setattr(adapter, "_LATEST", [])
    return made


def test_the_same_question_is_captured_once(captures: list[Any]) -> None:
    model, x = network(), colours()
    low, high = torch.full((3, 1, 1), -4.0), np.float32(4)
    asked: dict[str, Any] = {"composite": "auto", "low": low, "high": float(high)}
    for part, y in ((x, CLASSES), (x[:1], 2), (x.astype(np.float64), CLASSES)):
        explain_func(model, part, y, **asked)
    mine = [(family("affine"), partial(relprop.rules.gamma, gamma=0.5))]
    for composite in (mine, list(mine), relprop.Composite(mine), relprop.Composite(mine)):
        explain_func(model, x, CLASSES, composite=composite)
    assert len(captures) == 3  # the recipe; the list and its equal; the composite and its equal


def test_another_question_is_captured_anew(captures: list[Any]) -> None:
    model, x, low = network(), colours(), torch.full((3, 1, 1), -4.0)
    asked: dict[str, Any] = {"composite": "auto", "low": low, "high": 4.0}
    first = explain_func(model, x, CLASSES, **asked)
    low.fill_(-9.0)  # the same object
    second = explain_func(model, x, CLASSES, **asked)
    np.testing.assert_allclose(second, direct(model, x, CLASSES, **asked), atol=1e-6)
    assert not np.allclose(first, second)
    mine = [(family("affine"), partial(relprop.rules.gamma, gamma=0.5))]
    explain_func(model, x, CLASSES, composite=mine)
    mine[0] = (family("affine"), relprop.rules.epsilon)
    changed = explain_func(model, x, CLASSES, composite=mine)
    np.testing.assert_allclose(changed, direct(model, x, CLASSES, composite=mine), atol=1e-6)
    assert len(captures) == 4


def test_threads_with_models_of_their_own() -> None:
    x, y, wrong = colours().reshape(-1, 4)[:5], np.array([0, 1, 2, 0, 1]), []

    def work(factor: float) -> None:
        try:
            model = Scaled()
            model.factor = factor
            expected = slope(model, x, y)
            for _ in range(4):
                np.testing.assert_allclose(explain_func(model, x, y, composite="lrp_zero"), expected, atol=1e-5)
        except BaseException as e:
            wrong.append(e)

    threads = [threading.Thread(target=work, args=(f,)) for f in (1.0, -2.0, 3.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"model": lambda x: x}, CaptureError, "not an nn.Module"),
        ({"inputs": [[1.0]]}, InputError, "inputs is a list"),
        ({"inputs": colours().astype(np.uint8)}, InputError, "uint8; give real numbers: inputs.astype"),
        ({"inputs": torch.zeros(2, 3, 8, 8, dtype=torch.int64)}, InputError, "inputs.float"),
        ({"inputs": colours()[:0]}, InputError, "at least one"),
        ({"inputs": np.float32(1) + np.zeros(())}, InputError, "inputs is a float|at least one"),
        ({"inputs": np.full((3, 3, 8, 8), np.nan)}, RelpropError, "NaN"),
        ({"inputs": colours()[:, :1]}, InputError, "cannot be called"),
        ({"targets": CLASSES[:2]}, TargetError, "2 class indices for 3 samples"),
        ({"targets": np.arange(5), "batch_size": 3}, TargetError, "5 class indices for 3 samples"),
        ({"targets": CLASSES.astype(float)}, TargetError, "float64"),
        ({"targets": np.array([True, False, True])}, TargetError, "bool"),
        ({"targets": np.eye(5, dtype=int)[:3]}, TargetError, "argmax"),
        ({"targets": np.array([0, 5, 1])}, TargetError, "target 5 is out of range"),
        ({"targets": -1}, TargetError, "out of range"),
        ({"channels": "mean"}, InputError, "'keep'"),
        ({"batch_size": 0}, InputError, "batch_size=0"),
        ({"batch_size": 1.5}, InputError, "whole number"),
        ({"device": "gpu"}, InputError, "no device of torch"),
        ({"device": "meta"}, InputError, "the model is on cpu"),
        ({"composite": "gama"}, CompositeError, "does not exist"),
        ({"method": "Saliency"}, CompositeError, "is no recipe"),
        ({"method": "gamma", "composite": "epsilon"}, CompositeError, "another recipe"),
        ({"method": "gamma", "composite": relprop.Composite([])}, CompositeError, "of your own"),
        ({"gama": 1.0}, CompositeError, "no option gama"),
        ({"ledger": True}, CompositeError, "no option ledger"),
        ({"softmax": False}, CompositeError, "leave it out"),
        ({"normalise": True}, CompositeError, "argument of the metric"),
        ({"reduce_axes": (1,)}, CompositeError, "channels='sum'"),
        ({"xai_lib": "zennit"}, CompositeError, "composite="),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else "",
)
def test_refused(given: dict[str, Any], error: type[Exception], said: str) -> None:
    asked = {"model": network(), "inputs": colours(), "targets": CLASSES, **given}
    with pytest.raises(error, match=said):
        explain_func(**asked)


def test_a_table_has_no_channels_to_add_up() -> None:
    with pytest.raises(InputError, match="have no channels"):
        explain_func(nn.Linear(4, 3), np.ones((2, 4), np.float32), 0, channels="sum")


def test_a_refusal_leaves_the_capture_usable(captures: list[Any]) -> None:
    model, x = network(), colours()
    explain_func(model, x, CLASSES)
    with pytest.raises(TargetError):
        explain_func(model, x, 7)
    np.testing.assert_allclose(explain_func(model, x, CLASSES), direct(model, x, CLASSES), atol=1e-6)
