"""Requests as large as memory allows: what is needed is foreseen, what is free is known, and running short is no end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop
from checks import check_same_map
from nets import convolutional, dense, images, rows
from refusals import refuse
from relprop import composites, memory, prepared, values
from relprop.errors import RelpropError
from relprop.explanation import Explanation
from relprop.ops import Family
from relprop.rules import Call, rule
from tiny_vit import SPELLINGS as VITS
from tiny_vit import Sizes as VitSizes
from tiny_vit import TinyVit


def allocated(call: Callable[[], object]) -> int:
    """Bytes at the peak of a call beyond those before it, as torch's profiler saw them allocated and freed."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds, profile_memory=True) as profile:
        call()
    now = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def vgg() -> nn.Module:
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 10))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, 2, 1), nn.Linear(16, 10)
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(x + norm(conv(x)))
        return self.last(x.mean((2, 3)))


class Unrolled(nn.Module):
    """A loop over the samples: captured for one, and run sample by sample."""

    def __init__(self) -> None:
        super().__init__()
        self.net = vgg()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.net(row[None]) for row in x])


def transformer() -> nn.Module:
    model = TinyVit(VitSizes(16, 2, 32, 64, 4, 2, 10), VITS["nn.MultiheadAttention"])
    for p in model.parameters():
        nn.init.normal_(p, 0.0, 0.1)
    return model


BIG: dict[str, Callable[[], nn.Module]] = {
    "vgg": vgg, "residual": Residual, "transformer": transformer, "unrolled": Unrolled,
}  # fmt: skip


