"""`threshold` draws the line of a finished run again; `predict` follows, the old line stays."""

import csv
import json
import re

import pytest

from anomaly_lab.metrics.thresholds import just_above


def test_a_line_drawn_again_counts_and_the_old_one_stays(lab, tiny, parts, tmp_path):
    lab("data=folder", f"data.root={parts}", *tiny)
    (run,) = (path.parent for path in (tmp_path / "runs").rglob("metrics.json"))
    before = (run / "metrics.json").read_bytes()
    done = lab("threshold", f"run={run}", f"normals={parts}/test/good", "threshold.rate=0.4")
    assert "threshold: " in done.stdout
    first, second = json.loads((run / "threshold.json").read_text())
    with (run / "scores.csv").open() as file:
        good = sorted(float(row["score"]) for row in csv.DictReader(file) if row["defect"] == "good")
    assert second["image"] == pytest.approx(just_above(good[3]), rel=1e-6)  # 4th of 5: ceil(6 * 0.6)
    assert (first["name"], second["name"], second["normals"]) == ("false_alarms", "false_alarms", 5)
    assert (run / "metrics.json").read_bytes() == before
    lab("predict", f"run={run}", f"source={parts}/test/good", "out=judged")
    with (tmp_path / "judged/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {float(row["threshold"]) for row in rows} == {second["image"]}
    assert sum(row["decision"] == "abnormal" for row in rows) == 1

    lab("threshold", f"run={run}", f"normals={parts}/test/good", "threshold=area", "threshold.minimum_area=0.002")
    third = json.loads((run / "threshold.json").read_text())[2]
    assert (third["name"], third["decided_by"], third["minimum_area"]) == ("area", "component", 0.002)
    lab("predict", f"run={run}", f"source={parts}/test/good", "out=again")
    with (tmp_path / "again/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(row["decision"] == "normal" for row in rows)
    assert all(float(row["decision_score"]) < third["image"] for row in rows)

    done = lab("threshold", f"run={run}", f"normals={parts}/test/good", "threshold=train_percentile")
    fourth = json.loads((run / "threshold.json").read_text())[3]
    assert (fourth["name"], fourth["normals"]) == ("train_percentile", 5)
    assert "of 5 held-out images" in fourth["note"]
    assert fourth["image"] == pytest.approx(just_above(good[1]), rel=1e-6)
    assert "about 75 % of normal images are rejected by construction" in done.stdout

    for arguments, message in (
        (["threshold=aria"], "threshold: expected one of area, .*found 'aria'; did you mean 'area'"),
        (["threshold.rate=2"], "threshold.rate: expected a number less than 1, found 2"),
        (["threshold.rat=0.1"], "threshold.rat: expected one of minimum_area, rate, found 'rat'; did you mean 'rate'"),
    ):
        done = lab("threshold", f"run={run}", f"normals={parts}/test/good", *arguments, code=1)
        assert done.stderr.count("\n") == 1
        assert re.search(message, done.stderr), done.stderr
    done = lab("threshold", f"run={run}", "normals=nowhere", code=1)
    assert "normals: expected a folder of normal images, found none at nowhere" in done.stderr
    assert len(json.loads((run / "threshold.json").read_text())) == 4
