"""The command `relprop`: why did a network take this photo for that?

relprop explain cat.jpg --model torchvision:resnet18 --composite epsilon_plus -o heat.png
relprop text "The movie was not bad" -o why.html
relprop text "The Colosseum is in" --model hf:FOLDER --target " Rome"
relprop examine --model net.py:build
relprop composites
relprop rules
relprop reproduce binder2016 --data cifar10.tar.gz -o results
relprop coverage --zoo torchvision -o table.md
relprop profile torchvision:resnet18 --batch 8
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

try:
    import typer
    from rich.console import Console
    from rich.markup import escape
    from typer.core import TyperGroup

    from . import _coverage, _loading, _profile, _reproduce, _tables, show, zoo
except ImportError as missing:
    raise SystemExit(f"the command relprop needs more packages ({missing}): pip install 'relprop[cli]'") from missing

import torch
from torch import Tensor

from . import composites as recipes
from .api import Explainer
from .api import examine as examined
from .composites.presets import CHOICES
from .errors import CompositeError, InputError, RelpropError, TargetError
from .explanation import Explanation
from .language import explain_text
from .targets import Target, parse, words

out = Console(emoji=False)
err = Console(stderr=True, emoji=False)


class Commands(TyperGroup):
    """Refusals become one red line and exit code 2; anything else is a bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RelpropError as error:
            err.print(f"[red]error: {escape(str(error))}[/red]", soft_wrap=True, highlight=False)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=Commands,
    help="Layer-wise relevance propagation: why a network decided what it decided.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(_reproduce.app, name="reproduce")
app.command("coverage")(_coverage.coverage)
app.command("profile")(_profile.profile)

Photos = Annotated[list[Path] | None, typer.Argument(metavar="PHOTO", help="Image files.", show_default=False)]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="torchvision:NAME, timm:NAME or FILE.py:FUNCTION; by default the CIFAR-10 network of the package.",
    ),
]
Weights = Annotated[Path | None, typer.Option("--weights", help="Weights for the model: .safetensors or .pt.")]
Random = Annotated[bool, typer.Option("--random-weights", help="Do without trained weights.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", help="KEY=VALUE for the rules, such as gamma=0.5; for each composite that takes it."),
]
Composites = Annotated[
    list[str] | None,
    typer.Option(
        "--composite",
        help="Recipe of rules, NAME or NAME:KEY=VALUE,KEY=VALUE; see `relprop composites`. Repeat to compare.",
    ),
]


@app.command()
def explain(
    photos: Photos = None,
    samples: Annotated[bool, typer.Option("--samples", help="Explain the photos that come with the package.")] = False,
    model: Model = None,
    weights: Weights = None,
    random_weights: Random = False,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="Class (index or name), by default the predicted one; odds:CLASS (against all others), "
            "margin:CLASS,RIVAL (by default the strongest rival) or probability:CLASS.",
        ),
    ] = None,
    composite: Composites = None,
    option: Options = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write.")] = Path("relprop.png"),
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes to list for each photo.")] = 1,
    code: Annotated[Path | None, typer.Option("--code", help="Write the relevance program as a Python file.")] = None,
    overlay: Annotated[bool, typer.Option("--overlay", help="Draw the relevance over the photo.")] = False,
    palette: Annotated[str, typer.Option("--palette", help=f"Colours: {' or '.join(show.PALETTES)}.")] = "red-blue",
    percentile: Annotated[
        float | None, typer.Option("--percentile", help="Full colour at this percentile of |R| instead of its maximum.")
    ] = None,
    scale: Annotated[
        Literal["row", "panel"], typer.Option("--scale", help="One colour scale for a photo, or one for each map.")
    ] = "panel",
    max_batch: Annotated[
        str | None, typer.Option("--max-batch", help="Photos to explain at a time: a number, or auto (what fits).")
    ] = None,
) -> None:
    """Explain photos: print prediction and ledger, draw the relevance of every pixel."""
    paths = photo_paths(photos or [], samples)
    show.check_path(output)
    show.heatmap(Tensor([[0.0]]), percentile=percentile, palette=palette)  # refuses bad ones before the work
    choices = chosen_composites(composite or ["auto"], option or [])
    if code is not None:
        show.check_path(code, (".py",))
        if len(choices) > 1:
            raise CompositeError("--code writes one program; give one --composite")
    images = [_loading.open_photo(path) for path in paths]
    subject = Subject(load(model, weights, random_weights), images, photo_names(paths))
    explanations = subject.explanations(choices, subject.asked(target), code, max_batch)
    first = next(iter(explanations.values()))
    if first.output.ndim == 2:
        out.print(_tables.predictions(subject.names, first.output, subject.loaded.classes, top))
    asked = [said for _, said in subject.explained(first)]
    for label, explanation in explanations.items():
        out.print(_tables.ledger(label, subject.names, asked, explanation.ledger))
    figure = show.figure(
        subject.rows(explanations), scale=scale, percentile=percentile, palette=palette, over_photo=overlay
    )
    out.print(f"picture: {show.save_figure(figure, output)}", soft_wrap=True, highlight=False)
    if code is not None:
        run = f"python {code} {code.with_suffix('.pt')} {code.with_suffix('.inputs.pt')}"
        out.print(f"program: {run}", soft_wrap=True, highlight=False)


