"""`relprop reproduce binder2016` on small made-up folders: the tables are what the curves say, runs continue, bad data is named."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import relprop
from checks import check_same_map
from lrn_sums import messages
from relprop import evaluate, ops, rules
from relprop.cli import app
from relprop.errors import InputError
from relprop.evaluate import Estimate
from relprop.reproduce import binder2016, neighbours, pages, studies, tables
from relprop.reproduce.images import open_images
from relprop.reproduce.methods import IDENTITY, PARAMETERS, SWEEP, TAYLOR, Method
from relprop.reproduce.neighbours import PER_LAYER, PER_MAP
from relprop.reproduce.subject import Subject
from relprop.rules import Call

NETWORK = """
import torch
from torch import nn

def network():
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.LocalResponseNorm(3, alpha=3.0), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.LocalResponseNorm(4, alpha=2.0), nn.Flatten(), nn.Linear(8 * 16, 3),
    )

def preprocess(photo):
    import numpy as np
    pixels = torch.from_numpy(np.array(photo.resize((8, 8)))).permute(2, 0, 1) / 255
    return (pixels - 0.5) / 0.25

def build():
    return network(), preprocess
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made(tmp_path)


def made(tmp_path: Path) -> Path:
    """Three classes of four photos of unequal sizes, and a network."""
    rng = np.random.default_rng(0)
    for c in ("ape", "bee", "cow"):
        (tmp_path / "data" / c).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 255, (8 + i, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / c / f"{i}.png")
    (tmp_path / "net.py").write_text(NETWORK, encoding="utf-8")
    return tmp_path


def arguments(folder: Path, *more: str) -> list[str]:
    return [
        "reproduce", "binder2016", "--data", str(folder / "data"), "--model", f"{folder / 'net.py'}:build",
        "--random-weights", "-o", str(folder / "out"), *more,
    ]  # fmt: skip


