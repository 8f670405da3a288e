"""Figures of the reproduction: what is drawn is what the curves and arrays say, worked out here by hand."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from torch import Tensor

from relprop import show
from relprop.errors import InputError
from relprop.evaluate import Curves
from relprop.reproduce import figures, figures_inside
from relprop.reproduce.methods import BETAS, EPSILONS, SWEEP, compared
from relprop.reproduce.neighbours import PER_LAYER, PER_MAP

METHODS = [m.name for m in compared()]
PARAMETERS = ["ε=1", "ε=0.01", "ε=100", "β=1", "β=0"]  # as in the paper's Table 3
SWEPT = [1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0, 100.0], [0.0, 0.25, 0.5, 1.0, 2.0]


def curves(levels: dict[tuple[str, str], Sequence[float]], n: int, first: int = 0) -> Curves:
    """Scores at 0, 50 and 100 % that are level + 2, level, level - 2: the area under such a line is the level."""
    values = {
        key: torch.tensor(level, dtype=torch.float64)[:, None] + torch.tensor([2.0, 0.0, -2.0])
        for key, level in levels.items()
    }
    return Curves(
        methods=tuple(dict.fromkeys(m for m, o in values if o != "random")),
        orders=tuple(dict.fromkeys(o for _, o in values)),
        counts=torch.tensor([0, 8, 16]),
        fraction=torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64),
        values=values,
        target=torch.zeros(n, dtype=torch.int64),
        index=torch.arange(first, first + n),
        constant={},
        unit="pixel",
        units=16,
        score="logit",
    )


# Three images. Taylor − identity: −3, 0, +3 + k/10 for the k-th parameter: mean k/10, standard error 3/√3.
IDENTITY_LEVELS = {p: [float(k), 10.0 + k, 20.0 + k] for k, p in enumerate(PARAMETERS)}
CHANGES = {p: [-3 + k / 10, k / 10, 3 + k / 10] for k, p in enumerate(PARAMETERS)}


@pytest.fixture
def main() -> Curves:
    levels: dict[tuple[str, str], Sequence[float]] = {}
    for p in PARAMETERS:
        levels[f"{p}, identity", "highest"] = IDENTITY_LEVELS[p]
        levels[f"{p}, Taylor", "highest"] = [a + d for a, d in zip(IDENTITY_LEVELS[p], CHANGES[p], strict=True)]
    levels["random", "random"] = [12.0, 12.0, 15.0]
    return curves(levels, 3)


def lowest(n: int = 2, first: int = 0) -> Curves:
    return curves({("ε=0.01, identity", "lowest"): [30.0, 34.0, 38.0][:n]}, n, first)


def standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


def bars(ax: Any, horizontal: bool = True) -> list[tuple[list[float], list[float], list[float]]]:
    """x, y and half the lengths of the error bars of everything drawn with them."""
    found = []
    for container in ax.containers:
        line, _, (segments, *_) = container
        x, y = line.get_data()
        ends = [s[:, 0 if horizontal else 1] for s in segments.get_segments()]
        found.append((list(x), list(y), [(e[1] - e[0]) / 2 for e in ends]))
    return found


def drawn(picture: Figure) -> Figure:
    """Drawn, so that a glyph or layout that fails does so here: warnings are errors."""
    picture.canvas.draw()
    return picture


# ---- Fig. 2


def test_figure_2_draws_means_in_the_papers_colours_over_the_images_of_lowest(main: Curves) -> None:
    (ax,) = drawn(figures.figure2(main, lowest())).axes
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines) == ["highest first", "random order", "lowest first"]
    # of images 0 and 1 alone: (1 + 11)/2, (12 + 12)/2, (30 + 34)/2
    for label, level in (("highest first", 6), ("random order", 12), ("lowest first", 32)):
        assert list(lines[label].get_xdata()) == [0, 50, 100]
        assert list(lines[label].get_ydata()) == [level + 2, level, level - 2]
    strongest = {label: int(np.argmax(to_rgb(line.get_color()))) for label, line in lines.items()}
    assert strongest == {"highest first": 0, "random order": 2, "lowest first": 1}  # red, blue, green
    assert len({line.get_linestyle() for line in lines.values()}) == 3  # told apart without colour, too
    assert "n = 2 images" in ax.get_title()
    assert ax.get_xlabel() == "flipped pixels (%)"
    assert "logit" in ax.get_ylabel()


def test_figure_2_has_bands_of_one_standard_error(main: Curves) -> None:
    (ax,) = figures.figure2(main, lowest()).axes
    heights = []
    for band, line in zip(ax.collections, ax.lines, strict=True):
        y = band.get_paths()[0].vertices[:, 1]
        heights.append(float(y.max() - line.get_ydata()[0]))
        assert to_rgb(band.get_facecolor()[0][:3]) == to_rgb(line.get_color())
    # two images, levels a and b: standard error |a − b| / 2
    assert heights == pytest.approx([5, 0, 2])


def test_figure_2_takes_one_image(main: Curves) -> None:
    (ax,) = drawn(figures.figure2(main, lowest(1))).axes
    assert list(ax.lines[0].get_ydata()) == [3, 1, -1]


def test_figure_2_refuses_other_images(main: Curves) -> None:
    with pytest.raises(InputError, match="lowest is not of the first images of main"):
        figures.figure2(main, lowest(2, first=1))


# ---- order and differences


def test_order_sorts_by_mean_auc_and_has_bars_of_the_paired_difference_to_the_best(main: Curves) -> None:
    unsorted = replace(main, methods=main.methods[5:] + main.methods[:5])
    (ax,) = drawn(figures.order(unsorted)).axes
    names = [label.get_text() for label in ax.get_yticklabels()]
    # means: identity 10 + k, Taylor 10 + k + k/10, which tie for k = 0
    assert names == [
        "ε=1, identity", "ε=1, Taylor", "ε=0.01, identity", "ε=0.01, Taylor", "ε=100, identity", "ε=100, Taylor",
        "β=1, identity", "β=1, Taylor", "β=0, identity", "β=0, Taylor",
    ]  # fmt: skip
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the best on top
    found = bars(ax)
    assert [y for _, (y,), _ in found] == list(range(10))
    assert [x for (x,), _, _ in found] == pytest.approx([10, 10, 11, 11.1, 12, 12.2, 13, 13.3, 14, 14.4])
    # against "ε=1, identity": the identity's differences are constant over images, Taylor's are −3, 0, 3
    assert [e for _, _, (e,) in found] == pytest.approx([0, 3**0.5] * 5, abs=1e-6)


def test_order_fills_taylor_leaves_identity_hollow_and_marks_random(main: Curves) -> None:
    (ax,) = figures.order(main).axes
    names = [label.get_text() for label in ax.get_yticklabels()]
    for name, container in zip(names, ax.containers, strict=True):
        fill = to_rgba(container[0].get_markerfacecolor())
        assert (fill == to_rgba("white")) == name.endswith("identity")
        assert to_rgba(container[0].get_color()) != to_rgba("white")
    (random,) = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert list(random.get_xdata()) == [13, 13]
    assert [text.get_text() for text in ax.texts] == ["random order"]
    assert "3 images" in ax.get_title()
    assert "AUC (logit)" in ax.get_xlabel()
    assert "paired difference to the best" in ax.get_xlabel()


def variants(n: int = 2, first: int = 0) -> Curves:
    """Order 2: identity + 1, + 3; alone in a: identity − 1, − 2; alone in b: as the identity."""
    levels: dict[tuple[str, str], Sequence[float]] = {}
    for kind, change in (("Taylor order 2", [1, 3]), ("Taylor in a", [-1, -2]), ("Taylor in b", [0, 0])):
        for p in PARAMETERS:
            levels[f"{p}, {kind}", "highest"] = [IDENTITY_LEVELS[p][i] + change[i] for i in range(n)]
    return curves(levels, n, first)


def test_differences_are_paired_with_the_identity(main: Curves) -> None:
    picture = drawn(figures.differences(main, variants(), ("first", "second")))
    left, right = picture.axes
    assert [label.get_text() for label in left.get_yticklabels()] == PARAMETERS
    ((x, y, error),) = bars(left)
    assert x == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-12)
    assert y == [0, 1, 2, 3, 4]
    assert error == pytest.approx([3**0.5] * 5)
    series = dict(zip([c.get_label() for c in right.containers], bars(right), strict=True))
    # of the first two images, for the k-th parameter: mean (−3 + 0)/2 + k/10, standard error |−3 − 0| / 2, and so on
    expected = {
        "order 1 in all": ([-1.5 + k / 10 for k in range(5)], 1.5),
        "order 2 in all": ([2.0] * 5, 1.0),
        "order 1 in first alone": ([-1.5] * 5, 0.5),
        "order 1 in second alone": ([0.0] * 5, 0.0),
    }
    assert list(series) == list(expected)
    for name, (mean, length) in expected.items():
        assert series[name][0] == pytest.approx(mean, abs=1e-12)
        assert series[name][2] == pytest.approx([length] * 5, abs=1e-6)
        assert [round(row) for row in series[name][1]] == [0, 1, 2, 3, 4]  # beside its parameter
    assert "3 images" in left.get_title()
    assert "first 2 images" in right.get_title()
    assert "left of 0: Taylor better" in picture.get_supxlabel()
    assert "logit" in picture.get_supxlabel()
    zeros = [line for ax in picture.axes for line in ax.lines if list(line.get_xdata()) == [0, 0]]
    assert len(zeros) == 2
    (legend,) = picture.legends
    assert {text.get_text() for text in legend.get_texts()} == set(expected)


def test_differences_name_the_normalizations_themselves_and_do_without_variants(main: Curves) -> None:
    labels = [c.get_label() for c in figures.differences(main, variants()).axes[1].containers]
    assert labels[2:] == ["order 1 in a alone", "order 1 in b alone"]
    (ax,) = drawn(figures.differences(main, None)).axes
    assert bars(ax)[0][0] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-12)


def test_differences_refuse_what_does_not_fit(main: Curves) -> None:
    with pytest.raises(InputError, match="variants is not of the first images of main"):
        figures.differences(main, variants(2, first=1))
    with pytest.raises(InputError, match="labels has 1 texts for 2 normalizations"):
        figures.differences(main, variants(), ("first",))


def test_one_image_has_no_error_bars(main: Curves) -> None:
    one = curves({key: [float(v[0, 1])] for key, v in main.values.items()}, 1)
    assert [e for _, _, (e,) in bars(drawn(figures.order(one)).axes[0])] == [0] * 10
    assert bars(drawn(figures.differences(one, variants(1))).axes[0])[0][2] == [0] * 5


# ---- inside


def layers_of(n: int = 2) -> Tensor:
    """Image i, parameter s, normalization l, value v: (s + 1) + 100 l + 1000 v, ± 0.5 around it by image."""
    s, layer, v = torch.meshgrid(
        torch.arange(len(SWEEP)) + 1, torch.arange(2), torch.arange(len(PER_LAYER)), indexing="ij"
    )
    mean = (s + 100 * layer + 1000 * v).double()
    return torch.stack([mean - 0.5, mean + 0.5][:n])


PANELS = [["gross"], ["net"], ["flips"], ["negative_before", "negative_after"]]


def test_inside_layers_draws_every_value_of_every_normalization_against_epsilon_and_beta() -> None:
    assert (list(EPSILONS), list(BETAS)) == SWEPT
    picture = drawn(figures_inside.inside_layers({"layers": layers_of()}, ("n1", "n2"), ("first", "second")))
    assert len(picture.axes) == 8
    for panel, keys in enumerate(PANELS):
        for side, x in enumerate(SWEPT):
            ax = picture.axes[2 * panel + side]
            assert (ax.get_xlabel(), ax.get_xscale()) == (("ε", "log"), ("β", "linear"))[side]
            found = bars(ax, horizontal=False)
            expected = [(layer, key) for layer in (0, 1) for key in keys]
            assert [c.get_label() for c in ax.containers] == [("first", "second")[layer] for layer, _ in expected]
            for (layer, key), (at, mean, error) in zip(expected, found, strict=True):
                base = 100 * layer + 1000 * list(PER_LAYER).index(key) + (1, 8)[side]  # 7 values of ε come first
                assert at == x
                assert mean == pytest.approx([base + j for j in range(len(x))])
                assert error == pytest.approx([0.5] * len(x))  # two images, 1 apart
    titles = [part.get_suptitle() for part in picture.subfigs]
    assert [word in title for word, title in zip(("gross", "net", "flips", "negative"), titles, strict=True)] == [
        True
    ] * 4
    (legend,) = picture.legends
    assert [text.get_text() for text in legend.get_texts()] == ["first", "second"]
    assert "2 images" in legend.get_title().get_text()


def test_before_is_dashed_and_hollow_after_is_solid() -> None:
    ax = figures_inside.inside_layers({"layers": layers_of()}, ("n1", "n2")).axes[6]
    before, after = (c[0] for c in ax.containers[:2])
    assert (before.get_linestyle(), after.get_linestyle()) == ("--", "-")
    assert to_rgba(before.get_markerfacecolor()) == to_rgba("white") != to_rgba(after.get_markerfacecolor())
    assert before.get_color() == after.get_color()
    assert [c.get_label() for c in ax.containers[::2]] == ["n1", "n2"]


def maps_of(n: int = 2) -> Tensor:
    """Image i, parameter s, value v: (s + 1) + 1000 v, ± 0.5 around it by image."""
    s, v = torch.meshgrid(torch.arange(len(SWEEP)) + 1, torch.arange(len(PER_MAP)), indexing="ij")
    mean = (s + 1000 * v).double()
    return torch.stack([mean - 0.5, mean + 0.5][:n])


def test_inside_maps_draws_distance_of_both_orders_rank_and_what_epsilon_absorbed() -> None:
    picture = drawn(figures_inside.inside_maps({"maps": maps_of()}))
    assert len(picture.axes) == 6
    panels = [[("distance", "order 1"), ("second", "order 2")], [("rank", "order 1")], [("absorbed", "order 1")]]
    for panel, lines in enumerate(panels):
        for side, x in enumerate(SWEPT):
            ax = picture.axes[2 * panel + side]
            for (key, label), container, (at, mean, error) in zip(lines, ax.containers, bars(ax, False), strict=True):
                base = 1000 * list(PER_MAP).index(key) + (1, 8)[side]
                assert label in container.get_label()
                assert (at, mean) == (x, [base + j for j in range(len(x))])
                assert error == pytest.approx([0.5] * len(x))
    assert picture.axes[0].get_ylim()[0] == 0


@pytest.mark.parametrize("n", [0, 1])
def test_inside_of_one_image_has_no_error_of_none_is_refused(n: int) -> None:
    arrays = {"layers": layers_of(n) if n else layers_of()[:0], "maps": maps_of(n) if n else maps_of()[:0]}
    if n:
        picture = drawn(figures_inside.inside_layers(arrays, ("n1", "n2")))
        assert bars(picture.axes[0], False)[0][2] == [0] * 7
        return
    with pytest.raises(InputError, match="at least one image"):
        figures_inside.inside_layers(arrays, ("n1", "n2"))
    with pytest.raises(InputError, match="at least one image"):
        figures_inside.inside_maps(arrays)


def test_inside_refuses_other_shapes_labels_and_missing_arrays() -> None:
    with pytest.raises(InputError, match=r"inside\['layers'\] is of shape \(2, 12, 2, 7\); give \(images, 12, 3, 7\)"):
        figures_inside.inside_layers({"layers": layers_of()}, ("n1", "n2", "n3"))
    with pytest.raises(InputError, match="labels has 1 texts for 2 layers"):
        figures_inside.inside_layers({"layers": layers_of()}, ("n1", "n2"), ("first",))
    with pytest.raises(InputError, match=r"inside\['maps'\] is missing"):
        figures_inside.inside_maps({"layers": layers_of()})


def distances(values: Sequence[float]) -> dict[str, Tensor]:
    """Image i: `values[i]` as the distance under all parameters, everything else nonsense."""
    maps = torch.full((len(values), len(SWEEP), len(PER_MAP)), 77.0)
    maps[:, :, list(PER_MAP).index("distance")] = torch.tensor(values)[:, None]
    return {"maps": maps}


def test_explained_draws_every_image_and_names_the_correlations(main: Curves) -> None:
    picture = drawn(figures_inside.explained(main, distances([0.2, 0.5, 0.3])))
    assert len(picture.axes) == 6
    for k, (ax, parameter) in enumerate(zip(picture.axes, PARAMETERS, strict=False)):
        points = np.asarray(ax.collections[0].get_offsets())
        assert points[:, 0] == pytest.approx([0.2, 0.5, 0.3])
        assert points[:, 1] == pytest.approx([-3 + k / 10, k / 10, 3 + k / 10], abs=1e-12)
        name, correlations = ax.get_title().split("\n")
        assert name == parameter
        # ranks of distances 1 3 2. Of Δ 1 2 3: 1 − 6 (0 + 1 + 1)/(3 · 8) = 0.5. Of |Δ| from k = 1 on 2 1 3:
        # 1 − 6 (1 + 4 + 1)/24 = −0.5
        assert correlations.startswith("ρ = 0.50 with Δ")
        if k:
            assert correlations.endswith("−0.50 with |Δ|")
    assert "Taylor better" in picture.get_supylabel()
    assert "distance" in picture.get_supxlabel()


def test_explained_shows_the_means_of_the_first_images(main: Curves) -> None:
    ax = figures_inside.explained(main, distances([0.2, 0.5])).axes[5]
    assert [c.get_label() for c in ax.containers] == PARAMETERS
    for k, container in enumerate(ax.containers):
        (x,), (y,) = container[0].get_data()
        assert (x, y) == pytest.approx((0.35, -1.5 + k / 10))  # of images 0 and 1
        across, up = (c.get_segments()[0] for c in container[2])
        assert (across[1][0] - across[0][0]) / 2 == pytest.approx(standard_error([0.2, 0.5]))
        assert (up[1][1] - up[0][1]) / 2 == pytest.approx(standard_error([-3, 0]))
    assert "2 images" in ax.get_title()


def test_explained_takes_one_image_and_refuses_more_than_main_has(main: Curves) -> None:
    drawn(figures_inside.explained(main, distances([0.2])))
    with pytest.raises(InputError, match="inside has 4 images, main only the first 3"):
        figures_inside.explained(main, distances([0.1, 0.2, 0.3, 0.4]))


def test_every_figure_can_be_saved(main: Curves, tmp_path: Any) -> None:
    for i, picture in enumerate([figures.figure2(main, lowest()), figures_inside.inside_maps({"maps": maps_of()})]):
        path = show.save_figure(picture, tmp_path / f"{i}.png")
        assert path.stat().st_size > 5000