@app.command()
def text(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT", help="A text; several are explained together.")],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="reviews or reviews:lstm, the movie review classifiers of the package; hf:FOLDER, or hf:NAME of a "
            "model on the Hugging Face hub.",
        ),
    ] = "reviews",
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Folder of a review classifier of your own (train_reviews.py).")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", help="Class (name or index) or token (' Paris'); by default what the model predicts."),
    ] = None,
    contrast: Annotated[
        str | None, typer.Option("--contrast", help="Explain why --target rather than this class or token.")
    ] = None,
    composite: Annotated[str, typer.Option("--composite", help="Recipe of rules, see `relprop composites`.")] = "auto",
    option: Options = None,
    true: Annotated[str | None, typer.Option("--true", help="The true class, to be printed.")] = None,
    top: Annotated[int, typer.Option("--top", min=0, help="How many words to list for and against.")] = 10,
    tokens: Annotated[bool, typer.Option("--tokens", help="Show tokens instead of words.")] = False,
    dtype: Annotated[
        Literal["float32", "float64", "bfloat16", "float16"], typer.Option("--dtype", help="Precision of the weights.")
    ] = "float32",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Page or picture to write.")] = None,
) -> None:
    """Explain what a model makes of a text: relevance of every word, in colours, and the words that count most."""
    if output is not None:
        show.check_path(output, show.TEXT_SUFFIXES)
    if contrast is not None and target is None:
        raise TargetError("--contrast says rather than what; give --target too")
    (choice,) = chosen_composites([composite], option or [])
    reader = _loading.load_reader(model, dtype, weights)
    truth = reader.true_class(true)
    asked = [int(t) if t is not None and t.lstrip("-").isdigit() else t for t in (target, contrast)]
    explanation = explain_text(
        reader.model, reader.tokenizer, texts, None if contrast is not None else asked[0], choice.name,
        contrast=(asked[0], asked[1]) if contrast is not None else None, ledger=True, **choice.options,
    )  # fmt: skip
    by = "token" if tokens else "word"
    shown, outputs = explanation.passages(by), explanation.explanation.output
    if truth is not None and outputs.ndim != 2:
        raise TargetError(f"--true is for classifiers; {reader.name} scores tokens")
    for i, (passage, sentence) in enumerate(zip(shown, explanation.sentences, strict=True)):
        for line in _tables.passage(passage, show.limit_of(shown)):
            out.print(line, soft_wrap=True, highlight=False)
        if outputs.ndim == 2 and outputs.shape[1] > 1:
            out.print(_tables.decision(outputs[i], reader.classes, truth), highlight=False)
        if top:
            listed = list(zip(sentence.tokens, sentence.relevance.tolist(), strict=True)) if tokens else sentence.words
            out.print(_tables.contributions(listed, top))
    names, asked_for = [_tables.beginning(t) for t in texts], [s.title for s in explanation.sentences]
    out.print(_tables.ledger(choice.label, names, asked_for, explanation.accounts, "text"))
    if output is not None:
        explanation.save(str(output), by=by)
        out.print(f"{output.suffix[1:]}: {output}", soft_wrap=True, highlight=False)