def results(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    out = folder / "out"
    return json.loads((out / "tables.json").read_text(encoding="utf-8")), pq.read_table(out / "auc.parquet").to_pydict()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of the whole command."""
    folder = made(tmp_path_factory.mktemp("finished"))
    done = CliRunner().invoke(app, arguments(folder))
    assert done.exit_code == 0, done.output
    assert "holds 12 images: all of them were used" in done.output
    assert "100%" in done.output  # the progress bar
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer methods, for what does not depend on which: captures take time."""
    monkeypatch.setattr(studies, "compared", lambda: (Method("ε=1", IDENTITY), Method("ε=1", TAYLOR)))
    monkeypatch.setattr(studies, "variants", lambda layers: (Method("ε=1", TAYLOR, layers[0]),))
    monkeypatch.setattr(neighbours, "SWEEP", {"ε=1": SWEEP["ε=1"]})


def test_any_folder_of_images_and_any_network_with_normalization(finished: Path) -> None:
    found, rows = results(finished)
    assert found["about"]["images"] == 12
    assert sorted(rows["image"])[:2] == ["ape/0.png", "ape/1.png"]
    assert rows["image"][:3] == ["ape/0.png", "bee/0.png", "cow/0.png"]
    curves = found[tables.ALL]
    # the tables are the columns' means, differences and errors
    for parameter, values in curves["table 3"].items():
        pair = [np.array(rows[f"{parameter}, {t}, highest first"], dtype=np.float64) for t in (TAYLOR, IDENTITY)]
        difference = pair[0] - pair[1]
        assert values["mean"] == pytest.approx(difference.mean(), abs=1e-6)
        assert values["error"] == pytest.approx(difference.std(ddof=1) / 12**0.5, abs=1e-6)
        assert difference.any()
    for treatment in (IDENTITY, TAYLOR):
        column = {p: np.mean(rows[f"{p}, {treatment}, highest first"]) for p in PARAMETERS}
        assert curves["order"][treatment]["measured"] == sorted(column, key=column.__getitem__)
        got = curves["table 2"][treatment]["ε=1 − β=1"]["mean"]
        assert got == pytest.approx(column["ε=1"] - column["β=1"], abs=1e-6)
    assert curves["table 1"]["auc"]["β=1, Taylor"]["mean"] == pytest.approx(np.mean(rows["β=1, Taylor, highest first"]))
    srg = np.array(rows["ε=1, Taylor, lowest first"]) - np.array(rows["ε=1, Taylor, highest first"])
    assert curves["symmetric relevance gain"]["SRG"]["ε=1, Taylor"]["mean"] == pytest.approx(srg.mean(), abs=1e-6)
    alone = [f"Taylor in {layer}" for layer in found["about"]["normalizations"]]
    assert len(alone) == 2
    assert list(curves["beyond"]["ε=1"]) == ["Taylor", "Taylor order 2", *alone]
    for kind, value in curves["beyond"]["ε=1"].items():
        change = np.array(rows[f"ε=1, {kind}, highest first"]) - np.array(rows["ε=1, identity, highest first"])
        assert value["mean"] == pytest.approx(change.mean(), abs=1e-6)
    assert found["by length"]["1"] == {
        p: {k: v[k] for k in ("mean", "error", "n")} for p, v in curves["table 3"].items()
    }
    early = found[tables.EIGHTH]["table 3"]
    assert found["by length"]["0.125"]["β=1"]["mean"] == early["β=1"]["mean"] != curves["table 3"]["β=1"]["mean"]


def test_the_folder_holds_a_report_that_needs_nothing_else(finished: Path) -> None:
    out = finished / "out"
    text, page = ((out / name).read_text(encoding="utf-8") for name in ("report.md", "report.html"))
    found, _ = results(finished)
    for values in [*found[tables.ALL]["table 3"].values(), *found["by length"]["0.125"].values()]:
        assert str(Estimate(values["mean"], values["error"], values["n"])) in text
    for picture in (
        "figure1",
        "figure2",
        "figure3",
        "order",
        "differences",
        "inside_layers",
        "inside_maps",
        "explained",
    ):
        assert f"({picture}.png)" in text
        with Image.open(out / f"{picture}.png") as image:
            assert np.asarray(image.convert("RGB")).std() > 1
    assert page.count("data:image/png;base64,") == 10
    assert 'src="figure' not in page
    assert page.count("<table>") == sum(line.startswith("| ---") for line in text.splitlines())
    assert "37.10" in text
    assert "not distinguishable from 0" in text


def subject_of() -> Subject:
    space: dict[str, Any] = {}
    exec(NETWORK, space)
    low, high = torch.full((3,), -2.0), torch.full((3,), 2.0)
    return Subject(
        "net",
        space["network"]().eval(),
        lambda photos: torch.stack([space["preprocess"](p) for p in photos]),
        low,
        high,
    )


class Interrupted(Exception):
    pass


@pytest.mark.usefixtures("small")
def test_an_interrupted_run_continues_where_it_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "CHUNK", 4)
    images, subject = open_images(folder / "data"), subject_of()
    whole = binder2016.measure(subject, images, folder / "whole", 12)

    def stops_at(limit: int):  # type: ignore[no-untyped-def]
        seen = 0

        def advance(samples: int) -> None:
            nonlocal seen
            seen += samples
            if seen > limit:
                raise Interrupted

        return lambda total: advance

    with pytest.raises(Interrupted):
        binder2016.measure(subject, images, folder / "out", 12, begin=stops_at(400))
    before = {f.name: f.stat().st_mtime_ns for f in (folder / "out" / "parts").glob("*.npz")}
    assert before
    assert len(before) < len(list((folder / "whole" / "parts").glob("*.npz")))
    forwards: list[int] = []
    again = binder2016.measure(subject, images, folder / "out", 12, begin=lambda total: forwards.append)
    after = {f.name: f.stat().st_mtime_ns for f in (folder / "out" / "parts").glob("*.npz")}
    assert {name: after[name] for name in before} == before  # what was done was not done again
    for name in ("main", "lowest", "variants"):
        a, b = getattr(again, name), getattr(whole, name)
        assert all(torch.equal(a.values[k], b.values[k]) for k in b.values)
    assert torch.equal(again.inside["maps"], whole.inside["maps"])
    assert sum(forwards) == binder2016.plan(12, again.layers, 64)  # the bar ends at its end
    more = binder2016.measure(subject, images, folder / "out", 8)  # fewer images of the same run
    assert torch.equal(more.main.auc("ε=1, Taylor"), whole.main.auc("ε=1, Taylor")[:8])


