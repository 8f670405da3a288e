"""The adapter for Quantus: its metrics get the relevance of relprop, for the model, weights and targets they ask for.

Oracles: gradient × input, which LRP-0 equals on networks of affine layers, ReLU and max-pooling (`nets`), metrics worked
out by explicit loops here, and the metrics themselves, given maps that `relprop.explain` computed without the adapter.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import relprop
from nets import gradient_times_input
from relprop.integrations.quantus import explain_func
from relprop.zoo import cifar10_lrn, sample

quantus = pytest.importorskip("quantus")

QUIET = {"disable_warnings": True}  # of texts that Quantus prints after a pause


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


def slope(model: nn.Module, inputs: Any, targets: Any) -> np.ndarray:
    """Gradient × input."""
    return gradient_times_input(model, (torch.as_tensor(inputs),), torch.as_tensor(targets))[0].numpy()


def direct(model: nn.Module, inputs: Any, targets: Any, channels: str = "keep", **options: Any) -> np.ndarray:
    """What the adapter promises, without it: one capture a call."""
    x = torch.as_tensor(np.asarray(inputs)).float()
    R = relprop.explain(
        model, x, torch.as_tensor(targets), **{k: v for k, v in options.items() if k != "device"}
    ).relevance
    return (R.sum(1, keepdim=True) if channels == "sum" else R).numpy()


def scores(metric: Any, model: nn.Module, x: np.ndarray, y: np.ndarray, **call: Any) -> np.ndarray:
    """A metric's scores, with the random numbers it draws from numpy fixed."""
    np.random.seed(0)
    found = metric(model=model, x_batch=x.copy(), y_batch=y, softmax=False, channel_first=True, **call)
    return np.asarray(list(found.values()) if isinstance(found, dict) else found, dtype=float)


def within() -> np.ndarray:
    """Masks for the metrics of localisation: the middle of the image."""
    mask = np.zeros((3, 1, 8, 8))
    mask[:, :, 2:6, 2:6] = 1
    return mask


METRICS: list[tuple[str, dict[str, Any], str]] = [
    ("PixelFlipping", {"features_in_step": 16}, "keep"),
    ("PixelFlipping", {"features_in_step": 16}, "sum"),
    ("RegionPerturbation", {"patch_size": 4, "regions_evaluation": 4}, "sum"),
    ("FaithfulnessCorrelation", {"nr_runs": 10, "subset_size": 32}, "keep"),
    ("MonotonicityCorrelation", {"nr_samples": 2, "features_in_step": 32}, "keep"),
    ("MaxSensitivity", {"nr_samples": 2}, "keep"),
    ("AvgSensitivity", {"nr_samples": 2}, "sum"),
    ("LocalLipschitzEstimate", {"nr_samples": 2}, "keep"),
    ("RelativeInputStability", {"nr_samples": 2}, "keep"),
    ("RelativeRepresentationStability", {"nr_samples": 2}, "keep"),
    ("MPRT", {}, "keep"),
    ("MPRT", {"layer_order": "independent"}, "sum"),
    ("RandomLogit", {"num_classes": 5}, "keep"),
    ("Sparseness", {}, "keep"),
    ("Complexity", {}, "sum"),
    ("EffectiveComplexity", {"eps": 0.1}, "keep"),
    ("RelevanceMassAccuracy", {}, "sum"),
    ("TopKIntersection", {"k": 16}, "sum"),
]


@pytest.mark.parametrize(("name", "settings", "channels"), METRICS, ids=lambda v: v if isinstance(v, str) else "")
def test_a_metric_gets_the_relevance_of_relprop(name: str, settings: dict[str, Any], channels: str) -> None:
    def measured(func: Callable[..., Any], given: np.ndarray | None, composite: str) -> np.ndarray:
        return scores(
            getattr(quantus, name)(**settings, **QUIET), model, x, CLASSES, a_batch=given, s_batch=within(), device="cpu",
            explain_func=func, explain_func_kwargs={"composite": composite, "channels": channels},
        )  # fmt: skip

    model, x = network(), colours()
    ours = measured(explain_func, None, "gamma")
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(
        ours, measured(direct, direct(model, x, CLASSES, channels, composite="gamma"), "gamma"), rtol=1e-5
    )
    assert not np.allclose(ours, measured(explain_func, None, "epsilon")), "the metric does not look at the map"


def gini(values: np.ndarray) -> float:
    """Σ_i Σ_j |v_i − v_j| / (2 n Σ v) of the sizes, by two loops; Quantus adds 1e-7 to each, whatever their scale."""
    v = [abs(float(u)) + 1e-7 for u in values.ravel()]
    return sum(abs(a - b) for a in v for b in v) / (2 * len(v) * sum(v))


def entropy(values: np.ndarray) -> float:
    """−Σ p log p of the shares p = |v| / Σ|v|."""
    total = float(np.abs(values).astype(float).sum())
    return -sum(p * math.log(p) for p in (abs(float(v)) / total for v in values.ravel()) if p > 0)


def flipped(model: nn.Module, x: np.ndarray, R: np.ndarray, target: int, step: int) -> list[float]:
    """The logit as array entries, largest R first, are replaced by the smallest value of the image, `step` at a time."""
    pixels, curve = x.ravel().copy(), []
    order = sorted(range(R.size), key=lambda i: -float(R.ravel()[i]))
    for begin in range(0, R.size, step):
        for i in order[begin : begin + step]:
            pixels[i] = x.min()
        with torch.no_grad():
            curve.append(model(torch.from_numpy(pixels.reshape(1, *x.shape)))[0, target].item())
    return curve


