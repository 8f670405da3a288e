"""What the costs are to be, and what they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .results import Row
from .subjects import KINDS

Value = float | None
IMAGE_MODELS = ("vgg16", "resnet50", "vit_b_16")
LARGE = ("vgg16", "resnet50", "vit_b_16", "bert", "llama")
SMALL = ("linear50", "cnn")
BESIDE_ZENNIT = {"epsilon": 2.0, "epsilon_plus": 2.3, "epsilon_alpha2_beta1": 2.8, "epsilon_gamma_box": 4.5}
FLOPS = {"epsilon": 1.01, "attnlrp": 1.01, "cp_lrp": 1.01, "epsilon_plus": 1.51, "epsilon_alpha2_beta1": 2.01}
FLOPS_VGG = {"epsilon_gamma_box": 1.55, "montavon2019": 1.55}
# the first convolution's share of the FLOPs; its input is signed, so that z⁺ takes 2.01 there
FIRST = {"vgg16": 0.006, "resnet50": 0.029}
MEMORY, WITHIN, OVERHEAD, COMPILED, SECONDS, ONE_BILLION = 1.15, 1.10, 3.0, 1.3, 2.0, 1.1


@dataclass(frozen=True)
class Goal:
    """A figure that is to be at most (or at least) `bound`; `value` is what was measured, `where` of what."""

    about: str
    where: str
    bound: float
    value: float
    least: bool = False
    unit: str = "×"

    @property
    def reached(self) -> bool:
        return self.value >= self.bound if self.least else self.value <= self.bound

    def cells(self) -> list[str]:
        sign = "≥" if self.least else "≤"
        return [
            self.about, self.where, f"{sign} {self.bound:.4g} {self.unit}", f"{self.value:.4g} {self.unit}",
            "yes" if self.reached else "**no**",
        ]  # fmt: skip


class Measured:
    """The rows of one device, found by subject, library, recipe and variant."""

    def __init__(self, rows: Iterable[Row], device: str) -> None:
        self.rows = {r.key[:4]: r for r in rows if r.device == device and not r.error}

    def row(self, subject: str, recipe: str, variant: str = "", library: str = "relprop") -> Row | None:
        return self.rows.get((subject, library, recipe, variant))

    def time(self, subject: str, recipe: str, variant: str = "", library: str = "relprop") -> Value:
        """The median of its time, in gradients."""
        row = self.row(subject, recipe, variant, library)
        return row.time_ratio[1] if row is not None and row.time_ratio else None

    def recipes(self, subject: str) -> list[Row]:
        return [r for r in (self.row(subject, recipe) for recipe in KINDS[subject].recipes) if r is not None]


def over_flops(row: Row) -> Value:
    """Time in gradients over FLOPs in gradients: 1 where time is what the arithmetic needs."""
    time, flops = row.time_ratio, row.flop_ratio
    return time[1] / flops if time and flops else None


def goals(rows: Iterable[Row], device: str) -> list[Goal]:
    """All that can be judged by these rows."""
    m = Measured(rows, device)
    return [*_flops(m), *_times(m), *_peers(m), *_small(m), *_compiled(m), *_construction(m), *_memory(m), *_large(m)]


def _flops(m: Measured) -> Iterator[Goal]:
    for subject in LARGE:
        bounds = FLOPS | {"epsilon_plus": FLOPS["epsilon_plus"] + 0.5 * FIRST.get(subject, 0.0)}
        bounds |= FLOPS_VGG if subject == "vgg16" else {}
        for row in m.recipes(subject):
            if row.flop_ratio is not None and row.recipe in bounds:
                where = f"{KINDS[subject].title}, `{row.recipe}`"
                yield Goal("FLOPs over the gradient's", where, bounds[row.recipe], row.flop_ratio)


def _times(m: Measured) -> Iterator[Goal]:
    for subject in IMAGE_MODELS:
        for row in m.recipes(subject):
            if (value := over_flops(row)) is not None:
                where = f"{KINDS[subject].title}, `{row.recipe}`"
                yield Goal("time ratio over FLOP ratio", where, WITHIN, value)


def _peers(m: Measured) -> Iterator[Goal]:
    for subject in ("vgg16", "resnet50"):
        for recipe, bound in BESIDE_ZENNIT.items():
            ours, theirs = m.time(subject, recipe), m.time(subject, recipe, library="zennit")
            if ours and theirs:
                yield Goal(
                    "zennit's time over relprop's", f"{KINDS[subject].title}, `{recipe}`", bound, theirs / ours, True
                )


def _small(m: Measured) -> Iterator[Goal]:
    if (value := m.time("linear50", "epsilon")) is not None:
        yield Goal("time over the gradient's, pure overhead", KINDS["linear50"].title, OVERHEAD, value)
    for subject in SMALL:
        if (value := m.time(subject, "epsilon", "compile")) is not None:
            yield Goal("time over the gradient's, `compile=True`", KINDS[subject].title, COMPILED, value)


def _compiled(m: Measured) -> Iterator[Goal]:
    for (subject, library, recipe, variant), row in m.rows.items():
        eager = m.time(subject, recipe)
        if library == "relprop" and variant == "compile" and row.time_ratio and eager:
            where = f"{KINDS[subject].title}, `{recipe}`"
            yield Goal("compiled time over eager time", where, 1.0, row.time_ratio[1] / eager)


def _construction(m: Measured) -> Iterator[Goal]:
    for (subject, _, recipe, variant), row in m.rows.items():
        if variant.startswith("construct") and row.seconds:
            which = "first in a process" if variant.endswith("first") else "best of 3 more"
            where = f"{KINDS[subject].title}, `{recipe}`, {which}"
            yield Goal("capture and emission", where, SECONDS, min(row.seconds), unit="s")


def _memory(m: Measured) -> Iterator[Goal]:
    for subject in LARGE:
        for row in m.recipes(subject):
            if row.peak_ratio is not None:
                yield Goal(
                    "peak memory over the gradient's", f"{KINDS[subject].title}, `{row.recipe}`", MEMORY, row.peak_ratio
                )


def _large(m: Measured) -> Iterator[Goal]:
    for subject in ("llama_1b", "llama_small_bf16"):
        row = m.row(subject, "cp_lrp")
        if row is not None and row.time_ratio and row.peak_ratio:
            where = f"{KINDS[subject].title}, `cp_lrp`"
            yield Goal("time over the gradient's", where, ONE_BILLION, row.time_ratio[1])
            yield Goal("peak memory over the gradient's", where, ONE_BILLION, row.peak_ratio)


def table(rows: list[Row]) -> str:
    """All goals of all devices as a Markdown table; the misses first."""
    lines = []
    for device in dict.fromkeys(r.device for r in rows):
        found = goals(rows, device)
        reached = sum(g.reached for g in found)
        lines += [f"{device.upper()}: {reached} of {len(found)} reached.", ""]
        lines += ["| goal | of | bound | measured | reached |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join(g.cells())} |" for g in sorted(found, key=lambda g: g.reached)]
        lines.append("")
    return "\n".join(lines).rstrip()
