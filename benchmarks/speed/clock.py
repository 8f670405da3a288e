"""Time: works in turn, round after round, each beside a measurement of the work they are compared with."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, MappingProxyType

import torch

Run = Callable[[], object]
LEAST = 3
NONE: Mapping[str, int] = MappingProxyType({})
SHORTEST = 0.05  # seconds: a work that takes less is called several times for one measurement


class Clock:
    """Measures on one device; on a GPU it waits for the work to end."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")

    def seconds(self, run: Run, calls: int = 1) -> float:
        """Of one call, the mean of `calls` in a row."""
        self._wait()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        self._wait()
        return (time.perf_counter() - start) / calls

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def alternate(
        self,
        anchor: Run,
        works: Mapping[str, Run],
        rounds: int,
        share: float = math.inf,
        least: Mapping[str, int] = NONE,
        slow: Container[str] = (),
    ) -> dict[str, list[tuple[float, float]]]:
        """For each work, in each round, its seconds and those of the anchor measured last before it.

        Each round goes through all works in order. The anchor is measured again whenever more than three times its own
        time has passed, so that what disturbs a work disturbs what it is compared with. After `least` rounds (`LEAST`
        if it is not named there) a work is left out once another measurement would take it beyond `share` seconds.
        `slow` works are called once a measurement, without finding out first how long one call takes.
        """
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
        spent = dict.fromkeys(works, 0.0)
        calls = {name: 1 if name in slow else 0 for name in works}
        anchor_calls, base, again = self._calls(anchor), 0.0, 0.0
        for done in range(rounds):
            for name, run in works.items():
                if done >= least.get(name, LEAST) and spent[name] * (done + 1) / done > share:
                    continue
                if time.perf_counter() >= again:
                    base = self.seconds(anchor, anchor_calls)
                    again = time.perf_counter() + 3 * base * anchor_calls
                calls[name] = calls[name] or self._calls(run)
                taken = self.seconds(run, calls[name])
                spent[name] += taken * calls[name]
                found[name].append((taken, base))
        return found

    def _calls(self, run: Run) -> int:
        """How many calls make one measurement: enough for `SHORTEST`, at most 200."""
        return max(1, min(200, math.ceil(SHORTEST / self.seconds(run))))


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the main thread once so many seconds have passed."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
