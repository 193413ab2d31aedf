"""From the words of a sweep to its jobs: composed as Hydra does, checked before anything starts, in their folders."""

import importlib
import json
import sys
from dataclasses import asdict

import numpy as np
import pytest
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from anomaly_lab.cli.train import run_directory
from anomaly_lab.config.files import CONF
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_json
from anomaly_lab.launch import local
from anomaly_lab.launch.jobs import Outcome, command
from anomaly_lab.launch.local import Local
from anomaly_lab.launch.slurm import Slurm
from anomaly_lab.launch.sweep import Composer, checked, expanded, labels, launch, plan
from anomaly_lab.runs.folder import FORMAT, read_job, write_job
from tests.conftest import every


@pytest.fixture
def composer():
    """A composer as a launcher makes it, for a sweep that was started with these words."""
    OmegaConf.register_new_resolver("run_dir", run_directory, replace=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):

        def make(*words):
            hydra = GlobalHydra.instance().hydra
            config = hydra.compose_config("train", list(words), RunMode.MULTIRUN, with_log_configuration=False)
            return Composer(hydra.config_loader, config)

        yield make


@pytest.mark.parametrize(
    "words",
    every(2, [
        (("seed=3", "experiment=quick", "data.patches=64", "budget.epochs=1"),),
        (("method=ssim_ae", "seed=3", "data.category=screw"),),
        (("+data.categories.mine={kind: object}", "data.category=mine", "callbacks.pictures=null"),),
        (("data=folder", "data.root='a b=c'", "data.region=[1,2,3,4]"),),
        (("trainer=ddp", "method.optimizer.lr=1e-3", "data.root=${oc.env:HOME}"),),
        (("~callbacks.pictures", "seed=1"),),
    ]),
)  # fmt: skip
def test_a_job_is_composed_as_a_process_of_its_own_would(composer, words):
    compose = composer()
    compose(("method=ssim_ae", "seed=9", "data.category=bottle"))  # what was composed before leaves no trace
    ours = [OmegaConf.to_container(compose(words), resolve=False) for _ in range(2)]
    whole = compose.loader.load_sweep_config(compose.config, list(words))
    theirs = OmegaConf.to_container(whole, resolve=False)
    del theirs["hydra"]
    assert ours == [theirs, theirs]


def jobs_of(composer, parts, *asked):
    root = f"data.root={parts.parent}"
    return plan(composer(), [["data=folder", root + "/bar", *words] for words in asked])


def test_jobs_are_named_by_what_tells_them_apart(composer, parts):
    jobs = jobs_of(composer, parts, ["method=cae", "seed=0"], ["method=ssim_ae", "seed=0"])
    assert [job.label for job in jobs] == ["method=cae", "method=ssim_ae"]
    assert [job.folder.parent.name for job in jobs] == ["seed=0", "seed=0"]
    assert labels([["a=1", "b=2"]]) == ["a=1 b=2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=-1"], "seed: expected a number greater than or equal to 0, found -1 (in the job seed=-1; no job was"),
        (["sed=1"], "sed: no such key; did you mean seed? "),
        (["method=cea"], "method: expected one of"),
        (["data.root=nowhere"], "data.root: expected a folder of images, found nothing at nowhere"),
    ],
)
def test_the_mistake_of_one_job_is_told_with_its_words(composer, parts, words, message):
    with pytest.raises(UserError) as told:
        jobs_of(composer, parts, ["seed=0"], words, ["seed=2"])
    assert str(told.value).startswith(message)
    assert f"in the job {words[0]}" in str(told.value)


@pytest.fixture
def categories(parts, write):
    """`bar`, `wood` and `tile` in one folder, and a folder that is no category."""
    for name in ("wood", "tile"):
        for i in range(3):
            write(parts.parent / name / f"train/good/{i}.png", np.full((9, 9, 3), 7 * i, np.uint8))
    (parts.parent / "notes").mkdir()
    return parts.parent


def test_a_pool_of_categories_becomes_a_job_each(composer, categories):
    def of(*words):
        return expanded(composer(), (f"data.root={categories}", *words))

    root = f"data.root={categories}"
    assert of("data.category=all", "seed=1") == [
        (root, f"data.category={name}", "seed=1") for name in ("bar", "tile", "wood")
    ]
    assert of("data.category=textures") == [(root, "data.category=tile"), (root, "data.category=wood")]
    assert of("data.category=objects") == [(root, "data.category=bar")]
    assert of("data.category=bottle") == [(root, "data.category=bottle")]
    assert of("experiment=slides_pooled") == [(root, "experiment=slides_pooled")]  # its file pools them


