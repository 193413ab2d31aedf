"""Jobs through a real SLURM of two nodes (.ci/slurm). Most are little scripts in place of a training."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from omegaconf import OmegaConf

from anomaly_lab.core.errors import UserError
from anomaly_lab.launch import slurm
from anomaly_lab.launch.jobs import Job
from anomaly_lab.launch.slurm import RECORD, Slurm, attached, queue
from anomaly_lab.launch.table import JobTable
from tests.conftest import need
from tests.launch.test_faults import results
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


def test_an_array_of_jobs_runs_and_its_end_is_read_back(run, cluster, tmp_path, capsys):
    folders = [tmp_path / name for name in ("a", "b", "c", "bad")]
    scripts = [DONE] * 3 + ["print('first'); raise SystemExit(3)"]
    outcomes = run([job(folder, script) for folder, script in zip(folders, scripts, strict=True)])
    assert [outcomes[folder].state for folder in folders] == ["done"] * 3 + ["failed"]
    ids = [id_of(folder) for folder in folders]
    assert [number.partition("_")[2] for number in ids] == ["0", "1", "2", "3"]
    assert len({number.partition("_")[0] for number in ids}) == 1
    assert outcomes[folders[3]].note == f"SLURM job {ids[3]}: FAILED"
    assert outcomes[folders[3]].last_lines == "first"
    assert at_once(folders[:3]) > 1
    environment = json.loads((folders[0] / "environment").read_text())
    assert environment["SLURM_ARRAY_JOB_ID"] == ids[0].partition("_")[0]
    assert "[4/4]" in capsys.readouterr().out


@pytest.mark.slow
def test_fewer_jobs_at_a_time(run, cluster, tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    run([job(folder) for folder in folders], jobs=1)
    assert at_once(folders) == 1


def test_a_cancelled_job_is_told(run, cluster, tmp_path):
    cancel = "import os, subprocess, time; subprocess.run(['scancel', os.environ['SLURM_JOB_ID']]); time.sleep(600)"
    (outcome,) = run([job(tmp_path / "a", cancel)]).values()
    assert outcome.state == "failed"
    assert "CANCELLED" in outcome.note


def test_what_was_submitted_is_waited_for_and_not_submitted_again(run, cluster, tmp_path, capsys):
    work = [job(tmp_path / "a", STARTS + DONE), job(tmp_path / "b", STARTS + DONE)]
    outcomes = run(work, wait=False)
    assert {outcome.state for outcome in outcomes.values()} == {"waiting"}
    ids = [id_of(tmp_path / name) for name in "ab"]
    told = capsys.readouterr().out
    assert f"`scancel {ids[0].partition('_')[0]}` cancels them" in told
    again = [*work, job(tmp_path / "c")]
    for each in again:
        each.folder.mkdir(exist_ok=True)
        (each.folder / "go").touch()
    assert {outcome.state for outcome in run(again).values()} == {"done"}
    assert "2 jobs are in SLURM's queue already" in capsys.readouterr().out
    assert [id_of(tmp_path / name) for name in "ab"] == ids
    assert [len((tmp_path / name / "starts").read_text().split()) for name in "ab"] == [1, 1]
    assert id_of(tmp_path / "c").partition("_")[0] != ids[0].partition("_")[0]


SWEEP = """
import sys
from pathlib import Path
from omegaconf import OmegaConf
from anomaly_lab.launch import slurm
from anomaly_lab.launch.sweep import Job
from anomaly_lab.launch.table import JobTable
slurm.command = lambda job, config: [sys.executable, "-c", "import time; time.sleep(600)"]
folder = Path(sys.argv[1])
config = {"trainer": {"devices": 1, "accelerator": "cpu"}, "name": "x", "runs_dir": str(folder.parent)}
with JobTable({folder: "a"}) as board:
    slurm.Slurm(cpus_per_task=1, poll=0.5).execute([Job((), "a", folder, config, 0)], OmegaConf.create(), board)
