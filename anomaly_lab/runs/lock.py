"""The lock of a run folder: one process at a time."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anomaly_lab.core.console import say
from anomaly_lab.core.distributed import is_first_process
from anomaly_lab.core.lock import is_held, lock
from anomaly_lab.runs.folder import is_finished

LOCK = ".lock"
POLL = 0.2  # seconds


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder; while another process holds it, name that process and wait.

    Of the processes of one run, the first holds the lock for all.
    """
    if not is_first_process():
        follow(folder)
        yield
        return

    def wait(holder: str) -> None:
        say(f"{folder}: {holder or 'another process'} is working on this run; waiting until it ends")

    with lock(folder / LOCK, wait) as file:
        file.write(f"process {os.getpid()} on {socket.gethostname()} {step()}".rstrip())
        file.flush()
        yield


def is_left(folder: Path) -> bool:
    """Whether the process that held a run folder was killed: a lock file of this host that no process holds.

    False for lock files of other hosts, of which nothing is known.
    """
    try:
        holder = (folder / LOCK).read_text()
    except FileNotFoundError:
        return False
    return f" on {socket.gethostname()} " in f"{holder} " and not is_held(folder / LOCK)


def step() -> str:
    """The SLURM step of this process, the same for all its tasks; empty without SLURM."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return "step " + ".".join(os.environ.get(name, "0") for name in names) if "SLURM_STEP_ID" in os.environ else ""


def follow(folder: Path) -> None:
    """In a SLURM task other than the first: wait until the first holds the folder or the run is finished.

    Processes started by Lightning need not wait.
    """
    if "LOCAL_RANK" in os.environ or not step():
        return
    while not is_finished(folder):
        try:
            if (folder / LOCK).read_text().endswith(f" {step()}"):
                return
        except FileNotFoundError:
            pass
        time.sleep(POLL)
