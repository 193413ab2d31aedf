"""Runs as their folders tell of them: finished, failed, running, damaged."""

import fcntl
import json
import socket

import pytest

from anomaly_lab.core.errors import UserError
from anomaly_lab.runs.collect import Key, collect, find, key_of, names_of, prefixes, read
from tests.report.synthetic import read_metrics, read_rows, write_run


def test_a_finished_run_is_what_its_files_say(tmp_path):
    folder = write_run(tmp_path, seed=2, aupro=0.8)
    (run,) = collect([tmp_path])
    metrics = read_metrics(folder)
    assert run.done
    assert run.trouble == ""
    assert run.key == Key("sweep", "cae", "mvtec_ad", "screw", "2")
    assert run.shown == "sweep/cae/mvtec_ad/screw/seed=2/0123456789"
    assert run.metrics == {key: value for key, value in metrics.items() if key not in ("precision", "result_version")}
    rows = {row["path"]: row for row in read_rows(folder / "scores.csv")}
    assert len(run.images) == len(rows) == 40
    for path, image, score in zip(run.paths, run.images, run.scores, strict=True):
        assert path.endswith(f"/test/{image.name}")
        assert (image.defect, image.label) == (rows[path]["defect"], int(rows[path]["label"]))
        assert score == float(rows[path]["score"])
    assert run.threshold == 1.0
    assert run.controls["pca"] == {"image_auroc": 0.75}


def test_every_state_is_told_and_the_reason_of_a_failure_without_the_place(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, state="running")
    write_run(tmp_path, seed=2, state="failed", error="OSError: /home/somebody/photos/a.png: broken")
    write_run(tmp_path, seed=3, state="interrupted", error="by Ctrl-C")
    runs = collect([tmp_path])
    assert [run.state for run in runs] == ["done", "running", "failed", "interrupted"]
    assert runs[2].trouble == "OSError: …/a.png: broken"
    assert not any(run.metrics for run in runs[1:])


def test_a_run_whose_process_was_killed_is_interrupted(tmp_path):
    left, held, elsewhere = (write_run(tmp_path, seed=seed, state="running") for seed in range(3))
    for folder, host in ((left, socket.gethostname()), (held, socket.gethostname()), (elsewhere, "another-host")):
        (folder / ".lock").write_text(f"process 1 on {host}")
    with (held / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        runs = collect([tmp_path])
    assert [run.state for run in runs] == ["interrupted", "running", "running"]
    assert (
        runs[0].trouble == "its process has ended; the same command continues from the last checkpoint, if there is one"
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"image_auroc": 0.', "metrics.json: expected JSON, cannot be read"),
        ("[1, 2]", "metrics.json: expected a JSON object, found list"),
        ("\udcff", "metrics.json: expected JSON, cannot be read"),
        (None, "metrics.json: not there"),
    ],
)
def test_unreadable_metrics_are_named_and_passed_over(tmp_path, content, told):
    write_run(tmp_path, seed=0)
    path = write_run(tmp_path, seed=1) / "metrics.json"
    path.unlink() if content is None else path.write_bytes(content.encode("utf-8", "surrogateescape"))
    good, bad = collect([tmp_path])
    assert (good.state, bad.state) == ("done", "unreadable")
    assert told in bad.trouble


def test_other_damaged_files_leave_the_metrics(tmp_path):
    folder = write_run(tmp_path)
    (folder / "scores.csv").write_text("path,label\na,b\n")
    (folder / "threshold.json").write_text("{")
    (folder / ".hydra" / "config.yaml").write_text("a: [")
    (run,) = collect([tmp_path])
    assert run.done
    assert run.metrics["image_auroc"] > 0.5
    assert run.images == []
    for name in ("scores.csv", "threshold.json", ".hydra/config.yaml"):
        assert name in run.trouble


