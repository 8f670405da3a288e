"""Pictures: the sign decides the hue, zero is white, the scale is symmetric, and refusals name their reason."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from relprop import show
from relprop.errors import InputError, OutputError

FINITE = st.floats(-1e6, 1e6)
MAPS = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=FINITE)


@given(MAPS)
def test_positive_is_red_negative_is_blue_zero_is_white(relevance: np.ndarray) -> None:
    red, green, blue = np.moveaxis(show.heatmap(relevance).astype(int), 2, 0)
    visible = np.abs(relevance) > show.scale(relevance) / 128  # half a step of the colour map
    assert (red[visible & (relevance > 0)] == 255).all()
    assert (blue[visible & (relevance > 0)] < 255).all()
    assert (blue[visible & (relevance < 0)] == 255).all()
    assert (red[visible & (relevance < 0)] < 255).all()
    assert (np.stack([red, green, blue])[:, relevance == 0] == 255).all()


@given(MAPS)
def test_the_scale_is_symmetric(relevance: np.ndarray) -> None:
    red_blue = show.heatmap(relevance)
    assert np.abs(red_blue.astype(int) - show.heatmap(-relevance)[..., ::-1]).max() <= 1


@given(MAPS, st.floats(1e-3, 1e3))
def test_only_relative_relevance_is_drawn(relevance: np.ndarray, factor: float) -> None:
    assume((np.abs(relevance[relevance != 0]) > 1e-300).all())  # a product that becomes 0 is another map
    assert np.abs(show.heatmap(relevance).astype(int) - show.heatmap(relevance * factor)).max() <= 2


def test_larger_relevance_is_darker() -> None:
    greens = show.heatmap(np.linspace(0, 1, 11)[None])[0, :, 1].astype(int)
    assert (np.diff(greens) < 0).all()
    assert greens[0] == 255
    assert greens[-1] == 0


def test_channels_are_summed_before_the_colour() -> None:
    relevance = torch.tensor([[[3.0, 1.0]], [[-3.0, 1.0]], [[0.0, 1.0]]])
    assert show.heatmap(relevance)[0].tolist() == [[255, 255, 255], [255, 0, 0]]
    assert show.pixels(relevance).tolist() == [[0.0, 3.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_of_every_float_type_and_one_sample_batches_are_taken(dtype: torch.dtype) -> None:
    relevance = torch.tensor([[[1.0, -1.0]]], dtype=dtype, requires_grad=True)
    assert show.heatmap(relevance[None]).tolist() == show.heatmap(np.array([[1.0, -1.0]])).tolist()


def test_limit_and_percentile_set_the_scale() -> None:
    relevance = np.array([[1.0, 2.0, 4.0, -4.0, 100.0]])
    assert show.scale(relevance) == 100
    assert show.scale(relevance, percentile=50) == 4
    assert show.heatmap(relevance, percentile=50)[0, 3:].tolist() == [[0, 0, 255], [255, 0, 0]]
    assert show.heatmap(relevance, limit=4)[0, 2].tolist() == [255, 0, 0]
    assert show.heatmap(relevance, limit=8)[0, 2].tolist() == show.heatmap(relevance, limit=4)[0, 1].tolist()


def test_a_map_of_zeros_is_white_and_a_sparse_map_stays_visible() -> None:
    assert (show.heatmap(np.zeros((3, 3))) == 255).all()
    assert (show.heatmap(np.zeros((3, 3)), limit=0) == 255).all()
    sparse = np.zeros((10, 10))
    sparse[0, 0] = 1
    assert show.heatmap(sparse, percentile=90)[0, 0].tolist() == [255, 0, 0]


def test_the_other_palette_keeps_white_and_differs_in_brightness_and_yellow_blue() -> None:
    orange, white, purple = show.heatmap(np.array([[1.0, 0.0, -1.0]]), palette="orange-purple")[0].astype(int)
    assert white.tolist() == [255, 255, 255]
    assert orange[0] > orange[2]
    assert purple[2] > purple[0]
    assert orange.sum() - purple.sum() > 40


def test_overlay_keeps_the_grey_photo_at_zero_and_tints_the_rest() -> None:
    photo = np.full((1, 3, 3), 100, np.uint8)
    picture = show.overlay(photo, np.array([[1.0, 0.0, -1.0]]))
    assert picture[0].tolist() == [[255, 0, 0], [100, 100, 100], [0, 0, 255]]
    half = show.overlay(photo, np.array([[0.5, 1.0, 0.0]]))[0, 0].astype(int)
    assert half[0] > 150
    assert half[1] < 60


@pytest.mark.parametrize(
    "photo",
    [
        np.full((4, 5, 3), 128, np.uint8),
        np.full((4, 5), 128, np.uint8),
        torch.full((3, 4, 5), 128 / 255),
        torch.full((1, 3, 4, 5), 128 / 255),
        torch.full((4, 5), 128 / 255, dtype=torch.bfloat16),
        np.full((4, 5, 1), 128, np.uint8),
    ],
)
def test_photos_are_taken_in_every_usual_form(photo: torch.Tensor | np.ndarray) -> None:
    assert (show.overlay(photo, np.zeros((4, 5))) == 128).all()


@pytest.mark.parametrize(
    ("relevance", "message"),
    [
        (np.zeros(3), r"shape \(3,\).*one image"),
        (np.zeros((2, 3, 4, 4)), r"shape \(2, 3, 4, 4\).*relevance\[i\]"),
        (np.zeros((0, 4)), r"shape \(0, 4\)"),
        (np.array([[np.nan, 1.0]]), "1 values that are NaN or infinite"),
        (torch.tensor([[float("inf"), -float("inf")]]), "2 values that are NaN or infinite"),
    ],
)
def test_relevance_that_is_no_image_is_refused(relevance: torch.Tensor | np.ndarray, message: str) -> None:
    for draw in (show.pixels, show.scale, show.heatmap):
        with pytest.raises(InputError, match=message):
            draw(relevance)


def test_bad_arguments_are_refused() -> None:
    relevance = np.ones((2, 2))
    with pytest.raises(InputError, match="percentile is 0"):
        show.heatmap(relevance, percentile=0)
    with pytest.raises(InputError, match="limit is -1"):
        show.heatmap(relevance, limit=-1)
    with pytest.raises(InputError, match="both given"):
        show.heatmap(relevance, limit=1, percentile=99)
    with pytest.raises(InputError, match=r"palette 'jet' is unknown; there are red-blue, orange-purple"):
        show.heatmap(relevance, palette="jet")
    with pytest.raises(InputError, match="3 x 2 pixels, relevance 2 x 2"):
        show.overlay(np.zeros((2, 3, 3), np.uint8), relevance)
    with pytest.raises(InputError, match="undo the normalization"):
        show.overlay(torch.full((3, 2, 2), -1.5), relevance)
    with pytest.raises(InputError, match="int64"):
        show.overlay(torch.zeros(3, 2, 2, dtype=torch.int64), relevance)
    with pytest.raises(InputError, match="photo has shape"):
        show.overlay(np.zeros((2, 2, 4), np.uint8), relevance)


def test_saved_files_hold_the_heatmap_each_pixel_a_square(tmp_path) -> None:
    relevance = np.array([[1.0, -1.0], [0.0, 0.5]])
    path = show.save(tmp_path / "heat.png", relevance, side=10)
    with Image.open(path) as image:
        stored = np.asarray(image)
    assert stored.shape == (10, 10, 3)
    assert (stored[::5, ::5] == show.heatmap(relevance)).all()
    assert (stored[:5, :5] == [255, 0, 0]).all()
    with Image.open(io.BytesIO(show.png(show.heatmap(relevance), side=1))) as image:
        assert (np.asarray(image) == show.heatmap(relevance)).all()
    photo = np.full((2, 2, 3), 7, np.uint8)
    with Image.open(show.save(tmp_path / "over.png", relevance, photo, side=2)) as image:
        assert np.asarray(image)[1, 0].tolist() == [7, 7, 7]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".svg", ".pdf", ".webp", ".tif"])
def test_figures_are_written_in_every_promised_format(tmp_path, suffix: str) -> None:
    row = show.Row(np.zeros((4, 4, 3), np.uint8), [show.Panel("epsilon", np.eye(4), score=4.0)], "frog")
    path = show.save_figure(show.figure([row]), tmp_path / f"figure{suffix}")
    assert path.stat().st_size > 500


def test_paths_that_cannot_be_written_are_refused_before_drawing(tmp_path) -> None:
    refusals = {
        tmp_path: "it is a folder",
        tmp_path / "none" / "heat.png": "there is no folder",
        tmp_path / "heat.gif": r"pictures end in \.png",
        tmp_path / "heat": r"pictures end in \.png",
    }
    for path, message in refusals.items():
        with pytest.raises(OutputError, match=message):
            show.check_path(path)
        with pytest.raises(OutputError, match=message):
            show.save(path, np.full((2, 2), np.nan))  # the path is looked at first
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_while_writing_is_an_output_error(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match=r"heat\.png.*no space left"):
        show.save(tmp_path / "heat.png", np.ones((2, 2)))


def figure_texts(figure) -> list[str]:
    return [ax.get_xlabel() for ax in figure.axes]


def figure_images(figure) -> list[np.ndarray]:
    return [np.asarray(ax.images[0].get_array()) for ax in figure.axes]


def test_a_figure_has_the_photo_first_then_each_composite_with_its_sums() -> None:
    photo = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    panels = [show.Panel("lrp_zero", np.full((4, 4), 0.5), 10.0), show.Panel("epsilon", -np.eye(4), 10.0)]
    figure = show.figure([show.Row(photo, panels, "frog"), show.Row(photo, panels[:1])])
    texts, images = figure_texts(figure), figure_images(figure)
    assert len(texts) == 5  # the second row's missing panel leaves nothing behind
    assert texts[0] == "frog"
    assert (images[0] == photo).all()
    assert texts[1].startswith("lrp_zero\nΣR 8   score 10\nabsorbed 20.0%")
    assert texts[2].startswith("epsilon\nΣR -4   score 10\nabsorbed 140.0%")
    assert (images[2] == show.heatmap(-np.eye(4))).all()


def test_one_scale_a_photo_or_one_a_map() -> None:
    photo = np.zeros((1, 1, 3), np.uint8)
    panels = [show.Panel("a", np.array([[1.0]]), 1.0), show.Panel("b", np.array([[4.0]]), 1.0)]
    row = figure_images(show.figure([show.Row(photo, panels)], scale="row"))
    assert row[1][0, 0].tolist() == show.heatmap(np.array([[1.0]]), limit=4)[0, 0].tolist()
    assert row[2][0, 0].tolist() == [255, 0, 0]
    panel = figure_images(show.figure([show.Row(photo, panels)], scale="panel"))
    assert panel[1].tolist() == panel[2].tolist()
    assert "scale ±1" in figure_texts(show.figure([show.Row(photo, panels)], scale="panel"))[1]


def test_a_score_of_zero_has_no_absorbed_share() -> None:
    figure = show.figure([show.Row(np.zeros((1, 1)), [show.Panel("a", np.zeros((1, 1)), 0.0)])])
    assert "absorbed undefined" in figure_texts(figure)[1]


def test_figures_over_the_photo() -> None:
    photo = np.full((1, 2, 3), 50, np.uint8)
    figure = show.figure([show.Row(photo, [show.Panel("a", np.array([[0.0, 1.0]]), 1.0)])], over_photo=True)
    assert figure_images(figure)[1][0].tolist() == [[50, 50, 50], [255, 0, 0]]


def test_plot_shows_maps_alone_with_the_sums_that_are_known(tmp_path) -> None:
    maps = [np.eye(2), -np.eye(2), np.zeros((2, 2))]
    figure = show.plot(maps, scores=[4.0, -2.0, 0.0], names=["a", "b", "c"], columns=2)
    assert len(figure.axes) == 3
    assert figure_texts(figure)[0].startswith("a\nΣR 2   score 4\nabsorbed 50.0%")
    assert (figure_images(figure)[1] == show.heatmap(-np.eye(2))).all()
    (alone,) = figure_texts(show.plot(torch.eye(2)))
    assert alone.startswith("ΣR 2\nR 0 … 1")
    with pytest.raises(InputError, match="3 maps, 1 scores"):
        show.plot(maps, scores=[1.0])
    with pytest.raises(InputError, match="0 maps"):
        show.plot([])
    assert show.save(tmp_path / "maps.svg", maps, scores=[4.0, -2.0, 0.0]).stat().st_size > 500


def test_empty_figures_and_unknown_scales_are_refused() -> None:
    row = show.Row(np.zeros((1, 1)), [show.Panel("a", np.zeros((1, 1)), 0.0)])
    with pytest.raises(InputError, match="rows is empty"):
        show.figure([])
    with pytest.raises(InputError, match="no panels"):
        show.figure([show.Row(np.zeros((1, 1)), [])])
    with pytest.raises(InputError, match="scale is 'all'"):
        show.figure([row], scale="all")  # type: ignore[arg-type]


def test_matplotlib_and_pillow_are_imported_only_when_a_picture_is_drawn() -> None:
    code = "import sys, relprop.show; print([m for m in ('matplotlib', 'PIL', 'relprop.api') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "matplotlib" not in done.stdout
    assert "PIL" not in done.stdout
