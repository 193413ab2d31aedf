"""The folder of a run: where it lies, whether it is finished, and files that are never half-written."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anomaly_lab.core.files import write_json

RESULT_VERSION = 2  # raise it when the code changes what a given configuration results in


def is_finished(folder: Path) -> bool:
    """Whether the folder holds the result of this version of the program."""
    states = (read_job(folder).get("state"), _read(folder / "metrics.json").get("result_version"))
    return states == ("done", RESULT_VERSION)


def checkpoint_to_resume(folder: Path) -> Path | None:
    """The checkpoint from which an unfinished run of this version goes on."""
    checkpoint = folder / "checkpoints" / "last.ckpt"
    return checkpoint if checkpoint.is_file() and read_job(folder).get("result_version") == RESULT_VERSION else None


def state_of(folder: Path, rerun: bool = False) -> str:
    """What is left to do for a run: nothing, all of it, or the rest from its checkpoint."""
    if is_finished(folder):
        return "to do again" if rerun else "finished"
    return "unfinished" if checkpoint_to_resume(folder) else "to start"


def read_job(folder: Path) -> dict[str, Any]:
    """What `job.json` says: state running, done or failed, and with which version; empty before the first run."""
    return _read(folder / "job.json")


def _read(path: Path) -> dict[str, Any]:
    """A JSON file that is whole; nothing else counts."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_job(folder: Path, state: str, **details: Any) -> None:
    """Write `job.json`."""
    write_json(folder / "job.json", {"state": state, "result_version": RESULT_VERSION, **details})


def write_threshold(folder: Path, threshold: dict[str, Any]) -> None:
    """Put a threshold at the end of `threshold.json`: the last one counts, the earlier ones stay."""
    entry = {**threshold, "drawn": datetime.now(UTC).isoformat(timespec="seconds")}
    write_json(folder / "threshold.json", [*read_thresholds(folder), entry])


def read_thresholds(folder: Path) -> list[dict[str, Any]]:
    """The thresholds of a run, oldest first."""
    path = folder / "threshold.json"
    return json.loads(path.read_text()) if path.is_file() else []
