"""Jobs through a real SLURM of two nodes (.ci/slurm). Most are little scripts in place of a training."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from omegaconf import OmegaConf

from anomaly_lab.core.errors import UserError
from anomaly_lab.launch import slurm
from anomaly_lab.launch.jobs import Job, Outcome
from anomaly_lab.launch.slurm import RECORD, Slurm, attached, queue
from anomaly_lab.launch.table import JobTable
from anomaly_lab.runs.folder import FORMAT
from tests.conftest import need
from tests.launch.test_job import wait_until
from tests.launch.test_local import DONE, at_once

STARTS = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
with (folder / "starts").open("a") as file:
    file.write(os.environ["SLURMD_NODENAME"] + "\\n")
while not (folder / "go").exists():
    time.sleep(0.1)
"""


def job(folder, script=DONE, devices=1, **trainer):
    config = {"trainer": {"devices": devices, "accelerator": "cpu", **trainer}, "name": "x", "runs_dir": folder.parent}
    return Job((script,), folder.name, folder, config, 0)


@pytest.fixture
def cluster():
    """A SLURM that answers; jobs that a test leaves behind are cancelled."""
    there = shutil.which("sbatch") is not None and queue() is not None
    need("slurm", there, "no SLURM that answers (.ci/slurm install; .ci/slurm start)")
    before = set(queue())
    yield
    if left := set(queue()) - before:
        subprocess.run(["scancel", *left], check=False)


@pytest.fixture
def run(monkeypatch):
    """Run jobs whose only word is a script; the states that were shown are kept."""
    monkeypatch.setattr(slurm, "command", lambda job, config: [sys.executable, "-c", *job.words, str(job.folder)])

    def execute(work, **keys):
        with JobTable({each.folder: each.label for each in work}) as board:
            return Slurm(cpus_per_task=1, poll=0.5, **keys).execute(work, OmegaConf.create(), board)

    return execute


def id_of(folder):
    wait_until(lambda: (folder / RECORD).exists())
    return json.loads((folder / RECORD).read_text())["job"]


def state_of(number):
    return queue().get(number, ("", ""))[0]


MEETS = """
import pathlib, sys, time
here = pathlib.Path(sys.argv[1])
(here / "here").touch()
while not all((here.parent / name / "here").exists() for name in "ab"):
    time.sleep(0.05)
"""
CANCELS = "import os, subprocess, time; subprocess.run(['scancel', os.environ['SLURM_JOB_ID']]); time.sleep(600)"


@pytest.mark.slow
def test_an_array_of_jobs_runs_and_the_end_of_each_is_read_back(run, cluster, tmp_path, capsys):
    """Two at a time: two that wait for each other, a third, one that fails and one that is cancelled."""
    scripts = {
        "a": MEETS + DONE, "b": MEETS + DONE, "c": DONE, "bad": "print('first'); raise SystemExit(3)", "gone": CANCELS
    }  # fmt: skip
    folders = [tmp_path / name for name in scripts]
    found = run([job(folder, script) for folder, script in zip(folders, scripts.values(), strict=True)], jobs=2)
    outcomes = [found[folder] for folder in folders]
    assert [outcome.state for outcome in outcomes] == ["done"] * 3 + ["failed"] * 2
    ids = [id_of(folder) for folder in folders]
    assert [number.partition("_")[2] for number in ids] == ["0", "1", "2", "3", "4"]
    assert len({number.partition("_")[0] for number in ids}) == 1
    assert outcomes[3].note == f"SLURM job {ids[3]}: FAILED"
    assert outcomes[3].last_lines == "first"
    assert "CANCELLED" in outcomes[4].note
    assert at_once(folders[:3]) == 2
    environment = json.loads((folders[0] / "environment").read_text())
    assert environment["SLURM_ARRAY_JOB_ID"] == ids[0].partition("_")[0]
    assert "[5/5]" in capsys.readouterr().out


