"""Pictures of joint relevance: arcs between two images, matrices of tokens, tables and lines."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from PIL import Image
from torch import nn

from embeddings import bert, dense, drawn
from relprop.bilrp import JointRelevance, bilrp
from relprop.errors import InputError, OutputError
from relprop.show import pairs

PHOTO = np.zeros((4, 6, 3), np.uint8)


@cache
def of_images() -> JointRelevance:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    return bilrp(net, drawn(2, 3, 8, 8), drawn(2, 3, 8, 8, seed=5), "epsilon", pool=4)


@cache
def of_tokens() -> JointRelevance:
    return bilrp(bert(), torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5]]), "cp_lrp")


def curves(figure: Figure) -> list[Any]:
    return [p for p in figure.axes[0].patches if isinstance(p, PathPatch)]


# arcs


def relevance() -> np.ndarray:
    R = np.zeros((2, 3, 4, 2))
    R[0, 0, 3, 1], R[1, 2, 0, 0], R[0, 1, 1, 1] = 4.0, -2.0, 1.0
    return R


def test_arcs_are_those_of_the_strongest_pairs_by_sign_and_strength() -> None:
    figure = pairs.arcs(PHOTO, PHOTO[:, :4], relevance(), score=3.5, top=2)
    weak, strong = curves(figure)  # the strongest is drawn last, on top
    assert [to_hex(c.get_edgecolor()) for c in (weak, strong)] == ["#0000ff", "#ff0000"]
    assert strong.get_linewidth() == pytest.approx(0.4 + 3.2)
    assert weak.get_linewidth() == pytest.approx(0.4 + 1.6)
    assert strong.get_alpha() > weak.get_alpha()
    said = figure.axes[0].get_xlabel()
    for words in ("R -2 … 4", "ΣR 3", "score 3.5", "the 2 strongest of 48 pairs", "±4"):
        assert words in said


def test_arcs_end_in_the_middle_of_their_cells() -> None:
    """Images of 4 x 6 and 4 x 4 pixels, 1 high: 1.5 and 1 wide; 2 x 3 and 4 x 2 cells."""
    figure = pairs.arcs(PHOTO, PHOTO[:, :4], relevance(), top=1)
    (curve,) = curves(figure)
    start, bend, end = curve.get_path().vertices.tolist()
    assert start == pytest.approx([0.25, 0.25])
    assert end == pytest.approx([1.5 + pairs.GAP + 0.75, 0.875])
    assert bend[1] < min(start[1], end[1])
    boxes = [p.get_bbox().bounds for p in figure.axes[0].patches if isinstance(p, Rectangle)]
    assert boxes[0] == pytest.approx((0.0, 0.0, 0.5, 0.5))
    assert boxes[1] == pytest.approx((1.5 + pairs.GAP + 0.5, 0.75, 0.5, 0.25))


@pytest.mark.parametrize("place", [(0, 0, 0, 0), (0, 2, 0, 0), (1, 0, 3, 1), (1, 2, 3, 0), (1, 0, 0, 1)])
def test_no_arc_leaves_the_picture(place: tuple[int, ...]) -> None:
    R = np.zeros((2, 3, 4, 2))
    R[place] = 1.0
    figure = pairs.arcs(PHOTO, PHOTO, R)
    (curve,) = curves(figure)
    y0, yb, y1 = curve.get_path().vertices[:, 1]
    t = np.linspace(0, 1, 101)
    y = (1 - t) ** 2 * y0 + 2 * t * (1 - t) * yb + t**2 * y1
    assert y.min() >= min(figure.axes[0].get_ylim())
    assert y.max() <= 1


def test_pairs_without_relevance_have_no_arc_and_a_limit_caps_the_width() -> None:
    assert len(curves(pairs.arcs(PHOTO, PHOTO, relevance(), top=40))) == 3
    assert not curves(pairs.arcs(PHOTO, PHOTO, np.zeros((2, 2, 2, 2))))
    capped = curves(pairs.arcs(PHOTO, PHOTO, relevance(), limit=1.0))
    assert [c.get_linewidth() for c in capped] == pytest.approx([3.6] * 3)
    orange = curves(pairs.arcs(PHOTO, PHOTO, relevance(), palette="orange-purple"))
    assert [to_hex(c.get_edgecolor()) for c in orange] == ["#d95f02", "#4b1d8f", "#d95f02"]


def test_images_are_saved_as_arcs_between_themselves(tmp_path: Path) -> None:
    joint = of_images()
    file = tmp_path / "arcs.png"
    joint.save(str(file), sample=1, top=5)
    with Image.open(file) as picture:
        assert picture.width > picture.height > 200
    figure = joint.plot(sample=1, top=5)
    R = joint.relevance[1].abs().flatten().sort(descending=True).values
    widths = sorted((c.get_linewidth() for c in curves(figure)), reverse=True)
    assert widths == pytest.approx([0.4 + 3.2 * float(r / R[0]) for r in R[:5]])
    shown = figure.axes[0].images[0].get_array()
    x = joint.inputs[0][1].permute(1, 2, 0)
    expected = ((x - x.min()) / (x.max() - x.min()) * 255).round()
    assert np.abs(np.asarray(shown).astype(int) - expected.numpy()).max() <= 1
    photo = np.full((8, 8, 3), 7, np.uint8)
    assert (np.asarray(joint.plot(photos=(photo, photo)).axes[0].images[1].get_array()) == 7).all()


# matrices


def test_a_matrix_has_the_names_and_colours(tmp_path: Path) -> None:
    figure = pairs.matrix(np.array([[2.0, -1.0]]), ["$5"], ["good", "bad"], score=1.0)
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["good", "bad"]
    assert [t.get_text() for t in axes.get_yticklabels()] == [r"\$5"]
    colours = np.asarray(axes.images[0].get_array())[0]
    assert colours[0].tolist() == [255, 0, 0]
    assert colours[1][2] == 255
    assert 120 < colours[1][0] < 135
    assert "ΣR 1   score 1" in axes.get_xlabel()


def test_tokens_are_saved_as_matrix_table_and_lines(tmp_path: Path) -> None:
    joint = of_tokens()
    names = (["the", "<b>", "film"], ["a", "movie"])
    for suffix in ("png", "svg", "html", "txt"):
        joint.save(str(tmp_path / f"pairs.{suffix}"), tokens=names)
    with Image.open(tmp_path / "pairs.png") as picture:
        assert min(picture.size) > 100
    page = (tmp_path / "pairs.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    R = joint.relevance[0]
    for i, name in enumerate(("the", "&lt;b&gt;", "film")):
        for j, other in enumerate(names[1]):
            assert f'title="{name} × {other}: {float(R[i, j]):.6g}"' in page
    written = (tmp_path / "pairs.txt").read_text(encoding="utf-8").splitlines()
    assert len(written) == 6 + 1
    (i,), (j,), most = joint.top(1)[0]
    assert written[0].split() == [names[0][i], names[1][j], f"{most:+.4g}"]
    assert written[-1].endswith(f"score {float(joint.score):.4g}")


def test_notebooks_see_a_picture_and_terminals_a_line() -> None:
    joint = of_tokens()
    assert joint._repr_html_().startswith('<img src="data:image/png;base64,')
    assert "relevance (1, 3, 2)" in repr(joint)
    assert "tokens: 5 passes (units: 6" in repr(joint)


# refusals


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (InputError, "top=0", lambda: pairs.arcs(PHOTO, PHOTO, relevance(), top=0)),
        (InputError, "limit is -1", lambda: pairs.arcs(PHOTO, PHOTO, relevance(), limit=-1)),
        (InputError, "palette 'rainbow'", lambda: pairs.arcs(PHOTO, PHOTO, relevance(), palette="rainbow")),
        (InputError, r"shape \(2, 2\)", lambda: pairs.arcs(PHOTO, PHOTO, np.zeros((2, 2)))),
        (InputError, "1 values that are NaN", lambda: pairs.matrix(np.array([[np.nan]]), ["a"], ["b"])),
        (InputError, "1 x 2, names 1 x 1", lambda: pairs.matrix(np.zeros((1, 2)), ["a"], ["b"])),
        (InputError, "two lists of names, 3 for x and 2 for x2", lambda: of_tokens().plot(tokens=(["a"], ["b"]))),
        (InputError, "two lists of names", lambda: of_tokens().plot(tokens=("the", "ab"))),
        (InputError, "photos are drawn", lambda: of_tokens().plot(photos=(PHOTO, PHOTO))),
        (InputError, "sample=2", lambda: of_images().plot(sample=2)),
        (OutputError, "pictures end in", lambda: of_images().save("pairs.txt")),
        (OutputError, "there is no folder", lambda: of_tokens().save("no_such_folder/pairs.html")),
    ],
)
def test_what_cannot_be_drawn_is_refused(error: type[Exception], words: str, call: Any) -> None:
    with pytest.raises(error, match=words):
        call()


def test_features_are_numbered() -> None:
    joint = bilrp(dense(4, 6), drawn(2, 4), drawn(2, 4, seed=5), "lrp_zero")
    assert [t.get_text() for t in joint.plot(sample=1).axes[0].get_xticklabels()] == ["0", "1", "2", "3"]