def test_metrics_by_hand_on_gradient_times_input() -> None:
    model, x = network(), colours()
    R = slope(model, x, CLASSES)
    asked: dict[str, Any] = {"explain_func": explain_func, "explain_func_kwargs": {"composite": "lrp_zero"}}
    sparse = scores(quantus.Sparseness(abs=True, normalise=False, **QUIET), model, x, CLASSES, **asked)
    np.testing.assert_allclose(sparse, [gini(r) for r in R], rtol=1e-4)
    complexity = scores(quantus.Complexity(abs=True, normalise=False, **QUIET), model, x, CLASSES, **asked)
    np.testing.assert_allclose(complexity, [entropy(r) for r in R], rtol=1e-4)
    settings = {"features_in_step": 32, "perturb_baseline": "black", "normalise": False, "abs": False}
    curves = scores(quantus.PixelFlipping(**settings, **QUIET), model, x, CLASSES, **asked)
    expected = [flipped(model, x[i], R[i], int(CLASSES[i]), 32) for i in range(3)]
    np.testing.assert_allclose(curves, expected, rtol=1e-4, atol=1e-5)


def cosine(a: np.ndarray, b: np.ndarray, batched: bool = False) -> np.ndarray:
    """For Quantus, which flattens the maps first: one number a sample."""
    assert batched
    return np.array([float(u @ v) / math.sqrt(float(u @ u) * float(v @ v)) for u, v in zip(a, b, strict=True)])


def test_mprt_explains_the_randomized_models() -> None:
    """The test of Adebayo et al. 2018, layers from the top: here with the copies made by hand."""
    model, x = network(), colours()
    metric = quantus.MPRT(similarity_func=cosine, layer_order="top_down", seed=42, abs=False, normalise=False, **QUIET)
    found = metric(
        model=model, x_batch=x, y_batch=CLASSES, channel_first=True,
        explain_func=explain_func, explain_func_kwargs={"composite": "lrp_zero"},
    )  # fmt: skip
    other, before = copy.deepcopy(model), slope(model, x, CLASSES).reshape(3, -1)
    np.testing.assert_allclose(found["original"], np.ones(3), rtol=1e-5)
    for layer in ("6", "3", "0"):
        torch.manual_seed(43)
        other.get_submodule(layer).reset_parameters()
        now = slope(other, x, CLASSES).reshape(3, -1)
        np.testing.assert_allclose(found[layer], cosine(before, now, batched=True), atol=1e-5)
        assert max(found[layer]) < 0.9
    assert list(found) == ["original", "6", "3", "0"]
    assert np.allclose(explain_func(model, x, CLASSES, composite="lrp_zero").reshape(3, -1), before, atol=1e-6)


@pytest.fixture(scope="module")
def embedded() -> tuple[nn.Module, relprop.Explainer]:
    model = cifar10_lrn()
    return model, relprop.Explainer(model, sample("frog"))


@pytest.mark.parametrize("channels", ["keep", "sum"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [("PixelFlipping", {"features_in_step": 128}), ("MaxSensitivity", {"nr_samples": 2}), ("Sparseness", {})],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_colour_photos(name: str, settings: dict[str, Any], channels: str, embedded: Any) -> None:
    model, explainer = embedded

    def reference(inputs: Any, targets: Any, **_: Any) -> np.ndarray:
        r = explainer(torch.as_tensor(inputs).float(), torch.as_tensor(targets)).relevance
        return (r if channels == "keep" else r.sum(1, keepdim=True)).numpy()

    x, y = torch.cat([sample("frog"), sample("ship")]).numpy(), np.array([6, 8])
    metric, options = getattr(quantus, name)(**settings, **QUIET), {"channels": channels}
    ours = scores(metric, model, x, y, explain_func=explain_func, explain_func_kwargs=options)
    assert np.isfinite(ours).all()
    given = reference(x, y)
    assert given.shape == ((2, 3, 32, 32) if channels == "keep" else (2, 1, 32, 32))
    again = scores(metric, model, x, y, a_batch=given, explain_func=lambda model, **asked: reference(**asked))
    np.testing.assert_allclose(ours, again, rtol=1e-5)


def test_conservation_reaches_quantus_unless_it_normalises() -> None:
    """Whole numbers, so that float32 has no rounding: Quantus compares the sum with f(x) − f(0) exactly."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).eval()
    for weight in model.parameters():
        weight.data = torch.randint(-4, 5, weight.shape).float()
    x = np.array([[0, 3, 1, 2, 5, 4], [2, 0, 1, 3, 3, 1]], np.float32)
    asked: dict[str, Any] = {"explain_func": explain_func, "explain_func_kwargs": {"composite": "lrp_zero"}}
    for normalise, complete in ((False, 1.0), (True, 0.0)):
        metric = quantus.Completeness(abs=False, normalise=normalise, **QUIET)
        assert scores(metric, model, x, np.array([1, 2]), **asked).tolist() == [complete] * 2


def test_evaluate_names_the_recipe_by_its_method() -> None:
    model, x = network(), colours()
    found = quantus.evaluate(
        metrics={"sparse": quantus.Sparseness(abs=True, normalise=False, **QUIET)},
        xai_methods={"lrp_zero": explain_func, "z_plus": explain_func, "my LRP": partial(explain_func, composite="gamma")},
        model=model, x_batch=x, y_batch=CLASSES, explain_func_kwargs={}, agg_func=np.mean,
    )  # fmt: skip
    for label, composite in (("lrp_zero", "lrp_zero"), ("z_plus", "z_plus"), ("my LRP", "gamma")):
        R = direct(model, x, CLASSES, composite=composite)
        assert found[label]["sparse"] == pytest.approx(np.mean([gini(r) for r in R]), rel=1e-4)
