"""`threshold` sets the threshold of a finished run again; `predict` uses it, and the old one stays in the file."""

import csv
import json
import shutil

import cv2
import pytest

from anomaly_lab.cli import predict
from anomaly_lab.cli.threshold import main, normals_in, rule_config, unseen
from anomaly_lab.core.errors import UserError
from anomaly_lab.metrics.thresholds import just_above


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_line_drawn_again_counts_and_the_old_one_stays(toy_run, tmp_path, capsys):
    run, tested, good = toy_run.copy(tmp_path), toy_run.photos / "test/good", tmp_path / "new"
    good.mkdir()
    for path in tested.iterdir():  # the same pixels in other files
        assert cv2.imwrite(str(good / path.name), cv2.imread(str(path), -1), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    before = (run / "metrics.json").read_bytes()

    def draw(*words):
        main([f"run={run}", f"normals={good}", *words])
        return json.loads((run / "threshold.json").read_text())

    def predicted(name):
        predict.main([f"run={run}", f"source={good}", f"out={tmp_path / name}", "pictures=false"])
        return rows_of(tmp_path / name / "scores.csv")

    first, second = draw("threshold.rate=0.4")
    assert "threshold: " in capsys.readouterr().out
    scores = sorted(float(row["score"]) for row in rows_of(run / "scores.csv") if row["defect"] == "good")
    assert second["image"] == pytest.approx(just_above(scores[4]), rel=1e-5)  # 5th of 6: ceil(7 * 0.6)
    assert (first["name"], second["name"], second["normals"]) == ("false_alarms", "false_alarms", 6)
    assert (run / "metrics.json").read_bytes() == before
    rows = predicted("judged")
    assert {float(row["threshold"]) for row in rows} == {second["image"]}
    assert sum(row["decision"] == "abnormal" for row in rows) == 1

    third = draw("threshold=area", "threshold.minimum_area=0.002")[2]
    assert (third["name"], third["decided_by"], third["minimum_area"]) == ("area", "component", 0.002)
    rows = predicted("again")
    assert all(row["decision"] == "normal" for row in rows)
    assert all(float(row["decision_score"]) < third["image"] for row in rows)

    shutil.copy(tested / "000.png", good / "known.png")
    capsys.readouterr()
    fourth = draw("threshold=train_percentile")[3]
    assert (fourth["name"], fourth["normals"]) == ("train_percentile", 6)
    assert "of 6 good images" in fourth["note"]
    assert scores[1] < fourth["image"] <= just_above(scores[2])
    said = capsys.readouterr().out
    assert "about 75 % of normal images are rejected by construction" in said
    assert "1 of 7 files left out, because the run has tested them: new/known.png" in said
    with pytest.raises(UserError, match="expected images that are new to the run, found 6 that it has seen"):
        main([f"run={run}", f"normals={tested}"])

    for words, message in (
        (["threshold=aria"], "threshold: expected one of area, .*found 'aria'; did you mean 'area'"),
        (["threshold.rate=2"], "threshold.rate: expected a number less than 1, found 2"),
        (["threshold.rat=0.1"], r"threshold.rat: no such key; did you mean threshold.rate\?"),
        (["normals=nowhere"], "normals: expected a folder of normal images, found none at nowhere"),
    ):
        with pytest.raises(UserError, match=message) as told:
            draw(*words)
        assert "\n" not in str(told.value)
    assert len(json.loads((run / "threshold.json").read_text())) == 4


def made(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("good/0.png", "bad/0.png", "masks/0.png"), "found the folder .*/bad; type normals=.*/good"),
        (("good/0.png", "hole/0.png"), "found the folder .*/hole; type normals=.*/good"),
        (("train/good/0.png", "test/good/1.png", "test/hole/1.png"), "found the folder .*/test/hole; type normals="),
        (("monday/0.png", "monday/NG/1.png"), "found the folder .*/monday/NG; take it out, or rename it"),
        (("0.png", "defects/1.png"), "found the folder .*/defects; take it out"),
        (("0.png", "1.png", "mask_1.png"), "found .*/mask_1.png, which may be the mask of 1.png"),
    ],
)
def test_normals_among_defects_or_masks_are_refused(tmp_path, names, message):
    with pytest.raises(UserError, match=f"normals: expected normal images alone.*{message}"):
        normals_in(made(tmp_path, *names))


def test_names_of_normals_that_speak_of_defects_are_said(tmp_path, capsys):
    folder = made(tmp_path / "false_rejects", "0.png", "monday/1.png", "monday/NG_2.png", "masks/0.png")
    assert len(normals_in(folder)) == 3
    assert "normals: 1 left out as a folder of masks: false_rejects/masks" in (said := capsys.readouterr().out)
    assert "2 read as good, although the name speaks of defects" in said
    assert len(normals_in(made(tmp_path / "good", "ok/0.png", "tuesday/1.png"))) == 2
    assert capsys.readouterr().out == ""


def test_a_content_counts_once_and_a_run_without_a_list_of_its_photos_is_named(tmp_path, capsys):
    files = [tmp_path / f"{number}.png" for number in range(6)]
    for number, file in enumerate(files):
        file.write_bytes(b"same" if number in {1, 2, 4, 5} else bytes([number]))
    assert unseen(files, None) == [files[0], files[1], files[3]]
    said = capsys.readouterr().out
    assert "3 of 6 files left out as byte copies of others, which count once" in said
    assert "cannot be told whether these are new to it" in said


@pytest.mark.parametrize(("method", "line"), [("texture_inspection.TextureInspection", 1.0), ("cae.CAE", None)])
def test_the_line_of_the_method_is_read_from_its_class(method, line):
    rule = rule_config({}, {"threshold": "own"}, {"_target_": f"anomaly_lab.methods.{method}"})
    assert rule["line"] == line


def test_a_map_through_which_the_method_draws_no_line_has_none():
    method = {"_target_": "anomaly_lab.methods.cavga.CAVGA", "map": "residual"}
    assert rule_config({}, {"threshold": "own"}, method)["line"] is None
