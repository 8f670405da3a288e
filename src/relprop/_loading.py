"""What the command line was asked to explain: `--model` and `--weights` to a model, photo files to its input."""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from . import zoo
from .errors import InputError, TargetError, WeightsError
from .reproduce.images import decoded
from .zoo import cifar10

Preprocess = Callable[[Image.Image], Any]


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode, and how a photo becomes its input; `classes` is empty where nobody names them."""

    name: str
    model: nn.Module
    preprocess: Preprocess
    classes: Sequence[str] = field(default=(), repr=False)
    random: bool = False


def load(model: str | None, weights: Path | None, random_weights: bool) -> Loaded:
    """The model of `--model`: None (the embedded default), torchvision:NAME, timm:NAME or FILE.py:FUNCTION.

    Weights come from the file, else are random if asked for, else the published ones.
    Raises `InputError` for the model, `WeightsError` for the weights.
    """
    if weights is not None and random_weights:
        raise WeightsError("--weights and --random-weights exclude each other; give one")
    if weights is not None and not weights.is_file():
        raise WeightsError(f"--weights {weights}: there is no such file")
    source, _, name = (model or "").rpartition(":")
    if random_weights:
        torch.manual_seed(0)  # the same network at the next call
    if model is None:
        loaded = embedded(weights, random_weights)
    elif source == "torchvision":
        loaded = from_torchvision(name, weights, random_weights)
    elif source == "timm":
        loaded = from_timm(name, weights, random_weights)
    elif source.endswith(".py"):
        loaded = from_file(Path(source), name, weights, random_weights)
    else:
        raise InputError(f"--model {model}: give torchvision:NAME, timm:NAME or FILE.py:FUNCTION")
    loaded.model.eval()
    return loaded


def embedded(weights: Path | None, random_weights: bool) -> Loaded:
    """The network of the package, trained on CIFAR-10."""
    model = cifar10.Cifar10LRN() if random_weights else zoo.cifar10_lrn(weights)

    def preprocess(photo: Image.Image) -> Tensor:
        # resizes the shorter side to 32 and crops the middle; does nothing to a photo of 32 x 32
        small = ImageOps.fit(photo, (32, 32), Image.Resampling.BILINEAR)
        return cifar10.normalize(to_tensor(small))

    return Loaded("cifar10_lrn", model, preprocess, cifar10.CLASSES, random_weights)


def from_torchvision(name: str, weights: Path | None, random_weights: bool) -> Loaded:
    """A classifier of torchvision, with the transforms and class names of its published weights."""
    try:
        from torchvision import models
    except ImportError as error:
        raise InputError(f"--model torchvision:{name} needs torchvision: pip install 'relprop[vision]'") from error
    names = models.list_models(module=models)
    if name not in names:
        raise InputError(f"--model torchvision:{name}: no such classifier{similar(name, names)}")
    published = models.get_model_weights(name).DEFAULT
    # how the published weights of these two want their input; elsewhere torchvision has no such switch
    extra: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        extra = {"init_weights": random_weights, "transform_input": not random_weights}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = models.get_model(name, weights=None, **extra)
    if not random_weights:
        state = zoo.read_state(weights) if weights else downloaded(f"torchvision:{name}", published)
        zoo.load_into(model, {current(key): value for key, value in state.items()}, weights or published.url)
    return Loaded(name, model, published.transforms(), published.meta["categories"], random_weights)


def downloaded(what: str, published: Any) -> dict[str, Tensor]:
    """Published weights of torchvision, read without running what is in the file; kept in torch's cache folder."""
    try:
        state = published.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # no network, a proxy's page, a broken cache: each has its own class
        raise WeightsError(no_download(what, published.url, error)) from error
    return dict(state)


