"""How well relevance tells what matters to a model: replace what it names first, and see the score fall.

`pixel_flipping`        single pixels of images, highest first, lowest first, in random order
`region_perturbation`   square regions of images
`token_deletion`        tokens of texts, masked or removed
`feature_deletion`      columns of a table
`Curves`, `join`        their result: AUC, AOPC, ABPC, SRG for every sample, means, differences, tables, pictures
`Estimate`, `estimate`  a mean and its standard error

Relevance is an array or a function: it may come from anywhere.
"""

from __future__ import annotations

from .curves import Curves, join
from .estimate import Estimate, estimate
from .features import feature_deletion
from .images import pixel_flipping, region_perturbation
from .tokens import token_deletion

__all__ = [
    "Curves", "Estimate", "estimate", "feature_deletion", "join", "pixel_flipping", "region_perturbation",
    "token_deletion",
]  # fmt: skip
