"""The folder of a run: its state, thresholds and kept mask image."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from anomaly_lab.core.console import say
from anomaly_lab.core.distributed import is_first_process
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_json, write_whole

FORMAT = 3  # of a run folder: raise it when older folders can no longer be read
RESULT_VERSION = 5  # raise it when a change to the evaluation changes the metrics of the same weights
OF_THE_TEST = (  # and curves but losses
    "scores.csv", "synthetic.csv", "overlaps.npz", "defects.csv", "controls.csv", "maps", "pictures", "gallery",
    "painted",
)  # fmt: skip
Rerun = bool | Literal["judge"]


def is_finished(folder: Path) -> bool:
    """Whether the folder holds a complete result that this version can read."""
    job = read_job(folder)
    return (job.get("state"), job.get("format")) == ("done", FORMAT) and bool(read_object(folder / "metrics.json"))


def is_current(folder: Path, result_key: str) -> bool:
    """Whether the run is finished with this result key."""
    return is_finished(folder) and read_object(folder / "metrics.json").get("result_key") == result_key


def checkpoint_to_resume(folder: Path) -> Path | None:
    """The checkpoint from which a run continues its training, or its test if training is done; None: there is none."""
    checkpoint = folder / "checkpoints" / "last.ckpt"
    return checkpoint if checkpoint.is_file() and read_job(folder).get("format") == FORMAT else None


def state_of(folder: Path, result_key: str, rerun: Rerun = False) -> str:
    """The state of a run: `to start`, `unfinished`, `to test again` (test only), `to train again` or `finished`.

    Raises UserError where a finished run is to be tested again and has lost its checkpoint.
    """
    if not is_finished(folder):
        if (folder / "job.json").exists() and not read_job(folder):
            say(f"{folder}/job.json is damaged: what the run has reached is not known")
        return "unfinished" if checkpoint_to_resume(folder) else "to start"
    if rerun is True:
        return "to train again"
    if rerun is False and is_current(folder, result_key):
        return "finished"
    if checkpoint_to_resume(folder) is None:
        raise UserError(
            f"{folder}: expected checkpoints/last.ckpt, from which this finished run is tested again, found none; "
            "rerun=true trains it anew"
        )
    return "to test again"


def refuse_unwritable(folder: Path) -> None:
    """Make the folder of a run, before anything else is written. Raises UserError, and leaves nothing, if it cannot."""
    made: list[Path] = []
    try:
        for path in (*reversed(folder.parents), folder):
            if not path.is_dir():
                path.mkdir(exist_ok=True)
                made.insert(0, path)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        for path in made:
            with suppress(OSError):  # not empty: somebody else writes there
                path.rmdir()
        raise UserError(
            f"runs_dir: expected a folder that can be written, found {folder} ({error.strerror})"
        ) from error


def remove_empty(folder: Path, upto: Path) -> None:
    """Remove a folder and those above it, up to and including `upto`, as long as they are empty."""
    while folder.is_relative_to(upto) and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def maker_of(folder: Path) -> str | None:
    """The version that made a run folder that this version cannot read; None if it can read or start it."""
    job = read_job(folder)
    if not job or job.get("format") == FORMAT:
        return None
    versions = read_object(folder / "environment.json").get("versions")
    version = versions.get("anomaly_lab") if isinstance(versions, dict) else None
    return f"anomaly_lab {version}" if isinstance(version, str) else "another version of anomaly_lab"


def read_job(folder: Path) -> dict[str, Any]:
    """The content of `job.json`: state (running, done, failed), format, times; empty if there is none."""
    return read_object(folder / "job.json")


def seconds_of(job: Mapping[str, Any]) -> float | None:
    """Seconds of all attempts at a run that has ended, by its `job.json`; None if it does not say.

    An attempt that started from the beginning counts none of those before it.
    """
    seconds, began, ended = (job.get(name) for name in ("seconds", "started", "finished"))
    if isinstance(seconds, float):
        return seconds
    return ended - began if isinstance(began, float) and isinstance(ended, float) else None


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if it is missing or damaged."""
    try:
        value = json.loads(path.read_text()) if path.is_file() else {}  # a pipe would never end
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def write_job(folder: Path, state: str, **details: Any) -> None:
    """Write `job.json`."""
    write_json(folder / "job.json", {"state": state, "format": FORMAT, **details})


def remove_result(folder: Path) -> None:
    """Remove the files of an earlier test, so that none is mistaken for a result of the next one."""
    curves = [path for path in (folder / "curves").glob("*") if path.stem != "losses"]
    for path in (*(folder / name for name in OF_THE_TEST), *curves):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_threshold(folder: Path, threshold: dict[str, Any]) -> None:
    """Append a threshold to `threshold.json`: the last one counts, earlier ones stay."""
    entry = {**threshold, "drawn": datetime.now(UTC).isoformat(timespec="seconds")}
    write_json(folder / "threshold.json", [*read_thresholds(folder), entry])


def read_thresholds(folder: Path) -> list[dict[str, Any]]:
    """The thresholds of a run, oldest first. Raises ValueError if the file holds no list of them."""
    path = folder / "threshold.json"
    entries = json.loads(path.read_text()) if path.is_file() else []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"found {str(entries)[:60]}")
    return entries


REGION = "region.png"  # the mask image of `data.region` with which the run was trained


def keep_region(data: dict[str, Any], folder: Path) -> None:
    """Store the mask image of `data.region` in the run folder, once, and point `data` to it.

    A box or None stays as it is. Raises UserError if the mask image cannot be read.
    """
    if not isinstance(data["region"], str):
        return
    if not (folder / REGION).is_file() and is_first_process():
        import cv2  # here: the state of a run needs no OpenCV
        import numpy as np

        from anomaly_lab.data.formats import MAX_PIXELS
        from anomaly_lab.data.placement import read_white

        white = read_white(Path(data["region"]).expanduser(), MAX_PIXELS)
        encoded = cv2.imencode(".png", white.astype(np.uint8) * 255)[1].tobytes()
        write_whole(folder / REGION, lambda part: part.write_bytes(encoded))
    stored = str(folder / REGION) if (folder / REGION).is_file() else data["region"]
    data["region"] = data["decoding"]["region"] = data["datamodule"]["decoding"]["region"] = stored


def region_of(folder: Path, region: Any) -> Any:
    """The region of a finished run: a box unchanged, a mask image always as the copy in the run folder."""
    return str(folder / REGION) if isinstance(region, str) else region
