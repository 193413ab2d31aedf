"""README and docs: short enough, every link leads somewhere, and a page's package outside the project works."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import QUIET, ROOT

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


def test_every_experiment_is_in_the_table():
    table = (ROOT / "docs/methods.md").read_text().partition("## Published settings and budgets")[2]
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))))
    files = {path.stem for path in (ROOT / "conf/experiment").glob("*.yaml")}
    assert {name for name in files if not name.endswith("_paper")} <= named <= files


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


@pytest.fixture
def outside(tmp_path):
    """The section of the page about a package outside the project, after its files have been written."""
    section = (ROOT / "docs/add_a_method.md").read_text().partition("## Outside the project")[2]
    for block in re.findall(r"```\w+\n(.*?)```", section, re.DOTALL):
        _, *parts = re.split(r"^# (mine/\S+)\n", block, flags=re.MULTILINE)
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    return section


@pytest.mark.slow
def test_a_package_outside_the_project_trains_and_predicts(outside, lab, tmp_path, write):
    random = np.random.default_rng(0)
    for name in (*(f"photos/ok_{i}" for i in range(12)), "photos/bad_0", "new_photos/ok", "new_photos/bad"):
        photo = random.integers(90, 110, (40, 40, 3), np.uint8)
        photo[10:20, 10:20] += 100 * ("bad" in name)
        write(tmp_path / f"{name}.png", photo)
    methods, check, train, predict = (
        line.partition("  ")[0].split() for line in re.findall(r"^python -m anomaly_lab (.*)", outside, re.MULTILINE)
    )
    assert re.search(r"\nmean_image +one pass +images .*squared distance", lab(*methods).stdout)
    assert "layout: prefixes\ntrain: 9 photos" in lab(*check).stdout
    done = lab(*train, "logger=none", "trainer.accelerator=cpu", "data.workers=0", *QUIET)
    assert done.stdout.startswith("method=mean_image sets input.object.image_size=64 (default 256); ")
    (scores,) = (tmp_path / "runs").rglob("raw_scores.txt")
    *good, bad = map(float, scores.read_text().split())
    assert len(good) == 3
    assert bad > 10 * max(good)
    lab(*predict)
    (table,) = (tmp_path / "runs").rglob("predictions/*/scores.csv")
    assert [line.split(",")[5] for line in table.read_text().splitlines()[1:]] == ["abnormal", "normal"]


@pytest.mark.slow
def test_the_contract_takes_a_method_from_outside(outside, tmp_path):
    about = {"PYTHONPATH": f"{tmp_path}", "ANOMALY_LAB_METHODS": f"{tmp_path / 'mine/conf'}"}
    words = ["-m", "pytest", "tests/methods/test_contract.py", "-q", "-k", "mean_image", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=os.environ | about, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"\n[5-9] passed", done.stdout)
