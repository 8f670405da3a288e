"""`relprop coverage`: what passes and what does not, limits, resuming, how models are settled, the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from relprop import _coverage, cli
from relprop.coverage import measure, page, runner, subject, transformers_zoo, vision, worker, zoos
from relprop.coverage.measure import Row, Tried
from relprop.coverage.runner import Options, Results
from relprop.errors import InputError

MODELS = """
import os, time
import torch
from torch import nn

class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x

class Strange(nn.Module):
    def forward(self, x):
        return torch.linalg.qr(x.reshape(-1, 2, 3))[1].flatten(1)

class Nothing(nn.Module):
    def forward(self, x):
        return x * 0.0

def net():
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), torch.randn(4, 6)

def given(model):
    return lambda: (model(), torch.randn(4, 6))

def crash():
    os._exit(7)

def huge():
    return nn.Linear(1, 1), torch.empty(10, 2**28)  # 10 GiB

MODELS = {
    "net": net, "branches": given(Branches), "strange": given(Strange), "nothing": given(Nothing), "crash": crash,
    "huge": huge, "slow": lambda: time.sleep(600), "broken": lambda: 1 / 0,
}
"""


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file with models, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for console in (_coverage.out, cli.err):
        monkeypatch.setattr(console, "_width", 250)
    Path("net.py").write_text(MODELS)
    return "net.py"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["coverage", *map(str, arguments)])


def tried(zoo: str, model: str) -> Row:
    return worker.tried(zoo, model, ["epsilon", "gamma"])


def test_a_model_that_passes(zoo: str) -> None:
    row = tried(zoo, "net")
    assert (row.passes, row.reason, row.dtype, row.shapes) == (True, "", "float32", "2×6")
    assert row.parameters == 6 * 5 + 5 + 5 * 3 + 3
    assert row.ops == 3
    assert list(row.tried) == ["epsilon", "gamma"]
    for t in row.tried.values():
        assert 0 <= t.error < 1e-5
        assert t.peak > 0
    assert row.versions == f"torch {torch.__version__}"


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("branches", ["cannot be exported", "net.py"]),
        ("strange", ["no rule for linalg_qr"]),
        ("nothing", ["the relevance is zero"]),
        ("broken", ["ZeroDivisionError", "net.py"]),
    ],
)
def test_models_that_do_not_pass_say_why(zoo: str, model: str, parts: list[str]) -> None:
    row = tried(zoo, model)
    assert not row.passes
    assert [p for p in parts if p not in row.reason] == []
    assert list(row.missing) == (["linalg_qr"] if model == "strange" else [])


def test_a_ledger_that_does_not_close_is_no_pass(zoo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "RTOL", -1.0)
    row = tried(zoo, "net")
    assert "the ledger is" in row.reason
    assert row.dtype == "float64"  # the second try, which did not help


def test_rounding_gets_a_second_try_in_float64(zoo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that fails in float32 and passes in float64 passes, and its row says so."""

    def explained(state: Any, given: subject.Subject, recipe: str) -> Tried:
        wide = isinstance(given.inputs, Tensor) and given.inputs.dtype == torch.float64
        return Tried(0.0, 1.0) if wide else Tried(1.0, 1.0, "the ledger is 1 off")

    monkeypatch.setattr(measure, "_explained", explained)
    row = tried(zoo, "net")
    assert row.passes
    assert row.dtype == "float64"
    assert "pass in float64" in page.written([row])


