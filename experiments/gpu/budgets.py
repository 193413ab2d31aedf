"""Published trainings, stopped when the time is over and continued by a later command: rows of `budgets.csv`."""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steps import Counts, configured, steps

from anomaly_lab.config.files import CONF
from anomaly_lab.launch.cost import counts as counts_of
from anomaly_lab.methods.base.build import build_method
from anomaly_lab.runs.checkpoint import load_checkpoint
from anomaly_lab.runs.folder import read_job, state_of
from anomaly_lab.runs.naming import place_of

METRICS = (
    "precision", "image_auroc", "pixel_auroc", "pixel_auroc_smoothed", "pixel_aupro", "pixel_aupro_smoothed",
    "fit_seconds", "train_images_per_second", "predict_seconds_per_image", "test_seconds", "peak_memory_mb",
)  # fmt: skip
LARGEST = 16 * 2**20  # bytes of a file that comes back from the machine
GRACE = 20  # seconds for the end of a run that is stopped


def estimate(words: Sequence[str], folder: Path, counts: Counts) -> tuple[float, int]:
    """Seconds of a whole run, from a few steps of one in this folder, and bytes of its checkpoint."""
    resolved = configured(*words)
    data = resolved["data"]
    images, _ = counts_of(json.dumps(data["layout"]), data["held_out"])
    seen = images if data["datamodule"]["sees"] == "images" else data["patches"] or images
    number = -(-seen // data["batch_size"]) * resolved["trainer"]["max_epochs"]
    seconds = steps(words, folder, counts)["fit_ms"] / 1000
    return 1.2 * seconds * number, 12 * sum(weight.numel() for weight in build_method(resolved).parameters())


def run_of(words: Sequence[str], work: Path) -> tuple[list[str], Path, bool]:
    """The words of a training in this folder, its run folder, and whether it is finished there."""
    whole = [*words, f"runs_dir={work / 'runs'}", "name=gpu"]
    place = place_of(configured(*whole))
    return whole, place.folder, state_of(*place) == "finished"


def figures(folder: Path) -> dict[str, Any]:
    """Those of a finished run that the table has."""
    metrics = json.loads((folder / "metrics.json").read_text())
    return {name: metrics[name] for name in METRICS if name in metrics}


def budget(words: Sequence[str], work: Path, out: Path, seconds: float, again: bool = False) -> dict[str, Any]:
    """A row of `budgets.csv`: a run, stopped after so many seconds; its folder then lies in `out` as one file.

    A finished run in `work` is read, or, with `again`, done anew; an unfinished one goes on.
    """
    words, folder, is_finished = run_of(words, work)
    if is_finished and not again:
        return {**figures(folder), "note": "finished by an earlier command"}
    before = written(folder)
    command = [sys.executable, "-m", "anomaly_lab", *words, *["rerun=true"] * is_finished]
    paths = f"{CONF.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    said = work / "said"
    with said.open("w") as file, subprocess.Popen(
        command, cwd=work, env=os.environ | {"PYTHONPATH": paths}, stdout=file, stderr=subprocess.STDOUT
    ) as process:  # fmt: skip
        try:
            process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            process.terminate()  # it stops after its step, and its last checkpoint is whole
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
    job = read_job(folder)
    is_restored = is_finished and job == before[1]  # the run ended before it changed anything
    if is_restored or not job or written(folder) == before:
        note = "; ".join(said.read_text().splitlines()[-2:])[:300]
        return {"state": "failed", "note": note or "stopped before its first checkpoint"}
    if job["state"] == "done":
        return figures(folder)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    if job["state"] == "failed" or not checkpoint.is_file():
        return {"state": "failed", "note": job.get("error") or f"{job['state']} before its first checkpoint"}
    epochs = load_checkpoint(checkpoint)["epoch"] + 1
    return {"state": "unfinished", "note": f"epoch {epochs}; {packed(folder, work, out / 'unfinished.tar')}"}


def written(folder: Path) -> tuple[int, dict[str, Any]]:
    """When `job.json` of a run was written, and what it holds."""
    path = folder / "job.json"
    return (path.stat().st_mtime_ns if path.is_file() else 0), read_job(folder)


def packed(folder: Path, work: Path, target: Path) -> str:
    """Put the folder of an unfinished run into one file, if it may come back; says which, or why not."""
    with tarfile.open(target, "w") as archive:
        archive.add(folder, folder.relative_to(work))
    if (size := target.stat().st_size) <= LARGEST:
        return target.name
    target.unlink()
    return f"{size / 2**20:.0f} MiB do not come back; it starts anew"
