"""The command: what it prints agrees with the library, what it draws shows it, and every refusal is one line."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner, Result

import relprop
from relprop import _loading, cli, zoo
from relprop.errors import InputError, WeightsError

FROG = str(zoo.samples()["frog"])
CAT = str(zoo.samples()["cat"])


@pytest.fixture(autouse=True)
def in_an_empty_folder_with_a_wide_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for console in (cli.out, cli.err):
        monkeypatch.setattr(console, "_width", 250)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def succeed(*arguments: object) -> str:
    result = run(*arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def refuse(*arguments: object) -> str:
    """The message of a command that must end with exit code 2, one line, and no file written."""
    before = set(Path.cwd().iterdir())
    result = run(*arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output
    assert set(Path.cwd().iterdir()) == before
    return result.stderr


def rows_of(text: str, composite: str) -> list[list[float]]:
    """The numbers of the ledger of a composite: score, ΣR, bias, epsilon, residual."""
    table = text.partition(f"ledger, {composite} ")[2]
    rows = itertools.takewhile(str.strip, table.splitlines()[4:])
    return [[float(cell) for cell in row.split()[-5:]] for row in rows]


def as_input(*paths: str) -> torch.Tensor:
    embedded = _loading.load(None, None, False)
    return _loading.batch(embedded, [_loading.open_photo(Path(path)) for path in paths])


def colours(path: str | Path) -> tuple[int, int, int]:
    """How many pixels of a picture are clearly red, clearly blue, and white."""
    red, green, blue = np.moveaxis(np.asarray(Image.open(path).convert("RGB")).astype(int), 2, 0)
    return (
        int(((red > 250) & (green < 160) & (blue < 160)).sum()),
        int(((blue > 250) & (green < 160) & (red < 160)).sum()),
        int(((red == 255) & (green == 255) & (blue == 255)).sum()),
    )


def test_explaining_a_photo_prints_prediction_and_ledger_and_draws() -> None:
    text = succeed("explain", FROG, "--composite", "epsilon", "-o", "heat.png")
    expected = relprop.explain(zoo.cifar10_lrn(), as_input(FROG), composite="epsilon", ledger=True)
    assert "frog" in text
    assert f"{expected.output.softmax(1).max():.1%}" in text
    (row,) = rows_of(text, "epsilon")
    ledger = expected.ledger
    assert ledger is not None
    parts = [ledger.score, ledger.input, ledger.bias, ledger.epsilon, ledger.residual]
    assert row == pytest.approx([float(p) for p in parts], rel=1e-2, abs=1e-4)
    assert row[0] == pytest.approx(sum(row[1:]), rel=1e-2)
    assert row[1] == pytest.approx(float(expected.relevance.sum()), rel=1e-2)
    assert "picture: heat.png" in text
    red, blue, white = colours("heat.png")
    assert min(red, blue) > 100
    assert white > 1000


def test_the_default_picture_is_named() -> None:
    assert "picture: relprop.png" in succeed("explain", FROG)
    assert Path("relprop.png").is_file()


def test_several_photos_and_composites_make_one_figure() -> None:
    one = succeed("explain", FROG, "--composite", "epsilon", "-o", "one.png")
    many = succeed("explain", FROG, CAT, "--composite", "epsilon", "--composite", "gamma:gamma=0.5", "-o", "many.png")
    with Image.open("one.png") as small, Image.open("many.png") as large:
        assert large.width == pytest.approx(1.5 * small.width, rel=0.02)
        assert large.height == pytest.approx(2 * small.height, rel=0.02)
    assert len(rows_of(many, "epsilon")) == len(rows_of(many, "gamma:gamma=0.5")) == 2
    # a photo's explanation does not depend on the others in its batch
    assert rows_of(many, "epsilon")[0] == pytest.approx(rows_of(one, "epsilon")[0], rel=1e-2, abs=1e-3)


def test_samples_explains_the_photos_of_the_package() -> None:
    text = succeed("explain", "--samples", "--top", "3")
    for name in zoo.samples():
        assert len(re.findall(rf"(?m)^ *{name} +{name} ", text)) == 2  # predicted and explained as what it is
    assert len(re.findall(r"\d\.\d%", text)) == 18


def test_photos_are_explained_in_parts() -> None:
    whole, parts = (
        rows_of(succeed("explain", "--samples", "--composite", "epsilon", *more), "epsilon")
        for more in ((), ("--max-batch", "4"))
    )
    assert len(whole) == len(parts) == len(zoo.samples())
    for a, b in zip(whole, parts, strict=True):
        assert a == pytest.approx(b, rel=1e-2, abs=1e-3)
    assert "max_batch='few'" in refuse("explain", FROG, "--max-batch", "few")


@pytest.mark.parametrize("target", ["cat", "CAT", "3"])
def test_a_target_by_name_or_index(target: str) -> None:
    text = succeed("explain", FROG, "--target", target, "--composite", "epsilon")
    expected = relprop.explain(zoo.cifar10_lrn(), as_input(FROG), target=3, composite="epsilon")
    assert rows_of(text, "epsilon")[0][:2] == pytest.approx(
        [float(expected.score), float(expected.relevance.sum())], rel=1e-2, abs=1e-3
    )


def test_options_reach_the_rules_that_take_them() -> None:
    text = succeed("explain", FROG, "--composite", "epsilon", "--composite", "z_plus", "--option", "epsilon=0.25")
    expected = relprop.explain(zoo.cifar10_lrn(), as_input(FROG), composite="epsilon", epsilon=0.25)
    assert rows_of(text, "epsilon")[0][1] == pytest.approx(float(expected.relevance.sum()), rel=1e-2, abs=1e-3)


def test_pixel_rules_get_the_range_of_the_pixels() -> None:
    embedded = _loading.load(None, None, False)
    low, high = _loading.bounds(embedded, (32, 32))
    black, white = (torch.full((3, 1, 1), value) for value in (0.0, 1.0))
    torch.testing.assert_close(low, zoo.cifar10.normalize(black))
    torch.testing.assert_close(high, zoo.cifar10.normalize(white))
    text = succeed("explain", FROG, "--composite", "montavon2019")
    options = {"composite": "montavon2019", "ledger": True, "low": low, "high": high}
    expected = relprop.explain(embedded.model, as_input(FROG), **options)
    assert rows_of(text, "montavon2019")[0][1] == pytest.approx(float(expected.relevance.sum()), rel=1e-2, abs=1e-3)
    drawn = Path("relprop.png").read_bytes()
    succeed("explain", FROG, "--composite", "montavon2019", "--option", "low=-9", "--option", "high=9")
    assert Path("relprop.png").read_bytes() != drawn  # the sum is the same, the map is not


def test_photos_are_named_as_shortly_as_tells_them_apart() -> None:
    def names(*files: str) -> list[str]:
        return cli.photo_names([Path(file) for file in files])

    assert names("a/x.png", "b/y.png") == ["x", "y"]
    assert names("a/x.png", "a/x.jpg") == ["x.png", "x.jpg"]
    assert names("a/x.png", "b/x.png", "y.png") == ["a/x.png", "b/x.png", "y.png"]


def test_photos_of_any_size_and_mode_are_taken() -> None:
    for mode, size in (("RGB", (90, 50)), ("L", (20, 64)), ("RGBA", (32, 32)), ("P", (33, 31))):
        Image.open(FROG).resize(size).convert(mode).save(f"{mode}.png")
    succeed("explain", "RGB.png", "L.png", "RGBA.png", "P.png")


def test_the_program_is_written_as_python() -> None:
    assert "program: python program.py program.pt program.inputs.pt" in succeed(
        "explain", FROG, "--composite", "epsilon", "--code", "program.py"
    )
    compile(Path("program.py").read_text(), "program.py", "exec")


def test_pictures_over_the_photo_in_other_colours() -> None:
    succeed(
        "explain",
        FROG,
        "--overlay",
        "--palette",
        "orange-purple",
        "--percentile",
        "99",
        "--scale",
        "row",
        "-o",
        "h.svg",
    )
    assert Path("h.svg").read_text().startswith("<?xml")


def test_relevance_programs_are_listed_with_their_options() -> None:
    listed = succeed("composites")
    for name in relprop.composites.names():
        assert re.search(rf"│ {name} +│", listed)
    rules = succeed("rules")
    for name in relprop.rules.names():
        assert re.search(rf"│ {name} +│", rules)
    assert "epsilon_mode=rms" in listed
    assert "gamma=0.25" in rules


NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, bad=False):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bad = bad

    def forward(self, x):
        x = torch.relu(self.layer(x)).mean((2, 3))
        return torch.linalg.qr(x)[1] if self.bad else x

def build():
    torch.manual_seed(1)
    return Net()

def with_preprocess():
    return build(), lambda photo: torch.full((3, 4, 6), 0.5)

def wrong_preprocess():
    return build(), lambda photo: torch.zeros(1)

def bad():
    return Net(bad=True)

def no_model():
    return 3
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    file = tmp_path / "net.py"
    file.write_text(NET)
    return file


def test_a_model_of_ones_own(net: Path) -> None:
    text = succeed("explain", FROG, "--model", "net.py:build", "--composite", "epsilon")
    (row,) = rows_of(text, "epsilon")
    assert row[1] == pytest.approx(row[0], rel=1e-2)  # no biases: Σ R is the score
    succeed("explain", FROG, CAT, "--model", f"{net}:with_preprocess", "--composite", "epsilon")


def test_weights_for_a_model_of_ones_own(net: Path) -> None:
    state = {"layer.weight": torch.ones(4, 3, 3, 3)}
    torch.save({"state_dict": state}, "ones.pt")
    save_file(state, "ones.safetensors")
    texts = {
        succeed("explain", FROG, "--model", "net.py:build", "--weights", f"ones{end}")
        for end in (".pt", ".safetensors")
    }
    assert len(texts) == 1
    assert texts != {succeed("explain", FROG, "--model", "net.py:build")}


def test_examining_says_the_rule_of_every_operation(net: Path) -> None:
    assert "conv2d" in succeed("examine")
    assert "conv2d" in succeed("examine", CAT, "--model", "net.py:build", "--composite", "epsilon")
    result = run("examine", "--model", "net.py:bad")
    assert result.exit_code == 1
    assert "qr" in result.stdout


def test_torchvision_and_timm_models_with_random_weights_are_explained_with_a_warning() -> None:
    for spec in ("torchvision:squeezenet1_1", "timm:test_resnet"):
        result = run("explain", FROG, "--model", spec, "--random-weights", "--composite", "epsilon", "-o", "heat.png")
        assert result.exit_code == 0, result.output
        assert "random weights" in result.stderr
        assert len(rows_of(result.stdout, "epsilon")) == 1


def test_torchvision_weights_from_a_file(tmp_path: Path) -> None:
    from torchvision.models import squeezenet1_1

    torch.save(squeezenet1_1(weights=None).state_dict(), "squeeze.pt")
    text = succeed(
        "explain", FROG, "--model", "torchvision:squeezenet1_1", "--weights", "squeeze.pt", "--target", "tench"
    )
    assert "tench" in text


def test_published_densenet_weights_have_old_names() -> None:
    assert (
        _loading.current("features.denseblock1.denselayer2.norm.1.weight")
        == "features.denseblock1.denselayer2.norm1.weight"
    )
    assert (
        _loading.current("features.denseblock1.denselayer2.conv1.weight")
        == "features.denseblock1.denselayer2.conv1.weight"
    )
    assert _loading.current("features.norm0.weight") == "features.norm0.weight"


def test_a_failed_download_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    import timm
    import torchvision.models._api

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    monkeypatch.setattr(timm, "create_model", offline)
    for spec in ("torchvision:resnet18", "timm:resnet18"):
        message = refuse("explain", FROG, "--model", spec)
        assert f"--model {spec}" in message
        assert "no network" in message
        assert "--weights FILE" in message


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["PHOTO is missing", "--samples"]),
        ([FROG, "--samples"], ["PHOTO and --samples exclude each other"]),
        (["none.png"], ["PHOTO none.png", "no such file"]),
        (["."], ["PHOTO .", "folder"]),
        (["text.png"], ["PHOTO text.png", "not a readable image"]),
        (["half.png"], ["PHOTO half.png", "not a readable image"]),
        ([FROG, "-o", "none/heat.png"], ["none/heat.png", "no folder"]),
        ([FROG, "-o", "."], ["folder"]),
        ([FROG, "-o", "heat.gif"], ["heat.gif", ".png"]),
        ([FROG, "--code", "program.txt"], ["program.txt", ".py"]),
        ([FROG, "--composite", "epsilon_minus"], ["--composite epsilon_minus", "epsilon_plus", "montavon2019"]),
        ([FROG, "--composite", "epsilon:beta2=1"], ["beta2", "epsilon_mode"]),
        ([FROG, "--composite", "epsilon", "--composite", "gamma", "--code", "p.py"], ["--code", "one --composite"]),
        ([FROG, "--option", "epsilon"], ["--option", "KEY=VALUE"]),
        ([FROG, "--composite", "epsilon", "--option", "gamma=1"], ["--option gamma", "epsilon_mode"]),
        ([FROG, "--composite", "epsilon", "--option", "epsilon=big"], ["--option epsilon=big", "no number"]),
        ([FROG, "--composite", "gamma", "--option", "gamma=-1"], ["gamma", "-1"]),
        ([FROG, "--composite", "alpha_beta:alpha=3,beta=1"], ["alpha", "beta"]),
        ([FROG, "--composite", "montavon2019:low=2,high=1"], ["low", "high"]),
        ([FROG, "--target", "unicorn"], ["--target unicorn", "frog"]),
        ([FROG, "--target", "10"], ["target", "10"]),
        ([FROG, "--target", "-11"], ["target", "-11"]),
        ([FROG, "--palette", "jet"], ["palette", "jet", "red-blue"]),
        ([FROG, "--percentile", "101"], ["percentile", "101"]),
        ([FROG, "--model", "resnet18"], ["--model resnet18", "torchvision:NAME"]),
        ([FROG, "--model", "torchvision:resnet81"], ["--model torchvision:resnet81", "resnet18"]),
        ([FROG, "--model", "timm:resnet81"], ["--model timm:resnet81", "resnet18"]),
        ([FROG, "--model", "none.py:build"], ["--model none.py:build", "no file"]),
        ([FROG, "--model", "net.py:built"], ["--model net.py:built", "similar: build"]),
        ([FROG, "--model", "net.py:no_model"], ["net.py:no_model", "int", "nn.Module"]),
        ([FROG, "--model", "net.py:wrong_preprocess"], ["preprocess", "(3, H, W)"]),
        ([FROG, "wide.png", "--model", "net.py:build"], ["sizes differ", "preprocess"]),
        ([FROG, "--weights", "none.pt"], ["--weights none.pt", "no such file"]),
        ([FROG, "--weights", "text.pt"], ["text.pt", "corrupt"]),
        ([FROG, "--weights", "pickled.pt"], ["pickled.pt", "pickled Python objects", "state_dict()"]),
        ([FROG, "--weights", "other.pt"], ["other.pt", "another model", "missing features.0.weight"]),
        ([FROG, "--weights", "other.pt", "--random-weights"], ["--weights and --random-weights"]),
    ],
)
def test_bad_arguments_are_refused_in_one_line(net: Path, arguments: list[str], parts: list[str]) -> None:
    Path("text.png").write_text("not an image")
    Path("half.png").write_bytes(Path(FROG).read_bytes()[:700])
    Path("text.pt").write_text("not weights")
    Image.new("RGB", (40, 20)).save("wide.png")
    torch.save(nn.Linear(2, 2), "pickled.pt")
    torch.save(nn.Linear(2, 2).state_dict(), "other.pt")
    message = refuse("explain", *arguments)
    for part in parts:
        assert part in message


def test_weights_with_nan_are_refused_by_the_name_of_the_layer() -> None:
    state = zoo.cifar10_lrn().state_dict()
    state["features.7.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, "nan.pt")
    assert "features.7" in refuse("explain", FROG, "--weights", "nan.pt")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli.show, "figure", broken)
    result = run("explain", FROG)
    assert isinstance(result.exception, ZeroDivisionError)


def test_without_its_packages_the_command_names_the_extra() -> None:
    code = "import sys; sys.modules['typer'] = None; import relprop.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "pip install 'relprop[cli]'" in done.stderr


def test_neighbours_of_a_model_file_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "a_neighbour.py").write_text("from torch import nn\nmodel = nn.Flatten()\n")
    (tmp_path / "user.py").write_text("from a_neighbour import model\ndef build(): return model\n")
    assert isinstance(_loading.load("user.py:build", None, False).model, nn.Flatten)


def test_random_weights_are_the_same_every_time() -> None:
    first, second = (_loading.load(None, None, True).model.state_dict() for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_loading_refuses_before_it_downloads() -> None:
    with pytest.raises(WeightsError, match="no such file"):
        _loading.load("torchvision:resnet18", Path("none.pt"), False)
    with pytest.raises(InputError, match="no such classifier"):
        _loading.load("torchvision:fcn_resnet50", None, False)


def test_what_the_user_wrote_is_printed_as_it_is(tmp_path: Path) -> None:
    """rich takes :cat: for a picture of one."""
    done = run("explain", FROG, "--target", "foo:cat:")
    assert done.exit_code == 2
    assert ":cat:" in done.stderr
