"""The rows of synthetic.csv are those that made the recorded figure, or none."""

import pytest

from anomaly_lab.report.synthetic_scores import synthetic_scores
from anomaly_lab.runs.collect import Key, Run

HEADER = "photo,change,label,score\n"
GOOD = [f"{photo},none,0,0.0\n" for photo in "abcd"]
CHANGED = ["c,light,0,9.0\n"]  # no part of the figure
FOUND = ["b,scar,1,-1.0\n", "a,blob,1,1.0\n"]  # one above the good photos, one below: 0.5


def scores(folder, text):
    (folder / "synthetic.csv").write_text(text)
    key = Key("select", "a", "folder", "bar", "0")
    return synthetic_scores(Run(folder, "a", key, "done", metrics={"synthetic_image_auroc": 0.5}))


def test_rows_are_sorted(tmp_path):
    found = scores(tmp_path, "".join([HEADER, *FOUND, *CHANGED, *GOOD]))
    assert found.photo.tolist() == ["a", "a", "b", "b", "c", "c", "d"]
    assert found.change.tolist() == ["blob", "none", "none", "scar", "light", "none", "none"]
    assert found.score.tolist() == [1, 0, 0, -1, 9, 0, 0]


@pytest.mark.parametrize("rows", [[*GOOD, *CHANGED, FOUND[0]], [*GOOD, *CHANGED], FOUND, []])
def test_a_table_that_was_cut_counts_as_none(tmp_path, rows):
    assert scores(tmp_path, "".join([HEADER, *rows])) is None


@pytest.mark.parametrize("text", ["", "photo,score\na,1\n", f"{HEADER}a,none,0,high\n"])
def test_a_damaged_table_counts_as_none(tmp_path, text):
    assert scores(tmp_path, text) is None