@pytest.mark.slow
def test_what_was_submitted_is_waited_for_and_goes_on_when_its_time_is_over(run, cluster, tmp_path, capsys):
    """SLURM sends SIGUSR2 before a time limit; the job is queued again, whatever its processes make of the signal."""
    ended = "import anomaly_lab.launch.job as job; job.end_with_launcher()\n" + STARTS + DONE
    work = [job(tmp_path / "a", ended), job(tmp_path / "b", STARTS + DONE)]
    outcomes = run(work, wait=False)
    assert {outcome.state for outcome in outcomes.values()} == {"waiting"}
    ids = [id_of(each.folder) for each in work]
    assert f"`scancel {ids[0].partition('_')[0]}` cancels them" in capsys.readouterr().out
    wait_until(lambda: all((each.folder / "starts").exists() for each in work))
    subprocess.run(["scancel", "--signal=USR2", ids[0]], check=True)
    starts_again(work[0], ids[0])
    again = [*work, job(tmp_path / "c")]
    for each in again:
        each.folder.mkdir(exist_ok=True)
        (each.folder / "go").touch()
    assert {outcome.state for outcome in run(again).values()} == {"done"}
    assert "2 jobs are in SLURM's queue already" in capsys.readouterr().out
    assert [id_of(each.folder) for each in work] == ids
    assert [len((each.folder / "starts").read_text().split()) for each in work] == [2, 1]
    assert id_of(tmp_path / "c").partition("_")[0] != ids[0].partition("_")[0]


@pytest.mark.slow
def test_ctrl_c_cancels_the_jobs(run, cluster, tmp_path, monkeypatch, capsys):
    def interrupted_once_it_runs():
        states = queue()
        if states.get(number(), ("", ""))[0] == "RUNNING":
            raise KeyboardInterrupt
        return states

    def number():
        record = tmp_path / "a" / RECORD
        return json.loads(record.read_text())["job"] if record.exists() else None

    monkeypatch.setattr(slurm, "queue", interrupted_once_it_runs)
    with pytest.raises(KeyboardInterrupt):
        run([job(tmp_path / "a", "import time; time.sleep(600)")])
    assert "1 jobs of SLURM cancelled" in capsys.readouterr().out
    wait_until(lambda: state_of(number()) in {"", "COMPLETING"})


def starts_again(work, number):
    """A job that was put back into the queue starts again; SLURM would wait two minutes before that."""

    def has_started():
        if state_of(number) == "PENDING":
            now(number)
        return len((work.folder / "starts").read_text().split()) == 2

    wait_until(has_started, 100)


def now(number):
    subprocess.run(["scontrol", "update", f"jobid={number}", "starttime=now"], check=False, capture_output=True)
    time.sleep(0.5)


def node_is(state, *nodes):
    for node in nodes:
        command = ["scontrol", "update", f"nodename={node}", f"state={state}", "reason=test"]
        subprocess.run(command, check=state != "resume", capture_output=True)


@pytest.mark.slow
def test_a_job_whose_node_is_lost_goes_on_elsewhere(run, cluster, tmp_path):
    work = job(tmp_path / "a", STARTS + DONE)
    run([work], wait=False)
    wait_until(lambda: (work.folder / "starts").exists())
    number = id_of(work.folder)
    node = (tmp_path / "a" / "starts").read_text().strip()
    try:
        node_is("down", node)
        starts_again(work, number)
        first, second = (tmp_path / "a" / "starts").read_text().split()
        assert {first, second} == {"n1", "n2"}
        (tmp_path / "a" / "go").touch()
        assert {outcome.state for outcome in run([work]).values()} == {"done"}
    finally:
        node_is("resume", node)


@pytest.mark.slow
def test_what_sbatch_refuses_is_one_line(run, cluster, tmp_path):
    with pytest.raises(UserError, match=r"^hydra.launcher: sbatch refused the jobs: .*Invalid partition") as told:
        run([job(tmp_path / "a")], partition="nowhere")
    assert "\n" not in str(told.value)


def test_without_slurm_it_is_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="expected SLURM's sbatch on this machine"):
        run([job(tmp_path / "a")])


def test_a_task_for_each_device(tmp_path):
    asked = Slurm().needs(job(tmp_path, devices=4, num_nodes=2, accelerator="auto"))
    assert asked == {"nodes": 2, "tasks_per_node": 4, "gpus_per_node": 4}
    assert Slurm().needs(job(tmp_path, devices=4))["gpus_per_node"] == 0
    assert Slurm(gpus=False).needs(job(tmp_path, accelerator="auto"))["gpus_per_node"] == 0
    with pytest.raises(UserError, match=r"trainer.devices: expected a number, .* found auto"):
        Slurm().needs(job(tmp_path, devices="auto"))


