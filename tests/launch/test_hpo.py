"""The search with launchers that only pretend, and one real study of little trainings."""

import csv
import json
import re
import sys
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf

from anomaly_lab.cli.train import run_directory
from anomaly_lab.config.files import CONF
from anomaly_lab.core.errors import UserError
from anomaly_lab.launch.hpo import (
    check_values,
    dry_run,
    mean,
    print_best,
    refuse_different_kinds,
    run,
    trials_at_a_time,
    write_trials,
)
from anomaly_lab.launch.jobs import unpainted
from anomaly_lab.launch.space import SearchRequest, Settings
from anomaly_lab.launch.study import Study
from hydra_plugins.anomaly_lab_hpo import SearchSweeper


def asked_for(*words):
    return SearchRequest.of(OverridesParser.create().parse_overrides(list(words)), Settings())


class Fake:
    """A launcher whose jobs have a value at once: 1 - (x - 0.3)^2, halved for seed 1; x above `breaks` fails."""

    def __init__(self, breaks=2.0):
        self.breaks, self.batches = breaks, []

    def launch(self, job_overrides, initial_job_idx):
        self.batches.append([" ".join(words) for words in job_overrides])
        return [self.answer(dict(word.split("=") for word in words)) for words in job_overrides]

    def answer(self, words):
        if float(words["x"]) > self.breaks:
            return JobReturn(status=JobStatus.FAILED, _return_value=UserError("exit code 1"))
        value = (1 - (float(words["x"]) - 0.3) ** 2) / (1 + int(words.get("seed", 0)))
        return JobReturn(status=JobStatus.COMPLETED, _return_value=value)


def planned(jobs):
    return [Path("runs") / words[-1] for words in jobs]


@pytest.fixture
def study(tmp_path):
    def make(*words, **keys):
        return Study(tmp_path / "search", asked_for(*(words or ("x=interval(0,1)",))), Settings(**keys))

    return make


