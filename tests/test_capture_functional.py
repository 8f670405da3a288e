"""The graph made functional without a second trace: the same function, or left to torch where that is not plain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

import relprop
from checks import check_same_map
from nets import Net, convolutional, dense, gradient_times_input, images, rows
from relprop import ops
from relprop.capture import capture
from relprop.functional import make_functional

torchvision = pytest.importorskip("torchvision")


def count(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[object]:
    """Every later call adds an entry."""
    calls: list[object] = []
    original = getattr(owner, name)

    def counted(*args: object, **kwargs: object) -> object:
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


def relu_then_sum(m: Net, x: Tensor) -> Tensor:
    y = m.f(x)
    z = y * 3.0  # read before the change
    y.relu_()
    return m.g(y + z)


def chained(m: Net, x: Tensor) -> Tensor:
    y = m.f(x)
    y.mul_(2.0).add_(x).relu_()
    return m.g(y)


def added_to_itself(m: Net, x: Tensor) -> Tensor:
    y = m.f(x)
    y.add_(y)
    return m.g(y)


def through_a_view(m: Net, x: Tensor) -> Tensor:
    y = m.f(x)
    part = y.view(-1, 2, 2)
    y.relu_()
    return m.g(part.reshape(-1, 4))  # sees the change


def of_a_view(m: Net, x: Tensor) -> Tensor:
    y = m.f(x)
    y.t().mul_(2.0)
    return m.g(y)


def through_dropout(m: Net, x: Tensor) -> Tensor:
    y = m.f(x)
    z = F.dropout(y, 0.5, training=False)  # y itself
    y.mul_(2.0)
    return m.g(z)


def through_a_type(m: Net, x: Tensor) -> Tensor:
    y = m.f(x)
    z = y.to(torch.float64)  # y itself
    y.mul_(2.0)
    return m.g(z)


def through_contiguous(m: Net, x: Tensor) -> Tensor:
    y = m.f(x)
    z = y.contiguous()
    y.mul_(2.0)
    return m.g(z)


def rounded(m: Net, x: Tensor) -> Tensor:
    y = m.f(x).float()
    y.add_(x)  # the sum of a float32 and a float64, in float32
    return m.g(y.double())


def of_the_input(m: Net, x: Tensor) -> Tensor:
    x.mul_(2.0)
    return m.g(x)


def of_a_part(m: Net, x: Tensor) -> Tensor:
    y = m.f(x)
    y.narrow(1, 0, 2).mul_(2.0)
    return m.g(y)


def reshaped(m: Net, x: Tensor) -> Tensor:
    y = m.f(x).unflatten(1, (2, -1)).flatten(1).reshape(x.shape[0], -1, 1).flatten(0, 1).view(-1, 4)
    return m.g(y.chunk(2, -1)[0].repeat(1, 2))


PLAIN = (relu_then_sum, chained, added_to_itself, through_dropout)
OTHERS = (through_a_view, of_a_view, through_a_type, through_contiguous, rounded, of_the_input, of_a_part, reshaped)


@pytest.mark.parametrize("forward", [*PLAIN, *OTHERS], ids=lambda f: f.__name__)
def test_ops_in_place_do_what_they_did(forward: Callable[[Net, Tensor], Tensor]) -> None:
    model = Net(forward, f=nn.Linear(4, 4), g=nn.Linear(4, 3))
    e = relprop.explain(model, rows(), composite="lrp_zero")
    check_same_map(e.output, model(rows()).detach(), rtol=1e-12 if forward is not rounded else 1e-6)
    rtol = 1e-9 if forward is not rounded else 1e-5
    check_same_map(e.relevance, gradient_times_input(model, (rows(),))[0], rtol=rtol)


@pytest.mark.parametrize("forward", [*PLAIN, *OTHERS], ids=lambda f: f.__name__)
def test_a_graph_that_counts_as_plain_is_the_recorded_function(forward: Callable[[Net, Tensor], Tensor]) -> None:
    """Without capture's own comparison, which would hide a wrong rewriting behind a second attempt."""
    model = Net(forward, f=nn.Linear(4, 4), g=nn.Linear(4, 3)).eval()
    module = export(model, (rows(),), dynamic_shapes=(({0: Dim.AUTO},),), strict=False).module(check_guards=False)
    plain = make_functional(module)
    assert plain or forward not in PLAIN
    if plain:
        module.graph.lint()
        module.recompile()
        check_same_map(module(rows(3)), model(rows(3)).detach(), rtol=1e-12)
        assert not [n for n in module.graph.nodes if n.op == "call_function" and ops.name(n.target).endswith("_")]


