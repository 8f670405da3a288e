"""Relevance of words: passages of text in colours, as HTML, as a picture, and as plain lines.

Red positive, blue negative, white zero, on one scale for all passages of a page: ± max |R|.
"""

from __future__ import annotations

import html as markup
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from relprop.errors import InputError

from .files import check_path, document, save_figure, write
from .heatmap import PALETTES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT_SUFFIXES = (".html", ".png", ".svg", ".pdf", ".txt")
COLUMNS = 90  # of a line in pictures


@dataclass(frozen=True)
class Piece:
    """A word or token with its relevance; `before` stands uncoloured in front, `special`: not part of the text."""

    text: str
    relevance: float
    before: str = ""
    special: bool = False


@dataclass(frozen=True)
class Passage:
    """A text in pieces, what was asked of it, the score that is explained, and sums that are not shown in the text."""

    pieces: tuple[Piece, ...]
    title: str = ""
    score: float | None = None
    others: Mapping[str, float] = field(default_factory=dict)

    def sums(self) -> str:
        """min, max and Σ of the relevance, and the score.

        >>> Passage((Piece("good", 2.0), Piece("not", -0.5, " ")), score=1.5).sums()
        'min -0.5   max 2   Σ 1.5   score 1.5'
        """
        values = [p.relevance for p in self.pieces]
        parts = {"min": min(values), "max": max(values), "Σ": sum(values)}
        parts |= {f"Σ of {name}": r for name, r in self.others.items()}
        parts |= {} if self.score is None else {"score": self.score}
        return "   ".join(f"{name} {r:.4g}" for name, r in parts.items())


def limit_of(passages: Sequence[Passage], limit: float | None = None) -> float:
    """The relevance drawn in full colour: max |R| over all passages, or the given limit. Raises `InputError`."""
    if not passages or not all(p.pieces for p in passages):
        raise InputError("there is no text to show: each passage needs at least one piece")
    if limit is not None and not 0 < limit < float("inf"):
        raise InputError(f"limit is {limit}; give a finite number > 0")
    return limit or max(abs(p.relevance) for passage in passages for p in passage.pieces)


def colours(relevance: float, limit: float, palette: str = "red-blue") -> tuple[str, str]:
    """Background and letters: between white and the palette's end, black or white, whichever is read better.

    >>> colours(1.0, 1.0), colours(0.0, 1.0), colours(-1.0, 1.0)
    (('#ff0000', '#000000'), ('#ffffff', '#000000'), ('#0000ff', '#ffffff'))
    """
    if palette not in PALETTES:
        raise InputError(f"palette {palette!r} is unknown; there are {', '.join(PALETTES)}")
    share = max(-1.0, min(1.0, relevance / limit)) if limit else 0.0
    end = PALETTES[palette][2 if share > 0 else 0]
    full = [int(end[i : i + 2], 16) for i in (1, 3, 5)]
    mixed = [round(255 + abs(share) * (c - 255)) for c in full]
    # relative luminance (WCAG 2); its contrast with black and with white is equal at 0.179
    linear = [(c / 255) / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in mixed]
    bright = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#{:02x}{:02x}{:02x}".format(*mixed), "#000000" if bright > 0.179 else "#ffffff"


def html(passages: Sequence[Passage], *, limit: float | None = None, palette: str = "red-blue") -> str:
    """The passages as one piece of HTML that needs nothing else: no script, no style sheet, no font.

    >>> "good&lt;" in html([Passage((Piece("good<", 1.0),))])
    True
    """
    limit = limit_of(passages, limit)
    body = "\n".join(_block(p, limit, palette) for p in passages)
    return (
        '<div style="font-family:sans-serif;line-height:2;color:#000000;background:#ffffff;padding:8px">\n'
        f'{body}\n<div style="font-size:80%;color:#555555">full colour at ± {limit:.4g}; outlined: special tokens</div>'
        "\n</div>"
    )


def _block(passage: Passage, limit: float, palette: str) -> str:
    spans = "".join(_span(p, limit, palette) for p in passage.pieces)
    head = f"<div><b>{markup.escape(passage.title)}</b></div>\n" if passage.title else ""
    return (
        f'<div style="margin-bottom:12px">\n{head}<div style="white-space:pre-wrap">{spans}</div>\n'
        f'<div style="font-size:80%;white-space:pre-wrap">{passage.sums()}</div>\n</div>'
    )