"""


def test_ctrl_c_cancels_the_jobs(cluster, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SWEEP, tmp_path / "a"], stdout=subprocess.PIPE, text=True)
    number = id_of(tmp_path / "a")
    wait_until(lambda: state_of(number) == "RUNNING")
    process.send_signal(signal.SIGINT)
    assert "1 jobs of SLURM cancelled" in process.communicate(timeout=60)[0]
    assert process.returncode == -signal.SIGINT
    wait_until(lambda: state_of(number) in {"", "COMPLETING"})


def in_background(work, tmp_path, run):
    """Submit a job and wait until it has started; its number."""
    run([work], wait=False)
    wait_until(lambda: (work.folder / "starts").exists())
    return id_of(work.folder)


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


def test_a_job_whose_time_is_over_goes_on(run, cluster, tmp_path):
    """SLURM sends SIGUSR2 before a time limit; the job is queued again, whatever its processes make of the signal."""
    work = job(tmp_path / "a", "import anomaly_lab.launch.job as job; job.end_with_launcher()\n" + STARTS + DONE)
    number = in_background(work, tmp_path, run)
    subprocess.run(["scancel", "--signal=USR2", number], check=True)
    starts_again(work, number)
    (tmp_path / "a" / "go").touch()
    assert {outcome.state for outcome in run([work]).values()} == {"done"}
    assert id_of(tmp_path / "a") == number


@pytest.mark.slow
def test_a_job_whose_node_is_lost_goes_on_elsewhere(run, cluster, tmp_path):
    work = job(tmp_path / "a", STARTS + DONE)
    number = in_background(work, tmp_path, run)
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


WORLD = ("trainer.precision=32-true", "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.poll=1")


@pytest.mark.slow
@pytest.mark.parametrize("shape", [("trainer.devices=2",), ("trainer.devices=1", "trainer.num_nodes=2")])
def test_runs_of_two_processes_give_what_one_gives(cluster, lab, tiny, parts, tmp_path, shape):
    arguments = ("data=folder", f"data.root={parts}", *tiny, "trainer.precision=32-true")
    lab(*arguments, "runs_dir=one")
    lab("-m", *arguments, *WORLD, "trainer=ddp", *shape, "runs_dir=two", "seed=0,1")
    one = next((tmp_path / "one").rglob("metrics.json"))
    two = tmp_path / "two" / one.relative_to(tmp_path / "one")
    assert json.loads((two.parent / "environment.json").read_text())["world_size"] == 2
    assert len(list((tmp_path / "two").rglob("metrics.json"))) == 2
    ours, theirs = json.loads(two.read_text()), json.loads(one.read_text())
    assert ours["threshold"] == pytest.approx(theirs["threshold"], rel=1e-3)
    assert ours["pixel_auroc"] == pytest.approx(theirs["pixel_auroc"], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "devices"), [(1, 2), (2, 1)])
def test_tasks_that_do_not_fit_the_devices_are_refused(cluster, tiny, parts, tmp_path, tasks, devices):
    words = ("data=folder", f"data.root={parts}", *tiny, "trainer=ddp", f"trainer.devices={devices}")
    done = subprocess.run(
        ["srun", f"--ntasks-per-node={tasks}", "--nodes=1", sys.executable, "-m", "anomaly_lab", *words], cwd=tmp_path,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode
    assert f"error: trainer.devices: expected a process for each of {devices} devices" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_sweep_with_a_drained_and_a_lost_node_equals_an_undisturbed_one(cluster, lab, tiny, parts, tmp_path):
    words = ("-m", "data=folder", f"data.root={parts}", *tiny, "trainer.max_epochs=4", "seed=0,1", "method=cae,ssim_ae")
    lab(*words, "runs_dir=whole", "hydra.launcher.jobs=2")
    process = subprocess.Popen(
        [sys.executable, "-m", "anomaly_lab", *words, *WORLD[1:]], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    try:
        wait_until(lambda: list((tmp_path / "runs").rglob("last.ckpt")), 300)
        node_is("drain", "n1")
        wait_until(lambda: len(list((tmp_path / "runs").rglob("last.ckpt"))) > 1, 300)
        node_is("down", "n2")
        node_is("resume", "n1")
        deadline = time.monotonic() + 500
        while process.poll() is None and time.monotonic() < deadline:
            for number, (state, _) in (queue() or {}).items():
                if state == "PENDING":
                    now(number)
            time.sleep(1)
        out = process.communicate(timeout=10)[0]
    finally:
        process.kill()
        node_is("resume", "n1", "n2")
    assert process.returncode == 0, out
    assert results(tmp_path / "runs") == results(tmp_path / "whole")
