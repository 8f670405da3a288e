"""What the command line prints: predictions, ledgers, recipes and rules as rich tables."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from torch import Tensor

from . import composites, rules, show
from .composites.presets import Common
from .program import Ledger


def predictions(names: Sequence[str], output: Tensor, classes: Sequence[str], top: int) -> Table:
    """The `top` largest outputs of each photo with their probabilities; output: (B, C)."""
    table = plain("prediction", "photo", "class")
    for head in ("probability", "output"):
        table.add_column(head, justify="right")
    shares = probabilities(output)
    for i, name in enumerate(names):
        for rank, k in enumerate(output[i].topk(min(top, output.shape[1])).indices.tolist()):
            label = escape(class_name(k, classes))
            table.add_row("" if rank else escape(name), label, f"{shares[i, k]:.1%}", f"{output[i, k]:.4g}")
    return table


def ledger(label: str, names: Sequence[str], explained: Sequence[str], accounts: Ledger, what: str = "photo") -> Table:
    """One line a sample; the heads of the columns are the equation that every line fulfils."""
    table = plain(f"ledger, {label}", what, "explained")
    for head in ("score", "= ΣR", "+ bias", "+ epsilon", "+ residual"):
        table.add_column(head, justify="right", no_wrap=True)
    parts = (accounts.score, accounts.input, accounts.bias, accounts.epsilon, accounts.residual)
    for i, name in enumerate(names):
        table.add_row(escape(name), escape(explained[i]), *(f"{float(part[i]):.4g}" for part in parts))
    return table


def passage(shown: show.Passage, limit: float) -> Iterator[Text]:
    """A text in the colours of its relevance, under what was asked of it and above its sums."""
    yield Text(shown.title, style="bold")
    line = Text()
    for piece in shown.pieces:
        paper, ink = show.colours(piece.relevance, limit)
        line.append(piece.before)
        line.append(piece.text, style=f"{ink} on {paper}{' italic' if piece.special else ''}")
    yield line
    yield Text(shown.sums())


def beginning(text: str, most: int = 40) -> str:
    """The first letters of a text, to name it in a table."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def decision(outputs: Tensor, classes: Sequence[str], true: str | None) -> Text:
    """The predicted class of a text with its probability, and the true one where it is known; outputs: (C,), C > 1."""
    k = int(outputs.argmax())
    share = float(probabilities(outputs[None].float())[0, k])
    line = Text(f"predicted class: {class_name(k, classes)} ({share:.1%})")
    return line if true is None else line.append(f"   true class: {true}")


def contributions(words: Sequence[tuple[str, float]], top: int) -> Table:
    """The words that speak most for, and most against, what was asked; Dull and dull are one word, summed."""
    sums: dict[str, float] = {}
    forms: dict[str, list[str]] = {}
    for word, relevance in words:
        key = word.lower()
        sums[key] = sums.get(key, 0.0) + relevance
        forms.setdefault(key, []).append(word)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for sign in ("positive", "negative"):
        table.add_column(f"top {top} {sign}", overflow="fold")
        table.add_column("value", justify="right")
    order = sorted(sums, key=lambda w: -sums[w])
    positive = [w for w in order if sums[w] > 0][:top]
    negative = [w for w in reversed(order) if sums[w] < 0][:top]

    def cells(side: Sequence[str], row: int) -> tuple[str, str]:
        if row >= len(side):
            return "", ""
        seen = forms[side[row]]
        name = seen[0] if len(set(seen)) == 1 else side[row]
        return escape(f"{name} × {len(seen)}" if len(seen) > 1 else name), f"{sums[side[row]]:.4g}"

    for row in range(max(len(positive), len(negative))):
        table.add_row(*cells(positive, row), *cells(negative, row))
    return table


def recipes() -> Table:
    """All composites; the options that every one takes stand once, under the table."""
    common = {f.name: f.default for f in fields(Common)}
    table = Table(title="composites", title_justify="left", caption_justify="left")
    table.caption = escape(f"every composite also takes {options(common)}")
    for head in ("name", "what it is", "options"):
        table.add_column(head, overflow="fold")
    for name in composites.names():
        function = getattr(composites, name)
        summary = (inspect.getdoc(function) or "").split("\n")[0]
        own = {k: v for k, v in composites.signature(name).items() if k not in common or v != common[k]}
        table.add_row(name, escape(summary), escape(options(own)))
    return table


def rule_list() -> Table:
    """All rules with their equations, parameters and families."""
    table = Table(title="rules", title_justify="left")
    for head in ("name", "equation", "parameters", "for"):
        table.add_column(head, overflow="fold")
    for name in rules.names():
        rule, _ = rules.get(name)
        families = ", ".join(sorted(family.value for family in rule.families))
        table.add_row(name, escape(rule.equation), escape(options(rule.parameters)), families)
    return table


def plain(title: str, *heads: str) -> Table:
    """A table without side borders, which leaves 80 columns to its content; columns of text."""
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def options(defaults: Mapping[str, Any]) -> str:
    """name=default, ...; a name alone must be given."""
    return ", ".join(k if v is inspect.Parameter.empty else f"{k}={v}" for k, v in defaults.items())


def probabilities(output: Tensor) -> Tensor:
    """(B, C): the softmax, or the output itself where the model ends in one."""
    sums = output.sum(1)
    ready = bool(((output >= 0).all() & ((sums - 1).abs() < 1e-3).all()).item())
    return output if ready else output.softmax(1)


def class_name(index: int, classes: Sequence[str]) -> str:
    """The name of a class, or its index where classes have no names."""
    return classes[index] if index < len(classes) else str(index)
