"""The command `relprop profile`: what it takes, prints and writes, and that every refusal is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from relprop import _profile, cli
from relprop.profiling import machine

FILE = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))

def deep():
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))

def reader():
    return nn.Sequential(nn.Embedding(20, 4), nn.Linear(4, 20))  # scores of every token
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "SECONDS", 0.0)
    monkeypatch.setattr(machine, "SIZES", {"cpu": (8, 1, 1024)})
    for console in (cli.out, cli.err, _profile.out):
        monkeypatch.setattr(console, "_width", 250)
    (tmp_path / "nets.py").write_text(FILE, encoding="utf-8")
    return tmp_path / "nets.py"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["profile", *map(str, arguments)])


def test_the_command_prints_the_tables_and_writes_json(file: Path) -> None:
    result = run(
        f"{file}:deep", "--input", "6", "--batch", "4", "--composite", "epsilon", "--json", "p.json", "--repeats", 1
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("deep, composite epsilon: 4 sample(s) on cpu")
    read = json.loads(Path("p.json").read_text(encoding="utf-8"))
    assert read["call"]["flops"] == 2 * (2 * 4 * 6 * 6 + 2 * 4 * 6 * 3)
    assert read["samples"] == 4
    assert all(row["node"] in result.stdout for row in read["rows"])


def test_the_command_takes_photos_tokens_and_recipes_that_want_a_range(file: Path) -> None:
    boxed = run(f"{file}:net", "--input", "3x8x8", "--composite", "epsilon_gamma_box", "--top", 1, "--repeats", 1)
    assert boxed.exit_code == 0, boxed.output
    assert "z_box" in boxed.stdout
    assert "more)" in boxed.stdout
    words = run(f"{file}:reader", "--input", "7", "--tokens", "20", "--batch", "2", "--repeats", 1, "--sort", "excess")
    assert words.exit_code == 0, words.output
    assert "embedding" in words.stdout
    own = run("--repeats", 1)
    assert own.exit_code == 0, own.output
    assert own.stdout.startswith("cifar10_lrn, composite auto: 1 sample(s)")


def test_the_command_refuses_in_one_line(file: Path) -> None:
    cases = [
        ((f"{file}:deep", "--input", "5"), "cannot be called with inputs of shape (1, 5)"),
        ((f"{file}:deep", "--input", "5x"), "--input 5x: give the sizes"),
        ((f"{file}:deep", "--input", "0"), "--input 0: give the sizes"),
        ((f"{file}:deep", "--tokens", "9"), "give its shape with --input"),
        ((f"{file}:dep", "--input", "6"), "no function 'dep'; similar: deep"),
        (("torchvision:resnet19",), "MODEL torchvision:resnet19: no such classifier"),
        (("hf:./nowhere",), "MODEL hf:./nowhere: there is no folder"),
        (("hf:./nowhere", "--input", "3x4"), "length of the text"),
        (("resnet18",), "MODEL resnet18: give torchvision:NAME"),
        (("--composite", "nonsense"), "--composite nonsense: no such recipe"),
        (("--json", "there/p.json"), "there is no folder"),
        (("--device", "toaster"), "--device toaster"),
    ]
    for arguments, said in cases:
        result = run(*arguments, "--repeats", 1)
        assert result.exit_code == 2, (arguments, result.output)
        assert isinstance(result.exception, SystemExit)
        assert result.stderr.startswith("error: ")
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
    assert not Path("p.json").exists()
