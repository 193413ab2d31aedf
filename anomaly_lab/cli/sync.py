"""`python -m anomaly_lab sync`: upload the W&B runs that were recorded offline.

Neither torch nor wandb is imported before it is needed, so that mistakes are answered at once.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.lock import lock
from anomaly_lab.tracking.service import obstacle, remedy

USAGE = "python -m anomaly_lab sync [FOLDER]"
HELP = f"""\
usage: {USAGE}
  FOLDER: where to look for wandb/offline-run-* (default: runs/); each run is uploaded once; run it again to continue
"""
LOCK = ".sync.lock"  # in the folder of an offline run
UPLOAD_SECONDS = 3600.0
# wandb retries for hours by default; here the run is listed as failed and the next call tries it again
RETRIES = {
    "WANDB__GRAPHQL_RETRY_MAX": "3",
    "WANDB__FILE_STREAM_RETRY_MAX": "3",
    "WANDB__FILE_TRANSFER_RETRY_MAX": "3",
}


class ServiceLostError(UserError):
    """The service is lost: the next run would fail too."""


def main(arguments: list[str]) -> None:
    """Upload the offline runs below a folder; failed ones are listed at the end, with exit code 1.

    Raises UserError without offline runs, without a key, without an answer, and for runs that could not be uploaded.
    """
    if {"--help", "-h"} & set(arguments):
        print(HELP, end="")
        return
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        raise UserError(f"sync: expected {USAGE}, found {' '.join(arguments)!r}")
    folder = Path(arguments[0] if arguments else "runs").expanduser()
    runs = find(folder)
    waiting = [run for run in runs if not is_uploaded(run)]
    if not waiting:
        print(f"{len(runs)} offline runs below {folder}, all uploaded already")
        return
    if reason := obstacle():
        raise UserError(f"sync: nothing uploaded, {len(waiting)} offline runs wait: {reason}{remedy(reason)}")
    upload_all(waiting, wandb_sync)


def find(folder: Path) -> list[Path]:
    """The offline runs below a folder, sorted by their start. Raises UserError if there are none."""
    runs = [run for run in folder.resolve().rglob("offline-run-*") if run.parent.name == "wandb" and run.is_dir()]
    if not runs:
        raise UserError(f"sync: expected offline W&B runs (wandb/offline-run-*) below {folder}, found none")
    return sorted(runs, key=lambda run: (run.name, run))


def is_uploaded(run: Path) -> bool:
    """Whether wandb has marked the run as synced, which it does only after a complete upload."""
    return any(run.glob("*.wandb.synced"))


def upload_all(runs: list[Path], upload: Callable[[Path], None]) -> None:
    """Upload runs one by one with a function that uploads and marks a run; continue after a failure.

    Raises UserError at the end with the runs that could not be uploaded, and why. A ServiceLostError ends the loop.
    """
    from rich.progress import track

    failed: list[str] = []
    uploaded = elsewhere = 0
    lost = ""
    for run in track(runs, "uploading", transient=True):
        try:
            with lock(run / LOCK, None) as file:
                if is_uploaded(run):  # since the runs were listed
                    elsewhere += 1
                    continue
                os.set_inheritable(file.fileno(), True)  # an upload that survives a killed `sync` still holds the lock
                upload(run)
                uploaded += 1
        except BlockingIOError:
            elsewhere += 1
        except ServiceLostError as error:
            lost = str(error)
            break
        except (UserError, OSError) as error:
            failed.append(f"{run}: {error}")
    print(f"{uploaded} offline runs uploaded" + (f", {elsewhere} by another call" if elsewhere else ""))
    left = len(runs) - uploaded - elsewhere
    if lost:
        failed.append(f"{lost}, {left - len(failed)} runs were left")
    if failed:
        raise UserError(
            f"sync: {left} of {len(runs)} runs not uploaded, the same command tries them again: {'; '.join(failed)}"
        )


def wandb_sync(run: Path) -> None:
    """Upload a run by wandb's own command.

    Raises UserError with the message of wandb, ServiceLostError if the service does not answer any more.
    """
    environment = {
        **RETRIES, **os.environ, "WANDB_MODE": "online", "WANDB_SILENT": "false",
        "WANDB_DIR": str(run.parent.parent),  # its own log: not in the folder where the command was typed
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-m", "wandb", "sync", str(run)], env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
            timeout=UPLOAD_SECONDS, close_fds=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UserError(f"not finished after {UPLOAD_SECONDS:.0f} s") from None
    if is_uploaded(run):  # the exit code is 0 even where the key was rejected
        return
    if reason := obstacle():
        raise ServiceLostError(reason)
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    message = next((line for line in lines if "ERROR" in line), lines[-1] if lines else "nothing")
    raise UserError(f"wandb said {message.removeprefix('wandb: ERROR ')!r} (exit code {done.returncode})")
