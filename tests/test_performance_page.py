"""docs/performance.md is what its results give; and the measures it rests on give known values on known cases."""

from __future__ import annotations

import json
import platform
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # benchmarks are run from the root and are no part of the package

from benchmarks.speed import (  # noqa: E402
    clock,
    command,
    flops,
    goals,
    machine,
    measure,
    memory,
    page,
    peer_lxt,
    results,
    subjects,
    works,
)
from benchmarks.speed.results import Row  # noqa: E402

DOCS = ROOT / "docs"
RESULTS = DOCS / "performance" / "results.jsonl"
ABOUT = {"processor": "P", "cores": "2", "threads": "1", "versions": "torch 2"}


def committed() -> list[Row]:
    return list(results.read(RESULTS).values())


# the page


def test_the_page_is_that_of_its_results() -> None:
    assert (DOCS / "performance.md").read_text(encoding="utf-8") == page.written(committed())


def test_every_line_of_the_results_is_a_row() -> None:
    lines = RESULTS.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(committed()) > 30
    for row in committed():
        assert row.error or (row.machine and row.setting and all(t > 0 for t in row.seconds + row.gradient_seconds))
        assert len(row.gradient_seconds) in (0, len(row.seconds))
        assert row.error or row.library == "gradient" or row.variant.startswith("construct") or row.peak > 0


def test_no_name_of_a_machine_is_published() -> None:
    for file in (RESULTS, DOCS / "performance.md"):
        text = file.read_text(encoding="utf-8")
        assert platform.node() not in text.split()
        assert "/tmp" not in text
        assert "/home" not in text


def made_up() -> list[Row]:
    common: dict[str, Any] = {
        "setting": "1 M parameters",
        "machine": ABOUT,
        "gradient_flops": 100,
        "gradient_peak": 100,
    }

    def row(library: str, recipe: str = "", variant: str = "", seconds: float = 1.0, **more: Any) -> Row:
        times = {"seconds": [seconds * t for t in (1, 2, 4)], "gradient_seconds": [1.0, 2.0, 4.0]}
        return Row("vgg16", library, recipe, variant, **{**common, **times, **more})

    return [
        row("gradient", flops=100, peak=100),
        row(
            "relprop", "epsilon", seconds=1.05, flops=100, peak=110, kept=2_000_000, sums=[0.5, 3.0], scores=[1.0, 3.0]
        ),
        row("relprop", "epsilon", "compile", seconds=1.5, peak=120, sums=[1.0, 3.0], scores=[1.0, 3.0], cosine=1.0),
        row("relprop", "epsilon_gamma_box", seconds=3.0, flops=150, peak=130, sums=[1.0], scores=[1.0]),
        row("zennit", "epsilon", seconds=2.52, flops=200, peak=300, sums=[9.0], scores=[1.0], cosine=0.5),
        row("zennit", "epsilon_gamma_box", seconds=6.0, flops=500, peak=300, sums=[1.0], scores=[1.0], cosine=0.999),
        Row("vgg16", "lxt", "attnlrp", error="ImportError: cannot import a|b from 'c' (…/d.py)"),
        Row("vgg16", "relprop", "epsilon", "construct, first", seconds=[5.0], machine=ABOUT),
        Row("vgg16", "relprop", "epsilon", "construct, again", seconds=[3.0, 1.5, 2.0], machine=ABOUT),
    ]


def test_a_table() -> None:
    text = page.written(made_up())
    assert "| `epsilon` | relprop | 1.05 (1.05 … 1.05) | 3 | 2100 | 1.000 | 1.05 | 1.10 | 2.0 | 0.750 |  |  |" in text
    assert "| `epsilon`, `compile=True` | relprop | 1.50 (1.50 … 1.50) | 3 | 3000 |  |  | 1.20 |" in text
    assert "| 0.5000 | ΣR / score is 9, relprop's 0.75; another map |" in text
    assert "| 0.9990 |  |" in text
    assert "ended with ImportError: cannot import a\\|b from 'c' (…/d.py) |" in text
    assert "| VGG-16 | 5.00 | 1.50 |" in text
    assert "P, 2 cores, 1 threads of torch; torch 2." in text
    lines = [line.replace("\\|", "") for line in text.splitlines() if line.startswith(("| `", "| recipe", "|  | grad"))]
    assert len(lines) == 9 - 2 + 1
    assert len({line.count("|") for line in lines}) == 1


