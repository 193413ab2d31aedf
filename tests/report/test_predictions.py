"""The page of a `predict`: what it holds, in which order, and what it does in a browser."""

import json
import re

import numpy as np
import pytest

from anomaly_lab.core.files import write_csv
from anomaly_lab.evaluation.drawing import write_picture
from anomaly_lab.inference.results import SCORES, UNREADABLE, doubt
from anomaly_lab.metrics.thresholds import guarantee
from anomaly_lab.report.predictions import write_predictions
from tests.report.test_page import console, open_page, texts

HOSTILE = "</script><b>.png"


@pytest.fixture
def out(tmp_path):
    """Scores of two runs for three photos, one of a hostile name; the first has a picture."""
    rows = [
        (f"photos/{name}", run, value, value, 0.5, "abnormal" if value >= 0.5 else "normal", "")
        for run, values in (("cae", (0.1, 0.9, 0.4)), ("control", (0.2, 0.3, 0.7)))
        for name, value in zip(("a.png", "b c.png", HOSTILE), values, strict=True)
    ]
    write_csv(tmp_path / "scores.csv", SCORES, rows)
    write_picture(tmp_path / "pictures/b c.png", np.zeros((8, 8, 3), np.uint8))
    return tmp_path


def page_of(out):
    return write_predictions(
        out, lambda photo: out / "pictures" / photo.name, {"cae": guarantee("area", 9), "control": ""}
    )


def test_photos_are_sorted_by_their_score_and_have_their_pictures(out):
    text = page_of(out).read_text()
    data = json.loads(re.search('id="data">(.*)</script>', text)[1])
    assert {run["name"]: [photo["value"] for photo in run["photos"]] for run in data["runs"]} == {
        "cae": [0.9, 0.4, 0.1], "control": [0.7, 0.3, 0.2],
    }  # fmt: skip
    assert [photo["picture"] for photo in data["runs"][0]["photos"]] == ["pictures/b%20c.png", None, None]
    assert [run["guarantee"] for run in data["runs"]] == [guarantee("area", 9), ""]
    assert HOSTILE not in text
    scores = (out / "scores.csv").read_text().splitlines()
    (out / "scores.csv").write_text("\n".join(line.replace(",0.5,", ",0.1,") for line in scores))
    every, other = json.loads(re.search('id="data">(.*)</script>', page_of(out).read_text())[1])["runs"]
    assert every["guarantee"] == f"{doubt(3, 3)} {guarantee('area', 9)}"
    assert other["guarantee"] == doubt(3, 3)
    assert [doubt(2, 2), doubt(2, 3), doubt(0, 0)] == [""] * 3


def test_files_that_could_not_be_read_are_named_once_for_all_runs(out):
    rows = [("photos/<b>.png", run, "photos/<b>.png: expected a readable image") for run in ("cae", "control")]
    write_csv(out / "unreadable.csv", UNREADABLE, [*rows, ("photos/secret", "", "expected a folder that can be read")])
    data = json.loads(re.search('id="data">(.*)</script>', page_of(out).read_text())[1])
    assert data["unreadable"] == [
        ["photos/<b>.png", "expected a readable image"], ["photos/secret", "expected a folder that can be read"],
    ]  # fmt: skip


def test_without_a_scored_photo_there_is_no_page(tmp_path):
    write_csv(tmp_path / "scores.csv", SCORES, [])
    assert page_of(tmp_path) is None


@pytest.mark.slow
def test_the_threshold_moves_in_a_browser(browser, out):
    opened = open_page(browser, page_of(out))
    assert texts(opened, "#counts") == ["1 of 3 photos are abnormal at this threshold, the run's own."]
    assert texts(opened, "#guarantee") == [guarantee("area", 9)]
    assert [text.split()[0] for text in texts(opened, ".shots figcaption")] == ["abnormal", "normal", "normal"]
    move = "const s = byId('threshold'); s.value = 0.2; s.dispatchEvent(new Event('input')); return s.value"
    assert float(opened.execute_script(move)) == pytest.approx(0.2, abs=0.01)
    assert texts(opened, "#counts") == ["2 of 3 photos are abnormal at this threshold; moving it here changes no file."]
    assert opened.execute_script("return document.querySelector('.shots img').naturalWidth") == 8
    assert console(opened) == []
