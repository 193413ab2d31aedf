"""The lock of a run folder: one process at a time."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from anomaly_lab.core.console import say
from anomaly_lab.core.distributed import is_first_process
from anomaly_lab.runs.folder import is_finished

LOCK = ".lock"
POLL = 0.2  # seconds


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a run folder; wait, and say for whom, while another process does.

    The kernel opens the lock when its holder ends, however it ends; a lock that is the existence of a file would stay
    behind after SIGKILL. Of the processes of one run the first holds it for all.
    """
    if not is_first_process():
        follow(folder)
        yield
        return
    with locked(folder) as file:
        file.write(f"process {os.getpid()} on {socket.gethostname()} {step()}".rstrip())
        file.flush()
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)  # still held: those who wait see that it is not the file any more


@contextmanager
def locked(folder: Path) -> Iterator[IO[str]]:
    """The lock file of a folder, empty and locked."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = (folder / LOCK).open("a+")
        except FileNotFoundError:  # the folder was removed in this very moment
            continue
        with file:
            lock(file, folder)
            if same(file, folder / LOCK):
                file.truncate(0)
                yield file
                return


def lock(file: IO[str], folder: Path) -> None:
    """Lock a file; on a file system without locks do nothing."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read() or "another process"
        say(f"{folder}: {holder} is at this run; waiting until it ends")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        say(f"{folder}: cannot be locked ({error}); do not start the same run twice")


def is_left(folder: Path) -> bool:
    """Whether the process that held a run folder was killed: its lock lies there and nobody of this host holds it.

    Of what another host holds nothing is known.
    """
    try:
        with (folder / LOCK).open() as file:
            if f" on {socket.gethostname()} " not in f"{file.read()} ":
                return False
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except OSError:  # no lock, or held
        return False


def same(file: IO[str], path: Path) -> bool:
    """Whether a path still leads to the open file: the holder before may have removed it with its folder."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def step() -> str:
    """The SLURM step that this process is part of, the same for all its tasks; empty without SLURM."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return "step " + ".".join(os.environ.get(name, "0") for name in names) if "SLURM_STEP_ID" in os.environ else ""


def follow(folder: Path) -> None:
    """In a task of SLURM that is not the first: wait until the first holds the folder, or has found the run finished.

    Processes that Lightning starts come after that by themselves.
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