@app.command()
def examine(
    photo: Annotated[Path | None, typer.Argument(help="Image file; by default a photo of the package.")] = None,
    model: Model = None,
    weights: Weights = None,
    random_weights: Random = False,
    composite: Annotated[str, typer.Option("--composite", help="Recipe of rules, see `relprop composites`.")] = "auto",
    option: Options = None,
) -> None:
    """Say which rule every operation of a model gets; exit code 1 if some have none or nothing can be explained."""
    (choice,) = chosen_composites([composite], option or [])
    path = photo or zoo.samples()["frog"]
    subject = Subject(load(model, weights, random_weights), [_loading.open_photo(path)], [str(path)])
    report = examined(subject.loaded.model, subject.inputs, choice.name, **choice.rule_options(subject.bounds))
    out.print(str(report), soft_wrap=True, highlight=False, markup=False)
    if not report.ready:
        raise typer.Exit(1)


@app.command("composites")
def list_composites() -> None:
    """List the recipes of rules and their options."""
    out.print(_tables.recipes())


@app.command("rules")
def list_rules() -> None:
    """List the rules, their equations and parameters."""
    out.print(_tables.rule_list())


@dataclass(frozen=True)
class Choice:
    """One `--composite`: as written, its recipe and the options given to it."""

    label: str
    name: str
    options: dict[str, Any]

    def rule_options(self, bounds: tuple[Tensor, Tensor]) -> dict[str, Any]:
        """The options, with the range of the pixels as `low` and `high` where the recipe asks for them."""
        known = recipes.signature(self.name)
        ends = dict(zip(("low", "high"), bounds, strict=True))
        return {key: value for key, value in ends.items() if key in known} | self.options


