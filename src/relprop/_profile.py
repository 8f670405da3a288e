"""The command `relprop profile`: where the time of an explanation goes, op by op."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from . import _loading, composites, zoo
from .captured import Inputs, InputSpec
from .choice import Choice
from .coverage.subject import peak
from .errors import CompositeError, InputError, OutputError, RelpropError
from .language import model_inputs
from .pieces import read
from .profiling import profile as measured
from .profiling.table import TOP

out = Console(emoji=False)

TEXT = "It is a truth universally acknowledged that what is measured can be improved, and the rest is guessed at."
LENGTH = 128  # tokens of a text, unless --input says how many


def profile(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="torchvision:NAME, timm:NAME, FILE.py:FUNCTION or hf:FOLDER; by default the network of the package.",
            show_default=False,
        ),
    ] = None,
    composite: Annotated[str, typer.Option("--composite", help="Recipe of rules, see `relprop composites`.")] = "auto",
    batch: Annotated[int, typer.Option("--batch", min=1, help="How many samples.")] = 1,
    shape: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="Shape of a random sample, such as 3x224x224, or the length of a text; by default a photo of the "
            f"package as the model takes it, and {LENGTH} tokens.",
        ),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", min=1, help="The random sample holds integers below this number.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Weights: .safetensors or .pt; by default random ones.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Where to run: cpu, cuda, cuda:1.")] = "cpu",
    precision: Annotated[
        Literal["bf16"] | None, typer.Option("--precision", help="Heavy ops in bfloat16.", show_default=False)
    ] = None,
    checkpoint: Annotated[
        bool, typer.Option("--checkpoint", help="Compute activations again on the way back.")
    ] = False,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Runs to take the median of.")] = 5,
    top: Annotated[int, typer.Option("--top", min=1, help="How many rows of each table to print.")] = TOP,
    sort: Annotated[
        Literal["lost", "excess", "time"],
        typer.Option("--sort", help="By seconds over the limit, over the gradient of the op, or in all."),
    ] = "lost",
    json: Annotated[Path | None, typer.Option("--json", help="File to write all of it to.")] = None,
) -> None:
    """Where the time of an explanation goes: FLOPs, bytes and time of every op, beside what this machine can do."""
    if composite not in composites.names():
        raise CompositeError(f"--composite {composite}: no such recipe; there are {', '.join(composites.names())}")
    if json is not None and not json.parent.is_dir():
        raise OutputError(f"--json {json}: there is no folder '{json.parent}'; make it first")
    subject = made(model, Drawn(batch, sizes(shape), tokens), weights).to(device)
    result = measured(
        subject.model, subject.inputs, composite, subject.target,
        repeats=repeats, precision=precision, checkpoint=checkpoint, **subject.bounds(composite),
    )  # fmt: skip
    result = replace(result, model=subject.name)
    out.print(result.text(top, sort), soft_wrap=True, highlight=False, markup=False)
    if json is not None:
        json.write_text(result.to_json(), encoding="utf-8")
        out.print(f"json: {json}", soft_wrap=True, highlight=False)


@dataclass(frozen=True)
class Drawn:
    """The inputs asked for: samples, the shape of each where it is given, and the number of tokens to draw from."""

    batch: int
    shape: tuple[int, ...] | None
    tokens: int | None

    def sample(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Random numbers, the same at every call; (batch, *shape)."""
        chance = torch.Generator().manual_seed(0)
        if self.tokens is not None:
            return torch.randint(self.tokens, (self.batch, *shape), generator=chance)
        return torch.randn(self.batch, *shape, generator=chance).to(dtype)


@dataclass(frozen=True)
class Subject:
    """A model and inputs for it. `ends`: the least and largest value of an input, where that is known."""

    name: str
    model: nn.Module
    inputs: Inputs
    ends: tuple[Tensor, Tensor] | None = None

    def to(self, device: str) -> Subject:
        """On another device."""
        try:
            move = torch.device(device)
            torch.zeros(1, device=move)
        except (RuntimeError, AssertionError) as error:  # no such word; no such device in this machine or this torch
            raise InputError(f"--device {device}: {str(error).splitlines()[0]}") from error
        ends = None if self.ends is None else (self.ends[0].to(move), self.ends[1].to(move))
        inputs = pytree.tree_map_only(Tensor, lambda t: t.to(move), self.inputs)
        return replace(self, model=self.model.to(move), inputs=inputs, ends=ends)

    @property
    def target(self) -> Callable[[Tensor], Tensor] | None:
        """What `explain` takes by itself; where the output has more than one score a class, the largest of its last
        position, or of the mean over a map."""
        spec = InputSpec.of(self.inputs)
        tensors = spec.flatten(self.inputs)
        try:
            with torch.no_grad():
                result = spec.call(self.model, tuple(tensors))
        except Exception:  # a model refuses inputs in its own way; `explain` puts it in words
            return None
        scores = Choice()(result, [len(t) for t in tensors], self.name)
        return peak if scores.dim() > 2 and math.prod(scores.shape[2:]) > 1 else None

    def bounds(self, composite: str) -> dict[str, Any]:
        """The range of the inputs as `low` and `high`, where the recipe asks for it."""
        asked = composites.signature(composite).keys() >= {"low", "high"}
        return dict(zip(("low", "high"), self.ends, strict=True)) if asked and self.ends is not None else {}


def sizes(text: str | None) -> tuple[int, ...] | None:
    """The shape written as 3x224x224."""
    if text is None:
        return None
    parts = text.replace("×", "x").split("x")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(f"--input {text}: give the sizes of one sample, such as 3x224x224")
    return tuple(map(int, parts))


def made(model: str | None, drawn: Drawn, weights: Path | None) -> Subject:
    """The model MODEL and its inputs, whose refusals name MODEL."""
    try:
        return of_text(str(model), drawn) if str(model).startswith("hf:") else of_numbers(model, drawn, weights)
    except RelpropError as error:
        raise type(error)(str(error).replace("--model", "MODEL", 1)) from error


def of_numbers(model: str | None, drawn: Drawn, weights: Path | None) -> Subject:
    """A model of photos, or of any tensor of one shape. Weights are random unless given, which changes no cost."""
    loaded = _loading.load(model, weights, weights is None and model is not None)
    if drawn.tokens is not None and drawn.shape is None:
        raise InputError("--tokens says what a random sample holds; give its shape with --input")
    if drawn.shape is None:
        photo = _loading.open_photo(zoo.samples()["frog"])
        x = _loading.batch(loaded, [photo] * drawn.batch)
        return Subject(loaded.name, loaded.model, x, _loading.bounds(loaded, photo.size))
    dtype = next((p.dtype for p in loaded.model.parameters() if p.is_floating_point()), torch.float32)
    x = drawn.sample(drawn.shape, dtype)
    return Subject(loaded.name, loaded.model, x, None if drawn.tokens else (x.amin(), x.amax()))


def of_text(model: str, drawn: Drawn) -> Subject:
    """A language model, and as many tokens of a text as asked for."""
    if drawn.shape is not None and len(drawn.shape) > 1:
        raise InputError("--input: for a language model give the length of the text, such as 128")
    if drawn.tokens is not None:
        raise InputError("--tokens: a language model has its own; leave it out")
    reader = _loading.load_reader(model)
    pieces = read(reader.tokenizer, TEXT)
    length = drawn.shape[0] if drawn.shape else LENGTH
    row = [pieces[i % len(pieces)] for i in range(length)]
    return Subject(reader.name, reader.model, model_inputs(reader.model, reader.tokenizer, [row] * drawn.batch))
