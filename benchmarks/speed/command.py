"""The command: a process for each model and device, then the table, the plot and the page."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from . import goals, page, plot, results
from .results import Row
from .subjects import KINDS
from .worker import Task

ROOT = Path(__file__).resolve().parents[2]
CONSTRUCTED = ("resnet50", "vit_b_16")
QUICK = ("linear50", "cnn", "llama")
LIMIT = 1800.0  # seconds a process may take


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description="Measure what explanations cost. Rows are kept as they come: an interrupted run is continued by "
        "the same command, a complete one is started anew.",
    )
    every = ", ".join(KINDS)
    parser.add_argument("--quick", action="store_true", help="small models, nothing compiled; results in build/")
    parser.add_argument("--models", default="", help=f"some of {every}, with commas (all)")
    parser.add_argument("--libraries", default="", help="relprop, zennit, captum, lxt, autolrp (all)")
    parser.add_argument("--devices", default="", help="cpu, cuda (all there are)")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each way to explain, at most (9)")
    parser.add_argument("--seconds", type=float, default=8.0, help="time for these; three are made at least (8)")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch on the CPU (its own choice)")
    parser.add_argument("--output", type=Path, default=None, help="folder of the results (docs/performance)")
    parser.add_argument("--no-compile", action="store_true", help="leave out compiled programs, which take minutes")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of an interrupted run")
    parser.add_argument("--page", action="store_true", help="measure nothing, write plot and page from the results")
    return parser.parse_args()


def tasks(args: argparse.Namespace, file: Path) -> list[Task]:
    """What is still to be done: a task's rows that are in the file are skipped."""
    have = list(results.read(file).values())
    names = [n for n in args.models.split(",") if n] or list(QUICK if args.quick else KINDS)
    unknown = sorted(set(names) - set(KINDS))
    if unknown:
        raise SystemExit(f"no model {', '.join(unknown)}; there are {', '.join(KINDS)}")
    devices = [d for d in args.devices.split(",") if d] or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    found = []
    for device in devices:
        for name in (n for n in names if device in KINDS[n].devices):
            mine = [r for r in have if (r.subject, r.device) == (name, device)]
            common = {
                "subject": name, "device": device, "file": str(file), "quick": args.quick, "threads": args.threads,
                "rounds": args.rounds, "share": 1.0 if args.quick else args.seconds,
                "compiled": not (args.no_compile or args.quick),
            }  # fmt: skip
            libraries = tuple(x for x in args.libraries.split(",") if x)
            if name in CONSTRUCTED and not any(r.variant.startswith("construct") for r in mine):
                found.append(Task(**common, kind="construct"))
            if not any(r.library == "gradient" for r in mine):  # the last row of a process
                skip = tuple((r.library, r.recipe, r.variant) for r in mine)
                found.append(Task(**common, skip=skip, libraries=libraries))
    return found


def perform(task: Task) -> None:
    """Run a task; what ends its process before its time is a row too."""
    command = [sys.executable, "-m", "benchmarks.speed.worker", task.text()]
    try:
        ended = subprocess.run(command, cwd=ROOT, timeout=LIMIT, stderr=subprocess.PIPE, text=True, errors="replace")
        said = results.first_line((ended.stderr.strip().splitlines() or [""])[-1])
        reason = f"the process ended with code {ended.returncode}: {said}" if ended.returncode else ""
    except subprocess.TimeoutExpired:
        reason = f"not done after {LIMIT:g} s"
    if reason:
        print(f"{task.device} {task.subject}: {reason}", file=sys.stderr)
        variant = "construct, first" if task.kind == "construct" else ""
        library = "relprop" if variant else "gradient"
        results.append(Path(task.file), Row(task.subject, library, "", variant, task.device, error=reason))


def joined(old: dict[results.Key, Row], new: dict[results.Key, Row], *, part: bool) -> dict[results.Key, Row]:
    """New rows take the place of old ones of the same model and device.

    Where only a `part` of what there is for a model was measured, its other rows stay if they are of the same setting.
    """
    settings = {(r.subject, r.device): r.setting for r in new.values() if r.setting}

    def stays(row: Row) -> bool:
        setting = settings.get((row.subject, row.device))
        return setting is None or (part and setting == row.setting)

    return {key: row for key, row in old.items() if stays(row)} | new


def publish(folder: Path, measured: dict[results.Key, Row], *, part: bool = False) -> None:
    """Join new rows with those there are; write results, plot and page."""
    file = folder / "results.jsonl"
    rows = joined(results.read(file), measured, part=part)
    order = list(KINDS)
    kept = sorted((r for r in rows.values() if r.subject in KINDS), key=lambda r: (r.device, order.index(r.subject)))
    results.write(file, kept)
    plot.draw(kept, folder / "ratios.png")
    target = folder.with_suffix(".md")
    target.write_text(page.written(kept, folder.name), encoding="utf-8")
    print(goals.table(kept))
    print(f"\n{len(measured)} rows measured; page: {target}")


def main() -> None:
    args = arguments()
    folder = args.output or ROOT / ("build/performance" if args.quick else "docs/performance")
    partial = ROOT / "build" / f"speed-{'quick' if args.quick else 'full'}.jsonl"
    if args.page:
        publish(folder, {})
        return
    if args.fresh or args.quick:
        partial.unlink(missing_ok=True)
    elif partial.exists():
        print(f"continuing an interrupted run; its rows are in {partial} (--fresh forgets them)")
    for task in tasks(args, partial):
        perform(task)
    publish(folder, results.read(partial), part=bool(args.libraries) or args.no_compile)
    partial.unlink(missing_ok=True)
