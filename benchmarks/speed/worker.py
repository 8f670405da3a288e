"""One subject on one device in a process of its own; its rows go to a file as they come.

python -m benchmarks.speed.worker '{"subject": "cnn", "device": "cpu", "file": "rows.jsonl", ...}'
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from . import measure, results


@dataclass(frozen=True)
class Task:
    """What a process is to do. `kind`: "explain" or "construct"; `threads`: of torch, its own choice if 0."""

    subject: str
    device: str
    file: str
    kind: str = "explain"
    rounds: int = 7
    share: float = 8.0
    quick: bool = False
    threads: int = 0
    skip: tuple[tuple[str, str, str], ...] = ()
    libraries: tuple[str, ...] = ()
    compiled: bool = True

    def text(self) -> str:
        return json.dumps(asdict(self))


def done(task: Task) -> None:
    """Measure, print a line a row, keep the rows."""
    if task.threads:
        torch.set_num_threads(task.threads)
    skip = frozenset((library, recipe, variant) for library, recipe, variant in task.skip)
    plan = measure.Plan(task.rounds, task.share, task.quick, skip, tuple(task.libraries), task.compiled)
    work = measure.constructed if task.kind == "construct" else measure.measured
    for row in work(task.subject, task.device, plan):
        results.append(Path(task.file), row)
        print(f"{row.device} {row.subject}: {_line(row)}", flush=True)


def _line(row: results.Row) -> str:
    name = " ".join(filter(None, (row.library, row.recipe, row.variant)))
    if row.error:
        return f"{name}: {row.error}"
    ratio = row.time_ratio
    return f"{name}: {ratio[1]:.2f} × the gradient" if ratio else f"{name}: {min(row.seconds):.2f} s"


if __name__ == "__main__":
    done(Task(**json.loads(sys.argv[1])))
