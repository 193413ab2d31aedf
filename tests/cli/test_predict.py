"""`predict` rebuilds a run from its folder and says what the test said."""

import csv
import shutil
from collections import Counter

import cv2
import numpy as np
import pytest
import tifffile

from anomaly_lab.cli.predict import main, short_names
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_json
from anomaly_lab.runs.folder import RESULT_VERSION, write_job


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_predict_equals_the_test_of_every_run(lab, tiny, parts, tmp_path, write):
    write(parts / "test/good/wide.png", np.full((90, 150, 3), 90, np.uint8))
    methods = ("cae", "ssim_ae")
    for method in methods:
        lab("data=folder", f"data.root={parts}", f"method={method}", *tiny)
    runs = {path.parts[-6]: path.parent for path in (tmp_path / "runs").rglob("metrics.json")}
    assert sorted(runs) == sorted(methods)
    photos = tmp_path / "photos"
    shutil.copytree(parts / "test", photos)
    expected = {
        (run, row["path"].split("/test/")[1]): row for run in methods for row in rows_of(runs[run] / "scores.csv")
    }
    parts.rename(parts.with_name("gone"))  # the run folders alone must do

    done = lab("predict", "run=runs", f"source={photos}", "out=judged", "maps=true")
    rows = rows_of(tmp_path / "judged/scores.csv")
    abnormal = Counter(run for (run, _), row in expected.items() if row["decision"] == "abnormal")
    assert set(abnormal) == set(methods)
    counts = ", ".join(f"{abnormal[run]} abnormal for {run}" for run in methods)
    assert f"11 images scored, {counts}; scores and pictures and maps: judged\n" in done.stdout
    assert done.stdout.startswith("2 runs: cae (runs/default/cae/")
    assert len(rows) == 2 * 11
    for row in rows:
        name = row["path"].split("/photos/")[1]
        known = expected[row["run"], name]
        assert float(row["score"]) == pytest.approx(float(known["score"]), abs=1e-6)
        assert row["decision"] == known["decision"]
        assert float(row["threshold"]) == float(known["threshold"])
        assert float(row["decision_score"]) == pytest.approx(float(known["decision_score"]), abs=1e-6)
        found = tifffile.imread(tmp_path / "judged/maps" / row["run"] / f"{name}.tiff")
        (stored,) = (runs[row["run"]] / "maps").rglob(f"test/{name.removesuffix('.png')}.tiff")
        assert found == pytest.approx(tifffile.imread(stored), abs=1e-6)
    picture = cv2.imread(str(tmp_path / "judged/pictures/good/wide.png.png"))
    assert picture.shape == (62 + 154, 3 * 256, 3)  # photo and two maps, under their captions

    (photos / "good/bad.png").write_bytes(b"junk")
    one = lab("predict", f"run={runs['cae']}", f"source={photos}/good/*.png", "out=again", "pictures=false", code=1)
    count = sum(row["decision"] == "abnormal" for row in rows_of(tmp_path / "again/scores.csv"))
    assert one.stdout == f"6 images scored, {count} abnormal; scores: again\n"
    assert "1 of 7 files could not be read" in one.stderr
    assert "bad.png: expected a readable image" in one.stderr
    assert one.stderr.count("\n") == 1
    assert len(rows_of(tmp_path / "again/scores.csv")) == 6
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["scores.csv", "unreadable.csv"]
    lab("predict", f"run={runs['cae']}", f"source={photos}/good/wide.png")
    default = runs["cae"] / "predictions/wide"
    assert cv2.imread(str(default / "pictures/wide.png.png")).shape == (154, 4 * 256, 3)


def test_what_a_method_remarks_is_told(lab, tiny, parts, write, tmp_path):
    write(parts / "test/good/empty.png", np.full((140, 140, 3), 90, np.uint8))
    once = [option for option in tiny[1:] if "epochs" not in option]
    done = lab("data=folder", f"data.root={parts}", "method=variation_model", "method.alignment=translation", *once)
    assert "of the test images, 1 not aligned: good/empty.png" in done.stdout
    run = next(parts.parent.parent.rglob("metrics.json")).parent
    done = lab("predict", f"run={run}", f"source={parts / 'test'}", "out=judged")
    assert "\n1 not aligned: good/empty.png\n" in done.stdout
    remarks = {row["path"].rpartition("/")[2]: row["remark"] for row in rows_of(tmp_path / "judged/scores.csv")}
    assert remarks["empty.png"] == "not aligned"
    assert sum(bool(remark) for remark in remarks.values()) == 1


def test_a_folder_that_is_no_run_is_refused(lab, parts, tmp_path):
    done = lab("predict", f"run={tmp_path}", f"source={parts}", code=1)
    assert done.stderr.startswith("error: run: expected the folder of a finished run")


def test_runs_are_called_by_what_tells_them_apart(tmp_path):
    def run(place):
        (tmp_path / place / ".hydra").mkdir(parents=True)
        (tmp_path / place / ".hydra/config.yaml").write_text("name: elsewhere\nseed: 7\nmethod: {name: anogan}\n")
        return tmp_path / place

    screw = run("runs/demo/cae/mvtec_ad/screw/seed=0/aaa")
    bottle = run("runs/demo/cae/mvtec_ad/bottle/seed=0/bbb")
    second = run("runs/demo/cae/mvtec_ad/screw/seed=1/ccc")
    shorter = run("runs/demo/cae/mvtec_ad/screw/seed=0/ddd")
    control, moved = run("runs/demo/control/mvtec_ad/screw/seed=0/eee"), run("moved")
    assert short_names([screw]) == ["cae"]
    assert short_names([screw, control, moved]) == ["cae", "control", "anogan"]
    assert short_names([screw, bottle]) == ["cae-screw", "cae-bottle"]
    assert short_names([screw, second]) == ["cae-seed=0", "cae-seed=1"]
    assert short_names([screw, shorter]) == ["cae-aaa", "cae-ddd"]
    assert short_names([moved, run("other/moved")]) == ["anogan-1", "anogan-2"]
    names = short_names([screw, bottle, second, shorter])
    assert len(set(names)) == 4


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("maps=yes", "maps: expected true or false, found 'yes'"),
        ("map=true", "found 'map'; did you mean 'maps'?"),
        ("source=nowhere", "source: expected an image file, a folder or a glob of images, found none at nowhere"),
        ("source=*/../x/*.png", "source: expected no .. after the first wildcard"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(tmp_path, option, message, monkeypatch):
    write_json(tmp_path / "run/metrics.json", {"result_version": RESULT_VERSION})
    write_job(tmp_path / "run", "done")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        main(["run=run", "source=photos", option])
    assert message in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


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
