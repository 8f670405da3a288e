"""Models that accelerate placed: hooks on forward, weights on disk or in another memory, layers on several devices.

The relevance must be that of the same model without hooks, and the user's model the same after, hooks included. Real
splits are run on stand-ins for tensors (torch's fake tensors), which refuse an op whose operands are on two devices.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

import relprop
from checks import check_same_map
from relprop import canonize, capture, composites, graph
from relprop.errors import CaptureError, InputError
from relprop.program import emit
from unchanged import unchanged

accelerate = pytest.importorskip("accelerate")
hooks = pytest.importorskip("accelerate.hooks")

CPU = torch.device("cpu")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 16, 6),
        nn.LayerNorm(6), nn.Linear(6, 3),
    ).double().eval()  # fmt: skip
    model[1].running_mean.uniform_()
    return model


def images(samples: int = 3) -> Tensor:
    return torch.randn(samples, 2, 6, 6, generator=torch.Generator().manual_seed(1)).double()


def hooked(model: nn.Sequential) -> nn.Module:
    for layer in model:
        hooks.add_hook_to_module(layer, hooks.AlignDevicesHook("cpu", io_same_device=True))
    return model


def offloaded(model: nn.Sequential, **options: Any) -> nn.Module:
    accelerate.cpu_offload(model, execution_device=CPU, **options)
    return model


def on_disk(model: nn.Sequential, folder: Path) -> nn.Module:
    accelerate.disk_offload(model, str(folder), execution_device=CPU)
    return model


class Doubling(hooks.ModelHook):
    """A hook that is part of the function."""

    def __init__(self) -> None:
        self.calls = 0

    def post_forward(self, module: nn.Module, output: Tensor) -> Tensor:
        self.calls += 1
        return 2 * output


def also_doubling(model: nn.Sequential) -> nn.Module:
    hooks.add_hook_to_module(model[4], hooks.AlignDevicesHook("cpu"))
    hooks.add_hook_to_module(model[4], Doubling(), append=True)
    return model


WAYS: dict[str, Callable[[nn.Sequential, Path], nn.Module]] = {
    "a hook on every layer": lambda m, p: hooked(m),
    "device_map": lambda m, p: accelerate.dispatch_model(m, {"": "cpu"}, force_hooks=True),
    "weights in another memory": lambda m, p: offloaded(m),
    "weights and buffers in another memory": lambda m, p: offloaded(m, offload_buffers=True),
    "weights on disk": on_disk,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_placed_model_gets_the_relevance_of_the_plain_one(way: str, tmp_path: Path) -> None:
    x, plain = images(), relprop.Explainer(network(), images(), "epsilon")
    model = WAYS[way](network(), tmp_path)
    with unchanged(model, x):
        explainer = relprop.Explainer(model, x, "epsilon")
        e = explainer(x, ledger=True)
        one = explainer(x[:1], target=1)
    check_same_map(e.relevance, plain(x).relevance, rtol=1e-12)
    check_same_map(one.relevance, plain(x[:1], target=1).relevance, rtol=1e-12)
    check_same_map(e.output, model(x), rtol=1e-12)
    assert e.ledger.closes()


@pytest.mark.parametrize("way", WAYS)
def test_a_placed_model_can_be_run_between_explanations(way: str, tmp_path: Path) -> None:
    model, x = WAYS[way](network(), tmp_path), images()
    explainer = relprop.Explainer(model, x, "epsilon")
    before = explainer(x).relevance
    model(x)  # loads the weights, and puts them away again
    check_same_map(explainer(x).relevance, before, rtol=1e-12)


def test_a_hook_that_computes_is_part_of_the_function() -> None:
    model, x = also_doubling(network()), images()
    e = relprop.explain(model, x, composite="epsilon")
    assert model[4]._hf_hook.hooks[1].calls == 0
    check_same_map(e.output, model(x), rtol=1e-12)
    doubled = network()
    doubled[4].weight.data *= 2
    doubled[4].bias.data *= 2
    check_same_map(e.relevance, relprop.explain(doubled, x, composite="epsilon").relevance, rtol=1e-9)


def test_the_copy_holds_nothing_of_the_users_model() -> None:
    model = hooked(network())
    copied = capture.clone(model)
    assert not any(hasattr(m, "_hf_hook") or hasattr(m, "_old_forward") for m in copied.modules())
    assert all(getattr(m.forward, "__self__", None) is m for m in copied.modules())
    assert [id(p) for p in copied.parameters()] == [id(p) for p in model.parameters()]


def test_an_offloaded_weight_that_cannot_be_found_is_an_error_with_a_remedy() -> None:
    model = offloaded(network())
    model[4]._hf_hook.weights_map = {}
    with unchanged(model, x := images()), pytest.raises(CaptureError, match=r"4\.weight is offloaded.*device_map=None"):
        relprop.explain(model, x)


def test_a_model_without_values_is_refused_as_before() -> None:
    with pytest.raises(InputError, match="meta device"):
        relprop.explain(network().to("meta"), images())


# transformers' device_map


def test_a_saved_language_model_loaded_with_device_map(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50, num_labels=3
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    load = transformers.BertForSequenceClassification.from_pretrained
    ids = torch.randint(1, 50, (2, 7), generator=torch.Generator().manual_seed(2))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = relprop.explain(load(tmp_path / "model").eval(), inputs, composite="attnlrp").relevance
    parts = {"bert.embeddings": "cpu", "bert.encoder.layer.0": "disk", "bert.encoder.layer.1": "cpu", "bert.pooler": "cpu",
             "dropout": "cpu", "classifier": "cpu"}  # fmt: skip
    for device_map in ({"": "cpu"}, parts):
        model = load(tmp_path / "model", device_map=device_map, offload_folder=str(tmp_path / "disk")).eval()
        actual = relprop.explain(model, inputs, composite="attnlrp").relevance
        check_same_map(actual["input_ids"], expected["input_ids"], rtol=1e-5)


# Several devices


class Block(nn.Module):
    def __init__(self, device: str) -> None:
        super().__init__()
        self.a, self.b = (nn.Linear(6, 6, device=device) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.gelu(self.a(x)))


def split() -> nn.Module:
    """Made under a FakeTensorMode: the first half on one GPU, the second on another, inputs and outputs on the CPU."""
    model = nn.Sequential(
        nn.Conv1d(2, 2, 3, device="cuda:0"), nn.ReLU(), Block("cuda:0"), Block("cuda:1"), nn.Flatten(),
        nn.Linear(12, 3, device="cuda:1"),
    ).eval()  # fmt: skip
    for layer, device in zip(model, (0, 0, 0, 1, 1, 1), strict=True):
        hooks.add_hook_to_module(layer, hooks.AlignDevicesHook(device))
    return hooks.add_hook_to_module(model, hooks.AlignDevicesHook(0, io_same_device=True))


@pytest.mark.parametrize("ledger", [False, True])
def test_every_op_of_a_split_model_meets_its_operands_on_one_device(
    ledger: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for guard in ("check_inputs", "check_weights"):  # stand-ins have no values
        monkeypatch.setattr(capture, guard, lambda *args: None)
    with FakeTensorMode() as mode:
        x = torch.randn(2, 2, 8)
        captured = capture.untried(split(), x)
    assert captured is not None
    explained = canonize.rewrite(captured)
    devices = {str(n.meta["val"].device) for n in captured.module.graph.nodes if isinstance(n.meta.get("val"), Tensor)}
    assert devices == {"cpu", "cuda:0", "cuda:1"}
    reading = graph.Reading(captured.module.graph, captured.explained, explained)
    assignment = composites.assign(composites.get("epsilon"), reading)
    assignment.check(reading)
    program = emit(captured, reading, assignment, explained, ledger=ledger)
    with mode:  # an op with operands on two devices raises
        output, score, _, relevance, *_ = program.whole(x, None)
    assert output.device == score.device == relevance[0].device == x.device
    assert relevance[0].shape == x.shape
