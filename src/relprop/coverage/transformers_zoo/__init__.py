"""The zoo transformers: tiny random configurations of its architectures, written by hand."""

from __future__ import annotations

from typing import Any

from ..subject import Subject, subject
from . import decoders, encoders, images, mixed, pairs, sounds
from .entry import Entry

# Weights N(0, 0.1²) where a model leaves the choice: with the usual 0.02 and 32 channels every branch would be far
# smaller than the residual stream around it, and attention uniform.
INITIALIZER_RANGE = 0.1

ENTRIES: dict[str, Entry] = {
    **encoders.ENTRIES, **decoders.ENTRIES, **pairs.ENTRIES, **images.ENTRIES, **sounds.ENTRIES, **mixed.ENTRIES,
}  # fmt: skip


def names() -> list[str]:
    """Every configuration of the table."""
    return list(ENTRIES)


def build(name: str) -> Subject:
    """One model with random weights, and its inputs."""
    import transformers

    entry = ENTRIES[name]
    kind = getattr(transformers, entry.kind)
    config = kind.config_class(**entry.config)
    for part in _parts(config):
        if hasattr(part, "initializer_range"):
            part.initializer_range = INITIALIZER_RANGE
    return subject(kind(config), entry.inputs())


def _parts(config: Any) -> list[Any]:
    inner = [v for v in vars(config).values() if hasattr(v, "to_diff_dict")]
    return [config, *(p for v in inner for p in _parts(v))]