def test_a_folder_of_another_run_is_refused(folder: Path) -> None:
    images, subject = open_images(folder / "data"), subject_of()
    x = binder2016.first_input(subject, images)
    binder2016.claim(folder / "out", binder2016.settings(subject, images, ("_2",), x))
    binder2016.claim(folder / "out", binder2016.settings(subject_of(), images, ("_2",), x))  # the same: continued
    heavier, milder = subject_of(), subject_of()
    with torch.no_grad():
        heavier.model[0].weight.add_(1)
    milder.model[2].alpha = 0.001  # no weight, but another function
    darker = replace(subject_of(), prepare=lambda photos: subject.prepare(photos) - 1)
    for other, what in ((heavier, "weights, probe"), (milder, "probe"), (darker, "probe")):
        found = binder2016.settings(other, images, ("_2",), binder2016.first_input(other, images))
        with pytest.raises(InputError, match=rf"holds another run \(other {what}\); choose another folder"):
            binder2016.claim(folder / "out", found)
    (folder / "out" / "run.json").write_text("[]")
    with pytest.raises(InputError, match=r"run\.json is damaged; delete the folder"):
        binder2016.claim(folder / "out", found)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("damage", ["cut", "garbage", "gone"])
def test_damaged_parts_are_measured_anew(folder: Path, damage: str) -> None:
    images, subject = open_images(folder / "data"), subject_of()
    whole = binder2016.measure(subject, images, folder / "out", 6)
    for file in (folder / "out" / "parts").iterdir():
        content = file.read_bytes()
        if damage == "gone" and file.suffix == ".json":
            file.unlink()
        else:
            file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    again = binder2016.measure(subject, images, folder / "out", 6)
    assert all(torch.equal(again.main.values[k], v) for k, v in whole.main.values.items())
    assert torch.equal(again.inside["layers"], whole.inside["layers"])
    assert again.names == whole.names


def test_a_final_softmax_is_refused() -> None:
    subject = subject_of()
    subject.model.append(torch.nn.Softmax(1))
    with pytest.raises(InputError, match=r"ends in softmax.*without its last function"):
        subject.layers(torch.randn(2, 3, 8, 8))


