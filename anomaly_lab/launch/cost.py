"""Estimate of the cost of a sweep or a run before it starts, from similar earlier runs or from one training step.

The seconds per patch and per test image are measured on finished runs with the same method, sizes and kind of device,
or here: on one training step, or, without a gradient, on images that the method sees. The cost of a job is patches x
epochs times the former, test images times the latter, plus START seconds. Nothing is written.
"""

import json
import platform
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from hydra.utils import instantiate
from omegaconf.errors import OmegaConfBaseException

from anomaly_lab.config.resolvers import resolve
from anomaly_lab.config.wiring import wired
from anomaly_lab.core.console import duration
from anomaly_lab.data.samples import Splits
from anomaly_lab.launch.jobs import Job
from anomaly_lab.launch.machine import visible_gpus
from anomaly_lab.runs.folder import is_finished
from anomaly_lab.runs.stored import read_config

START = 6.0  # seconds from a command to its first step, on a CPU: experiments/speed/data_path.csv, rows `first`
LOOKED_AT = 30  # finished runs of a method, the newest ones
ENOUGH = 3  # of them that are like a job
NOT_LIKENESS = {"name", "optimizer", "encoder_optimizer", "schedule", "seed"}  # of a method: they cost no time
PATCHES = 8  # of the step
IMAGES = 2  # that a method without a gradient sees


class Rate(NamedTuple):
    """Measured seconds per patch or image of training, and per test image (None: not measured)."""

    training: float
    test: float | None
    source: str


def estimate(jobs: list[Job], at_a_time: int | None) -> list[str]:
    """Lines with the estimated cost of the jobs and its source; none without jobs."""
    kinds: dict[str, list[Job]] = {}
    for job in jobs:
        kinds.setdefault(likeness(job.config), []).append(job)
    lines, total = [], 0.0
    for alike in kinds.values():
        method, data = alike[0].config["method"]["name"], alike[0].config["data"]
        seconds, words = cost_of([job.config for job in alike])
        lines.append(f"  {method}, {data['patch_size']} px, {data['channels']} channels, {len(alike)} jobs: {words}")
        total += seconds
    if not lines:
        return []
    together = f", {at_a_time} at a time {duration(total / at_a_time)}" if at_a_time and at_a_time > 1 else ""
    return [f"estimate (computed): {duration(total)} one after another{together}", *lines]


def cost_of(alike: list[dict[str, Any]]) -> tuple[float, str]:
    """The seconds of similar jobs together; and in words, with their source."""
    rate = rate_of(alike[0])
    seconds = sum(seconds_of(config, rate) for config in alike)
    tests = "" if rate.test is not None else ", without the test"
    what = "an image" if alike[0]["data"]["datamodule"]["sees"] == "images" else "a patch"
    measured = f"{1000 * rate.training:.1f} ms {what} measured on {rate.source}{tests}"
    return seconds, f"about {duration(seconds)}; {measured}"


def seconds_of(config: dict[str, Any], rate: Rate) -> float:
    """The seconds of a whole job at this rate, even if part of it is done."""
    data = config["data"]
    images, tests = counts(json.dumps(data["layout"]), data["held_out"], data.get("good_photos"))
    patches = images if data["datamodule"]["sees"] == "images" else data["patches"] or images
    return START + patches * config["trainer"]["max_epochs"] * rate.training + tests * (rate.test or 0.0)


@cache
def counts(layout: str, held_out: float, good_photos: int | None = None) -> tuple[int, int]:
    """The approximate numbers of training and test images of a run."""
    splits: Splits = instantiate(json.loads(layout))
    return round((good_photos or len(splits.train)) * (1 - held_out)), len(splits.test)


def likeness(config: dict[str, Any]) -> str:
    """The settings that decide the time per patch and per test image, as text."""
    data = {name: config["data"][name] for name in ("kind", "patch_size", "image_size", "channels", "stride")}
    method = {name: value for name, value in wired(config).items() if name not in NOT_LIKENESS}
    devices = 1 if config["trainer"]["devices"] == "auto" else config["trainer"]["devices"]
    return json.dumps([method, data, config["controls"], devices], sort_keys=True, default=str)


def rate_of(config: dict[str, Any]) -> Rate:
    """The median rate of earlier runs, or else of one step, or of a few images that the method sees."""
    gpu = config["trainer"]["accelerator"] != "cpu" and bool(visible_gpus())
    runs = list(islice(earlier(Path(config["runs_dir"]), likeness(config), config["method"]["name"], gpu), ENOUGH))
    if runs:
        training = median(1 / run["train_images_per_second"] for run in runs)
        test = median(run["test_seconds"] / run["test_images"] for run in runs)
        return Rate(training, test, f"{len(runs)} earlier runs" if len(runs) > 1 else "an earlier run")
    where = "GPU" if gpu else "CPU"
    if config["data"]["datamodule"]["passes"] is not None:
        return Rate(step(config, gpu), None, f"{IMAGES} images just now on the {where}, without the fit after them")
    return Rate(step(config, gpu), None, f"one step just now on the {where}")


def earlier(runs_dir: Path, alike: str, method: str, gpu: bool) -> Iterable[dict[str, Any]]:
    """The metrics of similar finished runs on this kind of device, newest first."""
    found = sorted(runs_dir.glob(f"*/{method}/*/*/*/*/metrics.json"), key=lambda path: -path.stat().st_mtime)
    for path in found[:LOOKED_AT]:
        try:
            metrics, device = json.loads(path.read_text()), json.loads(path.with_name("environment.json").read_text())
            config = read_config(path.parent)
            same = likeness(resolve(config)) == alike
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OmegaConfBaseException):  # another version
            continue
        on_cpu = device.get("device") == (platform.processor() or platform.machine())
        costs = ("train_images_per_second", "test_seconds")
        if same and on_cpu != gpu and is_finished(path.parent) and all(metrics.get(name) for name in costs):
            with suppress(FileNotFoundError), path.with_name("scores.csv").open("rb") as file:
                yield {**metrics, "test_images": sum(1 for _ in file) - 1}


def step(config: dict[str, Any], gpu: bool) -> float:
    """Seconds per image of a training step of an untrained method on noise, with one CPU thread."""
    import torch

    from anomaly_lab.core.types import Batch
    from anomaly_lab.methods.base.build import build_method
    from anomaly_lab.methods.base.fitted import FittedMethod
    from anomaly_lab.training.cost import step_cost, update_cost

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what a job of a sweep has
    try:
        method = build_method(config, config["trust"]).to("cuda" if gpu else "cpu")
        side = config["data"]["image_size" if method.sees == "images" else "patch_size"]
        count = IMAGES if isinstance(method, FittedMethod) else PATCHES
        size = (count, config["data"]["channels"], side, side)

        def draw() -> Batch:
            noise = torch.rand(size, device=method.device)
            return Batch.of(noise)._replace(clean=noise, defect=torch.zeros_like(noise[:, :1], dtype=torch.bool))

        if isinstance(method, FittedMethod):
            return update_cost(method, draw()) / count
        return step_cost(method, draw, count, count)[0] / count
    finally:
        torch.set_num_threads(threads)
