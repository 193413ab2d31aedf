"""`predict` rebuilds a run from its folder and says what the test said."""

import csv
import shutil

import cv2
import numpy as np
import pytest

from anomaly_lab.errors import UserError
from anomaly_lab.predict import find, new_folder


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("method", ["cae", "ssim_ae"])
def test_predict_equals_the_test(lab, tiny, parts, tmp_path, write, method):
    write(parts / "test/good/wide.png", np.full((90, 150, 3), 90, np.uint8))
    lab("data=folder", f"data.root={parts}", f"method={method}", *tiny)
    (run,) = (path.parent for path in (tmp_path / "runs").rglob("metrics.json"))
    photos = tmp_path / "photos"
    shutil.copytree(parts / "test", photos)
    expected = {row["path"].split("/test/")[1]: row for row in rows_of(run / "scores.csv")}
    parts.rename(parts.with_name("gone"))  # the run folder alone must do

    done = lab("predict", f"run={run}", f"source={photos}", "out=judged")
    rows = rows_of(tmp_path / "judged/scores.csv")
    abnormal = sum(row["decision"] == "abnormal" for row in expected.values())
    assert abnormal > 0
    assert f"11 images judged, {abnormal} abnormal" in done.stdout
    assert len(rows) == 11
    for row in rows:
        known = expected[row["path"].split("/photos/")[1]]
        assert float(row["score"]) == pytest.approx(float(known["score"]), abs=1e-6)
        assert row["decision"] == known["decision"]
        assert float(row["threshold"]) == float(known["threshold"])
        assert float(row["decision_score"]) == pytest.approx(float(known["decision_score"]), abs=1e-6)
    picture = cv2.imread(str(tmp_path / "judged/good/wide.png.png"))
    assert picture.shape == (154, 4 * 256, 3)

    (photos / "good/bad.png").write_bytes(b"junk")
    single = lab("predict", f"run={run}", f"source={photos}/good/*.png", "out=again", code=1)
    assert "6 images judged" in single.stdout
    assert "1 of 7 files could not be read" in single.stderr
    assert "bad.png: expected a readable image" in single.stderr
    assert len(rows_of(tmp_path / "again/scores.csv")) == 6


def test_what_a_method_remarks_is_told(lab, tiny, parts, write):
    write(parts / "test/good/empty.png", np.full((140, 140, 3), 90, np.uint8))
    once = [option for option in tiny[1:] if "epochs" not in option]
    done = lab("data=folder", f"data.root={parts}", "method=variation_model", "method.alignment=translation", *once)
    assert "of the test images, 1 not aligned: good/empty.png" in done.stdout
    run = next(parts.parent.parent.rglob("metrics.json")).parent
    done = lab("predict", f"run={run}", f"source={parts / 'test'}", "out=judged")
    assert "\n1 not aligned: good/empty.png\n" in done.stdout


def test_a_folder_that_is_no_run_is_refused(lab, parts, tmp_path):
    done = lab("predict", f"run={tmp_path}", f"source={parts}", code=1)
    assert done.stderr.startswith("error: run: expected the folder of a finished run")


def test_sources(parts, tmp_path):
    out = tmp_path / "out"
    assert len(find(str(parts / "test"), out)) == 10
    assert len(find(str(parts / "test"), parts / "test/hole")) == 5  # what an earlier call wrote is no source
    assert len(find(str(parts / "test/*/00[12].png"), out)) == 4
    assert find(str(parts / "test/good/000.png"), out) == [parts / "test/good/000.png"]
    with pytest.raises(UserError, match="source: expected an image file, a folder or a glob"):
        find(str(parts / "none*"), out)


def test_results_get_a_folder_of_their_own(tmp_path):
    assert new_folder(tmp_path, "photos/*.png") == tmp_path / "images"
    assert new_folder(tmp_path, "photos") == tmp_path / "photos"
    (tmp_path / "photos").mkdir()
    assert new_folder(tmp_path, "a/photos") == tmp_path / "photos-2"


def test_a_file_where_results_should_go_is_told(lab, tiny, parts, tmp_path):
    lab("data=folder", f"data.root={parts}", *tiny)
    (run,) = (path.parent for path in (tmp_path / "runs").rglob("metrics.json"))
    (tmp_path / "taken").write_text("")
    for out in ("taken", "taken/below"):
        done = lab("predict", f"run={run}", f"source={parts}", f"out={out}", code=1)
        assert done.stderr == "error: out: expected a folder, found the file taken\n"
    (run / "checkpoints/last.ckpt").write_bytes(b"")
    done = lab("predict", f"run={run}", f"source={parts}", code=1)
    assert "last.ckpt: expected a whole checkpoint, found:" in done.stderr
    assert done.stderr.count("\n") == 1
