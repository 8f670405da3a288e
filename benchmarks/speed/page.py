"""docs/performance.md, written from the rows and from nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from . import goals
from .results import Row
from .subjects import KINDS

ANOTHER = 0.99  # below this cosine a peer's map counts as another one
LIBRARIES = ("gradient", "relprop")  # in this order, then the others
WRITTEN = {
    "compile": "`compile=True`", "checkpoint": "`checkpoint=True`", "bf16": '`precision="bf16"`',
    "float32": "without `precision`",
}  # fmt: skip
FAR = 0.05  # and so does relevance over score that differs by more than this

HEAD = """# What an explanation costs

Written by `python -m benchmarks.speed` (a part of `make bench`) from [results.jsonl]({folder}/results.jsonl); no figure
is typed by hand. The yardstick is the plain input gradient of the same model: forward, and backward from the explained
logit to the input alone, by `torch.autograd.grad`.

**How time is measured.** All ways to explain a model run in one process, in turn, round after round, and the gradient
is measured again between them. A ratio is taken within a round; the tables give its median and, in brackets, its
quartiles; `n` is how often it was taken. Works shorter than 50 ms are called several times for one measurement.
Capturing a model, attaching hooks, compiling and first calls are done before. The line `gradient` compares the gradient
with itself: its spread is that of the machine. FLOPs are those of one sample, as torch counts them.

**How memory is measured.** The largest growth of allocated bytes during one call, the result included, after earlier
calls: on the CPU by the events of torch's allocator, on a GPU by `torch.cuda.max_memory_allocated`. What an explainer
prepared once and keeps (transformed weights) is listed apart, as `kept`.

**What is explained.** Weights are random, biases zero as initialized (but for the small CNN), BatchNorm statistics
those of the input; of each sample the largest logit. Where nothing but the input takes part, the relevance should sum
to the score. Biases, BatchNorm's shifts and position embeddings take shares too, so relprop's own ΣR / score, whose
ledger accounts for the rest, stands beside those of other libraries, and the cosine between their map and relprop's.

**Capture.** The rows of capture and emission build an `Explainer`. No graph is kept on disk: what torch.export records
depends on code and Python values that no key made of a model's structure holds, so that a kept graph would have to be
compared with the model again and could still be wrong for the next input.

**The other libraries** run as their documentation says, on a copy of the model: zennit with the composite of this name
(and its canonizer for ResNets), hooks attached before the clock starts; captum with its ε and α1β0 rules; lxt patched
in only while it runs; autolrp with its configuration of this name. "ended with" is the first line of the error raised.

![Time in gradients, by model and recipe]({folder}/ratios.png)

## Goals

{goals}
"""

COLUMNS = (
    "recipe", "library", "time × gradient", "n", "ms", "FLOPs × gradient", "time / FLOPs", "memory × gradient",
    "kept MB", "ΣR / score", "cosine to relprop", "note",
)  # fmt: skip


def written(rows: Iterable[Row], folder: str = "performance") -> str:
    """The page for these rows, in Markdown; `folder` is where plot and results lie beside it."""
    listed = list(rows)
    text = HEAD.format(folder=folder, goals=goals.table(listed) or "Nothing measured yet.")
    for device in dict.fromkeys(r.device for r in listed):
        mine = [r for r in listed if r.device == device]
        text += f"\n## On {'the CPU' if device == 'cpu' else 'the GPU'}\n\n{_machines(mine)}\n"
        for subject in dict.fromkeys(r.subject for r in mine):
            text += "\n" + _section([r for r in mine if r.subject == subject])
        text += _constructions([r for r in mine if r.variant.startswith("construct")])
    return text


def _machines(rows: list[Row]) -> str:
    """Each machine and set of versions the rows come from."""
    found: dict[str, None] = {}
    for about in (r.machine for r in rows if r.machine):
        gpu = f"{about['gpu']}; " if about.get("gpu") else ""
        threads = f"{about['cores']} cores, {about['threads']} threads of torch"
        found[f"{gpu}{about['processor']}, {threads}; {about['versions']}."] = None
    return "\n".join(found)


def _section(rows: list[Row]) -> str:
    """The table of a subject: its gradient, relprop, then the others."""
    shown = [r for r in rows if not r.variant.startswith("construct")]
    if not shown:
        return ""
    gradient = next((r for r in shown if r.library == "gradient"), shown[0])
    half = '; relprop with `precision="bf16"`' if gradient.setting.endswith("bfloat16") else ""
    ours = {r.recipe: r for r in shown if r.library == "relprop" and not r.variant}
    lines = [f"### {KINDS[gradient.subject].title}", "", f"{gradient.setting}{half}.", ""]
    lines += [_row(COLUMNS), "|" + "---|" * len(COLUMNS)]
    lines += [_row(_cells(r, ours.get(r.recipe))) for r in sorted(shown, key=_place)]
    return "\n".join(lines) + "\n"


def _place(row: Row) -> tuple[int, bool]:
    """The gradient, relprop's recipes, their variants, the other libraries."""
    return LIBRARIES.index(row.library) if row.library in LIBRARIES else len(LIBRARIES), row.variant != ""