def chunk_sizes(explain: Callable[[], object], free: float | None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples are run at a time where so many bytes of memory may be planned with (None: nobody knows)."""
    sizes: list[int] = []
    run = prepared.Prepared.run

    def recorded(self: Any, program: Any, tensors: list[Tensor], *rest: Any) -> Explanation:
        sizes.append(len(tensors[0]))
        return run(self, program, tensors, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(memory, "available", lambda device: None if free is None else int(free / memory.SHARE))
        patch.setattr(prepared.Prepared, "run", recorded)
        explain()
    return sizes


@pytest.mark.parametrize(("composite", "dtype"), [("epsilon", torch.float32), ("alpha_beta", torch.float64)])
@pytest.mark.parametrize("kind", BIG)
def test_the_need_is_foreseen(kind: str, composite: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never too little but for a few kilobytes, and not twice too much: read off the chunks at budgets around it."""
    torch.manual_seed(0)
    model, x = BIG[kind]().to(dtype).eval(), torch.randn(16, 3, 16, 16, dtype=dtype)
    explainer = relprop.Explainer(model, x, composite, max_batch="auto")
    explainer(x, 0)
    for samples in (1, 4, 16):

        def call(n: int = samples) -> Explanation:
            return explainer(x[:n], 0)

        used = allocated(call)
        assert chunk_sizes(call, 2 * used + 100_000, monkeypatch) == [samples]
        if samples > 1:
            assert len(chunk_sizes(call, 0.98 * used - 50_000, monkeypatch)) > 1


def test_what_conv_layers_take_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lone convolution, whose kernel takes as much as it returns: the peak is inside the call."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.Flatten(), nn.Linear(32 * 256, 2)).eval()
    x = torch.randn(16, 8, 16, 16)
    explainer = relprop.Explainer(model, x, "epsilon", max_batch="auto")
    used = allocated(lambda: explainer(x, 0))
    assert chunk_sizes(lambda: explainer(x, 0), 2 * used, monkeypatch) == [16]
    assert len(chunk_sizes(lambda: explainer(x, 0), 0.98 * used, monkeypatch)) > 1


@pytest.mark.parametrize("kind", BIG)
def test_memory_falls_with_the_chunks(kind: str) -> None:
    torch.manual_seed(0)
    model, x = BIG[kind]().eval(), torch.randn(24, 3, 16, 16)
    whole, parts = (relprop.Explainer(model, x, "epsilon", max_batch=n) for n in (None, 2))
    for explainer in (whole, parts):
        explainer(x, 0)
    assert allocated(lambda: parts(x, 0)) < 0.35 * allocated(lambda: whole(x, 0))


@pytest.mark.parametrize("kind", BIG)
def test_auto_takes_as_many_as_fit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks stay within the budget, and a chunk twice as large would not."""
    torch.manual_seed(0)
    model, x = BIG[kind]().double().eval(), torch.randn(24, 3, 16, 16, dtype=torch.float64)
    explainer = relprop.Explainer(model, x, "epsilon", max_batch="auto")
    expected = relprop.explain(model, x, 0, "epsilon")
    budget = 0.5 * allocated(lambda: explainer(x, 0))
    found: list[Explanation] = []
    sizes = chunk_sizes(lambda: found.append(explainer(x, 0)), budget, monkeypatch)
    assert sum(sizes) == 24
    assert max(sizes) - min(sizes) <= 1
    check_same_map(found[0].relevance, expected.relevance, 1e-12)
    assert allocated(lambda: explainer(x[: max(sizes)], 0)) < budget
    assert allocated(lambda: explainer(x[: 3 * max(sizes)], 0)) > budget


def test_where_nobody_knows_what_is_free_all_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = relprop.Explainer(dense(), rows(7), "epsilon", max_batch="auto")
    assert chunk_sizes(lambda: explainer(rows(7), 0), None, monkeypatch) == [7]


@rule(Family.AFFINE, source="a test")
def looking(R: Tensor, f: Call) -> Tensor:
    """R_j = R / J, by a rule that decides on values: it cannot be rehearsed without them"""
    share = R.sum(1, keepdim=True).expand_as(f.a) / f.a.shape[1]
    return share if float(f.a.abs().sum()) > 0 else 0 * share


def test_a_rule_that_looks_at_values_is_measured_on_the_first_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = dense(), rows(7)
    composite = composites.Composite([(composites.family("affine"), looking)])
    explainer = relprop.Explainer(model, x, composite, max_batch="auto")
    expected = relprop.explain(model, x, 0, composite)
    found: list[Explanation] = []
    sizes = chunk_sizes(lambda: found.append(explainer(x, 0)), 1e9, monkeypatch)
    assert sizes == [1, 6]
    check_same_map(found[0].relevance, expected.relevance, 1e-12)
    used = allocated(lambda: explainer(x[:1], 0))
    assert max(chunk_sizes(lambda: explainer(x, 0), 3 * used, monkeypatch)) in (2, 3)


# Running short

ALLOCATORS: dict[str, Exception] = {
    "of a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    "of the CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 8000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "of the CPU, elsewhere": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 80 bytes."),
    "of Python": MemoryError(),
}


def short_of(room: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on, runs of more samples than there is room for fail; the sizes tried are noted."""
    tried: list[int] = []
    run = prepared.Prepared.run

    def failing(self: Any, program: Any, tensors: list[Tensor], *rest: Any) -> Explanation:
        tried.append(len(tensors[0]))
        if tried[-1] > room:
            raise error
        return run(self, program, tensors, *rest)

    monkeypatch.setattr(prepared.Prepared, "run", failing)
    return tried


@pytest.mark.parametrize("max_batch", [7, 100, "auto"])
@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_chunks_that_do_not_fit_are_halved(allocator: str, max_batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = convolutional(), images(7)
    target: Any = [torch.arange(7) % 5, lambda z: z[:, 1]]
    expected = relprop.explain(model, x, target, "epsilon", ledger=True)
    tried = short_of(2, ALLOCATORS[allocator], monkeypatch)
    found = relprop.explain(model, x, target, "epsilon", ledger=True, max_batch=max_batch)
    assert tried == [7, 4, 2, 2, 2, 1]
    check_same_map(found.relevance, expected.relevance, 1e-12)
    assert found.target[1] is target[1]
    assert all(ledger.closes() for ledger in found.ledger)


@pytest.mark.parametrize("max_batch", [4, "auto"])
@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_a_sample_that_does_not_fit_alone(allocator: str, max_batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = convolutional()
    short_of(0, ALLOCATORS[allocator], monkeypatch)
    words = ["one sample", "checkpoint=True", 'precision="bf16"', "smaller input"]
    for x in (images(7), images(1)):
        call = lambda x=x: relprop.explain(model, x, 0, "epsilon", max_batch=max_batch)  # noqa: E731
        refuse(torch.OutOfMemoryError, words, call, model)
        refuse(RelpropError, words, call, model)


def test_a_sample_that_cannot_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = convolutional(), images(7)
    explainer = relprop.Explainer(model, x, "epsilon", max_batch="auto")
    tried = short_of(100, MemoryError(), monkeypatch)
    monkeypatch.setattr(memory, "available", lambda device: 1000)
    refuse(torch.OutOfMemoryError, ["one sample", "checkpoint=True", "max_batch=1"], lambda: explainer(x, 0), model)
    assert not tried


def test_other_errors_are_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = short_of(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"), monkeypatch)
    with pytest.raises(RuntimeError, match="mat1"):
        relprop.explain(dense(), rows(7), 0, "epsilon", max_batch=4)
    assert tried == [4]
    assert values.out_of_memory(_raised_from(ValueError("x"), MemoryError()))
    assert not values.out_of_memory(_raised_from(ValueError("out of memory of what was said"), KeyError("y")))


def _raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


LIMITED = """
import resource, torch, relprop
torch.set_num_threads(1)
layers = [torch.nn.Conv2d(1, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(64, 1, 3, padding=1)]
model = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(4096, 2)).eval()
x = torch.randn(64, 1, 64, 64)                   # 64 MB a value of 64 channels
explainer, whole = (relprop.Explainer(model, x[:2], "epsilon", max_batch=n) for n in (64, None))
for n in (1, 2, 4):
    explainer(x[:n], 0)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000, resource.RLIM_INFINITY))
try:
    whole(x, 0)
    print("no limit")
except Exception as e:
    print(relprop.values.out_of_memory(e))
e = explainer(x, 0)
print(tuple(e.relevance.shape), bool(torch.isfinite(e.relevance).all()))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs a limit on address space, as on Linux")
def test_the_real_allocator_of_the_cpu_runs_short() -> None:
    out = subprocess.run(
        [sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True, timeout=300
    ).stdout
    assert out.splitlines() == ["True", "(64, 1, 64, 64) True"]


# What is free


def group(path: Path, **files: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / f"memory.{name}").write_text(text + "\n", encoding="ascii")


def test_a_limit_of_a_control_group(tmp_path: Path) -> None:
    """The tightest of a group and those above it, the file cache counted as free."""
    own = tmp_path / "cgroup"
    own.write_text("0::/pod/box\n", encoding="ascii")
    root = tmp_path / "fs"
    group(root, stat="inactive_file 7")  # the root has no limit
    group(root / "pod", max="5000", current="3000", stat="anon 1\ninactive_file 100")
    group(root / "pod/box", max="max", current="3000", stat="inactive_file 0")
    assert memory.cgroup(root, own) == 2100
    group(root / "pod/box", max="4000", current="3900", stat="inactive_file 50")
    assert memory.cgroup(root, own) == 150
    group(root / "pod/box", max="4000", current="4900", stat="inactive_file 50")
    assert memory.cgroup(root, own) == 0


def test_a_limit_of_a_control_group_of_the_first_kind(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("5:cpu,cpuacct:/box\n4:memory:/box\n1:name=systemd:/\n", encoding="ascii")
    root = tmp_path / "fs"
    files = {"limit_in_bytes": "9000", "usage_in_bytes": "8000", "stat": "total_inactive_file 30"}
    group(root / "memory/box", **files)
    group(root / "memory", limit_in_bytes="9223372036854771712", usage_in_bytes="8000", stat="x 1")
    assert memory.cgroup(root, own) == 1030
    assert memory.cgroup(root, tmp_path / "none") is None
    assert memory.cgroup(tmp_path / "nowhere", own) is None


def test_this_machine_has_memory() -> None:
    free = memory.available(torch.device("cpu"))
    assert free is None or 1 << 20 < free < 1 << 50
    assert memory.available(torch.device("meta")) is None