@pytest.mark.parametrize("content", [None, "", "path,defect,label,score,threshold\n"])
def test_a_run_without_scores_says_so(tmp_path, content):
    path = write_run(tmp_path) / "scores.csv"
    path.unlink() if content is None else path.write_text(content)
    (run,) = collect([tmp_path])
    assert run.done
    assert run.trouble == "scores.csv: expected one row per image, found none"


def test_an_unknown_state_and_a_job_that_is_no_json_are_unreadable(tmp_path):
    one, two = write_run(tmp_path, seed=0), write_run(tmp_path, seed=1)
    (one / "job.json").write_text('{"state": "levitating"}')
    (two / "job.json").write_text("no")
    first, second = collect([tmp_path])
    assert first.state == "unreadable"
    assert "levitating" in first.trouble
    assert second.done  # its metrics are whole
    assert "job.json" in second.trouble


def test_old_runs_without_a_decision_score_decide_by_the_score(tmp_path):
    folder = write_run(tmp_path)
    lines = (folder / "scores.csv").read_text().splitlines()
    kept = [",".join(line.split(",")[:6] + line.split(",")[7:]) for line in lines]
    (folder / "scores.csv").write_text("\n".join(kept) + "\n")
    (run,) = collect([tmp_path])
    assert run.decision_scores == run.scores
    assert len(run.scores) == 40


def test_a_folder_without_runs_says_what_was_looked_for(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(
        UserError, match=r"expected runs, folders with a job\.json or a metrics\.json, found none below"
    ):
        collect([tmp_path])
    with pytest.raises(UserError, match="expected a folder of runs, found no"):
        collect([tmp_path / "nowhere"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="found the file"):
        collect([tmp_path / "file"])


def test_runs_are_not_searched_inside_and_hidden_folders_not_at_all(tmp_path):
    folder = write_run(tmp_path)
    (folder / "maps").mkdir()
    (folder / "maps" / "job.json").write_text("{}")
    (tmp_path / ".trash").mkdir()
    (tmp_path / ".trash" / "job.json").write_text("{}")
    assert list(find(tmp_path)) == [folder]


def test_folders_that_lie_in_each_other_and_links_in_a_circle_give_every_run_once(tmp_path):
    folder = write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    (tmp_path / "b" / "back").symlink_to(tmp_path)
    runs = collect([tmp_path, tmp_path / "a", folder])
    assert [run.folder for run in runs] == [
        tmp_path / name / "sweep/cae/mvtec_ad/screw/seed=0/0123456789" for name in "ab"
    ]


def test_two_folders_of_one_name_are_told_apart_and_not_by_where_they_lie(tmp_path):
    for name in ("one", "two"):
        write_run(tmp_path / name / "runs", strength=1 if name == "one" else 2)
    runs = collect([tmp_path / "one" / "runs", tmp_path / "two" / "runs"])
    assert [run.shown for run in runs] == [
        f"{name}/sweep/cae/mvtec_ad/screw/seed=0/0123456789" for name in ("runs", "runs-2")
    ]
    assert prefixes([tmp_path]) == [""]


def test_a_run_that_was_moved_is_known_by_its_configuration(tmp_path):
    folder = write_run(tmp_path, method="ganomaly", seed=4)
    folder.rename(tmp_path / "best")
    run = read(tmp_path / "best", tmp_path)
    assert run.key == Key("sweep", "ganomaly", "mvtec_ad", "screw", "4")
    assert run.shown == "best"


def test_metrics_that_are_no_numbers_are_left_out(tmp_path):
    folder = write_run(tmp_path)
    metrics = read_metrics(folder) | {"image_precision": None, "flag": True}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (run,) = collect([tmp_path])
    assert "image_precision" not in run.metrics
    assert "flag" not in run.metrics


@pytest.mark.parametrize(
    ("name", "written", "told"),
    [
        ("image_auroc", "7", "image_auroc from 0 to 1, found 7"),
        ("image_auroc", "-0.1", "image_auroc from 0 to 1, found -0.1"),
        ("image_auroc", '"high"', 'image_auroc from 0 to 1, found "high"'),
        ("image_auroc", "NaN", "image_auroc from 0 to 1, found NaN"),
        ("image_auroc", "1e400", "image_auroc from 0 to 1, found Infinity"),
        ("image_auroc", "true", "image_auroc from 0 to 1, found true"),
        ("image_auroc", "1" + 400 * "0", f"image_auroc from 0 to 1, found 1{39 * '0'}"),
        ("control_image_auroc", "[1]", "control_image_auroc from 0 to 1, found [1]"),
        ("image_auroc_high", "1.5", "image_auroc_high from 0 to 1, found 1.5"),
        ("fit_seconds", "-1", "fit_seconds of 0 or more, found -1"),
    ],
)
def test_impossible_figures_are_left_out_and_named(tmp_path, name, written, told):
    path = write_run(tmp_path) / "metrics.json"
    (whole,) = collect([tmp_path])
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: "HERE"}).replace('"HERE"', written))
    (run,) = collect([tmp_path])
    assert run.done
    assert run.trouble == f"metrics.json: expected {told}"
    assert run.metrics == {key: value for key, value in whole.metrics.items() if key != name}