@pytest.mark.usefixtures("small")
def test_bad_images_are_named_or_skipped_and_counted(folder: Path) -> None:
    (folder / "data" / "bee" / "1.png").write_bytes(b"no image")
    (folder / "data" / "cow" / "notes.txt").write_text("hello")
    refused = CliRunner().invoke(app, arguments(folder))
    assert refused.exit_code == 2
    assert "notes.txt" in refused.output
    assert "--skip-bad" in refused.output
    images = open_images(folder / "data", skip_bad=True)
    m = binder2016.measure(subject_of(), images, folder / "out", 12)
    assert len(m.names) == len(m.main) == len(m.labels) == 11
    assert "bee/1.png" not in m.names
    assert {bad.name for bad in m.bad} == {"cow/notes.txt", "bee/1.png"}
    about = {"bad images": [[b.name, b.reason] for b in m.bad]}
    assert pages.bad_images(about).startswith("2 file(s)")
    assert "`cow/notes.txt`" in pages.bad_images(about)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--data", "nowhere"), "nowhere"),
        (("--model", "torchvision:resnet18"), "no local response normalization"),
        (("--weights", "none.pt"), "exclude each other"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(folder: Path, more: tuple[str, ...], words: str) -> None:
    refused = CliRunner().invoke(app, arguments(folder, *more))
    assert refused.exit_code == 2
    assert words in " ".join(refused.output.split())


def test_zero_images_are_refused(folder: Path) -> None:
    assert CliRunner().invoke(app, arguments(folder, "--images", "0")).exit_code == 2
    with pytest.raises(InputError, match="at least one"):
        binder2016.measure(subject_of(), open_images(folder / "data"), folder / "out", 0)


# The pieces


def test_one_normalization_alone() -> None:
    subject = subject_of()
    x = torch.randn(2, 3, 8, 8)
    layers = subject.layers(x)
    assert len(layers) == 2
    table = subject.explainer(Method("ε=0.01", TAYLOR, layers[1]), x).rules
    assert {row["node"]: row["rule"] for row in table.rows if "norm" in row["op"]} == {
        layers[0]: "pass_",
        layers[1]: "lrn_taylor",
    }


@pytest.mark.parametrize(
    ("mean", "paper", "verdict"),
    [
        (-0.3, -20.0, "same sign"),
        (0.3, 2.0, "same sign"),
        (0.3, -2.0, "other sign"),
        (-0.3, 8.0, "other sign"),
        (0.19, 8.0, "not distinguishable from 0"),
        (-0.19, 8.0, "not distinguishable from 0"),
    ],
)
def test_verdicts(mean: float, paper: float, verdict: str) -> None:
    assert tables.verdict(Estimate(mean, 0.1, 50), paper) == verdict


def test_the_papers_figures_are_consistent_with_its_text() -> None:
    """Section 4 of the paper: which differences are negative, and the orders it states, follow from Table 2."""
    for treatment, sets in tables.TABLE_2.items():
        for values in sets.values():
            steps = dict(zip(tables.PAIRS_2, values, strict=True))
            assert steps["ε=1", "ε=0.01"] < 0
            assert steps["ε=1", "β=1"] < 0
            assert steps["β=1", "β=0"] < 0
            first = tables.ORDER[treatment].index("ε=0.01") < tables.ORDER[treatment].index("ε=100")
            assert (steps["ε=0.01", "ε=100"] < 0) == first


def test_spearman_of_ties_is_that_of_mean_ranks() -> None:
    """Equal values share their mean rank."""
    a, b = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]]), torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    # around 0 the ranks are (−½, −½, −½, −½, 2) and (−2, −1, 0, 1, 2): product 1 + ½ + 0 − ½ + 4 = 5, norms √5 and √10
    assert float(neighbours.spearman(a, b)) == pytest.approx(5 / (5 * 10) ** 0.5)
    assert float(neighbours.spearman(a, -b)) == pytest.approx(-5 / (5 * 10) ** 0.5)
    assert float(neighbours.spearman(torch.ones(1, 100), torch.rand(1, 100))) == 0


def test_spearman_by_hand() -> None:
    a, b = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[10.0, 30.0, 20.0, 40.0]])
    assert float(neighbours.spearman(a, b)) == pytest.approx(1 - 6 * 2 / (4 * 15))


def by_loops(x: Tensor, R: Tensor, before: int, after: int, b: float, c: float, k: float) -> dict[str, float]:
    """`PER_LAYER` of one image, channel by channel and place by place."""
    C, places = x.shape
    handed = arrived = net = between = flips = negative = left = left_negative = agree = 0.0
    for p in range(places):
        column, out = x[:, p].tolist(), [0.0] * C
        for n in range(C):
            z = messages(column, n, range(max(0, n - before), min(C, n + after + 1)), b, c, k, 1)
            v = {j: m / sum(z.values()) for j, m in z.items()}
            handed += abs(R[n, p]) * sum(abs(s) for j, s in v.items() if j != n)
            for j, s in v.items():
                out[j] += s * float(R[n, p])
        r = R[:, p].tolist()
        arrived += sum(map(abs, r))
        left += sum(map(abs, out))
        net += sum(abs(o - q) for o, q in zip(out, r, strict=True))
        between += abs(sum(out) - sum(r))
        flips += sum(abs(q) for o, q in zip(out, r, strict=True) if o * q < 0)
        negative += sum(-q for q in r if q < 0)
        left_negative += sum(-o for o in out if o < 0)
        agree += abs(sum(r))
    return {
        "gross": float(handed) / arrived, "net": net / arrived, "between": between / arrived, "flips": flips / arrived,
        "negative_before": negative / arrived, "negative_after": left_negative / left, "coherence": agree / arrived,
    }  # fmt: skip