def test_the_command_survives_every_model_and_resumes(zoo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--zoo", zoo, "-o", "table.md", "--composites", "epsilon", "--jobs", 2, "--limit-gigabytes", 6)
    result = run(*arguments, "--only", "[nch][eru]*")  # net, crash and huge
    assert result.exit_code == 0, result.output
    assert "1 of 3 pass; page: table.md" in result.stdout
    rows = {r["model"]: r for r in map(json.loads, Path("table.jsonl").read_text().splitlines())}
    assert sorted(rows) == ["crash", "huge", "net"]
    assert rows["net"]["reason"] == ""
    assert "ended with code 7" in rows["crash"]["reason"]
    assert "memory" in rows["huge"]["reason"]
    assert f"{zoo} crash: the process ended with code 7" in result.stderr
    table = Path("table.md").read_text()
    assert "| net.py | 3 | 1 | 33.3% |" in table

    again: list[str] = []

    def repeated(zoo: str, model: str, options: Options) -> Row:
        again.append(model)
        return Row(zoo, model, recipes=list(options.recipes))

    monkeypatch.setattr(runner, "tried", repeated)
    Path("table.md").unlink()
    assert run(*arguments, "--only", "[nch][eru]*").exit_code == 0
    assert again == []
    assert Path("table.md").read_text() == table
    assert "3 of 3 pass" in run(*arguments, "--only", "[nch][eru]*", "--retry").stdout
    assert sorted(again) == ["crash", "huge"]
    again.clear()
    run("--zoo", zoo, "-o", "table.md", "--composites", "gamma", "--only", "net")  # other composites: a new result
    assert again == ["net"]


def test_the_time_limit_ends_a_model(zoo: str) -> None:
    row = runner.tried(zoo, "slow", Options(("epsilon",), seconds=1))
    assert row.reason == "not done after 1 s"


def test_an_interrupted_run_loses_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(zoo: str, model: str, options: Options) -> Row:
        if model == "b":
            raise KeyboardInterrupt
        return Row(zoo, model, recipes=list(options.recipes))

    monkeypatch.setattr(runner, "tried", interrupted)
    results = Results(tmp_path / "r.jsonl")
    with pytest.raises(KeyboardInterrupt):
        runner.run([("z", "a"), ("z", "b"), ("z", "c")], results, Options(), lambda row: None)
    with (tmp_path / "r.jsonl").open("a") as file:
        file.write('{"zoo": "z", "mod')  # a write that was cut off
    kept = Results(tmp_path / "r.jsonl")
    assert ("z", "a") in kept.rows
    assert ("z", "b") in kept.pending([("z", "a"), ("z", "b")], Options().recipes, retry=False)


def test_a_row_survives_json() -> None:
    row = Row("z", "m", 3, "2×6", "float32", 1.5, 7, {"qr": "no rule"}, {"auto": Tried(1e-7, 2.0, "x")}, "x", ["auto"])
    assert Row.of(json.loads(json.dumps(row.as_dict()))) == row


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--zoo", "keras"), ["--zoo keras", "torchvision, timm, transformers"]),
        (("--zoo", "none.py"), ["--zoo none.py", "no such file"]),
        (("--zoo", "empty.py"), ["--zoo empty.py", "MODELS"]),
        (("--zoo", "net.py", "--only", "x*"), ["--only x*", "net.py"]),
        (("--zoo", "net.py", "--composites", "epsilon,zeta"), ["--composites epsilon,zeta", "epsilon_plus"]),
        (("--zoo", "net.py", "-o", "none/t.md"), ["--output none/t.md", "no folder"]),
    ],
)
def test_what_is_refused(zoo: str, arguments: tuple[str, ...], parts: list[str]) -> None:
    Path("empty.py").write_text("")
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    message = " ".join(result.stderr.split())
    assert [p for p in parts if p not in message] == []


def passing(model: str, **changes: Any) -> Row:
    results = {"epsilon": Tried(2.4e-7, 3.14159), "auto": Tried(1e-6, 0.5)}
    row = Row("timm", model, 1_234_567, "2×3×64×64", "float32", 3.21, 42, {}, results, "", ["epsilon", "auto"])
    return replace(row, **{"versions": "torch 2, timm 1", **changes})


def test_the_page() -> None:
    failed = Row("timm", "bad", 900, "2×3", "float32", 1.0, 5, {"qr": "m"}, {}, "no rule for qr, <a|b>", ["epsilon"])
    died = Row("timm", "died", recipes=["epsilon", "auto"], reason="not done after 1 s")
    nan = passing("nan", tried={"epsilon": Tried(reason="NaN"), "auto": Tried(0.0, 1.0)}, reason="epsilon: NaN")
    text = page.written([passing("good"), passing("wide", dtype="float64"), failed, died, nan])
    assert "composites `epsilon`, `auto`, with these packages: timm 1, torch 2" in text
    assert "| timm | 5 | 2 | 40.0% |" in text
    assert "| good | 1.2 M | 2×3×64×64 | 3.2 | 42 |  | 2e-07 | 3.1 | 1e-06 | 0.5 | pass |" in text
    assert "| wide | 1.2 M | 2×3×64×64 | 3.2 | 42 |  | 2e-07 | 3.1 | 1e-06 | 0.5 | pass in float64 |" in text
    assert "| bad | 1 k | 2×3 | 1.0 | 5 | qr |  |  |  |  | no |" in text
    assert "| died |  |  |  |  |  |  |  |  |  | no |" in text
    assert "| not finite | not finite | 0e+00 | 1 | no |" in text
    assert "3 of 5 do not pass:" in text
    assert "- **bad**: no rule for qr, \\<a\\|b\\>" in text
    table = [line for line in text.splitlines() if (line.startswith("| ") and "good" in line) or "| bad |" in line]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1


def test_constant_parameters_are_awakened() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 60), nn.LayerNorm(60), nn.BatchNorm1d(60), nn.Linear(60, 70))
    model.register_parameter("gamma", nn.Parameter(torch.full((500,), 1e-5)))
    first = model[0].weight.detach().clone()
    with torch.no_grad():
        for p in (model[1].weight, model[3].weight, model[3].bias):
            p.zero_()
    subject.awaken(model)
    now = {name: p.detach() for name, p in model.named_parameters()}
    assert torch.equal(now["0.weight"], first)
    assert bool((now["2.weight"] == 1).all())  # a constant that hides nothing
    assert 0.5 <= float(now["1.weight"].min()) < float(now["1.weight"].max()) <= 1.0
    assert float(now["3.weight"].std()) == pytest.approx(60**-0.5, rel=0.05)
    assert float(now["3.bias"].std()) == pytest.approx(0.02, rel=0.3)
    assert float(now["gamma"].std()) == pytest.approx(0.1, rel=0.2)


