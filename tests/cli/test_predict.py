"""`predict` rebuilds a run from its folder and says what the test said."""

import csv
import shutil
from collections import Counter
from threading import Event, Thread

import cv2
import numpy as np
import pytest
import tifffile

from anomaly_lab.cli import predict
from anomaly_lab.cli.predict import knows, main, short_names
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_json
from anomaly_lab.core.lock import lock
from anomaly_lab.runs.folder import RESULT_VERSION, write_job
from tests.report.synthetic import read_metrics, write_run


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_predict_equals_the_test_of_every_run(toy_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photos = shutil.copytree(toy_run.photos / "test", tmp_path / "photos")
    expected = {row["path"].split("/test/")[1]: row for row in rows_of(toy_run.folder / "scores.csv")}
    for name in ("a", "b"):
        shutil.copytree(toy_run.folder, tmp_path / "runs" / name, symlinks=True)
    main(["run=runs", f"source={photos}", "out=judged", "maps=true"])
    said, rows = capsys.readouterr().out, rows_of(tmp_path / "judged/scores.csv")
    abnormal = Counter(row["decision"] for row in expected.values())["abnormal"]
    assert 0 < abnormal < 11
    counts = ", ".join(f"{abnormal} abnormal for ganomaly-{name}" for name in "ab")
    assert said.startswith("2 runs: ganomaly-a (runs/a), ganomaly-b (runs/b)\n")
    assert f"11 images scored, {counts}; scores and pictures and maps: judged\n" in said
    assert len(rows) == 2 * 11
    for row in rows:
        name = row["path"].split("/photos/")[1]
        known = expected[name]
        assert float(row["score"]) == pytest.approx(float(known["score"]), abs=1e-6)
        assert row["decision"] == known["decision"]
        assert float(row["threshold"]) == float(known["threshold"])
        assert float(row["decision_score"]) == pytest.approx(float(known["decision_score"]), abs=1e-6)
        found = tifffile.imread(tmp_path / "judged/maps" / row["run"] / f"{name.removesuffix('.png')}.tiff")
        stored = next((toy_run.folder / "maps").iterdir()) / "test" / f"{name.removesuffix('.png')}.tiff"
        np.testing.assert_allclose(found, tifffile.imread(stored), rtol=0, atol=1e-6)
    picture = cv2.imread(str(tmp_path / "judged/pictures/good/wide.png"))
    assert picture.shape == (62 + 152, 3 * 256, 3)  # photo and two maps, under their captions

    (photos / "good/bad.png").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"1 of 7 files could not be read.*bad.png: expected a readable image"):
        main(["run=runs/a", f"source={photos}/good/*.png", "out=again", "pictures=false"])
    rows = rows_of(tmp_path / "again/scores.csv")
    count = sum(row["decision"] == "abnormal" for row in rows)
    said = capsys.readouterr().out
    assert len([line for line in said.splitlines() if line.startswith(("normal ", "abnormal "))]) == 6
    assert f"\n6 images scored, {count} abnormal; scores: again\n1 " in said
    assert "unlike the training photos in shape (theirs is 140 x 140 px): good/wide.png\n" in said
    assert len(rows) == 6
    written = {path.name for path in (tmp_path / "again").iterdir()}
    assert written == {"predictions.html", "scores.csv", "unreadable.csv"}
    main(["run=runs/a", f"source={photos}/good/wide.png"])
    default = tmp_path / "runs/a/predictions/wide"
    assert cv2.imread(str(default / "pictures/wide.png")).shape == (44 + 152, 4 * 256, 3)  # a caption of two lines


@pytest.mark.parametrize(
    ("name", "text"),
    [("scores.csv", "name,grade\nx.png,5\n"), ("scores.csv", ""), ("unreadable.csv", "mine"), ("predictions.html", "")],
)
def test_files_of_others_in_the_result_folder_stay(toy_run, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"out: expected a new folder or one of predict, found .*{name}"):
        main([f"run={toy_run.folder}", f"source={toy_run.photos}/test/good/000.png", f"out={tmp_path}"])
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == text


def test_earlier_results_are_written_again(toy_run, tmp_path):
    words = [f"run={toy_run.folder}", f"source={toy_run.photos}/test/good/000.png", f"out={tmp_path}", "pictures=false"]
    main(words)
    before = (tmp_path / "scores.csv").read_text()
    (tmp_path / "scores.csv").rename(tmp_path / "scores.csv.part")  # as an interrupted one leaves it
    main(words)
    assert (tmp_path / "scores.csv").read_text() == before