def test_goals_say_what_is_reached_and_what_is_not() -> None:
    found = {(g.about, g.where): g for g in goals.goals(made_up(), "cpu")}

    def check(about: str, where: str, value: float, reached: bool) -> None:
        goal = found.pop((about, f"VGG-16, {where}"))
        assert goal.value == pytest.approx(value)
        assert goal.reached == reached

    check("FLOPs over the gradient's", "`epsilon`", 1.0, True)
    check("FLOPs over the gradient's", "`epsilon_gamma_box`", 1.5, True)
    check("time ratio over FLOP ratio", "`epsilon`", 1.05, True)
    check("time ratio over FLOP ratio", "`epsilon_gamma_box`", 2.0, False)
    check("zennit's time over relprop's", "`epsilon`", 2.4, True)
    check("zennit's time over relprop's", "`epsilon_gamma_box`", 2.0, False)
    check("compiled time over eager time", "`epsilon`", 1.5 / 1.05, False)
    check("peak memory over the gradient's", "`epsilon`", 1.1, True)
    check("peak memory over the gradient's", "`epsilon_gamma_box`", 1.3, False)
    check("capture and emission", "`epsilon`, first in a process", 5.0, False)
    check("capture and emission", "`epsilon`, best of 3 more", 1.5, True)
    assert not found
    table = goals.table(made_up())
    assert "CPU: 6 of 11 reached." in table
    assert table.index("**no**") < table.index("| yes |")


def test_the_command_writes_page_and_plot_from_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "performance"
    results.write(folder / "results.jsonl", made_up())
    monkeypatch.setattr(sys, "argv", ["speed", "--page", "--output", str(folder)])
    command.main()
    assert (tmp_path / "performance.md").read_text(encoding="utf-8") == page.written(made_up())
    assert (folder / "ratios.png").read_bytes().startswith(b"\x89PNG")


# rows


def test_rows_survive_an_interruption(tmp_path: Path) -> None:
    file = tmp_path / "some" / "rows.jsonl"
    first, second = made_up()[:2]
    results.append(file, first)
    results.append(file, second)
    second.seconds = [7.0]
    second.gradient_seconds = [2.0]
    results.append(file, second)
    with file.open("a") as out:
        out.write('{"subject": "vg')
    assert list(results.read(file).values()) == [first, second]
    assert second.time_ratio == (3.5, 3.5, 3.5)


def test_an_error_in_one_line_without_folders() -> None:
    assert results.first_line("no a/b in 'c' (/some/place/d.py)\nmore") == "no a/b in 'c' (…/d.py)"
    assert results.first_line("") == ""
    assert measure._said(ValueError("  '/x/y/z' or …/w ")) == "ValueError: '…/z' or …/w"
    assert measure._said(RuntimeError()) == "RuntimeError"


def test_ratios_are_taken_round_by_round() -> None:
    row = Row("cnn", "relprop", seconds=[2.0, 30.0, 400.0], gradient_seconds=[1.0, 10.0, 100.0])
    assert row.time_ratio == (2.5, 3.0, 3.5)
    assert Row("cnn", "relprop").time_ratio is None
    assert Row("cnn", "x", sums=[float("nan")], scores=[1.0]).sum_ratio is None


def test_what_is_measured_already_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.jsonl"
    monkeypatch.setattr(sys, "argv", ["speed", "--models", "cnn,resnet50", "--devices", "cpu"])
    assert [(t.subject, t.kind, t.skip) for t in command.tasks(command.arguments(), file)] == [
        ("cnn", "explain", ()), ("resnet50", "construct", ()), ("resnet50", "explain", ()),
    ]  # fmt: skip
    results.append(file, Row("cnn", "captum", "epsilon", error="TypeError"))
    results.append(file, Row("resnet50", "relprop", "epsilon", "construct, first", seconds=[1.0]))
    results.append(file, Row("resnet50", "gradient"))
    (task,) = command.tasks(command.arguments(), file)
    assert (task.subject, task.kind, task.skip) == ("cnn", "explain", (("captum", "epsilon", ""),))


