"""Jobs through SLURM: submitted as arrays by submitit, then watched, or left to the cluster (`wait=false`).

A task of a job starts `python -m anomaly_lab <overrides>`, as `local` does, so a requeued job (a lost node, a time
limit, preemption) continues from the checkpoint in its run folder. A run on several devices has one task per device.
The number of the SLURM job is stored in the run folder: the same sweep again waits for queued jobs and submits the
others.
"""

import json
import os
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from anomaly_lab.core.console import say
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_json
from anomaly_lab.launch.job import LAUNCHER
from anomaly_lab.launch.jobs import Job, Outcome, command
from anomaly_lab.launch.local import TOLD, sigterm_as_exit, why
from anomaly_lab.launch.machine import THREADS
from anomaly_lab.launch.table import LOG, JobTable, last_lines
from anomaly_lab.runs.folder import is_finished

if TYPE_CHECKING:
    import submitit

RECORD = "slurm.json"  # in the run folder
IN_QUEUE = {"PENDING", "CONFIGURING", "RUNNING", "REQUEUED", "SUSPENDED", "RESIZING"}
PATIENCE = 30.0  # seconds after the end of a job until its files and its accounting are there


@dataclass(frozen=True)
class Slurm:
    """The keys of conf/hydra/launcher/slurm.yaml."""

    partition: str | None = None
    timeout_min: PositiveInt = 1440
    requeues: NonNegativeInt = 10
    gpus: bool = True
    cpus_per_task: PositiveInt = 4
    mem_gb: PositiveFloat | None = None
    jobs: PositiveInt = 64
    signal_delay_s: PositiveInt = 120
    setup: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    wait: bool = True
    poll: PositiveFloat = 5.0
    objective: str | None = None

    def execute(self, jobs: list[Job], config: DictConfig, board: JobTable) -> dict[Path, Outcome]:
        """Submit the jobs that are not in the queue, and wait for all. Ctrl-C cancels them, resumable.

        Raises UserError if SLURM or submitit is missing, or if the jobs are refused.
        """
        needs = {job.folder: self.needs(job) for job in jobs}  # refuses before anything is submitted
        ids = attached(jobs, queue() or {})
        if ids:
            say(f"{len(ids)} jobs are in SLURM's queue already")
        with sigterm_as_exit():
            try:
                self.submit([job for job in jobs if job.folder not in ids], needs, config, ids)
                if self.wait:
                    return self.watch(ids, board)
            except (KeyboardInterrupt, SystemExit):
                subprocess.run(["scancel", *ids.values()], check=False)
                say(f"\n{len(ids)} jobs of SLURM cancelled")
                raise
        arrays = sorted({number.partition("_")[0] for number in ids.values()})
        ids_text = " ".join(arrays)
        say(
            f"jobs {ids_text} of SLURM: `squeue --me` shows them, `scancel {ids_text}` cancels them, the same command "
            "with hydra.launcher.wait=true waits for them"
        )
        return {folder: Outcome("waiting") for folder in ids}

    def needs(self, job: Job) -> dict[str, Any]:
        """The resources of a job: one task per device. Raises UserError if the number of devices is not fixed."""
        trainer = job.config["trainer"]
        devices = trainer["devices"]
        if not isinstance(devices, int):
            raise UserError(
                f"trainer.devices: expected a number, because SLURM starts a task for each, found {devices}"
            )
        return {
            "nodes": trainer.get("num_nodes", 1),
            "tasks_per_node": devices,
            "gpus_per_node": devices if self.gpus and trainer["accelerator"] != "cpu" else 0,
        }

    def submit(
        self, jobs: list[Job], needs: Mapping[Path, dict[str, Any]], config: DictConfig, ids: dict[Path, str]
    ) -> None:
        """Submit jobs, one array for all with equal needs; adds their numbers to `ids` and to their run folders."""
        arrays = defaultdict(list)
        for job in jobs:
            arrays[json.dumps(needs[job.folder])].append(job)
        for array in arrays.values():
            executor = self.executor(array[0], needs[array[0].folder])
            try:
                with executor.batch():
                    tickets = [executor.submit(Task(command(job, config), job.folder)) for job in array]
            except (subprocess.CalledProcessError, RuntimeError) as error:  # submitit's own, with what sbatch said
                said = " ".join(str(error).split())
                raise UserError(f"hydra.launcher: sbatch refused the jobs: {said}") from error
            for job, ticket in zip(array, tickets, strict=True):
                ids[job.folder] = ticket.job_id
                write_json(job.folder / RECORD, {"job": ticket.job_id})

    def executor(self, job: Job, needs: dict[str, Any]) -> "submitit.AutoExecutor":
        """The submitit executor with all keys; scripts, pickles and logs are in `<runs_dir>/<name>/slurm`."""
        if not shutil.which("sbatch"):
            raise UserError("hydra/launcher: expected SLURM's sbatch on this machine for slurm, found none; try local")
        try:
            import submitit
        except ImportError:
            raise UserError("hydra/launcher: slurm needs submitit; pip install 'anomaly_lab[slurm]'") from None
        folder = Path(job.config["runs_dir"]).absolute() / job.config["name"] / "slurm"
        executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=self.requeues)
        given = {"slurm_partition": self.partition, "mem_gb": self.mem_gb}
        executor.update_parameters(
            name="anomaly_lab",
            timeout_min=self.timeout_min,
            cpus_per_task=self.cpus_per_task,
            slurm_array_parallelism=self.jobs,
            slurm_signal_delay_s=self.signal_delay_s,
            slurm_setup=list(self.setup),
            slurm_stderr_to_stdout=True,
            # A task that fails ends the others, which would wait for it; newer srun forgets the cores of its job.
            slurm_srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={self.cpus_per_task}"],
            slurm_additional_parameters={"requeue": True, **self.options},
            **{name: value for name, value in given.items() if value is not None},
            **{name: value for name, value in needs.items() if value},
        )
        return executor

    def watch(self, ids: Mapping[Path, str], board: JobTable) -> dict[Path, Outcome]:
        """Read the states of jobs until all have ended."""
        board.at_a_time = min(self.jobs, len(ids))
        outcomes: dict[Path, Outcome] = {}
        gone: dict[Path, float] = {}  # since when a job is not in the queue any more
        while len(outcomes) < len(ids):
            states = queue()
            for folder, number in ids.items():
                if folder in outcomes or states is None:
                    continue
                state, note = states.get(number, ("", ""))
                if state:
                    gone.pop(folder, None)
                    board.change(folder, "waiting" if state in {"PENDING", "REQUEUED"} else "running", note)
                elif outcome := ended(folder, number, time.monotonic() - gone.setdefault(folder, time.monotonic())):
                    outcomes[folder] = outcome
                    board.change(folder, outcome.state, outcome.note)
            if len(outcomes) < len(ids):
                time.sleep(self.poll)
        return outcomes


