"""Measures worked out by hand, paired errors, joining, files, tables and pictures of curves."""

from __future__ import annotations

import builtins
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relprop.errors import InputError, OutputError
from relprop.evaluate import Curves, Estimate, feature_deletion, join, pixel_flipping

HIGHEST = [[10.0, 4.0, 2.0, 0.0], [8.0, 8.0, 0.0, 4.0]]
LOWEST = [[10.0, 9.0, 5.0, 0.0], [8.0, 6.0, 6.0, 4.0]]
RANDOM = [[10.0, 5.0, 5.0, 0.0], [8.0, 4.0, 4.0, 4.0]]


def by_hand(**changes: Any) -> Curves:
    """Two images of 10 pixels, seen after 0, 2, 4 and 10 of them."""
    values = {("a", "highest"): HIGHEST, ("a", "lowest"): LOWEST, ("b", "highest"): RANDOM, ("b", "lowest"): HIGHEST}
    made: dict[str, Any] = {
        "methods": ("a", "b"),
        "orders": ("highest", "lowest", "random"),
        "counts": torch.tensor([0, 2, 4, 10]),
        "fraction": torch.tensor([0.0, 0.2, 0.4, 1.0], dtype=torch.float64),
        "values": {k: torch.tensor(v).double() for k, v in (values | {("random", "random"): RANDOM}).items()},
        "target": torch.tensor([3, 1]),
        "index": torch.tensor([0, 1]),
        "constant": {"a": torch.tensor([False, False]), "b": torch.tensor([False, True])},
        "unit": "pixel",
        "units": 10,
        "score": "logit",
        "settings": ("replaced by zero",),
    }
    return Curves(**(made | changes))


def test_auc_is_the_mean_height_under_the_trapezoids() -> None:
    c = by_hand()
    # (10 + 4)/2 · 0.2 + (4 + 2)/2 · 0.2 + (2 + 0)/2 · 0.6 and (8 + 8)/2 · 0.2 + (8 + 0)/2 · 0.2 + (0 + 4)/2 · 0.6
    assert c.auc("a").tolist() == pytest.approx([1.4 + 0.6 + 0.6, 1.6 + 0.8 + 1.2])
    assert c.auc("a", "lowest").tolist() == pytest.approx([1.9 + 1.4 + 1.5, 1.4 + 1.2 + 3.0])
    assert c.auc("random", "random").tolist() == pytest.approx([1.5 + 1.0 + 1.5, 1.2 + 0.8 + 2.4])
    assert torch.equal(c.auc("random"), c.auc("random", "random"))


def test_auc_of_a_part_of_the_curve_is_still_a_mean_height() -> None:
    half = by_hand(fraction=torch.tensor([0.0, 0.1, 0.2, 0.5], dtype=torch.float64))
    assert torch.allclose(half.auc("a"), by_hand().auc("a"))
    flat = by_hand(values={("a", "highest"): torch.full((2, 4), 7.0).double()})
    assert flat.auc("a").tolist() == pytest.approx([7.0, 7.0])


def test_aopc_is_the_mean_fall() -> None:
    assert by_hand().aopc("a").tolist() == [(0 + 6 + 8 + 10) / 4, (0 + 0 + 8 + 4) / 4]
    assert by_hand().aopc("a", "lowest").tolist() == [(0 + 1 + 5 + 10) / 4, (0 + 2 + 2 + 4) / 4]
    assert by_hand().aopc("random").tolist() == [(0 + 5 + 5 + 10) / 4, (0 + 4 + 4 + 4) / 4]


def test_abpc_is_the_mean_distance_of_the_two_orders() -> None:
    assert by_hand().abpc("a").tolist() == [(0 + 5 + 3 + 0) / 4, (0 - 2 + 6 + 0) / 4]


def test_srg_is_the_difference_of_the_two_areas() -> None:
    assert by_hand().srg("a").tolist() == pytest.approx([4.8 - 2.6, 5.6 - 3.6])