@dataclass
class Subject:
    """A model and the photos to be explained."""

    loaded: _loading.Loaded
    images: Sequence[Any]
    names: Sequence[str]
    inputs: Tensor = field(init=False)
    bounds: tuple[Tensor, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.inputs = _loading.batch(self.loaded, self.images)
        self.bounds = _loading.bounds(self.loaded, self.images[0].size)

    def asked(self, target: str | None) -> Target:
        """What `--target` asks for."""
        return None if target is None else parse(target, self.index_of)

    def index_of(self, target: str) -> int:
        """The index of a class by what the user wrote for it, its name or index."""
        if target.lstrip("-").isdigit():
            return int(target)
        classes = [name.lower() for name in self.loaded.classes]
        hits = [i for i, name in enumerate(classes) if name == target.lower()]
        if len(hits) == 1:
            return hits[0]
        if hits:
            raise TargetError(
                f"--target {target}: the classes {', '.join(map(str, hits))} have this name; give the index"
            )
        known = f"; there are {', '.join(classes)}" if 0 < len(classes) <= 20 else _loading.similar(target, classes)
        raise TargetError(f"--target {target}: {self.loaded.name} has no class of this name{known}; or give the index")

    def explanations(
        self, choices: Sequence[Choice], target: Target, code: Path | None, max_batch: str | None
    ) -> dict[str, Explanation]:
        """One explanation of all photos for each composite, by its label."""
        found = {}
        most: Any = int(max_batch) if max_batch is not None and max_batch.isdigit() else max_batch
        for choice in choices:
            explainer = Explainer(
                self.loaded.model, self.inputs, choice.name, max_batch=most, **choice.rule_options(self.bounds)
            )
            found[choice.label] = explainer(self.inputs, target=target, ledger=True)
            if code is not None:
                code.write_text(explainer.code, encoding="utf-8")
                torch.save(explainer.program.state_dict(), code.with_suffix(".pt"))
                torch.save(self.inputs, code.with_suffix(".inputs.pt"))
        return found

    def explained(self, explanation: Explanation) -> list[tuple[int | None, str]]:
        """For each photo the class that was explained, and what was asked in words; nothing where there are none."""
        if explanation.output.ndim != 2:
            return [(None, "")] * len(self.names)
        target, known = explanation.target, self.loaded.classes
        return [
            (int(k), words(target, lambda c, i=i: _tables.class_name(int(c[i]), known)))  # type: ignore[misc]
            for i, k in enumerate(getattr(target, "c", target))
        ]

    def rows(self, explanations: dict[str, Explanation]) -> list[show.Row]:
        """The figure's rows: the photo as the model saw it, and its maps."""
        first = next(iter(explanations.values()))
        rows = []
        for i, (name, (k, asked)) in enumerate(zip(self.names, self.explained(first), strict=True)):
            title = name
            if k is not None:
                title += f"\nwhy {asked} ({_tables.probabilities(first.output)[i, k]:.1%})?"
            panels = [
                show.Panel(label.replace(":", "\n", 1).replace(",", ", "), e.relevance[i], float(e.score[i]))
                for label, e in explanations.items()
            ]
            rows.append(show.Row(_loading.visible(self.inputs[i], *self.bounds), panels, title))
        return rows


def photo_paths(photos: list[Path], samples: bool) -> list[Path]:
    """The files to explain; exactly one of PHOTO and --samples is to be given."""
    if samples == bool(photos):
        raise InputError(
            "PHOTO and --samples exclude each other; give one"
            if samples
            else "PHOTO is missing: name an image file, or give --samples to explain the photos of the package"
        )
    return list(zoo.samples().values()) if samples else photos


def photo_names(paths: list[Path]) -> list[str]:
    """What tells the photos apart: names without suffix, with it, or whole paths."""
    short = [path.stem for path in paths], [path.name for path in paths]
    return next((names for names in short if len(set(names)) == len(paths)), [str(path) for path in paths])


def load(model: str | None, weights: Path | None, random_weights: bool) -> _loading.Loaded:
    """The model, with a warning if it knows nothing."""
    loaded = _loading.load(model, weights, random_weights)
    if loaded.random:
        err.print(f"[yellow]warning: {escape(loaded.name)} has random weights; what it predicts means nothing[/yellow]")
    return loaded


def chosen_composites(specs: Sequence[str], options: Sequence[str]) -> list[Choice]:
    """`--composite NAME:KEY=VALUE,...` and the `--option KEY=VALUE` for all that take them."""
    common = dict(parsed("--option", option) for option in options)
    choices = []
    for spec in specs:
        name, _, own = spec.partition(":")
        if name not in recipes.names():
            raise CompositeError(f"--composite {name}: no such recipe; there are {', '.join(recipes.names())}")
        known = recipes.signature(name)
        given = dict(parsed(f"--composite {name}", part) for part in own.split(",") if part)
        if unknown := [key for key in given if key not in known]:
            raise CompositeError(f"--composite {spec}: {name} has no option {unknown[0]}; it has {', '.join(known)}")
        choices.append(Choice(spec, name, {k: v for k, v in common.items() if k in known} | given))
    for key in common:
        if not any(key in choice.options for choice in choices):
            taken = sorted({k for choice in choices for k in recipes.signature(choice.name)})
            raise CompositeError(f"--option {key}: no composite given takes it; they take {', '.join(taken)}")
    return choices


def parsed(argument: str, text: str) -> tuple[str, Any]:
    """KEY=VALUE; the value is a number, except for the options that choose among words."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not (key and equals and value):
        raise CompositeError(f"{argument}: '{text}' is not of the form KEY=VALUE")
    if key in CHOICES:
        return key, value
    try:
        return key, int(value) if value.lstrip("+-").isdigit() else float(value)
    except ValueError:
        raise CompositeError(f"{argument} {text}: '{value}' is no number") from None


def main() -> None:
    """The entry point of the command."""
    app()