def test_it_finds_the_largest_value_and_says_how_to_repeat_it(study, tmp_path, capsys):
    search, launcher = study("method=cae", "x=interval(0,1)", "w='a b','c d'", n_trials=30), Fake()
    assert run(search, launcher, 3, planned) == 0
    assert [len(batch) for batch in launcher.batches] == [3] * 10
    best = search.best()
    assert abs(best.params["x"] - 0.3) < 0.1
    capsys.readouterr()
    print_best(search, planned)
    out = capsys.readouterr().out
    assert f"best: trial {best.number}, synthetic_pixel_aupro {best.values[0]:.4f}" in out
    command = re.search(r"python -m anomaly_lab (.*)", out)[1]
    assert command.startswith(f"method=cae callbacks=synthetic x={best.params['x']!r} 'w='\"'\"'")
    with (search.folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    assert rows[best.number]["synthetic_pixel_aupro"] == str(best.values[0])
    assert max(rows, key=lambda row: float(row["synthetic_pixel_aupro"]))["x"] == str(best.params["x"])
    assert {row["state"] for row in rows} == {"complete"}
    assert rows[0]["folders"] == f"runs/w={rows[0]['w']}"


def test_the_value_of_a_trial_is_the_mean_over_seeds(study):
    search, launcher = study("x=interval(0,1)", "seed=0,1", n_trials=2), Fake()
    run(search, launcher, 1, planned)
    assert [len(batch) for batch in launcher.batches] == [2, 2]
    for trial in search.trials():
        assert trial.values[0] == pytest.approx(0.75 * (1 - (trial.params["x"] - 0.3) ** 2))
    assert mean([0.2, 0.4]) == pytest.approx(0.3)
    assert mean([0.2, None]) is None


def test_failed_trials_do_not_stop_the_others_and_come_again_with_the_next_start(study, capsys):
    failed = run(study(n_trials=8), Fake(breaks=0.6), 2, planned)
    states = [trial.state.name for trial in study(n_trials=8).trials()]
    assert 0 < failed < 8
    assert states[8:] == ["WAITING"] * failed
    assert states[:8].count("FAIL") == failed
    assert capsys.readouterr().out.count(": exit code 1\n") == failed
    launcher = Fake()
    assert run(study(n_trials=8), launcher, 2, planned) == 0
    assert sum(len(batch) for batch in launcher.batches) == failed
    assert study(n_trials=8).counts().total() == 8


def test_it_ends_where_nothing_but_failures_comes_of_it(study):
    launcher = Fake(breaks=-1)
    with pytest.raises(UserError, match="the first 3 trials failed, all of them; the search ends here"):
        run(study(), launcher, 1, planned)
    assert len(launcher.batches) == 3
    with pytest.raises(UserError, match="no trial of the search is complete"):
        print_best(study(), planned)


def test_values_that_cannot_be_together_fail_without_a_job(study, capsys):
    def refuse(jobs):
        if any(word == "n=2" for words in jobs for word in words):
            raise UserError("n: expected an odd number, found 2")
        return [Path("folder") for _ in jobs]

    search, launcher = study("x=interval(0,1)", "n=1,2", n_trials=8), Fake()
    failed = run(search, launcher, 2, refuse)
    assert 0 < failed < 8
    assert not any("n=2" in words for batch in launcher.batches for words in batch)
    assert "n: expected an odd number, found 2" in capsys.readouterr().out
    write_trials(search, refuse)
    with (search.folder / "trials.csv").open() as file:
        assert {(row["state"], row["folders"]) for row in csv.DictReader(file)} == {
            ("fail", ""),
            ("complete", "folder"),
        }


def test_what_was_interrupted_in_the_middle_of_a_batch_goes_on_with_its_numbers(study):
    class Killed(Fake):
        def launch(self, job_overrides, initial_job_idx):
            super().launch(job_overrides, initial_job_idx)
            raise KeyboardInterrupt

    launcher, then = Killed(), Fake()
    with pytest.raises(KeyboardInterrupt):
        run(study(n_trials=4), launcher, 2, planned)
    run(study(n_trials=4), then, 2, planned)
    assert then.batches[0] == launcher.batches[0]
    assert [trial.state.name for trial in study(n_trials=4).trials()] == ["COMPLETE"] * 4


def test_as_many_trials_as_keep_the_launcher_busy(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    at_a_time = [
        trials_at_a_time(Settings(), OmegaConf.create(launcher), jobs)
        for launcher, jobs in (
            ({"jobs": 4}, 1), ({"jobs": 4}, 3), ({"jobs": 64}, 1), ({"jobs": "auto", "jobs_per_gpu": 3}, 1), ({}, 1)
        )
    ]  # fmt: skip
    assert at_a_time == [4, 2, 10, 6, 1]
    assert trials_at_a_time(Settings(at_a_time=5), OmegaConf.create({"jobs": 1}), 1) == 5


@pytest.fixture
def composed(parts):
    """The loader and the configuration of a sweep over the little data set."""
    OmegaConf.register_new_resolver("run_dir", run_directory, replace=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        config = hydra.compose_config("train", [], RunMode.MULTIRUN, with_log_configuration=False)
        yield hydra.config_loader, config, ("data=folder", f"data.root={parts}")


@pytest.mark.slow
def test_every_value_is_checked_before_the_first_job(composed):
    loader, config, words = composed
    check_values(loader, config, asked_for(*words, "method=cae,ssim_ae", "budget.learning_rate=interval(1e-4,1e-2)"))
    for word, message in (
        ("budget.learning_rate=interval(-1,1)", "budget.learning_rate: expected .*found -1.0"),
        ("method=cae,cea", "method: expected one of .*found 'cea'"),
        ("data.batchsize=8,16", "data.batchsize: no such key; did you mean data.batch_size"),
    ):
        with pytest.raises(UserError, match=message):
            check_values(loader, config, asked_for(*words, word))
    texture = ("data.kind=texture", "data.image_size=128,256", "data.patch_size=128,256")
    jobs = check_values(loader, config, asked_for(*words, *texture))  # 256 px of 128 px cannot be, of 256 px it can
    assert list(jobs) == [f"data.{key}_size={side}" for key in ("image", "patch") for side in (128, 256)]


@pytest.mark.slow
def test_trials_are_judged_on_the_same_kinds_of_painted_defects(lab, parts):
    search = ("-m", "hydra/sweeper=optuna", "data=folder", f"data.root={parts}", "dry_run=true")
    done = lab(*search, "method=draem,nsa", code=1)
    assert (
        "expected trials that are judged on the same kinds of painted defects, found blob, patch, scar (method=draem) "
        "and blob, perlin (method=nsa); search these apart, or compare them with select"
    ) in done.stdout + done.stderr


@pytest.mark.slow
def test_methods_and_corruptions_are_looked_at_together(composed):
    """Each word alone leaves the same kinds, together with the first of the others."""
    loader, config, words = composed
    patch, scar = (f"{{_target_:anomaly_lab.data.corruption.{name}}}" for name in ("Patch", "Scar"))
    two = f"{{_target_:anomaly_lab.data.corruption.AnyOf,corruptions:[{patch},{scar}]}}"
    asked = asked_for(*words, "method=cutpaste,cae", f"data.corruption={two},null")
    kinds = {word: unpainted(job.config) for word, job in check_values(loader, config, asked).items()}
    assert len(kinds) == 8
    assert len({judged for word, judged in kinds.items() if " " not in word}) == 1
    with pytest.raises(UserError, match=r"and blob, patch, perlin, scar \(method=cae data.corruption=null\)"):
        refuse_different_kinds(kinds)


def test_kinds_of_painted_defects_that_differ_are_named():
    same = frozenset({"blob"})
    refuse_different_kinds({"method=cae": same, "method=vae": same})
    with pytest.raises(UserError, match=r"found blob \(a=1\) and none \(a=2\); search these apart"):
        refuse_different_kinds({"a=1": same, "a=2": frozenset(), "a=3": same})


def test_a_dry_run_says_what_is_searched_and_writes_nothing(study, tmp_path, capsys):
    search, words = study(n_trials=5), ("x=interval(0,1)", "n=1,2")
    run(search, Fake(), 2, planned)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    launcher = Fake()
    dry_run(launcher, asked_for(*words), Settings(n_trials=9), search.folder)
    dry_run(launcher, asked_for(*words), Settings(n_trials=9), tmp_path / "other")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert launcher.batches == [["callbacks=synthetic x=0.0 n=1"]] * 2
    out = capsys.readouterr().out
    assert "9 trials, 5 complete, 4 to do" in out
    assert "9 trials, 0 complete, 9 to do" in out
    assert "searched: n: ('1', '2')" in out


@pytest.mark.slow
def test_the_command_line_tells_of_an_oracle_and_refuses_other_names(lab, parts, tmp_path):
    search = ("-m", "hydra/sweeper=optuna", "data=folder", f"data.root={parts}", "method=cae")
    search += ("data.batch_size=8,16",)
    done = lab(*search, "hydra.sweeper.objective=oracle_pixel_aupro", "dry_run=true")
    assert "oracle_pixel_aupro: hyperparameters are chosen on the test set" in done.stdout
    assert "  to start: " in done.stdout
    assert not (tmp_path / "runs").exists()
    done = lab(*search, "hydra.sweeper.objective=pixel_aupro", code=1)
    assert done.stderr.startswith("error: hydra.sweeper.objective: expected one of synthetic_pixel_aupro, ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_real_study_resumes_and_repeats_its_best_trial(lab, toy, tmp_path):
    rate = "method.optimizer.lr=tag(log,interval(1e-4,1e-2))"
    search = ("-m", "hydra/sweeper=optuna", "name=search", *toy, rate)
    lab(*search, "hydra.sweeper.n_trials=1")
    done = lab(*search, "hydra.sweeper.n_trials=2")
    assert "2 of 2 trials complete" in done.stdout
    assert done.stdout.count("trial 1: synthetic_pixel_aupro") == 1
    assert "trial 0: " not in done.stdout
    folder = tmp_path / "runs" / "search"
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        metrics = json.loads((Path(row["folders"]) / "metrics.json").read_text())
        assert metrics["synthetic_pixel_aupro"] == float(row["synthetic_pixel_aupro"])
        assert "pixel_auroc" in metrics
    command = re.search(r"python -m anomaly_lab (.*)", done.stdout)[1].replace("'", "")
    assert "already done, skipped" in lab(*command.split()).stdout


def test_without_optuna_it_says_what_to_install(monkeypatch):
    for name in ("hpo", "space", "study"):
        monkeypatch.delitem(sys.modules, f"anomaly_lab.launch.{name}")
        monkeypatch.delattr(f"anomaly_lab.launch.{name}")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"hydra/sweeper=optuna: expected Optuna, found none; pip install 'anomaly_lab"):
        SearchSweeper().sweep([])