def test_what_is_measured_at_a_normalization() -> None:
    generator = torch.Generator().manual_seed(0)
    x, R = (torch.randn(2, 6, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    args = (2, 1, 1.5, 0.75, 1.0)
    f = Call("local_response_norm", (x, *args), ops.local_response_norm(x, *args))
    found = neighbours.of_layer(R, rules.lrn_taylor(R, f), f)
    assert list(found) == list(PER_LAYER)
    for i in range(2):
        expected = by_loops(x[i], R[i], *args)
        assert expected["flips"] > 0
        for name, value in expected.items():
            assert float(found[name][i]) == pytest.approx(value, abs=1e-9), name


def test_measuring_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = ("ε=0.1", "β=0.5")
    monkeypatch.setattr(neighbours, "SWEEP", {p: SWEEP[p] for p in parameters})
    subject = subject_of()
    x = torch.randn(3, 3, 8, 8)
    target = subject.predicted(x)
    layers = subject.layers(x)
    explainers = neighbours.Explainers(subject, layers)
    found = explainers.measure(x, target)
    assert found["layers"].shape == (3, 2, 2, len(PER_LAYER))
    assert found["maps"].shape == (3, 2, len(PER_MAP))
    for i, p in enumerate(parameters):
        plain, taylor = (subject.explainer(Method(p, t), x)(x, target=target).relevance for t in (IDENTITY, TAYLOR))
        measured = explainers.get(p, TAYLOR, x)(x, target=target).relevance
        assert torch.equal(measured, taylor)
        a, b = plain.sum(1).flatten(1).double(), taylor.sum(1).flatten(1).double()
        check_same_map(found["maps"][:, i, 0], (b - a).norm(dim=1) / a.norm(dim=1), rtol=1e-9)
        check_same_map(found["maps"][:, i, 1], torch.cosine_similarity(a, b, eps=0.0), rtol=1e-9)


def test_counts_of_flipped_pixels() -> None:
    assert studies.steps(1024) == list(studies.SHARES)
    for units in (1, 4, 64, 224 * 224):
        counts = studies.steps(units)
        assert counts[0] == 0
        assert counts[-1] == units
        assert counts == sorted(set(counts))


@pytest.mark.usefixtures("small")
def test_the_main_study_is_pixel_flipping_of_the_predicted_class(folder: Path) -> None:
    images, subject = open_images(folder / "data"), subject_of()
    m = binder2016.measure(subject, images, folder / "out", 3)
    x = subject.batch(images.read(0, 3).images)
    target = subject.model(x).argmax(1)
    maps = {
        f"ε=1, {name}": relprop.explain(subject.model, x, target, "binder2016", epsilon=1.0, lrn=lrn).relevance
        for name, lrn in ((IDENTITY, "identity"), (TAYLOR, "taylor"))
    }
    expected = evaluate.pixel_flipping(
        subject.model, x, maps, orders=("highest", "random"), low=-2.0, high=2.0, steps=studies.steps(64)
    )
    assert torch.equal(m.main.target, target)
    for key, curve in expected.values.items():
        check_same_map(m.main.values[key], curve, rtol=1e-5)
    assert not torch.equal(expected.of("ε=1, Taylor"), expected.of("ε=1, identity"))


def test_the_measuring_rule_is_not_among_the_rules_of_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import relprop.cli; print(relprop.rules.names())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "lrn_taylor" in done.stdout
    assert "measured" not in done.stdout