def test_means_have_the_standard_error_of_the_sample() -> None:
    found = by_hand().mean("auc", "a")  # of 2.6 and 3.6: standard deviation √0.5, divided by √2
    assert (found.mean, found.error, found.n) == (pytest.approx(3.1), pytest.approx(0.5), 2)
    assert by_hand().mean("aopc", "a", "lowest").mean == pytest.approx((4 + 2) / 2)
    assert by_hand().mean("abpc", "a").mean == pytest.approx((2 + 1) / 2)
    assert by_hand().mean("srg", "a").error == pytest.approx(0.1)
    assert by_hand().mean("auc", "random", "random").mean == pytest.approx((4.0 + 4.4) / 2)


def test_differences_are_paired() -> None:
    found = by_hand().difference("a", "b")  # 2.6 - 4.0 and 3.6 - 4.4
    assert (found.mean, found.error) == (pytest.approx(-1.1), pytest.approx(0.3))
    unpaired = math.hypot(by_hand().mean("auc", "a").error, by_hand().mean("auc", "b").error)
    assert found.error < unpaired
    assert by_hand().difference("a", "random", "aopc").mean == pytest.approx(((6 - 5) + (3 - 3)) / 2)
    assert by_hand().difference("a", "a", "srg").mean == 0


def test_one_image_has_no_standard_error() -> None:
    c = pixel_flipping(lambda x: x.sum((1, 2)), torch.ones(1, 2, 2), torch.rand(1, 2, 2))
    assert math.isnan(c.mean("auc", "relevance").error)
    assert "± nan" in str(c)


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(1.23412, 0.0561, 9), "1.234 ± 0.056"),
        (Estimate(-1.23412, 0.00561, 9), "-1.2341 ± 0.0056"),
        (Estimate(1234.12, 56.1, 9), "1234 ± 56"),
        (Estimate(1234.12, 561.0, 9), "1234 ± 561"),
        (Estimate(0.1234, 1.0, 9), "0.1 ± 1.0"),
        (Estimate(2.0, 0.0, 9), "2 ± 0"),
        (Estimate(2.5, math.nan, 1), "2.5 ± nan"),
        (Estimate(1.0, 1e-12, 9), "1 ± 1e-12"),
    ],
)
def test_estimates_are_printed_to_two_figures_of_the_error(estimate: Estimate, text: str) -> None:
    assert str(estimate) == text


def test_the_table_has_a_line_a_method() -> None:
    lines = str(by_hand()).splitlines()
    assert lines[0].split("  ")[0] == "method"
    assert lines[0].split()[1:] == ["AUC", "highest", "AUC", "lowest", "AOPC", "ABPC", "SRG"]
    assert lines[1].split() == [
        "a",
        "3.10",
        "±",
        "0.50",
        "5.20",
        "±",
        "0.40",
        "4.5",
        "±",
        "1.5",
        "1.50",
        "±",
        "0.50",
        "2.10",
        "±",
        "0.10",
    ]
    assert lines[2].split()[0] == "b"
    assert lines[3].split() == ["random", "4.20", "±", "0.20", "4.0", "±", "1.0"]
    assert lines[4] == "2 samples, logit, mean ± standard error"
    assert lines[5] == "b: 1 of 2 maps are constant; their pixels went in raster order, which says nothing"


def test_what_was_not_run_is_a_dash_in_the_table_and_an_error_elsewhere() -> None:
    c = by_hand(values={("a", "highest"): torch.tensor(HIGHEST).double()}, methods=("a",))
    assert str(c).splitlines()[1].split() == ["a", "3.10", "±", "0.50", "-", "4.5", "±", "1.5", "-", "-"]
    with pytest.raises(InputError, match=r"'a' in order 'lowest'; there are \('a', 'highest'\)"):
        c.srg("a")
    with pytest.raises(InputError, match="method 'c'"):
        by_hand().auc("c")
    with pytest.raises(InputError, match="measure is 'area'; give one of 'auc', 'aopc', 'abpc', 'srg'"):
        by_hand().mean("area", "a")  # type: ignore[arg-type]


