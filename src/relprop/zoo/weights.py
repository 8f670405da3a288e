"""Weight files to state dictionaries: safetensors, or torch.load with weights_only=True; nothing in a file is run."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from relprop.errors import WeightsError

# what training scripts wrap a state dictionary in
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name, on the CPU.

    `path`: a .safetensors file, or what `torch.save(model.state_dict(), path)` wrote, also inside a dictionary under
    "state_dict" or "model", also with the prefix "module." of a parallel model.
    Raises `WeightsError`: a missing, corrupt or pickled file, or one without tensors.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"state_dict": {"module.weight": torch.ones(1)}}, f"{folder}/net.pt")
    ...     read_state(f"{folder}/net.pt")
    {'weight': tensor([1.])}
    """
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"weights '{file}': there is no such file")
    state = read_safetensors(file) if file.suffix == ".safetensors" else read_torch(file)
    for key in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(
            f"weights '{file}': not a dictionary of tensors; save them with torch.save(model.state_dict(), 'file.pt')"
        )
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): value for name, value in state.items()}
    return dict(state)


def read_safetensors(file: Path) -> object:
    """The content of a .safetensors file."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise WeightsError(f"weights '{file}': reading them needs safetensors: pip install 'relprop[cli]'") from error
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"weights '{file}': corrupt, or not safetensors ({error}); save it again") from error


def read_torch(file: Path) -> object:
    """The content of a file of torch.save, refusing every pickled object other than tensors and plain containers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on unusual pickle protocols; the file loads or is refused
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not is_torch_file(file):
            raise WeightsError(f"weights '{file}': corrupt, or not written by torch.save; save it again") from error
        raise WeightsError(
            f"weights '{file}': holds pickled Python objects, which could run any code when loaded; it was not loaded. "
            "Where it comes from, save tensors only: torch.save(model.state_dict(), 'file.pt')"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        # the reader of a damaged file fails in any of these ways
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise WeightsError(
            f"weights '{file}': corrupt, or not written by torch.save ({reason}); save it again"
        ) from error


def is_torch_file(file: Path) -> bool:
    """Whether the file begins as those of torch.save do: a zip archive, or a pickle of protocol 2 or later."""
    head = file.read_bytes()[:2]
    return head == b"PK" or (head[:1] == b"\x80" and head[1:] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def load_into(model: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Copy the state into the model; names and shapes must all agree, else `WeightsError` naming some that do not.

    The counters of BatchNorm may be absent, as in files from before they existed; nothing in eval mode reads them.

    >>> load_into(nn.Linear(2, 1), {"weight": torch.ones(1, 2)}, "half.pt")
    Traceback (most recent call last):
    relprop.errors.WeightsError: weights 'half.pt' belong to another model than Linear: missing bias
    """
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)}, the model has {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    faults = [
        f"{what} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("shape of", shapes))
        if names
    ]
    if faults:
        raise WeightsError(
            f"weights '{source}' belong to another model than {type(model).__name__}: {'; '.join(faults)}"
        )
    # not load_state_dict: some models insist on version marks that only torch.save keeps
    with torch.no_grad():
        for name, value in own.items():
            if name in state:
                value.copy_(state[name])