def _cells(row: Row, ours: Row | None) -> list[str]:
    recipe = ", ".join(filter(None, (row.recipe and f"`{row.recipe}`", WRITTEN.get(row.variant, row.variant))))
    if row.error:
        return [recipe, row.library, *[""] * (len(COLUMNS) - 3), f"ended with {_plain(row.error)}"]
    time = row.time_ratio
    seconds = sorted(row.seconds)[len(row.seconds) // 2] if row.seconds else None
    return [
        recipe, row.library,
        f"{time[1]:.2f} ({time[0]:.2f} … {time[2]:.2f})" if time else "", str(len(row.seconds)),
        _number(None if seconds is None else 1e3 * seconds, ".4g"),
        _number(row.flop_ratio, ".3f"), _number(goals.over_flops(row), ".2f"), _number(row.peak_ratio, ".2f"),
        _number(row.kept / 1e6 if row.library == "relprop" else None, ".1f"),
        _number(row.sum_ratio, ".3f") if row.sums or row.library == "gradient" else "not finite",
        _number(row.cosine, ".4f"), _note(row, ours),
    ]  # fmt: skip


def _note(row: Row, ours: Row | None) -> str:
    """Where another library runs, but gives another map."""
    if ours is None or row.library in LIBRARIES:
        return ""
    said = []
    theirs, expected = row.sum_ratio, ours.sum_ratio
    if theirs is None or (expected is not None and abs(theirs - expected) > FAR * max(1.0, abs(expected))):
        total = "not finite" if theirs is None else f"{theirs:.3g}"
        said.append(f"ΣR / score is {total}, relprop's {_number(expected, '.3g')}")
    if row.cosine is None or row.cosine < ANOTHER:
        said.append("another map")
    return "; ".join(said)


def _constructions(rows: list[Row]) -> str:
    if not rows:
        return ""
    lines = ["", "### Capture and emission", "", "Seconds to make an Explainer and its program (`epsilon`).", ""]
    lines += ["| model | first in a process | best of three more |", "|---|---|---|"]
    for subject in dict.fromkeys(r.subject for r in rows):
        cells = [KINDS[subject].title]
        for variant in ("construct, first", "construct, again"):
            row = next((r for r in rows if r.subject == subject and r.variant == variant), None)
            seconds = f"{min(row.seconds):.2f}" if row and row.seconds else ""
            cells.append(f"ended with {_plain(row.error)}" if row and row.error else seconds)
        lines.append(_row(cells))
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(x: float | None, form: str) -> str:
    return "" if x is None else f"{x:{form}}"


def _plain(text: str, longest: int = 160) -> str:
    """In one line, without what Markdown would take for a command."""
    short = " ".join(text.split())
    short = short if len(short) <= longest else short[:longest] + " …"
    for mark in "\\`*_<>|[]":
        short = short.replace(mark, "\\" + mark)
    return short