def test_new_rows_take_the_place_of_old_ones() -> None:
    def keyed(*rows: Row) -> dict[results.Key, Row]:
        return {row.key: row for row in rows}

    other = Row("cnn", "gradient", setting="small")
    ours, peer = Row("bert", "relprop", setting="small"), Row("bert", "zennit", setting="small")
    again, larger = Row("bert", "relprop", setting="small", flops=1), Row("bert", "relprop", setting="large")
    elsewhere = Row("bert", "relprop", device="cuda", setting="small")
    old = keyed(other, ours, peer, elsewhere)
    assert command.joined(old, {}, part=False) == old
    assert command.joined(old, keyed(again), part=False) == keyed(other, elsewhere, again)
    assert command.joined(old, keyed(again), part=True) == keyed(other, peer, elsewhere, again)
    assert command.joined(old, keyed(larger), part=True) == keyed(other, elsewhere, larger)


def test_what_ends_a_process_is_a_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    task = command.Task("nothing", "cpu", str(file))
    command.perform(task)
    (row,) = results.read(file).values()
    assert row.error == "the process ended with code 1: KeyError: 'nothing'"


# measures


def test_peak_memory_of_known_tensors() -> None:
    before = torch.empty(1000, 1000)

    def work() -> Tensor:
        nonlocal before
        first = torch.empty(1000, 1000)
        second = torch.empty(500, 1000)
        del first
        third = torch.empty(750, 1000)
        del second
        return third  # 4 MB, 6 MB, 2 MB, 5 MB, 3 MB

    peak, result = memory.peak(work, "cpu")
    assert peak == 6_000_000
    assert result.shape == (750, 1000)
    assert memory.peak(lambda: before.sum(), "cpu")[0] < 1000


def test_bytes_that_stay() -> None:
    before = memory.held()
    kept = nn.Linear(100, 1000, bias=False)
    also = kept.weight.detach()  # the same storage
    torch.empty(500)
    alive: list[Tensor] = []
    torch.func.grad(lambda t: alive.append(t) or t.sum())(torch.empty(0))  # type: ignore[func-returns-value]
    assert memory.added(before, memory.held()) == 400_000
    del kept, also
    assert memory.added(before, memory.held()) == 0


def test_flops_of_a_layer_and_its_gradient() -> None:
    model = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
    explain = works.gradient(model)
    x, labels = torch.randn(2, 7), torch.tensor([0, 2])
    forward = 2 * 2 * (7 * 5 + 5 * 3)
    assert flops.flops(lambda: model(x))[0] == forward
    with torch.no_grad():
        assert flops.flops(lambda: model(x))[0] == forward
    counted, found = flops.flops(lambda: explain(x, labels))
    assert counted == 2 * forward
    given = x.clone().requires_grad_()
    model(given)[[0, 1], labels].sum().backward()
    torch.testing.assert_close(found, given.grad)


