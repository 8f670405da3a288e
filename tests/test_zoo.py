"""The shipped network and photos, and weight files: read exactly, or refused with the remedy, and never run."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from relprop import zoo
from relprop._loading import load, open_photo, prepared
from relprop.errors import WeightsError
from relprop.zoo import cifar10

PACKAGE = Path(zoo.__file__).parent


def test_the_network_takes_every_sample_for_what_it_is() -> None:
    embedded = load(None, None, False)
    assert not embedded.model.training
    samples = zoo.samples()
    assert len(samples) == 6
    for name, path in samples.items():
        with torch.no_grad():
            output = embedded.model(prepared(embedded, open_photo(path))[None])
        assert cifar10.CLASSES[int(output.argmax())] == name


def test_samples_are_cifar_photos_as_png() -> None:
    for path in zoo.samples().values():
        with Image.open(path) as image:
            assert (image.size, image.mode, image.format) == ((32, 32), "RGB", "PNG")


def test_the_weights_fit_in_the_package_and_their_record_promises_80_percent() -> None:
    file = PACKAGE / "cifar10_lrn.safetensors"
    assert file.stat().st_size <= 2e6
    record = json.loads(file.with_suffix(".json").read_text())
    assert record["test_accuracy"] >= 0.8
    state = zoo.read_state(file)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in state.values())


def test_every_call_gives_a_model_of_its_own() -> None:
    first, second = zoo.cifar10_lrn(), zoo.cifar10_lrn()
    with torch.no_grad():
        next(first.parameters()).zero_()
    assert next(second.parameters()).abs().sum() > 0


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def same(model: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("form", ["plain", "safetensors", "state_dict", "model", "module.", "legacy"])
def test_weight_files_of_every_usual_form_load_exactly(tmp_path: Path, form: str) -> None:
    source, target = small(), small()
    nn.init.normal_(source[1].weight)
    state, file = source.state_dict(), tmp_path / "net.pt"
    if form == "safetensors":
        file = file.with_suffix(".safetensors")
        save_file(state, file)
    elif form == "legacy":
        torch.save(state, file, _use_new_zipfile_serialization=False)
    elif form == "module.":
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, file)
    else:
        torch.save(state if form == "plain" else {form: state, "epoch": 3}, file)
    zoo.load_into(target, zoo.read_state(file), file)
    same(source, target)


def test_counters_of_batchnorm_may_be_absent() -> None:
    source, target = small(), small()
    state = {k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    zoo.load_into(target, state, "old.pt")
    same(source, target)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("form", ["torch.save", "legacy", "pickle"])
def test_pickled_code_is_not_run(tmp_path: Path, form: str) -> None:
    mark, file = tmp_path / "it ran", tmp_path / "net.pt"
    if form == "pickle":
        file.write_bytes(pickle.dumps(Trap(mark)))
    else:
        torch.save({"model": Trap(mark)}, file, _use_new_zipfile_serialization=form == "torch.save")
    with pytest.raises(WeightsError, match=r"net\.pt.*pickled Python objects.*save tensors only"):
        zoo.read_state(file)
    assert not mark.exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(small(), tmp_path / "net.pt")
    with pytest.raises(WeightsError, match=r"pickled Python objects.*torch\.save\(model\.state_dict\(\)"):
        zoo.read_state(tmp_path / "net.pt")


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
@pytest.mark.parametrize("damage", ["empty", "text", "half", "zeros"])
def test_corrupt_files_are_refused(tmp_path: Path, name: str, damage: str) -> None:
    file = tmp_path / name
    if name == "net.pt":
        torch.save(small().state_dict(), file)
    else:
        save_file(small().state_dict(), file)
    whole = file.read_bytes()
    file.write_bytes(
        {"empty": b"", "text": b"<html>404</html>", "half": whole[: len(whole) // 2], "zeros": bytes(64)}[damage]
    )
    with pytest.raises(WeightsError, match=f"{name}.*corrupt.*save it again"):
        zoo.read_state(file)


def test_files_that_are_missing_or_hold_no_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no such file"):
        zoo.read_state(tmp_path / "none.pt")
    with pytest.raises(WeightsError, match="there is no such file"):
        zoo.cifar10_lrn(tmp_path / "none.safetensors")
    for content in ([1, 2], {}, {"a": 1}, torch.ones(2)):
        torch.save(content, tmp_path / "net.pt")
        with pytest.raises(WeightsError, match="not a dictionary of tensors"):
            zoo.read_state(tmp_path / "net.pt")


def test_weights_of_another_model_are_refused_and_the_model_is_unchanged() -> None:
    model = nn.Linear(3, 2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = {"weight": torch.ones(2, 4), "extra": torch.ones(1)}
    with pytest.raises(
        WeightsError, match=r"other\.pt.*missing bias; unexpected extra; shape of weight \(2, 4\).*\(2, 3\)"
    ):
        zoo.load_into(model, state, "other.pt")
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