def test_sharing_of_memory_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count(monkeypatch, ExportedProgram, "run_decompositions")
    for forward in (through_a_view, of_a_view, rounded, of_the_input, of_a_part):
        before = len(calls)
        capture(Net(forward, f=nn.Linear(4, 4), g=nn.Linear(4, 3)), rows())
        assert len(calls) > before, forward.__name__


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "mobilenet_v3_small", "shufflenet_v2_x0_5", "convnext_tiny"])
def test_common_networks_are_traced_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    build = getattr(torchvision.models, name)
    model = (build(image_size=64) if name == "vit_b_16" else build()).eval()
    nn.init.normal_(list(model.parameters())[-2])  # a vision transformer starts with a head of zeros
    x = torch.randn(2, 3, 64, 64)
    exports = count(monkeypatch, relprop.capture, "export")
    traces = count(monkeypatch, ExportedProgram, "run_decompositions")
    once = capture(model, x)
    assert (len(exports), len(traces)) == (1, 0)
    kinds = {str(n.target) for n in once.module.graph.nodes if n.op == "call_function"}
    monkeypatch.setattr(relprop.capture, "make_functional", lambda module: False)
    twice = capture(model, x)
    assert len(traces) == 1
    removed = {"aten.clone.default", "aten.contiguous.default", "aten.alias.default"}  # what canonization takes out
    assert kinds - removed == {str(n.target) for n in twice.module.graph.nodes if n.op == "call_function"} - removed
    check_same_map(once.module(x).detach(), twice.module(x).detach(), rtol=1e-5)


# How often a model is run


@pytest.mark.parametrize(("samples", "rows_run"), [(1, 1), (2, 3), (5, 3)])
def test_making_an_explainer_runs_the_model_once_and_its_graph_on_three_samples_at_most(
    samples: int, rows_run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    run = relprop.ready.run

    def counted(captured: Any, tensors: list[Tensor]) -> Tensor:
        ran.append(len(tensors[0]))
        return run(captured, tensors)

    monkeypatch.setattr(relprop.ready, "run", counted)
    models = count(monkeypatch, relprop.ready, "run_once")
    careful = count(monkeypatch, relprop.ready, "capture")
    relprop.Explainer(convolutional(), images(samples), "epsilon")
    assert (sum(ran), len(models), len(careful)) == (rows_run, 1, 0)


MIXING: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "the mean of all": lambda m, x: m.net(x - x.mean(0)),
    "those before": lambda m, x: m.net(x.cumsum(0)),
    "the first": lambda m, x: m.net(x + x[:1]),
    "the first alone": lambda m, x: m.net(x[:1].expand(x.shape)),
    "the last alone": lambda m, x: m.net(x[-1:].expand(x.shape)),
    "the last": lambda m, x: m.net(x + x[-1:]),
    "the neighbour": lambda m, x: m.net(x.roll(1, 0)),
    "in reverse": lambda m, x: m.net(x.flip(0)),
    "a product of all": lambda m, x: m.net(x @ x.T @ x),
    "sorted": lambda m, x: m.net(x.sort(0).values),
    "its place": lambda m, x: m.net(x * (1 + torch.arange(len(x))[:, None])),
}


# not captured for any batch size at all
REFUSED = {"its place"}


@pytest.mark.parametrize("samples", [2, 4])
@pytest.mark.parametrize("how", MIXING)
def test_a_model_whose_samples_influence_each_other_is_not_taken_for_plain(how: str, samples: int) -> None:
    model = Net(MIXING[how], net=dense()).eval()
    x = rows(samples)
    captured = relprop.capture.untried(model, x)
    if captured is None:
        assert how in REFUSED  # before anything is compared
        return
    relprop.canonize.rewrite(captured)
    assert not relprop.ready.is_model(captured, model, [x])


def test_a_rewriting_that_changes_the_function_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even though the passes are compared with the model only once, at the end."""

    def broken(captured: Any) -> list[str]:
        for node in captured.module.graph.nodes:
            if node.op == "call_function" and ops.name(node.target) == "relu":
                node.target = torch.ops.aten.tanh.default
                return ["changed"]
        return []

    passes = (*relprop.canonize.PASSES, broken)
    monkeypatch.setattr(relprop.canonize, "PASSES", passes)
    with pytest.raises(relprop.errors.CanonizeError, match=r"broken changed the function"):
        relprop.Explainer(convolutional(), images(2), "epsilon")
