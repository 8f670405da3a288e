"""Relevance as pictures: arrays in, RGB arrays, files and figures out.

`heatmap`, `overlay`   relevance (and a photo) to an RGB array: red positive, blue negative, white zero
`figure`               several explanations of several photos side by side, each with its sums
`plot`                 maps alone, each with its sums
`save`, `save_figure`  to a file; `check_path` says before the work starts whether that will succeed
`png`                  an RGB array to the bytes of a PNG, for HTML and notebooks
"""

from __future__ import annotations

from .comparison import Panel, Row, figure, plot
from .files import check_path, png, save, save_figure
from .heatmap import PALETTES, heatmap, overlay, pixels, scale

__all__ = [
    "PALETTES",
    "Panel",
    "Row",
    "check_path",
    "figure",
    "heatmap",
    "overlay",
    "pixels",
    "plot",
    "png",
    "save",
    "save_figure",
    "scale",
]
