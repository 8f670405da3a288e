"""Figures 1 and 3 of the reproduction: photos and their maps, each where it belongs."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import relprop
from relprop import show
from relprop.errors import InputError
from relprop.reproduce import figures
from relprop.reproduce.methods import Method
from relprop.reproduce.subject import Subject
from test_reproduce_figures import METHODS, drawn


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.LocalResponseNorm(3, alpha=3.0), nn.Flatten(), nn.Linear(4 * 16, 3)
    )
    black, white = torch.full((3,), -1.0), torch.full((3,), 3.0)
    return Subject("small", model.eval(), lambda photo: photo, black, white, ("ape", "bee", "a class with a long name"))


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """Colours of 0 … 255 in steps of 1, as the model takes them: −1 is black, 3 is white."""
    return torch.randint(0, 256, (8, 3, 6, 6), generator=torch.Generator().manual_seed(1)) / 255 * 4 - 1


NAMES = [f"test/automobile_long/{i:010d}.jpeg" for i in range(8)]


def image(ax: Any) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def heatmaps(subject: Subject, photos: Tensor, **options: Any) -> list[np.ndarray]:
    target = subject.model(photos).argmax(1)
    e = relprop.explain(subject.model, photos, target=target, composite=relprop.composites.get("binder2016", **options))
    return [show.heatmap(r) for r in e.relevance]


def test_figure_1_shows_photos_maps_classes_and_scores(subject: Subject, photos: Tensor) -> None:
    picture = drawn(figures.figure1(subject, photos[:4], NAMES[:4]))
    assert len(picture.axes) == 8
    above, below = picture.axes[:4], picture.axes[4:]
    expected = heatmaps(subject, photos[:4], epsilon=0.01, lrn="taylor")
    scores, classes = subject.model(photos[:4]).detach().max(1)
    named = {0: "ape", 1: "bee", 2: "a class with …"}
    for i in range(4):
        assert np.array_equal(image(above[i]), ((photos[i] + 1) / 4 * 255).round().byte().permute(1, 2, 0).numpy())
        assert np.array_equal(image(below[i]), expected[i])
        assert above[i].get_title() == f"{named[int(classes[i])]}\nlogit {float(scores[i]):.3g}"
        assert above[i].get_xlabel() == f"…omobile_long/\n…0000000{i}.jpeg"
    assert "ε=0.01, Taylor" in picture.get_suptitle()
    assert "own scale" in picture.get_supxlabel()


def test_figure_1_takes_another_method_and_one_photo_of_classes_without_names(subject: Subject, photos: Tensor) -> None:
    nameless = replace(subject, classes=())
    picture = drawn(figures.figure1(nameless, photos[:1], ["x.png"], method=Method("β=1", "identity")))
    assert np.array_equal(image(picture.axes[1]), heatmaps(subject, photos[:1], beta=1.0, lrn="identity")[0])
    k = int(subject.model(photos[:1]).argmax())
    assert picture.axes[0].get_title().startswith(f"class {k}\n")
    assert picture.axes[0].get_xlabel() == "x.png"


def map_of(method: int, photo: int) -> Tensor:
    """A map that no other method and photo has: one pixel full positive, one half negative, the others 0."""
    relevance = torch.zeros(3, 6, 6)
    relevance[0, method // 5, method % 5] = 2.0
    relevance[1, 5, photo % 6] = -1.0 if photo < 6 else -0.5
    return relevance


@pytest.fixture(scope="module")
def figure3(subject: Subject, photos: Tensor) -> Figure:
    """Of made-up maps, because ten real explanations take long."""
    maps = {m: torch.stack([map_of(i, k) for k in range(8)]) for i, m in enumerate(METHODS)}
    explained = SimpleNamespace(
        classes=subject.classes,
        visible=subject.visible,
        predicted=lambda x: torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]),
        explainer=lambda method, x: lambda x, target: SimpleNamespace(relevance=maps[method.name]),
    )
    return drawn(figures.figure3(cast(Subject, explained), photos, NAMES))


def test_figure_3_has_a_row_of_photos_and_one_for_every_method(figure3: Figure, photos: Tensor) -> None:
    rows = [figure3.axes[8 * i : 8 * i + 8] for i in range(11)]
    assert len(figure3.axes) == 88
    for ax, photo in zip(rows[0], photos, strict=True):
        assert np.array_equal(image(ax), ((photo + 1) / 4 * 255).round().byte().permute(1, 2, 0).numpy())
    assert [ax.get_title().split("\n")[-1] for ax in rows[0][:3]] == ["ape", "bee", "a class with …"]
    assert [row[0].get_ylabel() for row in rows] == ["", *METHODS]
    for i, row in enumerate(rows[1:]):
        for k, ax in enumerate(row):
            expected = np.full((6, 6, 3), 255)
            expected[i // 5, i % 5] = 255, 0, 0  # the largest |R| of this map
            assert np.array_equal(image(ax)[:5], expected[:5])
            assert np.array_equal(image(ax), show.heatmap(map_of(i, k)))
    assert "each map on its own scale" in figure3.get_supxlabel()


def check_no_text_runs_into_another(picture: Figure) -> None:
    texts = [t for ax in picture.axes for t in (ax.title, ax.xaxis.label, ax.yaxis.label) if t.get_text()]
    boxes = [t.get_window_extent() for t in texts]
    boxes += [ax.get_window_extent() for ax in picture.axes]
    sheet = picture.bbox
    for i, a in enumerate(boxes):
        assert sheet.x0 <= a.x0 < a.x1 <= sheet.x1
        assert sheet.y0 <= a.y0 < a.y1 <= sheet.y1
        assert not any(a.overlaps(b) for b in boxes[i + 1 :])


def test_no_text_of_the_most_photos_runs_into_another(figure3: Figure, subject: Subject, photos: Tensor) -> None:
    check_no_text_runs_into_another(figure3)
    check_no_text_runs_into_another(drawn(figures.figure1(subject, photos, NAMES)))


@pytest.mark.parametrize("make", [figures.figure1, figures.figure3])
def test_photos_that_cannot_be_shown_are_refused(make: Any, subject: Subject, photos: Tensor) -> None:
    with pytest.raises(InputError, match=r"photos has shape \(0, 3, 6, 6\); give 1 to 8"):
        make(subject, photos[:0], [])
    with pytest.raises(InputError, match=r"photos has shape \(9, 3, 6, 6\); give 1 to 8"):
        make(subject, torch.cat([photos, photos[:1]]), [*NAMES, "x"])
    with pytest.raises(InputError, match="names has 1 texts for 2 photos"):
        make(subject, photos[:2], NAMES[:1])
