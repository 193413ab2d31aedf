"""The lifecycle of a run: start, resume, fail, finish."""

import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from anomaly_lab.core.console import say
from anomaly_lab.core.distributed import is_first_process
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_json, write_whole
from anomaly_lab.core.messages import is_user_mistake
from anomaly_lab.report.html import write_report
from anomaly_lab.report.verdict import verdict
from anomaly_lab.runs.checkpoint import load_checkpoint
from anomaly_lab.runs.collect import read
from anomaly_lab.runs.folder import (
    RESULT_VERSION,
    checkpoint_to_resume,
    read_job,
    remove_empty,
    seconds_of,
    state_of,
    write_job,
)
from anomaly_lab.runs.naming import place_of, versions_of
from anomaly_lab.runs.stored import CONFIG
from anomaly_lab.tracking.loggers import RUN_ID
from anomaly_lab.training.run import fit_and_test


def run(config: DictConfig, folder: Path) -> None:
    """Train and test one configuration in its folder, or do what remains of it.

    A run that fails before it has changed a result leaves the earlier one as it was.
    """
    resolved = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    key = place_of(resolved).result_key
    state = state_of(folder, key, config.rerun)
    if state == "finished":
        say(f"already done, skipped: {folder} (rerun=true does it again)")
        return
    if state == "to test again":
        say(f"trained already, tested again from its checkpoint: {folder}")
    resume = checkpoint_to_resume(folder)
    if resume is None and is_first_process():
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of another version: must not be taken over later
    if resume and not is_whole(resume):
        say(f"{resume}: expected a whole checkpoint, found a damaged one; starting from the beginning")
        resume = None
    resume = None if config.rerun is True else resume
    if resume and state == "unfinished":
        say(f"going on from its checkpoint: {folder}")
    before, result = read_job(folder), _identity(folder)
    stored = folder / CONFIG
    earlier = stored.read_text(encoding="utf-8") if stored.is_file() else None
    earlier_seconds = spent(before, resume) if resume else 0.0
    first, started = is_first_process(), time.time()
    if first:
        if config.rerun is True:
            (folder / RUN_ID).unlink(missing_ok=True)  # a new run in W&B
        # Here, under the lock, and not by Hydra: a command that waits must change nothing of the run that it waits for.
        write_whole(stored, lambda part: part.write_text(OmegaConf.to_yaml(config), encoding="utf-8"))
        write_job(folder, "running", started=started, earlier_seconds=earlier_seconds)
        for part in folder.rglob(".*.ckpt.*"):  # of a process that was killed while it wrote
            part.unlink()
    try:
        metrics = {**fit_and_test(config, folder, resume), "result_key": key, "result_version": RESULT_VERSION}
    except BaseException as error:
        terminated = isinstance(error, SystemExit) and not error.code  # SIGTERM, as Lightning tells it
        interrupted = isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt)
        if first and result == _identity(folder) and before.get("state") == "done":
            write_json(folder / "job.json", before)  # the earlier result is whole and still there
            write_whole(stored, lambda part: part.write_text(earlier or "", encoding="utf-8"))
        elif first and is_user_mistake(error) and not checkpoint_to_resume(folder):
            remove(folder, Path(config.runs_dir).absolute())  # nothing came of it
        elif first:
            state = "interrupted" if interrupted or terminated else "failed"
            stopped = "by Ctrl-C" if interrupted else "by SIGTERM" if terminated else ""
            seconds = earlier_seconds + time.time() - started
            with suppress(UserError):  # a full disk takes no state either
                write_job(folder, state, error=stopped or f"{type(error).__name__}: {error}", seconds=seconds)
        if interrupted:  # Lightning makes a SystemExit of it
            raise KeyboardInterrupt from error
        if terminated:
            raise SystemExit(128 + signal.SIGTERM) from error
        raise
    if first:
        write_json(folder / "metrics.json", metrics)
        finished = time.time()
        times = {"started": started, "finished": finished, "seconds": earlier_seconds + finished - started}
        write_job(folder, "done", **times, versions=versions_of(resolved))
        write_page(folder)
        show(metrics, folder)


def spent(job: dict[str, Any], checkpoint: Path) -> float:
    """Seconds of the attempts at a run that this checkpoint continues; of one that was killed, up to the checkpoint."""
    earlier, began = (job.get(name) for name in ("earlier_seconds", "started"))
    if job.get("state") == "running" and isinstance(earlier, float) and isinstance(began, float):
        return earlier + max(0.0, checkpoint.stat().st_mtime - began)
    return seconds_of(job) or 0.0


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint can be read."""
    try:
        load_checkpoint(checkpoint)
    except UserError:
        return False
    return True


def _identity(folder: Path) -> list[tuple[int, int] | None]:
    """Identities of the files of weights, threshold and scores, which change when these are rewritten."""
    files = [folder / name for name in ("checkpoints/last.ckpt", "threshold.json", "scores.csv")]
    return [(path.stat().st_ino, path.stat().st_mtime_ns) if path.is_file() else None for path in files]


def remove(folder: Path, upto: Path) -> None:
    """Remove a folder, and then the empty folders above it (`remove_empty`)."""
    shutil.rmtree(folder, ignore_errors=True)  # on a network drive an open log stays until it is closed
    remove_empty(folder.parent, upto)


def write_page(folder: Path) -> None:
    """Write report.html; an error there must not cost a result that took hours."""
    try:
        write_report(folder)
    except Exception as error:
        say(f"report.html: left out ({type(error).__name__}: {error}); python -m anomaly_lab compare {folder}")


def show(metrics: dict[str, Any], folder: Path) -> None:
    """Print the verdict, the metrics, and where the rest is."""
    for sentence in verdict(read(folder, folder)):
        say(sentence)
    table = Table("metric", "value")
    for name, value in metrics.items():
        if name not in {"result_version", "result_key"}:
            table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    console = Console()
    console.print(table)
    for name, what in (
        ("pictures", "pictures"),
        ("scores.csv", "scores"),
        ("metrics.json", "metrics"),
        ("report.html", "report"),
    ):
        if (folder / name).exists():
            say(f"{what}: {folder / name}")
