"""Relevance as pictures: arrays in, RGB arrays, files and figures out.

`heatmap`, `overlay`   relevance (and a photo) to an RGB array: red positive, blue negative, white zero
`figure`               several explanations of several photos side by side, each with its sums
`plot`                 maps alone, each with its sums
`save`, `save_figure`  to a file; `check_path` says before the work starts whether that will succeed
`html`, `save_text`    words in the colours of their relevance, to HTML, text or a picture; `Passage`, `Piece`
`series`               channels of a series over their relevance, on one time axis
`png`                  an RGB array to the bytes of a PNG, for HTML and notebooks
"""

from __future__ import annotations

from .comparison import Panel, Row, figure, plot
from .files import check_path, png, save, save_figure
from .heatmap import PALETTES, heatmap, overlay, pixels, scale
from .series import series
from .text import TEXT_SUFFIXES, Passage, Piece, colours, html, limit_of, lines, save_text, text_figure

__all__ = [
    "PALETTES", "TEXT_SUFFIXES", "Panel", "Passage", "Piece", "Row", "check_path", "colours", "figure", "heatmap",
    "html", "limit_of", "lines", "overlay", "pixels", "plot", "png", "save", "save_figure", "save_text", "scale",
    "series", "text_figure",
]  # fmt: skip
