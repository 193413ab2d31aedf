"""Jobs as processes of this machine. Most are little scripts in place of a training; some are trainings."""

import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest
from omegaconf import OmegaConf

from anomaly_lab.core.errors import UserError
from anomaly_lab.launch import local
from anomaly_lab.launch.jobs import Job
from anomaly_lab.launch.local import Gpus, Local
from anomaly_lab.launch.machine import visible_gpus
from anomaly_lab.launch.table import JobTable
from anomaly_lab.runs.folder import FORMAT
from tests.launch.test_job import is_running, wait_until

DONE = f"""
import json, os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
begin = time.time()
(folder / "environment").write_text(json.dumps(dict(os.environ)))
time.sleep(0.4)
(folder / "metrics.json").write_text('{{"score": 1}}')
(folder / "job.json").write_text(json.dumps({{"state": "done", "format": {FORMAT}}}))
(folder / "times").write_text(f"{{begin}} {{time.time()}}")
"""


def job(folder, script=DONE, devices=1, accelerator="cpu"):
    trainer = {"devices": devices, "accelerator": accelerator}
    return Job((script,), folder.name, folder, {"trainer": trainer}, 0)


@pytest.fixture
def run(monkeypatch):
    """Run jobs whose only word is a script."""
    monkeypatch.setattr(local, "command", lambda job, config: [sys.executable, "-c", *job.words, str(job.folder)])

    def execute(work, **keys):
        with JobTable({each.folder: each.label for each in work}) as board:
            return Local(**keys).execute(work, OmegaConf.create(), board)

    return execute


def at_once(folders):
    """The most jobs that ran at one moment."""
    times = [[float(part) for part in (folder / "times").read_text().split()] for folder in folders]
    return max(sum(begin <= moment < end for begin, end in times) for moment, _ in times)


def environment(folder):
    return json.loads((folder / "environment").read_text())


@pytest.mark.parametrize(("jobs", "most"), [("auto", 1), (2, 2)])
def test_so_many_jobs_at_a_time_with_one_thread_each(run, tmp_path, monkeypatch, jobs, most):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("SLURM_PROCID", "1")
    folders = [tmp_path / str(number) for number in range(3)]
    outcomes = run([job(folder) for folder in folders], jobs=jobs)
    assert [outcomes[folder].state for folder in folders] == ["done"] * 3
    assert at_once(folders) == most
    seen = environment(folders[0])
    assert (seen["OMP_NUM_THREADS"], seen["NUMBA_NUM_THREADS"]) == ("1", "1")
    assert not {"SLURM_PROCID", "CUDA_VISIBLE_DEVICES"} & set(seen)


