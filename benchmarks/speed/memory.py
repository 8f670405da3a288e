"""Memory: by how much the bytes held by tensors grow at most while a work runs, and what stays afterwards."""

from __future__ import annotations

import contextlib
import gc
import json
import tempfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

T = TypeVar("T")
CPU = 0  # "Device Type" in a trace


def peak(run: Callable[[], T], device: str) -> tuple[int, T]:
    """Largest growth of allocated bytes during one call, its result included; and the result.

    On a GPU by `torch.cuda.max_memory_allocated`. On the CPU by the events of torch's allocator, which the profiler
    records: every allocation and every release, also of what kernels allocate inside.
    """
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before, result
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = run()
    return max(accumulate(_changes(profiler), initial=0)), result


def _changes(profiler: profile) -> list[int]:
    """Bytes allocated (positive) and released (negative), in order of time."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    found = [e for e in events if e.get("name") == "[memory]" and e["args"]["Device Type"] == CPU]
    return [int(e["args"]["Bytes"]) for e in sorted(found, key=lambda e: (e["ts"], e["args"].get("Ev Idx", 0)))]


def held() -> dict[int, int]:
    """Bytes of every storage that some tensor in Python refers to, by its address."""
    gc.collect()
    sizes: dict[int, int] = {}
    for thing in gc.get_objects():
        # by type: isinstance would wake lazily imported modules
        if not issubclass(type(thing), Tensor) or thing.layout != torch.strided or thing.device.type == "meta":
            continue
        if type(thing) in (Tensor, torch.nn.Parameter):  # no stand-ins of a capture, which have no memory
            with contextlib.suppress(NotImplementedError):  # wrapped by a transform of torch.func: no memory either
                storage = thing.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
    return sizes


def added(before: dict[int, int], after: dict[int, int]) -> int:
    """Bytes of storages that were not there before."""
    return sum(size for address, size in after.items() if address not in before)