def test_only_jobs_that_are_in_the_queue_are_waited_for(tmp_path):
    work = [job(tmp_path / name) for name in "abcd"]
    for name, number in (("a", "7_0"), ("b", "7_1"), ("c", "7_2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / RECORD).write_text(json.dumps({"job": number}))
    found = attached(work, {"7_0": ("RUNNING", "n1"), "7_1": ("COMPLETING", "n1"), "8_0": ("PENDING", "")})
    assert found == {tmp_path / "a": "7_0"}


def test_the_queue_of_a_slurm_that_does_not_answer_is_unknown_not_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert queue() is None
    (tmp_path / "squeue").write_text("#!/bin/sh\necho '7_1|RUNNING|n2'\necho noise\n")
    (tmp_path / "squeue").chmod(0o755)
    assert queue() == {"7_1": ("RUNNING", "n2")}
    (tmp_path / "squeue").write_text("#!/bin/sh\nexit 1\n")
    assert queue() is None


ACCOUNTING = """JobID|State|NodeList
7_0|{0}|n1
7_0.batch|{0}|n1
7_0.0|{0}|n1
7_1|RUNNING|n2
7_[2-3%2]|PENDING|None assigned
"""


@pytest.fixture
def accounting(tmp_path, monkeypatch):
    """An sacct that answers what one has answered."""

    def say(text):
        (tmp_path / "sacct.txt").write_text(text)
        (tmp_path / "sacct").write_text(f"#!/bin/sh\nexec /bin/cat {tmp_path}/sacct.txt\n")
        (tmp_path / "sacct").chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    return say


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED by 0", "NODE_FAIL", "TIMEOUT", "OUT_OF_MEMORY"])
def test_an_end_that_is_none_is_told_with_the_last_lines(accounting, tmp_path, state):
    accounting(ACCOUNTING.format(state))
    (tmp_path / "job.log").write_text("first\nlast\n")
    assert slurm.ended(tmp_path, "7_0", 0.0) == Outcome("failed", f"SLURM job 7_0: {state}", "first\nlast")


@pytest.mark.parametrize("number", ["7_0", "7_1", "7_3", "8_0"])  # done, and three of which nothing is known yet
def test_files_and_accounting_may_be_late(accounting, tmp_path, number):
    accounting(ACCOUNTING.format("COMPLETED"))
    assert slurm.ended(tmp_path, number, slurm.PATIENCE - 1) is None
    assert slurm.ended(tmp_path, number, slurm.PATIENCE).state == "failed"
    (tmp_path / "metrics.json").write_text('{"score": 1}')
    (tmp_path / "job.json").write_text(json.dumps({"state": "done", "format": FORMAT}))
    assert slurm.ended(tmp_path, number, 0.0) == Outcome("done")


WORLD = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.poll=1", "trainer=ddp")


def assert_alike(two, one):
    """Several processes sum in another order."""
    ours, theirs = (json.loads((run / "metrics.json").read_text()) for run in (two, one))
    assert ours["threshold"] == pytest.approx(theirs["threshold"], rel=1e-3)
    assert ours["pixel_auroc"] == pytest.approx(theirs["pixel_auroc"], abs=1e-3)


@pytest.mark.slow
def test_two_processes_give_what_one_gives_on_two_nodes_and_after_one_was_lost(cluster, lab, tiny, parts, tmp_path):
    """Two processes on a node each, the node of which is lost after its first checkpoint; then one on each node."""
    epochs = 8  # of about a second: a node that is lost after the first one is lost before the last
    words = ("trainer.precision=32-true", f"trainer.max_epochs={epochs}")
    arguments = ("data=folder", f"data.root={parts}", *tiny, *words)
    lab(*arguments, "runs_dir=one")
    (one,) = (path.parent for path in (tmp_path / "one").rglob("metrics.json"))
    lost = [sys.executable, "-m", "anomaly_lab", "-m", *arguments, *WORLD, "trainer.devices=2", "runs_dir=lost"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with subprocess.Popen(lost, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            folder = tmp_path / "lost" / one.relative_to(tmp_path / "one")
            wait_until(lambda: (folder / "checkpoints/last.ckpt").exists(), 200)
            number = id_of(folder)
            node = queue()[number][1]
            node_is("down", node)
            other = "n2" if node == "n1" else "n1"
            wait_until(lambda: now(number) or queue().get(number) == ("RUNNING", other), 100)
            out = process.communicate(timeout=200)[0]
        finally:
            process.kill()
            node_is("resume", "n1", "n2")
    assert process.returncode == 0, out
    log = (folder / "job.log").read_text()
    assert [log.count(f"epoch {epoch + 1}/{epochs}:") for epoch in range(epochs)] == [1] * epochs, log  # it went on
    lab("-m", *arguments, *WORLD, "trainer.devices=1", "trainer.num_nodes=2", "runs_dir=both")
    for name in ("lost", "both"):
        two = tmp_path / name / one.relative_to(tmp_path / "one")
        assert json.loads((two / "environment.json").read_text())["world_size"] == 2
        assert_alike(two, one)
