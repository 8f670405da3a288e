"""Texts and tensors to a .npz file and back, without pickle."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relprop.errors import InputError, OutputError


def write(path: str | Path, texts: Mapping[str, Sequence[str]], tensors: Mapping[str, Tensor]) -> Path:
    """Write them; a run that is interrupted leaves the old file or none. Raises `InputError`, `OutputError`."""
    import numpy as np

    target = Path(path)
    if target.suffix != ".npz":
        raise InputError(f"path is '{target}'; curves are saved as .npz")
    if not target.parent.is_dir():
        raise OutputError(f"cannot write '{target}': there is no folder '{target.parent}'; make it first")
    arrays: dict[str, Any] = {name: np.array(list(values), dtype=np.str_) for name, values in texts.items()}
    arrays |= {name: values.detach().cpu().numpy() for name, values in tensors.items()}
    unfinished = None
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".part", delete=False) as file:
            unfinished = file.name
            np.savez_compressed(file, **arrays)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(unfinished, 0o666 & ~mask)  # temporary files are their owner's alone
        os.replace(unfinished, target)
    except OSError as error:
        raise OutputError(f"cannot write '{target}': {error}") from error
    finally:
        if unfinished is not None and os.path.exists(unfinished):
            os.unlink(unfinished)
    return target


def read(
    path: str | Path, texts: Sequence[str], tensors: Sequence[str]
) -> tuple[dict[str, tuple[str, ...]], dict[str, Tensor]]:
    """The texts and tensors of those names. Raises `InputError`: no such file, damaged, or something else."""
    import numpy as np

    try:
        # opened here, because np.load leaves the file of a damaged archive open
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            words = {name: tuple(str(text) for text in file[name]) for name in texts}
            return words, {name: torch.from_numpy(np.array(file[name])) for name in tensors}
    except FileNotFoundError:
        raise InputError(f"there is no file '{path}'; give one that Curves.save wrote") from None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise InputError(
            f"'{path}' holds no curves, or is damaged ({error}); give a file that Curves.save wrote"
        ) from error