class Task:
    """The work of a SLURM task; submitit pickles it."""

    def __init__(self, words: list[str], folder: Path) -> None:
        self.words = words
        self.folder = folder

    def __call__(self) -> None:
        """Run the command with its output in the run folder. Raises RuntimeError if it fails."""
        self.folder.mkdir(parents=True, exist_ok=True)
        first = os.environ.get("SLURM_PROCID", "0") == "0"
        threads = dict.fromkeys(THREADS, os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        with (self.folder / LOG).open("ab") if first else nullcontext() as log:
            done = subprocess.run(
                self.words, stdin=subprocess.DEVNULL, stdout=log, stderr=log and subprocess.STDOUT, check=False,
                env={**threads, **os.environ, LAUNCHER: str(os.getpid())},
            )  # fmt: skip
        if done.returncode:
            raise RuntimeError(why(done.returncode))

    def checkpoint(self) -> Any:
        """For submitit, shortly before a time limit or at preemption: requeue the task, which resumes by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def queue() -> dict[str, tuple[str, str]] | None:
    """The jobs in the queue: number -> state, and nodes or reason for waiting; None if SLURM does not answer."""
    asked = ["squeue", "--noheader", "--array", "--format=%i|%T|%R", f"--user={os.getuid()}"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    if done.returncode:
        return None
    rows = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 2]
    return {number: (state, note.strip("()")) for number, state, note in rows}


def attached(jobs: list[Job], states: Mapping[str, tuple[str, str]]) -> dict[Path, str]:
    """The numbers of jobs submitted by an earlier sweep that are still in the queue."""
    found = {}
    for job in jobs:
        try:
            number = json.loads((job.folder / RECORD).read_text())["job"]
        except (FileNotFoundError, ValueError, KeyError):
            continue
        if states.get(number, ("", ""))[0] in IN_QUEUE:
            found[job.folder] = number
    return found


def ended(folder: Path, number: str, since: float) -> Outcome | None:
    """The outcome of a job that has left the queue; None while it is too early to say."""
    from submitit import SlurmJob

    SlurmJob.watcher.clear()
    state = SlurmJob.watcher.get_state(number, mode="force")
    if state in {"COMPLETED", "UNKNOWN", *IN_QUEUE}:  # the accounting may be late, and so may files of another machine
        if is_finished(folder):
            return Outcome("done")
        if since < PATIENCE:
            return None
    return Outcome("failed", f"SLURM job {number}: {state}", last_lines(folder / LOG, TOLD))