def test_batch_norm_takes_the_statistics_of_the_inputs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=0.3))
    made = subject.subject(model, 5 + 2 * torch.randn(4, 3, 8, 8))
    assert isinstance(made.inputs, Tensor)
    assert made.inputs.shape == (2, 3, 8, 8)
    assert not made.shares
    assert not any(m.training for m in model.modules())
    assert model[1].momentum == 0.3
    torch.manual_seed(1)
    x = 5 + 2 * torch.randn(4, 3, 8, 8)
    settled = subject.subject(model, x).model(x).detach()
    torch.testing.assert_close(settled.mean((0, 2, 3)), model[1].bias.detach(), atol=1e-4, rtol=0)
    torch.testing.assert_close(settled.var((0, 2, 3)), torch.ones(4), atol=1e-2, rtol=0)


def test_inputs_that_samples_share_are_kept_whole() -> None:
    model = nn.Bilinear(3, 3, 2)
    images, words = torch.randn(4, 3), torch.randn(3, 3)

    class Compare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor, words: Tensor) -> Tensor:
            return images @ words.T

    made = subject.subject(Compare(), {"images": images, "words": words})
    assert isinstance(made.inputs, dict)
    assert {name: len(t) for name, t in made.inputs.items()} == {"images": 2, "words": 3}
    assert made.shares
    one = made.single()
    assert isinstance(one.inputs, dict)
    assert {name: len(t) for name, t in one.inputs.items()} == {"images": 1, "words": 3}
    wide = made.double()
    assert isinstance(wide.inputs, dict)
    assert wide.inputs["words"].dtype == torch.float64


def test_the_explained_score() -> None:
    peak = subject.peak
    assert peak(torch.tensor([3.0, -1.0])).tolist() == [3.0, -1.0]
    assert peak(torch.tensor([[1.0, 4.0], [2.0, -1.0]])).tolist() == [4.0, 2.0]
    sequence = torch.tensor([[[9.0, 0.0], [1.0, 5.0]]])  # a sample, two positions, two numbers each
    assert peak(sequence).tolist() == [5.0]
    map_ = torch.tensor([[[[1.0, 3.0]], [[5.0, -2.0]]]])  # two classes on two pixels: means 2 and 1.5
    assert peak(map_).tolist() == [2.0]


def test_the_first_size_that_fits() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    x = subject.first_fitting(model, [torch.zeros(1, 2), torch.zeros(1, 12), torch.zeros(1, 12) + 1])
    assert float(x.sum()) == 0.0
    with pytest.raises(InputError, match="no input size fits"):
        subject.first_fitting(model, [torch.zeros(1, 2)])


def test_timm_offers_the_smallest_of_every_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("timm.list_modules", lambda: ["one", "two"])
    monkeypatch.setattr(
        "timm.list_models", lambda module: {"one": ["resnet10t", "test_resnet"], "two": ["lcnet_035"]}[module]
    )
    assert zoos.zoo("timm").names() == ["test_resnet", "lcnet_035"]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("counted twice")

    monkeypatch.setattr("timm.create_model", never)
    assert zoos.zoo("timm").names() == ["test_resnet", "lcnet_035"]
    (file,) = tmp_path.rglob("*.json")
    file.write_text("{")  # a write that was cut off
    with pytest.raises(AssertionError, match="counted twice"):
        vision.timm_names()


def test_torchvision_lists_classification_segmentation_and_video() -> None:
    names = zoos.zoo("torchvision").names()
    assert {"resnet18", "vit_h_14", "fcn_resnet50", "mvit_v2_s", "swin3d_t"} <= set(names)
    assert not {"fasterrcnn_resnet50_fpn", "raft_small", "quantized_resnet18"} & set(names)
    assert len(names) == len(set(names))


def test_transformers_has_models_of_every_kind() -> None:
    import transformers

    names = zoos.zoo("transformers").names()
    assert len(names) >= 55
    kinds = (
        "bert modernbert gpt2 llama qwen3 gemma3 mixtral deepseek_v3 t5 bart mamba mamba2 rwkv jamba vit dinov2 swin"
    )
    kinds += " convnextv2 wav2vec2 whisper clip siglip llava"
    assert not set(kinds.split()) - set(names)
    assert not {entry.kind for entry in transformers_zoo.ENTRIES.values()} - set(dir(transformers))


SMALL: dict[str, Callable[[subject.Subject], object]] = {
    "gpt2": lambda made: made.inputs["input_ids"].shape == (2, 10),  # type: ignore[call-overload, index]
    "clip": lambda made: made.inputs["pixel_values"].shape == (2, 3, 32, 32),  # type: ignore[call-overload, index]
}


@pytest.mark.parametrize("name", SMALL)
def test_transformers_models_are_built_small_and_the_same_each_time(name: str) -> None:
    first, second = zoos.built("transformers", name), zoos.built("transformers", name)
    assert SMALL[name](first)
    assert sum(p.numel() for p in first.model.parameters()) < 100_000
    for (key, a), b in zip(first.model.state_dict().items(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