def test_threads_can_be_set(run, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run([job(tmp_path / "a")], threads=3)
    assert environment(tmp_path / "a")["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    run([job(tmp_path / "a")], threads=3)
    assert environment(tmp_path / "a")["OMP_NUM_THREADS"] == "2"


@pytest.fixture
def three_gpus(tmp_path, monkeypatch):
    """A machine whose nvidia-smi lists three GPUs."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nfor i in 0 1 2; do echo "GPU $i: Some Card (UUID: GPU-x$i)"; done\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_gpus_are_counted_without_torch(three_gpus, monkeypatch):
    assert visible_gpus() == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-abc")
    assert visible_gpus() == ["2", "GPU-abc"]
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert visible_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", "")
    assert visible_gpus() == []


def test_every_job_has_gpus_of_its_own(run, three_gpus, tmp_path):
    folders = [tmp_path / str(number) for number in range(4)]
    run([job(folder, accelerator="auto") for folder in folders])
    seen = [environment(folder)["CUDA_VISIBLE_DEVICES"] for folder in folders]
    assert seen[:3] == ["0", "1", "2"]
    assert seen[3] in {"0", "1", "2"}
    assert at_once(folders) == 3


def test_a_job_of_two_devices_takes_two_gpus(run, three_gpus, tmp_path):
    folders = [tmp_path / str(number) for number in range(3)]
    devices = (2, 2, 1)
    run([job(folder, devices=count, accelerator="gpu") for folder, count in zip(folders, devices, strict=True)])
    seen = [environment(folder)["CUDA_VISIBLE_DEVICES"].split(",") for folder in folders]
    assert [len(names) for names in seen] == [2, 2, 1]
    assert all(len(set(names)) == len(names) for names in seen)
    assert at_once(folders[:2]) == 1  # three GPUs are not enough for four


def test_small_networks_share_a_gpu(run, three_gpus, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    folders = [tmp_path / str(number) for number in range(4)]
    run([job(folder, accelerator="auto") for folder in folders], jobs_per_gpu=2)
    assert {environment(folder)["CUDA_VISIBLE_DEVICES"] for folder in folders} == {"1"}
    assert at_once(folders) == 2


def test_gpus_fill_evenly():
    gpus = Gpus(["a", "b"], 2)
    taken = [gpus.take(1) for _ in range(5)]
    assert sorted(map(str, taken[:2])) == ["['a']", "['b']"]
    assert taken[4] is None
    gpus.give_back(["b"])
    assert gpus.take(2) is None
    assert gpus.take(1) == ["b"]


def test_what_the_gpus_cannot_give_is_refused_before_the_start(run, three_gpus, tmp_path):
    for devices, message in ((4, "expected at most 3, the GPUs that are there, found 4"), ([1], r"found \[1\]")):
        with pytest.raises(UserError, match=f"trainer.devices: expected .*{message}|{message}"):
            run([job(tmp_path / "a", accelerator="auto"), job(tmp_path / "b", devices=devices, accelerator="auto")])
    assert not (tmp_path / "a").exists()


def test_a_failed_job_stops_no_other_and_leaves_its_last_lines(run, tmp_path):
    scripts = {
        "code": "print('first'); raise SystemExit(3)",
        "removed": "import shutil, sys; print('told'); shutil.rmtree(sys.argv[1]); raise SystemExit('error: why')",
        "killed": "import os; os.kill(os.getpid(), 9)",
        "silent": "print('no result')",
        "good": DONE,
    }
    outcomes = run([job(tmp_path / name, script) for name, script in scripts.items()], jobs=2)
    told = {folder.name: outcome for folder, outcome in outcomes.items()}
    assert [told[name].state for name in scripts] == ["failed"] * 4 + ["done"]
    assert (told["code"].note, told["code"].last_lines) == ("exit code 3", "first")
    assert told["removed"].last_lines.splitlines() == ["told", "error: why"]
    assert told["killed"].note.startswith("killed (signal 9)")
    assert told["silent"].note == "ended without a result"


def test_the_log_goes_on_where_it_was(run, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "job.log").write_text("earlier\n")
    outcome = run([job(tmp_path / "a", "raise SystemExit('now')")])[tmp_path / "a"]
    assert outcome.last_lines == "now"
    first, start, last = (tmp_path / "a" / "job.log").read_text().splitlines()
    assert (first, last) == ("earlier", "now")
    assert "-c raise SystemExit" in start


SWEEP = """
import sys
from pathlib import Path
from omegaconf import OmegaConf
from anomaly_lab.core.console import print_messages
from anomaly_lab.launch import local
print_messages()
from anomaly_lab.launch.sweep import Job
from anomaly_lab.launch.table import JobTable
script, root = sys.argv[1], Path(sys.argv[2])
local.command = lambda job, config: [sys.executable, "-c", script, str(job.folder)]
config = {"trainer": {"devices": 1, "accelerator": "cpu"}}
jobs = [Job((), name, root / name, config, 0) for name in "abc"]
with JobTable({job.folder: job.label for job in jobs}) as board:
    local.Local(jobs=2).execute(jobs, OmegaConf.create(), board)
"""
GENTLE = (
    "import pathlib, sys, time, os\nfolder = pathlib.Path(sys.argv[1])\n(folder / 'pid').write_text(str(os.getpid()))\n"
)
GENTLE += "try:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    (folder / 'state').write_text('interrupted')\n"
DEAF = (
    "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    + GENTLE
)


@pytest.fixture
def sweeping(tmp_path):
    """A launcher in a process of its own with two of three jobs at work; its jobs end with the test."""
    started = []

    def begin(script):
        process = subprocess.Popen(
            [sys.executable, "-c", SWEEP, script, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        started.append(process)
        wait_until(lambda: all((tmp_path / name / "pid").exists() for name in "ab"))
        wait_until(lambda: all((tmp_path / name / "pid").read_text() for name in "ab"))
        return process, [int((tmp_path / name / "pid").read_text()) for name in "ab"]

    yield begin
    for process in started:
        process.kill()
        process.communicate()
    for pid in (int(path.read_text()) for path in tmp_path.glob("*/pid")):
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("what", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, -signal.SIGINT, marks=pytest.mark.slow)]
)
def test_ctrl_c_stops_the_jobs_gently(sweeping, tmp_path, what, code):
    process, pids = sweeping(GENTLE)
    process.send_signal(what)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == code
    assert "stopping 2 jobs; ctrl-C again kills them" in out
    assert [(tmp_path / name / "state").read_text() for name in "ab"] == ["interrupted"] * 2
    assert not (tmp_path / "c").exists()
    assert not any(map(is_running, pids))


def test_ctrl_c_twice_kills_them(sweeping, tmp_path):
    process, pids = sweeping(DEAF)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert all(map(is_running, pids))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    wait_until(lambda: not any(map(is_running, pids)))


@pytest.mark.slow
def test_the_job_of_a_real_sweep_is_the_run_that_a_single_start_would_be(lab, tiny, parts, tmp_path):
    tiny = [word for word in tiny if "epochs" not in word]  # a method without a gradient has none
    words = ("data=folder", f"data.root={parts}", "data.category=bar", "method=variation_model", *tiny)
    done = lab("-m", *words, "seed=3")
    assert "1 jobs: 1 to start" in done.stdout
    assert "1 done after" in done.stdout
    (result,) = (tmp_path / "runs").rglob("metrics.json")
    assert result.parts[-4:-2] == ("bar", "seed=3")
    assert lab(*words, "seed=3").stdout.startswith("already done, skipped:")


def test_a_mistake_in_one_of_many_starts_nothing(lab, tiny, parts, tmp_path):
    done = lab("-m", "data=folder", f"data.root={parts}", "method=cae", *tiny, "seed=0,1,-1", code=1)
    assert done.stdout == ""
    assert done.stderr.startswith(
        "error: seed: expected a number greater than or equal to 0, found -1 (in the job seed=-1"
    )
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    mistyped = lab("-m", "data=folder", f"data.root={parts}", *tiny, "seed=0,1", "hydra.launcher.jobs=none", code=1)
    assert mistyped.stderr.startswith("error: hydra.launcher.jobs: expected ")


def test_several_processes_a_run_need_a_launcher_of_ours(lab, tiny, parts, tmp_path):
    words = ("data=folder", f"data.root={parts}", *tiny, "trainer=ddp", "trainer.devices=2", "seed=0,1")
    done = lab("-m", *words, "hydra/launcher=basic", code=1)
    assert done.stderr.splitlines()[-1].startswith(
        "error: hydra/launcher: expected local or slurm for several processes"
    )
    assert "found BasicLauncher" in done.stderr
