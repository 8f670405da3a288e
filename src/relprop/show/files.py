"""Pictures to files, and whether a file can be written, said before the work starts."""

from __future__ import annotations

import html as markup
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from relprop.errors import InputError, OutputError

from .comparison import plot
from .heatmap import RGB, Array, heatmap, overlay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
FIGURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".svg", ".pdf")


def check_path(path: str | Path, suffixes: tuple[str, ...] = FIGURE_SUFFIXES) -> Path:
    """The path, if a picture can be written there; call it before a long computation. Changes nothing.

    Raises `OutputError`: an unknown suffix, a missing folder, a folder in place of a file, no permission.

    >>> check_path("heat.gif")
    Traceback (most recent call last):
    relprop.errors.OutputError: cannot write 'heat.gif': pictures end in .png .jpg .jpeg .webp .tif .tiff .svg .pdf
    """
    target = Path(path)
    if target.is_dir():
        raise OutputError(f"cannot write '{target}': it is a folder; add a file name, such as '{target / 'heat.png'}'")
    if target.suffix.lower() not in suffixes:
        raise OutputError(f"cannot write '{target}': pictures end in {' '.join(suffixes)}")
    if not target.parent.is_dir():
        raise OutputError(f"cannot write '{target}': there is no folder '{target.parent}'; make it first")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise OutputError(f"cannot write '{target}': no permission; choose another place")
    return target


def save(
    path: str | Path,
    relevance: Array | Sequence[Array],
    photo: Array | None = None,
    *,
    scores: Sequence[float] | None = None,
    limit: float | None = None,
    percentile: float | None = None,
    palette: str = "red-blue",
    side: int = 256,
) -> Path:
    """Write `heatmap(relevance)`, or `overlay(photo, relevance)` if a photo is given, as an image file.

    Arguments as for those two. A picture smaller than `side` pixels is enlarged by a whole factor, each pixel to a
    square, so that nothing is interpolated; side=1 keeps the size. A list of maps, with their `scores` if known, is
    written as the figure that `plot` makes, also as .svg or .pdf. Returns the path.
    Raises `InputError`, `OutputError`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/heat.png", np.array([[1.0, -1.0]])).name
    'heat.png'
    """
    if isinstance(relevance, (list, tuple)):
        check_path(path, FIGURE_SUFFIXES)
        return save_figure(plot(relevance, scores=scores, percentile=percentile, palette=palette), path)
    relevance, target = cast(Array, relevance), check_path(path, IMAGE_SUFFIXES)
    if photo is None:
        picture = heatmap(relevance, limit=limit, percentile=percentile, palette=palette)
    else:
        picture = overlay(photo, relevance, limit=limit, percentile=percentile, palette=palette)
    from PIL import Image

    try:
        Image.fromarray(enlarged(picture, side)).save(target)
    except OSError as error:  # a full disk, a lost mount
        raise OutputError(f"cannot write '{target}': {error}") from error
    return target


def save_figure(figure: Figure, path: str | Path, dpi: int = 150) -> Path:
    """Write a matplotlib figure as .png, .jpg, .webp, .tif, .svg or .pdf. Returns the path. Raises `OutputError`."""
    target = check_path(path, FIGURE_SUFFIXES)
    try:
        figure.savefig(target, dpi=dpi)
    except OSError as error:
        raise OutputError(f"cannot write '{target}': {error}") from error
    return target


def write(target: Path, text: str) -> Path:
    """Write a text to a path that `check_path` found fit. Raises `OutputError`."""
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:  # a full disk, a lost mount
        raise OutputError(f"cannot write '{target}': {error}") from error
    return target


def document(title: str, body: str) -> str:
    """HTML as a document of its own."""
    head = f'<meta charset="utf-8"><title>{markup.escape(title)}</title>'
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def png(picture: RGB, side: int = 256) -> bytes:
    """An RGB array (H, W, 3), uint8, as the bytes of a PNG, enlarged as by `save`.

    >>> png(np.zeros((1, 1, 3), np.uint8))[1:4]
    b'PNG'
    """
    from PIL import Image

    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(f"picture is {picture.dtype} of shape {picture.shape}; give uint8, (H, W, 3)")
    buffer = io.BytesIO()
    Image.fromarray(enlarged(picture, side)).save(buffer, format="PNG")
    return buffer.getvalue()


def enlarged(picture: RGB, side: int) -> RGB:
    """Each pixel a square of so many that the longer side has at least `side` of them."""
    factor = max(1, -(-side // max(picture.shape[:2])))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)
