"""What a refusal must be: an error of its type, with the words a user needs, that leaves everything as it was."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor, nn

from unchanged import unchanged


def refuse(
    error: type[Exception], words: list[str], call: Callable[[], object], model: nn.Module, *inputs: Tensor
) -> str:
    """The message of the error, after checking its type, its words (regular expressions) and that nothing changed."""
    with unchanged(model, *inputs), pytest.raises(error) as e:
        call()
    message = str(e.value)
    missing = [w for w in words if not re.search(w, message)]
    if missing:
        raise AssertionError(f"the message lacks {missing}: {message}")
    return message


def line_of(function: Callable[..., object], text: str) -> str:
    """The regular expression for `file.py:12: text`, where the text stands in the function's source."""
    lines, start = inspect.getsourcelines(function)
    number = start + next(i for i, line in enumerate(lines) if text in line)
    file = Path(inspect.getsourcefile(function) or "").name
    return re.escape(f"{file}:{number}: ") + ".*" + re.escape(text)