def test_a_pool_of_folders_and_of_what_has_no_categories(composer, categories):
    found = expanded(composer(), ("data=folder", f"data.root={categories}", "data.category=all", "seed=1"))
    assert found == [("data=folder", "seed=1", f"data.root='{categories / name}'") for name in ("bar", "tile", "wood")]
    (planned,) = plan(composer(), [found[0]])
    assert planned.config["data"]["category"].startswith("parts-bar-")
    assert expanded(composer(), ("data=demo", "data.category=all")) == [
        ("data=demo", "data.category=washer"), ("data=demo", "data.category=weave")
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"data.category: expected a single category in a sweep over data=csv"):
        expanded(composer(), ("data=csv", "data.root=x.csv", "data.category=all"))
    with pytest.raises(UserError, match=r"expected one folder per category of textures .* found none"):
        expanded(composer(), (f"data.root={categories / 'notes'}", "data.category=textures"))


def test_folders_may_have_any_name(composer, categories, monkeypatch):
    name = "it's a=b, [c] x"
    monkeypatch.chdir(categories.rename(categories.with_name(name)).parent)
    found = expanded(composer(), ("data=folder", f'data.root="{name}"', "data.category=all"))
    assert [composer()(words).data.root for words in found] == [f"{name}/{part}" for part in ("bar", "tile", "wood")]


class Fake:
    """A launcher whose jobs are done at once, or fail where their seed is in `failing`."""

    jobs = 2

    def __init__(self, objective=None, failing=()):
        self.objective, self.failing, self.ran, self.found = objective, failing, [], []

    def execute(self, jobs, config, board):
        outcomes = {}
        for job in jobs:
            seed = job.config["seed"]
            self.ran.append(seed)
            self.found.append(read_job(job.folder))
            outcomes[job.folder] = Outcome("failed", "exit code 3", "boom") if seed in self.failing else Outcome("done")
            if seed not in self.failing:
                finish(job, seed / 10)
        return outcomes


def finish(job, value):
    checkpoint = job.folder / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.touch()
    write_json(job.folder / "metrics.json", {"score": value, "precision": "x", "result_key": job.result_key})
    write_job(job.folder, "done", seconds=90.0)


@pytest.fixture
def sweep(composer, parts, tmp_path):
    def run(launcher, *asked, master=()):
        compose = composer(*master)
        words = ["data=folder", f"data.root={parts}", f"runs_dir={tmp_path / 'runs'}"]
        return launch(compose.loader, compose.config, [[*words, *more] for more in asked], launcher)

    return run


def test_finished_jobs_are_skipped_and_the_others_run_once(sweep, capsys):
    first = Fake()
    sweep(first, ["seed=0"])
    then = Fake()
    answers = sweep(then, ["seed=0"], ["seed=1"], ["seed=1", "data.workers=1"])
    assert (first.ran, then.ran) == ([0], [1])
    assert [answer.status for answer in answers] == [JobStatus.COMPLETED] * 3
    assert answers[1].working_dir == answers[2].working_dir != answers[0].working_dir
    out = capsys.readouterr().out
    assert "2 jobs: 1 finished, 1 to start" in out
    assert "the same run twice, done once: seed=1 data.workers=1" in out
    again = Fake()
    sweep(again, ["seed=0"], ["seed=1"])
    assert again.ran == []
    sweep(again, ["seed=0", "rerun=true"], ["seed=1", "rerun=true"])
    assert again.ran == [0, 1]


FINISHES = f"""
import json, pathlib, sys
folder, key = pathlib.Path(sys.argv[1]), sys.argv[2]
(folder / "metrics.json").write_text(json.dumps({{"score": 1, "result_key": key}}))
(folder / "job.json").write_text(json.dumps({{"state": "done", "format": {FORMAT}}}))
"""


def test_processes_of_which_one_fails_and_only_that_one_runs_again(sweep, monkeypatch, capsys):
    words, scripts = [["seed=0"], ["seed=1"]], {0: FINISHES, 1: "raise SystemExit('error: boom')"}

    def script(job, config):
        return [sys.executable, "-c", scripts.pop(job.config["seed"]), str(job.folder), job.result_key]

    monkeypatch.setattr(local, "command", script)
    answers = sweep(Local(jobs=2), *words)
    assert [answer.status for answer in answers] == [JobStatus.COMPLETED, JobStatus.FAILED]
    out = capsys.readouterr().out
    for line in ("2 jobs: 2 to start", "error: boom", "1 done, 1 failed after"):
        assert line in out
    scripts[1] = FINISHES
    assert [answer.status for answer in sweep(Local(), *words)] == [JobStatus.COMPLETED] * 2
    assert "2 jobs: 1 finished, 1 to start" in capsys.readouterr().out
    assert [answer.status for answer in sweep(Local(), *words)] == [JobStatus.COMPLETED] * 2
    assert capsys.readouterr().out == "2 jobs: 2 finished\n"


def test_a_sweep_with_another_threshold_judges_again(sweep, capsys):
    sweep(Fake(), ["seed=0"], ["seed=1"])
    again = Fake()
    sweep(again, ["seed=0", "threshold=area"], ["seed=1"])
    assert again.ran == [0]
    assert again.found == [{"state": "interrupted", "format": FORMAT, "seconds": 90.0}]  # its time goes on
    assert "2 jobs: 1 to test again, 1 finished" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"threshold=max: expected jobs that train weights of their own, .*set another"):
        sweep(again, ["seed=2", "threshold=area"], ["seed=2", "threshold=max"])


