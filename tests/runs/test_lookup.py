"""Which run a text names, and what is said where it names none."""

import os
from pathlib import Path

import pytest

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_json
from anomaly_lab.runs.folder import RESULT_VERSION, write_job
from anomaly_lab.runs.lookup import finished_run, finished_runs


def write_run(folder, state="done", age=0):
    """A run that was finished so many seconds ago."""
    write_json(folder / "metrics.json", {"result_version": RESULT_VERSION})
    write_job(folder, state)
    now = 1_700_000_000 - age
    os.utime(folder / "metrics.json", (now, now))
    return folder


def test_a_folder_without_a_result_is_refused(tmp_path):
    with pytest.raises(UserError, match="run: expected the folder of a finished run"):
        finished_run(str(tmp_path))


def test_several_runs(tmp_path, monkeypatch):
    for name in ("runs/cae/a", "runs/cae/b", "runs/control/c", "x,y"):
        write_run(tmp_path / name)
    write_run(tmp_path / "runs/cae/unfinished", "failed")
    monkeypatch.chdir(tmp_path)

    def found(text):
        return [path.as_posix() for path in finished_runs(text)]

    assert found("runs/cae/b") == ["runs/cae/b"]
    assert found("runs/control/c,runs/cae/a") == ["runs/control/c", "runs/cae/a"]
    assert found("runs/cae/?") == ["runs/cae/a", "runs/cae/b"]
    assert found("runs") == found("runs/*") == ["runs/cae/a", "runs/cae/b", "runs/control/c"]
    assert found("runs/cae/a,runs/cae,runs/cae/../cae/a") == ["runs/cae/a", "runs/cae/b"]
    assert found("x,y") == ["x,y"]  # a comma in the name of a folder that is there
    for text in ("runs/cae/unfinished", "runs/cae/a,nowhere", "runs/cae/a,", "runs/z*"):
        with pytest.raises(UserError, match="run: expected the folder of a finished run"):
            finished_runs(text)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three runs below `runs/`: two of an experiment, one older than the others; and one that is not finished."""
    monkeypatch.chdir(tmp_path)
    for name, age in (
        ("screws/cae/seed=0/0a1b2c", 5),
        ("screws/cae/seed=1/0a9f3d", 1),
        ("default/cae/seed=0/77aa00", 9),
    ):
        write_run(Path("runs", name), age=age)
    write_run(Path("runs/default/cae/seed=0/88bb11"), "running", age=-5)
    return Path("runs")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("last", "screws/cae/seed=1/0a9f3d"),
        ("77", "default/cae/seed=0/77aa00"),
        ("0a1", "screws/cae/seed=0/0a1b2c"),
        ("default", "default/cae/seed=0/77aa00"),
        ("seed=1", "screws/cae/seed=1/0a9f3d"),
    ],
)
def test_a_run_by_its_name(runs, text, found):
    assert finished_run(text) == runs / found
    assert finished_runs(text) == [runs / found]


def test_an_experiment_stands_for_its_runs_and_a_name_of_several_is_no_single_run(runs):
    assert [run.name for run in finished_runs("screws")] == ["0a1b2c", "0a9f3d"]
    assert [run.name for run in finished_runs("last,77")] == ["0a9f3d", "77aa00"]
    for text in ("screws", "0a"):
        with pytest.raises(UserError, match=f"run: expected one run, found 2 that are named {text}: runs/screws/cae"):
            finished_run(text)


def test_a_folder_of_that_name_comes_first(runs):
    assert finished_run(str(write_run(Path("last")))) == Path("last")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nosuch", "the name of one below runs/, or last, found nothing at nosuch"),
        ("runs/nosuch", "found nothing at runs/nosuch"),
        ("runs/default/cae/seed=0/88bb11", "found one that is running: .*; its command goes on with it"),
        ("88", "found nothing at 88"),
        ("runs/screws/cae/seed=0/0a1b2c/metrics.json", "found a file: .*; type run=runs/screws/cae/seed=0/0a1b2c$"),
        ("runs/screws/cae/seed=0/0a1b2c/metrics.json/deeper", "found nothing at"),
        ("runs/readme.txt", "found a file: runs/readme.txt$"),
    ],
)
def test_what_is_said_where_a_text_names_no_run(runs, text, words):
    (runs / "readme.txt").touch()
    for look in (finished_run, finished_runs):
        with pytest.raises(UserError, match=f"run: expected the folder of a finished run.*{words}"):
            look(text)
