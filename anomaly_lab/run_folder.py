"""The folder of a run: where it lies, whether it is finished, and files that are never half-written."""

import csv
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from anomaly_lab.errors import UserError, full_disk

RESULT_VERSION = 2  # raise it when the code changes what a given configuration results in
CSV: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}  # names of files may be no UTF-8
# What can differ without changing a result: places, names, hardware. The data itself enters by its fingerprint.
NO_RESULT = {
    # what `budget` sets counts where it is used
    "": {"name", "runs_dir", "rerun", "dry_run", "logger", "run_folder", "hydra", "checkpoint", "budget"},
    "data": {"root", "workers", "cache", "cache_dir", "categories", "layout", "name", "category", "decoding"},
    "callbacks": {"checkpoint", "progress", "budget", "epoch_lines", "curves", "gallery"},  # the last two only look
    "datamodule": {"splits", "workers", "cache", "cache_dir"},
    "trainer": {"accelerator", "devices", "num_nodes", "strategy"},
}


def is_first_process() -> bool:
    """Whether this process writes the run's files: the only one, or rank 0 of several."""
    return os.environ.get("LOCAL_RANK", "0") == os.environ.get("SLURM_PROCID", "0") == "0"


def run_folder(config: dict[str, Any], data_fingerprint: str) -> Path:
    """`<runs_dir>/<name>/<method>/<dataset>/<category>/seed=<n>/<hash>` for a resolved configuration."""
    kept = _without(NO_RESULT[""], config)
    for section in ("data", "trainer", "callbacks"):
        kept[section] = _without(NO_RESULT[section], config[section])
    kept["method"] = by_content(config["method"])
    kept["data"]["datamodule"] = _without(NO_RESULT["datamodule"], config["data"]["datamodule"])
    text = json.dumps([kept, data_fingerprint], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    data = config["data"]
    where = (config["name"], config["method"]["name"], data["name"], data["category"], f"seed={config['seed']}")
    return Path(config["runs_dir"]).absolute().joinpath(*where, digest)


def by_content(node: Any) -> Any:
    """The same configuration with the SHA-256 of each file of `weights` in place of its name."""
    if not isinstance(node, dict):
        return node
    changed = {key: by_content(value) for key, value in node.items()}
    weights = node.get("weights")
    if isinstance(weights, str) and (path := Path(weights).expanduser()).is_file():
        changed["weights"] = _digest(path, path.stat().st_size, path.stat().st_mtime_ns)
    return changed


@cache
def _digest(path: Path, *_identity: int) -> str:
    """SHA-256 of a file, read once for all jobs of a sweep."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _without(names: set[str], mapping: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in names}


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


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all; null for what is no finite number."""
    text = json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda part: part.write_text(text))


def _finite(value: Any) -> Any:
    """What is no number becomes null: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file, whole or not at all."""

    def write(part: Path) -> None:
        with part.open("w", newline="", **CSV) as file:
            csv.writer(file).writerows([header, *rows])

    write_whole(path, write)


@contextmanager
def growing_csv(path: Path, header: Sequence[str]) -> Iterator[Callable[[Sequence[Any]], None]]:
    """Write a CSV file row by row, as `<name>.part`, which gets its name when it is whole.

    What ends early, in whatever way, leaves the rows that it has written as `<name>.part`, and an older file as it was.
    Raises UserError where nothing can be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError as error:
        raise UserError(f"expected a folder that can be written, found {path.parent} ({error.strerror})") from error

    def write(row: Sequence[Any]) -> None:
        try:
            rows.writerow(row)
        except OSError as error:
            if told := full_disk(error, part):
                raise told from error
            raise

    with part.open("w", newline="", buffering=1, **CSV) as file:  # a line at a time: killed, nothing is lost
        rows = csv.writer(file)
        write(header)
        yield write
    part.replace(path)


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(part)
        part.replace(path)
    except Exception as error:  # torch reports a full disk as an error of its own format
        if told := full_disk(error, path):
            raise told from error
        raise
    finally:
        part.unlink(missing_ok=True)