def test_the_frame_has_a_row_a_point() -> None:
    pytest.importorskip("pandas")
    frame = by_hand(index=torch.tensor([7, 8])).to_frame()
    assert list(frame.columns) == ["method", "order", "image", "count", "fraction", "value"]
    assert len(frame) == 5 * 2 * 4
    one = frame[(frame.method == "a") & (frame.order == "lowest") & (frame.image == 8)]
    assert one["count"].tolist() == [0, 2, 4, 10]
    assert one["fraction"].tolist() == [0.0, 0.2, 0.4, 1.0]
    assert one["value"].tolist() == LOWEST[1]


def without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package were not installed."""
    real = builtins.__import__

    def missing(module: str, *args: Any, **options: Any) -> Any:
        if module.split(".")[0] == name:
            raise ImportError(f"No module named {name!r}")
        return real(module, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setattr("relprop.evaluate.curves.import_module", missing)


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("pandas", lambda: by_hand().to_frame()),
        ("matplotlib", lambda: by_hand().plot()),
        ("rich", lambda: pixel_flipping(torch.sum, torch.ones(1, 2, 2), torch.ones(1, 2, 2), progress=True)),
    ],
)
def test_a_missing_package_is_named(package: str, use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    without(package, monkeypatch)
    with pytest.raises(InputError, match=f"pip install {package}"):
        use()


def test_the_picture_shows_means_and_errors(tmp_path: Path) -> None:
    figure = by_hand().plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[1:4] == b"PNG"
    (axes,) = figure.axes
    assert axes.get_xlabel() == "pixels replaced (%)"
    assert "logit" in axes.get_ylabel()
    lines = {line.get_label(): line for line in axes.lines}
    assert set(lines) == {"a, highest first", "a, lowest first", "b, highest first", "b, lowest first", "random order"}
    assert np.asarray(lines["a, highest first"].get_ydata()).tolist() == [9.0, 6.0, 1.0, 2.0]
    assert np.asarray(lines["a, highest first"].get_xdata()).tolist() == [0.0, 20.0, 40.0, 100.0]
    styles = {label: line.get_linestyle() for label, line in lines.items()}
    assert (styles["a, highest first"], styles["a, lowest first"], styles["random order"]) == ("-", "--", ":")
    assert lines["a, highest first"].get_color() == lines["a, lowest first"].get_color()
    assert lines["a, highest first"].get_color() != lines["b, highest first"].get_color()
    band = axes.collections[0].get_paths()[0].vertices  # of a, highest first: ± √(variance / n)
    assert min(band[band[:, 0] == 20.0][:, 1]) == pytest.approx(6 - 2)
    assert max(band[band[:, 0] == 20.0][:, 1]) == pytest.approx(6 + 2)


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "curves.png", tmp_path / "curves.docx"):
        with pytest.raises(OutputError, match="cannot write"):
            by_hand().plot(path)


def same(one: Curves, two: Curves) -> None:
    for name in ("methods", "orders", "unit", "units", "score", "settings", "notes"):
        assert getattr(one, name) == getattr(two, name), name
    for name in ("counts", "fraction", "target", "index"):
        a, b = getattr(one, name), getattr(two, name)
        assert a.dtype == b.dtype
        assert torch.equal(a, b), name
    assert list(one.values) == list(two.values)
    assert all(torch.equal(one.values[key], two.values[key]) for key in one.values)
    assert all(v.dtype == torch.float64 for v in two.values.values())
    assert list(one.constant) == list(two.constant)
    assert all(torch.equal(one.constant[key], two.constant[key]) for key in one.constant)


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    c = by_hand()
    assert c.save(tmp_path / "curves.npz") == tmp_path / "curves.npz"
    same(c, Curves.load(tmp_path / "curves.npz"))
    real = pixel_flipping(torch.nn.Flatten().eval(), torch.rand(3, 1, 4, 4), torch.rand(3, 4, 4), orders=("random",))
    same(real, Curves.load(real.save(tmp_path / "curves.npz")))  # replaces the old file
    assert [p.name for p in tmp_path.iterdir()] == ["curves.npz"]


def test_a_file_that_cannot_be_written_or_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no folder"):
        by_hand().save(tmp_path / "missing" / "curves.npz")
    with pytest.raises(InputError, match=r"saved as \.npz"):
        by_hand().save(tmp_path / "curves.pkl")
    with pytest.raises(InputError, match="no file"):
        Curves.load(tmp_path / "missing.npz")
    whole = by_hand().save(tmp_path / "curves.npz").read_bytes()
    for name, content in (("text", b"not a zip"), ("empty", b""), ("half", whole[: len(whole) // 2])):
        (tmp_path / f"{name}.npz").write_bytes(content)
        with pytest.raises(InputError, match=f"{name}.npz' holds no curves"):
            Curves.load(tmp_path / f"{name}.npz")
    np.savez(tmp_path / "other.npz", something=np.zeros(3))
    with pytest.raises(InputError, match="holds no curves"):
        Curves.load(tmp_path / "other.npz")
    np.savez(tmp_path / "pickled.npz", methods=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="holds no curves"):
        Curves.load(tmp_path / "pickled.npz")


def test_joined_parts_follow_each_other() -> None:
    one, two = by_hand(), by_hand(index=torch.tensor([2, 3]))
    joined = join([one, two])
    assert len(joined) == 4
    assert joined.index.tolist() == [0, 1, 2, 3]
    assert joined.of("a").tolist() == HIGHEST + HIGHEST
    assert joined.target.tolist() == [3, 1, 3, 1]
    assert joined.notes[0] == "replaced by zero"
    assert joined.notes[1].startswith("b: 2 of 4 maps are constant")
    assert joined.score_at_0.tolist() == [10, 8, 10, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("a",)}, "part 1 has methods"),
        ({"settings": ("seed 1",)}, "part 1 has settings"),
        ({"orders": ("highest",)}, "part 1 has orders"),
        ({"score": "probability"}, "part 1 has score 'probability', part 0 'logit'"),
        ({"counts": torch.tensor([0, 2, 5, 10])}, "other counts of replaced pixels"),
        ({"counts": torch.tensor([0, 2])}, "other counts of replaced pixels"),
        ({"unit": "token"}, "part 1 has unit"),
        ({"units": 11}, "part 1 has units"),
        ({"index": torch.tensor([1, 2])}, "first="),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        join([by_hand(), by_hand(**({"index": torch.tensor([2, 3])} | changes))])


def test_no_parts_are_refused() -> None:
    with pytest.raises(InputError, match="parts is empty"):
        join([])


def test_a_result_prints_short() -> None:
    assert len(repr(by_hand())) < 200
    assert "2 samples" in repr(by_hand())
    assert len(by_hand()) == 2


def test_the_first_part_of_curves() -> None:
    """Scores 4, 1, 0 at 0, 1/2, 1: until a half AUC is 2.5, AOPC 1.5; lowest first 4, 3, 0 gives SRG 1."""
    x = torch.tensor([[3.0, 1.0]])
    whole = feature_deletion(lambda x: x.sum(1), x, x, replace="zero")
    half = whole.first(0.5)
    assert half.counts.tolist() == [0, 1]
    assert [float(half.measured(m, "relevance")) for m in ("auc", "aopc", "srg")] == pytest.approx([2.5, 1.5, 1.0])
    assert "until 0.5 of the features are replaced" in half.notes
    assert whole.first(1.0).auc("relevance").tolist() == whole.auc("relevance").tolist()
    with pytest.raises(InputError, match=r"share is 0.4; the first point after 0 is at 0.5"):
        whole.first(0.4)