def _span(piece: Piece, limit: float, palette: str) -> str:
    paper, ink = colours(piece.relevance, limit, palette)
    outline = "outline:1px dotted #555555;font-style:italic;" if piece.special else ""
    style = f"background:{paper};color:{ink};{outline}padding:2px 0"
    text = markup.escape(piece.text)
    return f'{markup.escape(piece.before)}<span title="{piece.relevance:.6g}" style="{style}">{text}</span>'


def page(passages: Sequence[Passage], *, limit: float | None = None, palette: str = "red-blue") -> str:
    """`html` as a document of its own."""
    title = passages[0].title or "relevance" if passages else ""
    return document(title, html(passages, limit=limit, palette=palette))


def lines(passages: Sequence[Passage]) -> str:
    """The passages as plain text: a piece a line with its relevance, then the sums."""
    limit_of(passages)
    blocks = []
    for passage in passages:
        wide = max(width(shown(p)) for p in passage.pieces)
        rows = [f"  {padded(shown(p), wide)}  {p.relevance:>+10.4g}" for p in passage.pieces]
        blocks.append("\n".join([passage.title, *rows, passage.sums()] if passage.title else [*rows, passage.sums()]))
    return "\n\n".join(blocks)


def shown(piece: Piece) -> str:
    """The piece on one line, special tokens in brackets of their own."""
    text = piece.text.replace("\n", "⏎")
    return f"({text})" if piece.special else text


def width(text: str) -> int:
    """Columns of a terminal: wide characters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def padded(text: str, wide: int) -> str:
    """The text with blanks up to a width."""
    return text + " " * (wide - width(text))


def text_figure(passages: Sequence[Passage], *, limit: float | None = None, palette: str = "red-blue") -> Figure:
    """The passages as a matplotlib figure, in lines of fixed-width letters."""
    from matplotlib.figure import Figure

    limit = limit_of(passages, limit)
    rows = [row for passage in passages for row in _rows(passage, limit, palette)]
    figure = Figure(figsize=(COLUMNS * 0.1, max(2, len(rows)) * 0.26))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set(xlim=(0, COLUMNS), ylim=(len(rows), 0))
    axes.axis("off")
    for y, row in enumerate(rows):
        for x, text, paper, ink, special in row:
            axes.barh(y + 0.5, width(text), left=x, height=0.86, color=paper)
            style = "italic" if special else "normal"
            axes.text(
                x, y + 0.5, text.replace("$", r"\$"), color=ink, style=style, family="monospace", size=11, va="center"
            )
    return figure


Placed = tuple[int, str, str, str, bool]


def _rows(passage: Passage, limit: float, palette: str) -> Iterator[list[Placed]]:
    """The rows of a passage in a picture: its title, its pieces broken into lines, its sums, an empty row."""
    if passage.title:
        yield [(0, passage.title[:COLUMNS], "#ffffff", "#000000", False)]
    row: list[Placed] = []
    x = 0
    for piece in passage.pieces:
        text = shown(piece)
        gap = width(piece.before.replace("\n", " ")) if x else 0
        if (row and x + gap + width(text) > COLUMNS) or "\n" in piece.before:
            yield row
            row, x, gap = [], 0, 0
        row.append((x + gap, text, *colours(piece.relevance, limit, palette), piece.special))
        x += gap + width(text)
    yield row
    yield [(0, passage.sums(), "#ffffff", "#555555", False)]
    yield []


def save_text(
    path: str | Path, passages: Sequence[Passage], *, limit: float | None = None, palette: str = "red-blue"
) -> Path:
    """Write passages as .html, .txt or, as a figure, .png, .svg or .pdf. Returns the path.

    Raises `InputError`, `OutputError`.
    """
    target = check_path(path, TEXT_SUFFIXES)
    if target.suffix.lower() not in (".html", ".txt"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # letters the font lacks: boxes
            return save_figure(text_figure(passages, limit=limit, palette=palette), target)
    if target.suffix.lower() == ".txt":
        return write(target, lines(passages) + "\n")
    return write(target, page(passages, limit=limit, palette=palette))
