"""Which tensor of a model's output is explained, and the settings of a copy that make the output exportable.

Hugging Face models return a mapping of named tensors, torchvision's segmentation models a dictionary, others tuples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from .errors import CaptureError

# The scores of a decision, as classifiers and language models, image-text models and segmentation models name them.
SCORES = ("logits", "logits_per_image", "out")


class Choice:
    """Picks one tensor of an output, and remembers the name of what it picked last ('' if there was nothing to pick).

    `chosen, alternatives`: for the note in the rule table.
    """

    chosen = ""
    alternatives: tuple[str, ...] = ()

    def __call__(self, out: Any, sizes: Sequence[Any], kind: str) -> Tensor:
        """The output itself, or of several: the scores by name, else the first with one row a sample.

        `sizes`: the inputs' first dimensions; `kind`: the model's class, for the error.
        """
        if isinstance(out, Tensor):
            self.chosen = ""
            return out
        named = {name: v for name, v in leaves(out) if isinstance(v, Tensor)}
        real = {name: v for name, v in named.items() if v.is_floating_point()}
        found = next((n for last in SCORES for n in real if n.split(".")[-1] == last), None)
        if found is None:
            found = next((n for n, v in real.items() if v.dim() and any(v.shape[0] == s for s in sizes)), None)
        if found is None:
            raise CaptureError(_refusal(kind, out, named))
        self.chosen, self.alternatives = found, tuple(n for n in named if n != found)
        return named[found]

    def note(self) -> list[str]:
        """What the rule table says of it."""
        if not self.chosen:
            return []
        others = f"; it also returns {', '.join(self.alternatives)}" if self.alternatives else ""
        return [f"explained is {self.chosen!r} of the model's output{others}"]


def leaves(out: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What a nested output holds, with dotted names: keys of mappings, fields of dataclasses, indices of tuples."""
    if isinstance(out, Mapping):
        parts = [(str(k), v) for k, v in out.items()]
    elif is_dataclass(out) and not isinstance(out, type):
        parts = [(f.name, getattr(out, f.name)) for f in fields(out)]
    elif isinstance(out, (tuple, list)):
        names = getattr(out, "_fields", None) or range(len(out))
        parts = [(str(n), v) for n, v in zip(names, out, strict=True)]
    else:
        yield prefix, out
        return
    for name, v in parts:
        yield from leaves(v, f"{prefix}.{name}" if prefix else name)


def _refusal(kind: str, out: Any, named: dict[str, Tensor]) -> str:
    held = ", ".join(f"{n or 'a tensor'} {tuple(v.shape)} {str(v.dtype)[6:]}" for n, v in named.items())
    what = f"holding {held}" if held else "that holds no tensor"
    return (
        f"{kind} returns a {type(out).__name__} {what}: none is a floating point tensor with one row a sample; wrap "
        "the model in a module whose forward picks the tensor to explain, for example `return self.model(x)[0]` or "
        "`return self.model(x).logits`"
    )


def without_cache(model: nn.Module) -> nn.Module:
    """A copied Hugging Face model set to return named tensors and no key-value cache, which cannot be exported.

    The configurations belong to the copy as its modules do. A model without one is left as it is.
    """
    for module in model.modules():
        for config in _configs(getattr(module, "config", None)):
            for setting, on in (("use_cache", False), ("return_dict", True)):
                if isinstance(getattr(config, setting, None), bool):
                    setattr(config, setting, on)
            if isinstance(getattr(config, "_experts_implementation", None), str):
                config._experts_implementation = "batched_mm"  # tokens sorted by expert would mix the samples
    return model


def _configs(config: Any, depth: int = 3) -> Iterator[Any]:
    """A configuration and those inside it (`text_config`, `decoder`)."""
    if not hasattr(config, "model_type") or isinstance(config, type) or not hasattr(config, "__dict__"):
        return
    yield config
    if depth:
        for inner in vars(config).values():
            yield from _configs(inner, depth - 1)
