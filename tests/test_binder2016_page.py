"""docs/binder2016.md: its tables are those of the committed results, which follow from the committed AUC of every image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from relprop.reproduce import pages
from relprop.reproduce.methods import IDENTITY, PARAMETERS, TAYLOR

DOCS = Path(__file__).parent.parent / "docs"
RESULTS = {"embedded": DOCS / "binder2016", "strong": DOCS / "binder2016" / "strong"}
IMAGES = {"embedded": 10_000, "strong": 600}


def tables(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "tables.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("network", RESULTS)
def test_the_report_is_that_of_the_tables(network: str) -> None:
    folder = RESULTS[network]
    assert (folder / "report.md").read_text(encoding="utf-8") == pages.markdown(tables(folder))


@pytest.mark.parametrize("network", RESULTS)
def test_the_tables_are_the_means_over_images(network: str) -> None:
    found, rows = tables(RESULTS[network]), pq.read_table(RESULTS[network] / "auc.parquet").to_pydict()
    n = IMAGES[network]
    assert found["about"]["images"] == len(set(rows["image"])) == n
    whole = found["all pixels"]
    for p in PARAMETERS:
        taylor, identity = (np.array(rows[f"{p}, {t}, highest first"]) for t in (TAYLOR, IDENTITY))
        difference = taylor - identity
        assert whole["table 3"][p]["mean"] == pytest.approx(difference.mean(), abs=1e-6)
        assert whole["table 3"][p]["error"] == pytest.approx(difference.std(ddof=1) / n**0.5, rel=1e-4)
        assert whole["AUC"][f"{p}, {IDENTITY}"]["mean"] == pytest.approx(identity.mean(), abs=1e-6)
    if network == "embedded":
        assert found["about"]["accuracy"] == np.mean(np.array(rows["label"]) == np.array(rows["predicted"])) == 0.838


def test_every_table_of_the_page_is_in_a_report() -> None:
    """Lines of tables, but for the two that compare settings by hand."""
    page = (DOCS / "binder2016.md").read_text(encoding="utf-8")
    reports = "\n".join((folder / "report.md").read_text(encoding="utf-8") for folder in RESULTS.values())
    lines = [line for line in page.splitlines() if line.startswith("| ") and "±" in line]
    assert len(lines) > 30
    assert not [line for line in lines if line not in reports]