def test_runs_are_called_by_what_tells_them_apart(tmp_path):
    def run(place, seed=0):
        (tmp_path / place / ".hydra").mkdir(parents=True)
        config = f"name: elsewhere\nseed: {seed}\nmethod: {{name: anogan}}\n"
        (tmp_path / place / ".hydra/config.yaml").write_text(config)
        return tmp_path / place

    screw = run("runs/demo/cae/mvtec_ad/screw/seed=0/aaa")
    bottle = run("runs/demo/cae/mvtec_ad/bottle/seed=0/bbb")
    second = run("runs/demo/cae/mvtec_ad/screw/seed=1/ccc", seed=1)
    copied = run("runs/demo/cae/mvtec_ad/screw/seed=2/aaa")  # by hand: no second seed
    shorter = run("runs/demo/cae/mvtec_ad/screw/seed=0/ddd")
    control, moved = run("runs/demo/control/mvtec_ad/screw/seed=0/eee"), run("moved")
    assert short_names([screw]) == ["cae"]
    assert short_names([screw, control, moved]) == ["cae", "control", "anogan"]
    assert short_names([screw, bottle]) == ["cae-screw", "cae-bottle"]
    assert short_names([screw, second]) == ["cae-seed=0", "cae-seed=1"]
    assert short_names([screw, shorter]) == ["cae-aaa", "cae-ddd"]
    assert "seed=2" not in "".join(short_names([screw, copied]))
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


def test_a_file_where_results_should_go_and_a_damaged_checkpoint_are_told(toy_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(toy_run.folder, tmp_path / "run", symlinks=True)
    (tmp_path / "taken").write_text("")
    for out in ("taken", "taken/below"):
        with pytest.raises(UserError, match="out: expected a folder, found the file taken"):
            main([f"run={run}", f"source={toy_run.photos}", f"out={out}"])
    (run / "checkpoints/last.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match="last.ckpt: expected a whole checkpoint, found:") as told:
        main([f"run={run}", f"source={toy_run.photos}"])
    assert "\n" not in str(told.value)


def test_of_a_run_that_knew_defective_photos_it_is_said(tmp_path):
    folder = write_run(tmp_path)
    assert knows(folder) == ""
    write_json(folder / "metrics.json", read_metrics(folder) | {"protocol": "weakly_supervised"})
    assert knows(folder) == "The run is weakly supervised: it has learnt from known defective photos, too."
    (folder / "metrics.json").write_text("{")
    assert knows(folder) == ""


def test_the_terminal_says_which_run_knew_defective_photos(toy_run, tmp_path, capsys):
    for name in ("a", "b"):
        shutil.copytree(toy_run.folder, tmp_path / "runs" / name, symlinks=True)
    write_json(tmp_path / "runs/b/metrics.json", read_metrics(tmp_path / "runs/b") | {"protocol": "supervised"})
    sentence = "The run is supervised: it has learnt from known defective photos, too.\n"
    words = [f"source={toy_run.photos}/test/good/000.png", f"out={tmp_path / 'judged'}", "pictures=false"]
    for run, expected in (("runs", f"\nganomaly-b: {sentence}"), ("runs/b", sentence), ("runs/a", None)):
        main([f"run={tmp_path / run}", *words])
        said = capsys.readouterr().out
        assert said.count("is supervised") == (expected is not None)
        assert (expected or "") in said


def test_two_processes_that_predict_into_one_folder_take_turns(toy_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photo = next((toy_run.photos / "test/good").iterdir())
    waits, said = Event(), predict.say
    monkeypatch.setattr(predict, "say", lambda line: (said(line), "waiting" in line and waits.set()))
    other = Thread(target=main, args=([f"run={toy_run.folder}", f"source={photo}", "out=shared", "pictures=false"],))
    with lock(tmp_path / "shared/.lock", None):
        other.start()
        assert waits.wait(timeout=300)
        assert other.is_alive()
        assert [path.name for path in (tmp_path / "shared").iterdir()] == [".lock"]
    other.join()
    assert "another process predicts into shared, waiting" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {"predictions.html", "scores.csv"}
