"""README and docs: short enough, and every link leads somewhere."""

import os
import re

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(page):
    """The anchors of a page as GitHub names them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ +(.+?) *$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_fits_its_frame():
    assert len(PAGES[0].read_text().splitlines()) <= 200
    assert len(PAGES) > 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    for link in links:
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_files_that_are_shown_are_the_files():
    """ANOMALY_LAB_RECORD=1 writes them into the pages."""
    shown = 0
    for page in PAGES:
        text = page.read_text()
        parts = re.split(r"(<!-- file: \S+ -->\n```\w+\n.*?```)", text, flags=re.DOTALL)
        for number, part in enumerate(parts):
            if found := re.match(r"<!-- file: (\S+) -->\n```(\w+)\n", part):
                parts[number] = f"{found[0]}{(ROOT / found[1]).read_text()}```"
                shown += 1
        if os.environ.get("ANOMALY_LAB_RECORD"):
            page.write_text("".join(parts))
        assert page.read_text() == "".join(parts)
    assert shown >= 4