class Told(clock.Clock):
    """A clock that is told how long works take."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.calls: list[tuple[str, int]] = []

    def seconds(self, run: Callable[[], object], calls: int = 1) -> float:
        name, taken = run()  # type: ignore[misc]
        self.calls.append((name, calls))
        return float(taken)


def test_works_take_turns_beside_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 10_000, 100))  # so much time passes that the gradient is measured before each work
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    told = Told()
    runs = {"short": lambda: ("short", 0.01), "long": lambda: ("long", 4.0)}
    found = told.alternate(lambda: ("gradient", 2.0), runs, rounds=5, share=13.0)
    assert found == {"short": [(0.01, 2.0)] * 5, "long": [(4.0, 2.0)] * 3}  # a fourth would take 16 s
    turns = [name for name, _ in told.calls]
    assert turns[:3] == ["gradient", "gradient", "short"]  # how many calls make a measurement is found out first
    assert ("short", 5) in told.calls
    assert ("long", 1) in told.calls


def test_of_some_works_fewer_measurements_are_enough() -> None:
    told = Told()
    runs = {"long": lambda: ("long", 4.0), "peer": lambda: ("peer", 9.0)}
    found = told.alternate(lambda: ("gradient", 2.0), runs, 5, 1.0, {"peer": 2}, runs)
    assert {name: len(times) for name, times in found.items()} == {"long": 3, "peer": 2}


def test_the_gradient_is_not_measured_more_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    told = Told()
    told.alternate(lambda: ("gradient", 2.0), {"a": lambda: ("a", 1.0)}, rounds=4, slow={"a"})
    assert [name for name, _ in told.calls] == ["gradient", "gradient", "a", "a", "a", "a"]


def test_a_work_that_hangs_is_ended() -> None:
    with pytest.raises(TimeoutError, match="not done after 0 s"), clock.limit(0.05):
        time.sleep(30)
    with clock.limit(0.05):
        pass
    time.sleep(0.1)  # the alarm is off


def test_replacements_are_taken_back() -> None:
    module, kind = types.SimpleNamespace(f="old", same=1), type("Kind", (), {"forward": "old"})

    def change() -> None:
        module.f, module.new, kind.forward = "new", "new", "new"  # type: ignore[attr-defined]

    replacements = peer_lxt.Replacements([module, kind], change)
    assert vars(module) == {"f": "old", "same": 1}
    with replacements.in_force():
        assert vars(module) == {"f": "new", "same": 1, "new": "new"}
        assert kind.forward == "new"  # type: ignore[attr-defined]
    assert vars(module) == {"f": "old", "same": 1}
    assert kind.forward == "old"  # type: ignore[attr-defined]


def test_machine_names_processor_and_versions() -> None:
    about = machine.describe("cpu")
    assert f"torch {torch.__version__}" in about["versions"]
    assert about["threads"] == str(torch.get_num_threads())
    assert "gpu" not in about
    assert json.dumps(about)


# one subject, from its model to rows


def test_a_subject_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    made = subjects.subject("cnn", quick=True)
    monkeypatch.setattr(measure.works, "VARIANTS", {"checkpoint": {"checkpoint": True}})
    monkeypatch.setattr(clock, "SHORTEST", 0.0)
    skip = frozenset(("relprop", recipe, "") for recipe in subjects.KINDS["cnn"].recipes if recipe != "epsilon")
    plan = measure.Plan(rounds=2, quick=True, skip=skip, libraries=("relprop", "zennit"))
    broken = works.Work("zennit", "epsilon", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(measure.peers, "explanations", lambda made: [broken])
    rows = {(r.library, r.recipe, r.variant): r for r in measure.measured("cnn", "cpu", plan)}
    assert rows.pop(("zennit", "epsilon", "")).error == "ZeroDivisionError: division by zero"
    assert set(rows) == {("gradient", "", ""), ("relprop", "epsilon", ""), ("relprop", "epsilon", "checkpoint")}
    forward = 2 * (32 * 32 * 16 * 27 + 32 * 32 * 16 * 144 + 16 * 16 * 32 * 144 + 2048 * 10)
    for row in rows.values():
        assert not row.error
        assert len(row.seconds) == len(row.gradient_seconds) == 2
        assert row.gradient_flops == 2 * forward
        assert row.gradient_peak > 4 * 2 * 16 * 32 * 32  # at least the output of the first layer and its gradient
        assert row.setting == "27.9 k parameters, input 1×3×32×32, float32"
    plain, again = rows["relprop", "epsilon", ""], rows["relprop", "epsilon", "checkpoint"]
    with torch.no_grad():
        assert plain.scores == pytest.approx(made.model(made.x).max(1).values.tolist(), rel=1e-4)
    assert again.sums == pytest.approx(plain.sums, rel=1e-3)
    assert again.cosine == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", [n for n in subjects.KINDS if n not in ("vgg16", "resnet50", "vit_b_16", "llama_1b")])
def test_a_subject_has_logits_and_a_class(name: str) -> None:
    if subjects.KINDS[name].family:
        pytest.importorskip("transformers")
    made = subjects.subject(name, quick=True)
    with torch.no_grad():
        logits = made.model(made.x)
    assert logits.dim() == 2
    assert made.labels.tolist() == logits.argmax(1).tolist()
    assert bool(torch.isfinite(logits).all())
    assert not any(m.training for m in made.model.modules())
