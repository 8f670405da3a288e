"""What the machine can do, measured in the same run: FLOP/s of each precision, bytes/s of a copy, and its clock."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable
from typing import Any

import torch

from .counter import Counted

# Side of the square matrices, images of the convolution and bytes of the copy: large enough to be at the limit, and
# the copy far larger than a cache.
SIZES = {"cpu": (1024, 1, 2**27), "cuda": (8192, 64, 2**30)}
SECONDS = 0.25  # how long each of them is repeated at least; the fastest counts


class Clock:
    """Moments on a device: `mark()` notes one without waiting for it, `seconds(a, b)` is the time between two.

    On CUDA the moments are events in the stream, so that marking does not slow what is measured.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def mark(self) -> Any:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self.device))
            return event
        self.wait()
        return time.perf_counter()

    def wait(self) -> None:
        """Until the device has done what it was asked."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def seconds(self, begin: Any, end: Any) -> float:
        """Between two moments; `wait` first."""
        return float(begin.elapsed_time(end)) / 1e3 if self.device.type == "cuda" else float(end - begin)

    def time(self, f: Callable[[], object]) -> float:
        """Seconds that one call takes, on the host and the device together."""
        self.wait()
        begin = time.perf_counter()
        f()
        self.wait()
        return time.perf_counter() - begin


class Machine:
    """Peaks of a device with the threads and settings of this process; each is measured when first asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.clock = device, Clock(device)
        self.side, self.images, self.copied = SIZES.get(device.type, SIZES["cpu"])
        self.peaks: dict[torch.dtype, float] = {}
        self._bandwidth: float | None = None

    @property
    def bandwidth(self) -> float:
        """Bytes read and written per second by a large copy."""
        if self._bandwidth is None:
            source = torch.zeros(self.copied, dtype=torch.uint8, device=self.device)
            goal = torch.empty_like(source)
            self._bandwidth = 2 * self.copied / self._fastest(lambda: goal.copy_(source))
        return self._bandwidth

    def flops(self, dtype: torch.dtype) -> float:
        """FLOP per second of a large matrix product or of a large convolution, whichever is faster."""
        if dtype not in self.peaks:
            with torch.no_grad():
                self.peaks[dtype] = max(self._matmul(dtype), self._convolution(dtype))
        return self.peaks[dtype]

    def _matmul(self, dtype: torch.dtype) -> float:
        n = self.side
        a, b = (torch.ones(n, n, dtype=dtype, device=self.device) for _ in range(2))
        return 2 * n**3 / self._fastest(lambda: a @ b)

    def _convolution(self, dtype: torch.dtype) -> float:
        x = torch.ones(self.images, 256, 32, 32, dtype=dtype, device=self.device)
        w = torch.ones(256, 256, 3, 3, dtype=dtype, device=self.device)
        flops = 2 * x.numel() * 256 * 9
        return flops / self._fastest(lambda: torch.conv2d(x, w, padding=1))

    def _fastest(self, f: Callable[[], object]) -> float:
        f()  # the first call chooses kernels and takes memory
        begin, best = time.perf_counter(), float("inf")
        while best == float("inf") or time.perf_counter() - begin < SECONDS:
            best = min(best, self.clock.time(f))
        return best

    def limit(self, counted: Counted) -> float:
        """Seconds that work needs at least: its arithmetic, or what it must read and write, whichever is longer."""
        return max(self.arithmetic(counted.flops), counted.needed / self.bandwidth)

    def arithmetic(self, flops: Tally[torch.dtype]) -> float:
        """Seconds of the arithmetic alone."""
        return sum(n / self.flops(dtype) for dtype, n in flops.items() if n)
