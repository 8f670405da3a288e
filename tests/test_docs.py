"""Every page of the documentation is an executed example."""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from relprop import ops
from relprop.rules import registry

ROOT = Path(__file__).parents[1]
PAGES = sorted(p for p in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")] if ">>>" in p.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def declarations_of_a_page_end_with_it() -> Iterator[None]:
    """Pages show how to declare ops and rules; other tests must not see them."""
    table, rules = dict(ops.TABLE), dict(registry._RULES)
    yield
    for kept, now in ((table, ops.TABLE), (rules, registry._RULES)):
        now.clear()
        now.update(kept)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_page(page: Path) -> None:
    result = doctest.testfile(str(page), module_relative=False, optionflags=doctest.REPORT_NDIFF)
    assert result.attempted > 0
    assert result.failed == 0


def test_links_of_the_pages_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)(#\s]+)\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"
