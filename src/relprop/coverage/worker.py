"""The process one model is tried in: python -m relprop.coverage.worker REQUEST, as JSON; prints the row as JSON."""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from pathlib import Path

import torch

from . import zoos
from .measure import Row, measure

MARK = "relprop-coverage-row "  # in front of the row, since models print too


def limit_memory(gigabytes: float) -> None:
    """Let an allocation fail instead of the machine; nothing where the system has no such limit."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 2**30),) * 2)


def tried(zoo: str, model: str, recipes: list[str]) -> Row:
    """The row of one model; whatever goes wrong is its reason."""
    row = Row(zoo, model, recipes=recipes, versions=zoos.versions(zoo))
    try:
        measure(row, zoos.built(zoo, model))
    except Exception as error:  # a model may fail in any way and must not end the run
        where = traceback.extract_tb(error.__traceback__)[-1]
        row.reason = f"{type(error).__name__}: {error} (at {Path(where.filename).name}:{where.lineno})"
    return row


def main() -> None:
    """One row."""
    request = json.loads(sys.argv[1])
    limit_memory(request["gigabytes"])
    torch.set_num_threads(request["threads"])
    warnings.simplefilter("ignore")
    row = tried(request["zoo"], request["model"], request["recipes"])
    print("\n" + MARK + json.dumps(row.as_dict()), flush=True)


if __name__ == "__main__":
    main()
