"""One process a run folder, and processes that do not outlive their launcher. With real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anomaly_lab.core.files import write_json
from anomaly_lab.launch.job import LAUNCHER
from anomaly_lab.runs.folder import RESULT_VERSION, write_job
from anomaly_lab.runs.lock import LOCK, exclusive, follow, step

HOLD = """
import sys, time
from pathlib import Path
from anomaly_lab.core.console import print_messages
from anomaly_lab.runs.lock import exclusive
print_messages()
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
with exclusive(folder):
    print("in", flush=True)
    log = folder.parent / "log"
    with log.open("a") as file:
        file.write("in\\n")
    time.sleep(seconds)
    with log.open("a") as file:
        file.write("out\\n")
"""


@pytest.fixture
def start():
    """Start Python code in a process of its own, which does not outlive the test."""
    started = []

    def run(code, *arguments, **environment):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_process_waits_says_for_whom_and_nothing_is_left(start, tmp_path):
    folder = tmp_path / "run"
    first = start(HOLD, folder, 1.0)
    assert first.stdout.readline() == "in\n"
    others = [start(HOLD, folder, 0.0) for _ in range(3)]
    told = [process.communicate(timeout=60)[0].splitlines() for process in others]
    assert f"{folder}: process {first.pid} on {os.uname().nodename} is at this run; waiting until it ends" in told[0]
    assert all("waiting until it ends" in lines[0] and lines[-1] == "in" for lines in told)
    first.wait(timeout=60)
    assert (tmp_path / "log").read_text().split() == ["in", "out"] * 4
    assert list(folder.iterdir()) == []


def test_a_killed_process_leaves_the_folder_free(start, tmp_path):
    holder = start(HOLD, tmp_path / "run", 600)
    assert holder.stdout.readline() == "in\n"
    holder.kill()
    holder.wait()
    assert (tmp_path / "run" / LOCK).exists()
    assert start(HOLD, tmp_path / "run", 0).communicate(timeout=60)[0] == "in\n"


def test_a_folder_that_its_holder_removes_is_held_anew(start, tmp_path):
    """Those who waited hold the file that is there, not the one that is gone: they take turns still."""
    remove = HOLD.replace("time.sleep(seconds)", "time.sleep(seconds); import shutil; shutil.rmtree(folder)")
    first = start(remove, tmp_path / "run", 1.0)
    assert first.stdout.readline() == "in\n"
    others = [start(HOLD, tmp_path / "run", 0.3) for _ in range(3)]
    assert [process.wait(timeout=60) for process in [first, *others]] == [0] * 4
    assert (tmp_path / "log").read_text().split() == ["in", "out"] * 4


def test_a_mistake_inside_opens_the_lock(tmp_path):
    def fail():
        with exclusive(tmp_path):
            raise RuntimeError((tmp_path / LOCK).read_text())

    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"^process {os.getpid()} on {os.uname().nodename}$"):
            fail()
        assert list(tmp_path.iterdir()) == []


def test_other_tasks_of_slurm_wait_for_the_first(start, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert step() == "step 7.0.0"
    other = start(HOLD, tmp_path / "run", 0.0, SLURM_PROCID="1")
    with exclusive(tmp_path / "run"):
        assert other.communicate(timeout=60)[0] == "in\n"
    of_another_job = start(HOLD, tmp_path / "run", 0.0, SLURM_PROCID="1", SLURM_JOB_ID="8")
    with exclusive(tmp_path / "run"):
        with pytest.raises(subprocess.TimeoutExpired):
            of_another_job.wait(timeout=2)
        write_json(tmp_path / "run" / "metrics.json", {"result_version": RESULT_VERSION})
        write_job(tmp_path / "run", "done")  # the first task of that job skips it, so do the others
        assert of_another_job.communicate(timeout=60)[0] == "in\n"


def test_processes_that_lightning_starts_do_not_wait(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    follow(tmp_path / "nowhere")
    with exclusive(tmp_path / "nowhere"):
        assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_job_ends_with_its_launcher_however_that_ends(start, tmp_path):
    job = (
        "import sys, time, pathlib; from anomaly_lab.launch.job import end_with_launcher; end_with_launcher();"
        "pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"
    )
    launcher = (
        "import os, subprocess, sys, time\n"
        f"process = subprocess.Popen([sys.executable, '-c', {job!r}, sys.argv[1]], env={{**os.environ, {LAUNCHER!r}: "
        "str(os.getpid())})\n"
        "print(process.pid, flush=True); time.sleep(600)"
    )
    process = start(launcher, tmp_path / "there")
    pid = int(process.stdout.readline())
    wait_until(lambda: (tmp_path / "there").exists())
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not is_running(pid))


def is_running(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
