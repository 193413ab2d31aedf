"""A job: its command, and that it does not outlive its launcher. With real processes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anomaly_lab.launch.job import LAUNCHER


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_job_ends_with_its_launcher_however_that_ends(tmp_path):
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
    command = [sys.executable, "-c", launcher, str(tmp_path / "there")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            pid = int(process.stdout.readline())
            wait_until(lambda: (tmp_path / "there").exists())
        finally:
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