def test_figures_at_the_ends_costs_and_what_does_not_exist_are_no_trouble(tmp_path):
    path = write_run(tmp_path) / "metrics.json"
    fine = {"image_auroc": 1.0000001, "image_recall": 0, "fit_seconds": 7, "threshold": -3.5, "pixel_iou": None}
    path.write_text(json.dumps(json.loads(path.read_text()) | fine))
    (run,) = collect([tmp_path])
    assert run.trouble == ""
    assert {name: run.metrics.get(name) for name in fine} == fine


def test_test_sets_are_told_apart(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1)
    write_run(tmp_path, seed=2, images=20)
    sets = [run.test_set for run in collect([tmp_path])]
    assert sets[0] == sets[1] != sets[2]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/d/test/good/0.png", "/d/test/hole/0.png"], ["good/0.png", "hole/0.png"]),
        (["/d/test/good/0.png", "/d/test/good/1.png"], ["good/0.png", "good/1.png"]),  # the folder says what they are
        (["/home/bob/a/0.png", "/data/b/1.png"], ["a/0.png", "b/1.png"]),  # nothing shared: no home either
        (["a/0.png", "b/c/0.png"], ["a/0.png", "b/c/0.png"]),
        ([], []),
    ],
)
def test_images_are_named_below_the_folder_that_they_share(paths, names):
    assert names_of(paths) == names


@pytest.mark.parametrize(
    ("fold", "folds", "expected"),
    [(0, 5, (0, 5)), (None, 5, None), (5, 5, None), (-1, 5, None), ("0", 5, None), (0, None, None), ([0], {}, None)],
)
def test_the_fold_of_a_run_is_one_of_its_folds(tmp_path, fold, folds, expected):
    write_run(tmp_path, data__fold=fold, data__folds=folds)
    (run,) = collect([tmp_path])
    assert run.fold == expected


@pytest.mark.parametrize(
    ("data", "name", "category"),
    [
        ({"name": "folder", "category": "${category:${data.root}}", "root": "lineA/part"}, "folder", "lineA-part"),
        ({"name": "folder", "category": "${category:${data.root}}", "root": "lineB/part"}, "folder", "lineB-part"),
        ({"name": "${category:${data.root}}-${data.protocol}", "category": "3", "root": "digits",
          "protocol": "one_vs_rest"}, "digits-one_vs_rest", "3"),
        ({"name": "${oc.env:HOME}", "category": "${data.nowhere}"}, "${oc.env:HOME}", "${data.nowhere}"),
        ({"name": "${data}", "category": "${category:${data}}"}, "${data}", "${category:${data}}"),
    ],
)  # fmt: skip
def test_a_copied_run_has_the_name_of_its_data_written_out(tmp_path, data, name, category):
    key = key_of(tmp_path / "copied", {"name": "sweep", "method": {"name": "cae"}, "data": data, "seed": 1})
    assert (key.dataset, key.category, key.seed) == (name, category, "1")