def current(key: str) -> str:
    """The name of a weight today, for DenseNets published when `norm.1` was allowed as a module name."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)


def from_timm(name: str, weights: Path | None, random_weights: bool) -> Loaded:
    """A classifier of timm, with the transforms of its data configuration."""
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise InputError(f"--model timm:{name} needs timm: pip install 'relprop[vision]'") from error
    if not timm.is_model(name):
        raise InputError(f"--model timm:{name}: no such model{similar(name.split('.')[0], timm.list_models())}")
    if weights is None and not random_weights:
        try:
            model = timm.create_model(name, pretrained=True)
        except Exception as error:  # as for `downloaded`
            raise WeightsError(no_download(f"timm:{name}", "the Hugging Face hub", error)) from error
    else:
        model = timm.create_model(name, pretrained=False)
    if weights is not None:
        zoo.load_into(model, zoo.read_state(weights), weights)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    subset = timm.data.infer_imagenet_subset(model)
    info = timm.data.ImageNetInfo(subset) if subset else None
    # descriptions are lists of synonyms, "tench, Tinca tinca"
    classes = [info.index_to_description(i).split(",")[0] for i in range(info.num_classes())] if info else ()
    return Loaded(name, model, transform, classes, random_weights)


def from_file(file: Path, function: str, weights: Path | None, random_weights: bool) -> Loaded:
    """What the user's own function returns: a model, or (model, preprocess) with preprocess(PIL image) -> (3, H, W).

    Without a preprocess, the input is the photo in its own size, RGB in 0 ... 1.
    """
    if not file.is_file():
        raise InputError(f"--model {file}:{function}: there is no file '{file}'")
    made = imported(file, function)()
    model, preprocess = made if isinstance(made, tuple) and len(made) == 2 else (made, to_tensor)
    if not isinstance(model, nn.Module) or not callable(preprocess):
        raise InputError(
            f"--model {file}:{function} returned {type(made).__name__}; return an nn.Module, or (nn.Module, preprocess)"
        )
    if weights is not None:
        zoo.load_into(model, zoo.read_state(weights), weights)
    return Loaded(function, model, preprocess, random=random_weights)


def imported(file: Path, function: str) -> Callable[[], Any]:
    """A function of a Python file, which may import its neighbours."""
    spec = importlib.util.spec_from_file_location(f"relprop_model_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look modules up by name
    sys.path.insert(0, str(file.resolve().parent))
    spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        have = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise InputError(f"--model {file}:{function}: the file has no function '{function}'{similar(function, have)}")
    return found  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Reader:
    """A model that takes tokens, in eval mode, with its tokenizer; `classes` is empty where nobody names them."""

    name: str
    model: nn.Module
    tokenizer: Any

    @property
    def classes(self) -> list[str]:
        """The names of a classifier's outputs."""
        named = getattr(getattr(self.model, "config", None), "id2label", None) or {}
        return [str(named[k]) for k in sorted(named)]

    def true_class(self, given: str | None) -> str | None:
        """The class that `--true` names, or whose index it gives. Raises `TargetError`."""
        if given is None:
            return None
        known = self.classes
        hits = [name for i, name in enumerate(known) if given in (str(i), name) or given.lower() == name.lower()]
        if len(hits) != 1:
            raise TargetError(f"--true {given}: give one of {', '.join(known) or 'no class: this model has none'}")
        return hits[0]


# What the end of an architecture's name says of its task, and the class of transformers that loads it.
TASKS = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
}


def load_reader(spec: str, dtype: str = "float32", weights: Path | None = None) -> Reader:
    """The model and tokenizer of `--model`: reviews, reviews:KIND, or hf:PATH, a folder or a name on the hub.

    `weights`: a folder with another review classifier. Raises `InputError`, `WeightsError`.
    """
    source, _, path = spec.partition(":")
    if source == "reviews":
        made = zoo.reviews(path or "dense", weights)
        return Reader(spec, made.model.to(getattr(torch, dtype)), made.tokenizer)
    if source != "hf" or not path:
        raise InputError(
            f"--model {spec}: give reviews, reviews:lstm, hf:FOLDER, or hf:NAME of a model on the Hugging Face hub"
        )
    if weights is not None:
        raise WeightsError(f"--weights {weights}: a folder of a review classifier, for --model reviews or reviews:lstm")
    try:
        import transformers
    except ImportError as error:
        raise InputError(f"--model {spec} needs transformers: pip install 'relprop[language]'") from error
    folder = Path(path).expanduser()
    if path.startswith((".", "/", "~")) and not folder.is_dir():
        raise InputError(f"--model {spec}: there is no folder '{folder}'")
    where = str(folder) if folder.is_dir() else path
    if folder.is_dir():
        transformers.utils.logging.disable_progress_bar()  # a hub's download takes long, a folder does not
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise InputError(
            f"--model {spec}: the folder holds no config.json; write it with model.save_pretrained(folder)"
        )
    config = pretrained(spec, transformers.AutoConfig, where, "model")
    names = config.architectures or ["none"]
    task = next((auto for end, auto in TASKS.items() if names[0].endswith(end)), None)
    if task is None:
        raise InputError(f"--model {spec}: its architecture is {names[0]}; explained are models {', '.join(TASKS)}")
    if folder.is_dir() and not any(f.name.startswith(("tokenizer", "vocab")) for f in folder.iterdir()):
        raise InputError(
            f"--model {spec}: the folder holds no tokenizer; write one there with tokenizer.save_pretrained(folder)"
        )
    tokenizer = pretrained(spec, transformers.AutoTokenizer, where, "tokenizer")
    model = pretrained(spec, getattr(transformers, task), where, "model", dtype=getattr(torch, dtype))
    return Reader(path, model.eval(), tokenizer)


