"""Jobs as processes on this machine: several at a time, each with its own GPUs and CPU threads.

A job must not outlive its launcher, or a second start of the sweep would run beside the first. Ctrl-C and SIGTERM are
passed on, and a job asks the kernel for SIGTERM in case its launcher is killed (job.py). On systems without that, the
lock of the run folder makes the second start wait.
"""

import os
import signal
import subprocess
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from omegaconf import DictConfig
from pydantic import PositiveInt

from anomaly_lab.core.console import say
from anomaly_lab.core.errors import UserError
from anomaly_lab.launch.job import LAUNCHER
from anomaly_lab.launch.jobs import Job, Outcome, command
from anomaly_lab.launch.machine import THREADS, cores, visible_gpus
from anomaly_lab.launch.table import LOG, JobTable, lines_at_end
from anomaly_lab.runs.folder import is_finished

POLL = 0.05  # seconds between two looks at the processes
GRACE = 60.0  # seconds to write a state and end, after ctrl-C
TOLD = 12  # lines of a failed job


@dataclass(frozen=True)
class Local:
    """The keys of conf/hydra/launcher/local.yaml."""

    jobs: PositiveInt | Literal["auto"] = "auto"
    jobs_per_gpu: PositiveInt = 1
    threads: PositiveInt | Literal["auto"] = "auto"
    objective: str | None = None

    def execute(self, jobs: list[Job], config: DictConfig, board: JobTable) -> dict[Path, Outcome]:
        """Run the jobs. Ctrl-C and SIGTERM stop them, resumable, and are passed on.

        Raises UserError before the first job starts, where one wants other GPUs than there are.
        """
        names = visible_gpus() if any(job.config["trainer"]["accelerator"] != "cpu" for job in jobs) else []
        gpus = Gpus(names, self.jobs_per_gpu)
        wanted = {job.folder: gpus_of(job, len(names)) for job in jobs}
        on_gpu = any(wanted.values())
        at_a_time = self.jobs if self.jobs != "auto" else gpus.places if on_gpu else 1
        board.at_a_time = min(at_a_time, len(jobs))
        threads = self.threads if self.threads != "auto" else max(cores() // board.at_a_time, 1) if on_gpu else 1
        waiting, running, outcomes = deque(jobs), list[Process](), dict[Path, Outcome]()
        with sigterm_as_exit():
            try:
                while waiting or running:
                    while waiting and len(running) < at_a_time:
                        if (mine := gpus.take(wanted[waiting[0].folder])) is None:
                            break
                        job = waiting.popleft()
                        running.append(start(job, config, mine, threads))
                        board.change(job.folder, "running")
                    time.sleep(POLL)
                    for process in [process for process in running if process.process.poll() is not None]:
                        running.remove(process)
                        gpus.give_back(process.gpus)
                        outcomes[process.job.folder] = outcome = ended(process)
                        board.change(process.job.folder, outcome.state, outcome.note)
            except BaseException:
                stop(running)
                raise
        return outcomes


class Process(NamedTuple):
    """A running job."""

    job: Job
    process: subprocess.Popen
    log: BinaryIO
    begin: int  # where in the log this start begins
    gpus: list[str]


class Gpus:
    """The GPUs for jobs, with `jobs_per_gpu` jobs on each."""

    def __init__(self, names: list[str], jobs_per_gpu: int) -> None:
        self.names = names
        self.places = len(names) * jobs_per_gpu
        self._free = Counter(dict.fromkeys(names, jobs_per_gpu))

    def take(self, count: int) -> list[str] | None:
        """`count` different GPUs, the least used ones; None while there are not enough."""
        chosen = [name for name, free in self._free.most_common() if free > 0][:count]
        if len(chosen) < count:
            return None
        self._free.subtract(chosen)
        return chosen

    def give_back(self, names: list[str]) -> None:
        """Release the GPUs of an ended job."""
        self._free.update(names)


def gpus_of(job: Job, there: int) -> int:
    """The number of GPUs of a job. Raises UserError if there are not as many."""
    devices, accelerator = job.config["trainer"]["devices"], job.config["trainer"]["accelerator"]
    if isinstance(devices, list):
        raise UserError(
            "trainer.devices: expected a number, because a sweep chooses among the GPUs (of CUDA_VISIBLE_DEVICES), "
            f"found {devices}"
        )
    if accelerator in {"cpu", "mps", "tpu"} or not there:
        return 0
    if devices != "auto" and devices > there:
        raise UserError(f"trainer.devices: expected at most {there}, the GPUs that are there, found {devices}")
    return there if devices == "auto" else devices


def start(job: Job, config: DictConfig, gpus: list[str], threads: int) -> Process:
    """Start a job in its own process group, so that ctrl-C reaches only the launcher and is passed on once."""
    words = command(job, config)
    job.folder.mkdir(parents=True, exist_ok=True)
    log = (job.folder / LOG).open("ab+", buffering=0)
    log.write(f"{time.strftime('%F %T')} {' '.join(words)}\n".encode())
    begin = os.fstat(log.fileno()).st_size
    ours = {
        name: value for name, value in os.environ.items() if not name.startswith("SLURM_")
    }  # it is no task of SLURM
    environment = {**dict.fromkeys(THREADS, str(threads)), **ours, LAUNCHER: str(os.getpid())}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment, process_group=0
    )
    return Process(job, process, log, begin, gpus)


def ended(process: Process) -> Outcome:
    """The outcome of an ended process: its exit code, checked against its folder, and its last lines."""
    code = process.process.returncode
    with process.log:  # open since the start: a run that failed early has removed its folder, and the log with it
        lines = lines_at_end(process.log.fileno(), TOLD, process.begin)
    if code == 0 and is_finished(process.job.folder):
        return Outcome("done")
    send([process], signal.SIGKILL)  # other processes of the run, which wait for the one that is gone
    return Outcome("failed", why(code), lines)


def why(code: int) -> str:
    """An exit code in words."""
    if code < 0:
        return f"killed (signal {-code}); it goes on where it was"
    if code == 128 + signal.SIGTERM:
        return "ended from outside (SIGTERM); it goes on where it was"
    return f"exit code {code}" if code else "ended without a result"


def stop(running: list[Process]) -> None:
    """Let the jobs write their state and end; kill them after GRACE seconds or at a second ctrl-C."""
    if running:
        say(f"\nstopping {len(running)} jobs; ctrl-C again kills them")
    send(running, signal.SIGINT)
    end = time.monotonic() + GRACE
    try:
        while any(process.process.poll() is None for process in running) and time.monotonic() < end:
            time.sleep(POLL)
    except BaseException:  # the second ctrl-C, or SIGTERM after it: what is killed is resumable too
        pass
    finally:
        send(running, signal.SIGKILL)
        for process in running:
            process.process.wait()
            process.log.close()


def send(running: list[Process], what: signal.Signals) -> None:
    """Send a signal to the jobs and all their child processes."""
    for process in running:
        with suppress(ProcessLookupError):
            os.killpg(process.process.pid, what)


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Make SIGTERM end the sweep as ctrl-C does, with its own exit code."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