def test_failed_jobs_are_told_at_the_end_and_answered_as_failed(sweep, capsys):
    answers = sweep(Fake("score", failing={1}), ["seed=1"], ["seed=2"])
    assert [answer.status for answer in answers] == [JobStatus.FAILED, JobStatus.COMPLETED]
    assert answers[1].return_value == pytest.approx(0.2)
    with pytest.raises(UserError, match="seed=1: exit code 3"):
        answers[0].return_value  # noqa: B018
    out = capsys.readouterr().out
    assert out.index("failed: seed=1 (exit code 3)") < out.index("boom") < out.index("1 failed, 1 done after")


@pytest.mark.parametrize("error", [UserError("seed=1: exit code 3"), OSError("disk full")])
def test_a_sweep_ends_with_a_line_about_failed_jobs_or_with_what_is_no_failure_of_theirs(composer, error):
    class Failing:
        def launch(self, jobs, initial_job_idx):
            assert jobs == [["seed=1"], ["seed=2"]]
            return [JobReturn(status=JobStatus.FAILED, _return_value=error), JobReturn(status=JobStatus.COMPLETED)]

    compose = composer()
    context = HydraContext(compose.loader, Callbacks())
    sweeper = Plugins.instance().instantiate_sweeper(hydra_context=context, task_function=print, config=compose.config)
    sweeper.launcher = Failing()
    with pytest.raises(type(error), match="some jobs failed; the same command does those again|disk full"):
        sweeper.sweep(["seed=1,2"])


@pytest.mark.slow
def test_a_sweeper_gets_the_objective_batch_after_batch(sweep, capsys):
    launcher = Fake("score")
    values = [sweep(launcher, [f"seed={seed}"])[0].return_value for seed in (2, 5, 2)]
    assert values == pytest.approx([0.2, 0.5, 0.2])
    assert launcher.ran == [2, 5]
    (missing,) = sweep(Fake("auroc"), ["seed=2"])
    with pytest.raises(UserError, match=r"hydra.launcher.objective: expected one of score, .* found 'auroc'"):
        missing.return_value  # noqa: B018


def test_the_objective_of_a_pool_is_the_mean(composer, categories, tmp_path, capsys):
    class OfCategory(Fake):
        def execute(self, jobs, config, board):
            for job, value in zip(jobs, (0.2, 0.6, 0.7), strict=True):
                finish(job, value)
            return {job.folder: Outcome("done") for job in jobs}

    compose = composer()
    words = ["data=folder", f"data.root={categories}", "data.category=all", f"runs_dir={tmp_path / 'runs'}"]
    (answer,) = launch(compose.loader, compose.config, [words], OfCategory("score"))
    assert answer.return_value == pytest.approx(0.5)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(sweep, tmp_path, capsys):
    sweep(Fake(), ["seed=0"])
    before = sorted(tmp_path.rglob("*"))
    launcher = Fake()
    sweep(launcher, ["seed=0"], ["seed=1"], master=["dry_run=true"])
    assert launcher.ran == []
    assert sorted(tmp_path.rglob("*")) == before
    out = capsys.readouterr().out
    assert "  finished: seed=0" in out
    assert "  to start: seed=1" in out


def test_the_command_of_a_job_is_that_of_a_single_run(composer, parts):
    compose = composer("hydra.launcher.jobs=2", "hydra.verbose=true", "hydra/launcher=local")
    (job,) = plan(compose, [["data=folder", f"data.root={parts}"]])
    assert command(job, compose.config)[1:] == ["-m", "anomaly_lab", "hydra.verbose=true", *job.words]


def test_the_keys_of_a_launcher_are_checked():
    assert checked(Local, {"jobs": 3}).jobs == 3
    with pytest.raises(UserError, match=r"hydra.launcher.jobs: expected .*, found 0"):
        checked(Local, {"jobs": 0})
    with pytest.raises(UserError, match=r"hydra.launcher.jbos: no such key; did you mean hydra.launcher.jobs\?"):
        checked(Local, {"jbos": 1})


@pytest.mark.parametrize("settings", [Local, Slurm])
def test_the_file_of_a_launcher_says_what_its_code_says(settings):
    keys = OmegaConf.to_container(OmegaConf.load(CONF / "hydra/launcher" / f"{settings.__name__.lower()}.yaml"))
    module, _, name = keys.pop("_target_").rpartition(".")
    assert issubclass(getattr(importlib.import_module(module), name), Launcher)
    assert keys == asdict(settings())
    assert asdict(checked(settings, keys)) == keys


def test_metrics_are_read_from_the_run_folder(sweep, tmp_path, capsys):
    (answer,) = sweep(Fake(), ["seed=4"])
    (path,) = tmp_path.rglob("metrics.json")
    assert answer.working_dir == str(path.parent)
    assert json.loads(path.read_text())["score"] == 0.4
    assert answer.return_value is None