def pretrained(spec: str, auto: Any, where: str, what: str, **options: Any) -> Any:
    """What a class of transformers loads from a folder or the hub, its refusals in one line."""
    try:
        return auto.from_pretrained(where, **options)
    except Exception as error:  # no file, no network, another format: each has its own class
        reason = (str(error).strip().split("\n")[0] or type(error).__name__)[:300]
        remedy = f"; write it with {what}.save_pretrained(folder)" if Path(where).is_dir() else ""
        raise InputError(f"--model {spec}: the {what} cannot be loaded ({reason}){remedy}") from error


def no_download(what: str, source: str, error: Exception) -> str:
    """The refusal for weights that did not arrive."""
    reason = (str(error).strip().split("\n")[0] or type(error).__name__)[:200]
    return (
        f"--model {what}: the published weights could not be fetched from {source} ({reason}); "
        "give them with --weights FILE (.safetensors or .pt), or take --random-weights"
    )


def similar(name: str, names: Sequence[str]) -> str:
    """Up to five names like this one, to end an error with."""
    close = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    return f"; similar: {', '.join(close)}" if close else ""


def open_photo(path: Path) -> Image.Image:
    """A photo as RGB, turned upright as its camera noted. Raises `InputError` if it is missing or unreadable."""
    if not path.is_file():
        raise InputError(f"PHOTO {path}: {'it is a folder' if path.is_dir() else 'there is no such file'}")
    try:
        return decoded(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"PHOTO {path}: not a readable image ({error}); give a PNG, JPEG or WebP file") from error


def to_tensor(photo: Image.Image) -> Tensor:
    """(3, H, W), float32 in 0 ... 1."""
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1).float() / 255


def batch(loaded: Loaded, photos: Sequence[Image.Image]) -> Tensor:
    """The photos as the model's input, (B, 3, H, W). Raises `InputError` if preprocess gives other shapes."""
    inputs = [prepared(loaded, photo) for photo in photos]
    sizes = {tuple(x.shape) for x in inputs}
    if len(sizes) > 1:
        raise InputError(
            f"PHOTO: sizes differ ({', '.join(map(str, sorted(sizes)))}); let the function "
            "of --model return (model, preprocess) that brings them to one size, or explain them one by one"
        )
    return torch.stack(inputs)


def prepared(loaded: Loaded, photo: Image.Image) -> Tensor:
    """One photo as (3, H, W)."""
    x = loaded.preprocess(photo)
    if isinstance(x, Tensor) and x.ndim == 4 and x.shape[0] == 1:
        x = x[0]
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[0] != 3 or not x.is_floating_point():
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"preprocess of {loaded.name} gave {got}; it takes a PIL image to a float tensor (3, H, W)")
    return x


def bounds(loaded: Loaded, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The least and largest value of each channel of the input, (3, 1, 1): what black and white photos become."""
    ends = torch.stack([prepared(loaded, Image.new("RGB", size, colour)) for colour in ("black", "white")])
    return ends.amin((0, 2, 3))[:, None, None], ends.amax((0, 2, 3))[:, None, None]


def visible(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The input back in 0 ... 1, so that the picture shows what the model saw: resized, cropped."""
    return ((x - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
