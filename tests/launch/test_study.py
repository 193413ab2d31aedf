"""Trials, their states and who is at them; a kill is a process that ends without a word."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import TrialState

from anomaly_lab.core.errors import UserError
from anomaly_lab.launch.space import SearchRequest, Settings
from anomaly_lab.launch.study import Study
from tests.launch.test_job import wait_until

ROOT = Path(__file__).parents[2]
WORDS = ("x=interval(0,1)", "y=a,b", "seed=0")


def open_study(folder, *words, **keys):
    settings = Settings(**keys)
    return Study(
        folder, SearchRequest.of(OverridesParser.create().parse_overrides(list(words or WORDS)), settings), settings
    )


def value(params):
    return params["x"] + (params["y"] == "a")


def finish(study, size=1):
    """Do a batch and tell it; the numbers of its trials."""
    with study.batch(size) as trials:
        for number, params in trials.items():
            study.tell(number, value(params))
        return list(trials)


def drawn(study):
    return [(trial.params["x"], trial.params["y"]) for trial in study.trials()]


class Killed(BaseException):
    """Ends a launcher on the spot. Its locks open as they do when the kernel ends a process."""


def crash(folder, size, told, **keys):
    """Another launcher asks for trials, tells some of them and is gone."""
    study = open_study(folder, **keys)
    with suppress(Killed), study.batch(size) as trials:
        for number, params in list(trials.items())[:told]:
            study.tell(number, value(params))
        raise Killed


@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_a_study_goes_on_until_there_are_enough(tmp_path, storage):
    first = open_study(tmp_path, n_trials=3, storage=storage)
    assert [finish(first) for _ in range(4)] == [[0], [1], [2], []]
    again = open_study(tmp_path, n_trials=3, storage=storage)
    assert finish(again) == []
    assert again.best().values[0] == max(value(trial.params) for trial in again.trials())
    more = open_study(tmp_path, n_trials=5, storage=storage)
    assert finish(more, 4) == [3, 4]


def test_the_best_is_none_before_the_first(tmp_path):
    assert open_study(tmp_path).best() is None


@pytest.mark.slow
def test_a_killed_search_ends_with_the_trials_of_an_undisturbed_one(tmp_path):
    keys = {"n_trials": 12, "startup_trials": 4}
    whole = open_study(tmp_path / "whole", **keys)
    while finish(whole, 2):
        pass
    folder = tmp_path / "killed"
    for _ in range(3):
        finish(open_study(folder, **keys), 2)
    crash(folder, 2, 0, **keys)  # both are running
    study = open_study(folder, **keys)
    assert [trial.state for trial in study.trials()][6:] == [TrialState.RUNNING] * 2
    assert finish(study, 2) == [6, 7]
    crash(folder, 2, 1, **keys)  # one is told, one is running
    study = open_study(folder, **keys)
    assert finish(study, 2) == [9]
    while finish(study, 2):
        pass
    assert drawn(study) == drawn(whole)
    assert len(set(drawn(whole))) == 12


@pytest.mark.slow
def test_two_launchers_share_the_trials_and_leave_each_other_alone(tmp_path):
    one, other = (open_study(tmp_path, n_trials=5) for _ in range(2))
    with one.batch(2) as mine:
        with other.batch(2) as theirs:
            assert sorted([*mine, *theirs]) == [0, 1, 2, 3]
            with open_study(tmp_path, n_trials=5).batch(2) as last:
                assert list(last) == [4]
            for number, params in theirs.items():
                other.tell(number, value(params))
        assert finish(other) == [4]  # nobody told it
        assert finish(other) == []  # 0 and 1 are being done
        for number, params in mine.items():
            one.tell(number, value(params))
    assert finish(one) == []
    assert {trial.state for trial in one.trials()} == {TrialState.COMPLETE}
    assert len({x for x, _ in drawn(one)}) == 5


OTHER = """
import pathlib, sys, time
from tests.launch.test_study import finish, open_study
folder = pathlib.Path(sys.argv[1])
study = open_study(folder, n_trials=12, sampler="random")
(folder / "begun").touch()
for _ in range(4):
    finish(study)
with study.batch(1) as trials:
    (folder / "held").write_text(*map(str, trials))
    (folder / "held").rename(folder / "holds")
    time.sleep(600)
"""


@pytest.mark.slow
def test_two_processes_share_the_trials_and_of_a_killed_one_the_other_takes_over(tmp_path):
    study = open_study(tmp_path, n_trials=12, sampler="random")
    with subprocess.Popen([sys.executable, "-c", OTHER, str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE) as process:
        try:
            wait_until(lambda: (tmp_path / "begun").exists())
            mine = [number for _ in range(4) for number in finish(study)]
            wait_until(lambda: (tmp_path / "holds").exists())
            while more := finish(study):
                mine += more
            assert len(mine) == 7
            assert study.counts() == {TrialState.COMPLETE: 11, TrialState.RUNNING: 1}
        finally:
            process.kill()
    assert finish(study) == [int((tmp_path / "holds").read_text())]
    assert study.counts() == {TrialState.COMPLETE: 12}
    assert len({x for x, _ in drawn(study)}) == 12


def test_failed_trials_are_tried_again_by_the_next_start_and_not_by_this_one(tmp_path):
    study = open_study(tmp_path, n_trials=2)
    with study.batch(2) as trials:
        study.tell(0, None)
        study.tell(1, value(trials[1]))
    assert finish(study) == []
    again = open_study(tmp_path, n_trials=2)
    assert finish(again, 5) == [2]
    assert again.trials()[2].params == again.trials()[0].params
    assert again.counts() == {TrialState.COMPLETE: 2}
    assert finish(open_study(tmp_path, n_trials=2)) == []


def test_a_trial_whose_parameters_were_half_drawn_is_replaced(tmp_path):
    study = open_study(tmp_path, n_trials=1)
    study.study.ask().suggest_float("x", 0, 1)
    again = open_study(tmp_path, n_trials=1)
    assert finish(again) == [1]
    assert again.trials()[1].params["x"] == again.trials()[0].params["x"]
    assert [trial.state for trial in again.trials()] == [TrialState.FAIL, TrialState.COMPLETE]


def test_another_search_in_the_same_folder_is_refused(tmp_path):
    open_study(tmp_path)
    open_study(tmp_path, *reversed(WORDS), "data.workers=3")
    with pytest.raises(UserError, match=r"begun there, with the space .*\"high\": 1.0.* found .*\"high\": 2.0.*name="):
        open_study(tmp_path, "x=interval(0,2)", *WORDS[1:])
    with pytest.raises(UserError, match=r"with the words \[.*seed=0.*found .*seed=1"):
        open_study(tmp_path, *WORDS[:2], "seed=1")
    with pytest.raises(UserError, match=r"with the objective \"synthetic_pixel_aupro\", found \"oracle_image_auroc\""):
        open_study(tmp_path, *WORDS, "callbacks=synthetic", objective="oracle_image_auroc")
    with pytest.raises(UserError, match=r"hydra.sweeper.storage: expected sqlite, journal or a URL .* found 'file'"):
        open_study(tmp_path, storage="file")
