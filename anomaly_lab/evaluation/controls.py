"""Trivial detectors beside every result; a method that does not beat them has shown nothing."""

import json
import math
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from anomaly_lab.core.console import say
from anomaly_lab.core.distributed import of_all_processes
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_csv, write_json, writing
from anomaly_lab.core.lock import lock
from anomaly_lab.core.types import Prediction
from anomaly_lab.data.cache import FIGURES, lock_of, note_use
from anomaly_lab.data.datamodule import data_of
from anomaly_lab.data.placement import content
from anomaly_lab.evaluation.evaluation import Evaluation
from anomaly_lab.evaluation.maps import PixelEvaluation
from anomaly_lab.functional.scores import default_score
from anomaly_lab.methods.base.tiling import WholeImage, enlarge
from anomaly_lab.methods.control import IMAGE_LEVEL_CONTROLS, KINDS, Control, Kind
from anomaly_lab.metrics.ranking import rank
from anomaly_lab.runs.measures import strongest

LOCAL: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind not in IMAGE_LEVEL_CONTROLS)
COMPARED = (
    "image_auroc", "pixel_auroc", "pixel_aupr", "pixel_aupro", "pixel_aupimo",
    "pixel_auroc_smoothed", "pixel_aupr_smoothed", "pixel_aupro_smoothed", "pixel_aupimo_smoothed",
)  # fmt: skip
Figures = dict[str, dict[str, float]]  # of each kind, by the name of the metric


class Controls(pl.Callback):
    """Evaluate every `Control` on the same test images, write controls.csv, and name the metrics that one reaches.

    The figures depend only on data and decoding. The first run computes them, before its own test, and writes them to
    the cache entry `cache`; other runs read them there, and wait while another process computes them. The image AUROC
    of an image-level control is that of the better direction: darker is as easy to detect as brighter.
    """

    def __init__(self, evaluation: Evaluation, cache: Path | None = None) -> None:
        self.evaluation = evaluation
        self.cache = cache
        self.found: Figures = {}
        self.beaten_by: dict[str, tuple[str, float]] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Read or compute the figures before the test. Collective."""
        if stage != "test":
            return
        whole = trainer.limit_test_batches == 1.0 and isinstance(trainer.limit_test_batches, float)
        with ExitStack() as stack:
            cache = self.cache if trainer.is_global_zero and whole else None  # the first process, for all
            try:
                if cache is not None:
                    stack.enter_context(lock(lock_of(cache), _wait))
            except OSError as error:
                say(f"cache: {cache} cannot be used ({error}); the controls are computed for this run alone")
                cache = None
            self.found = of_all_processes([_read(cache)])[0]
            if not self.found:
                self.found = figures_of(trainer)
                if cache is not None:
                    _write(cache, self.found)
            if cache is not None:
                note_use(cache, data_of(trainer).data_folder)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare and write; `Evaluation` precedes this callback and has its metrics."""
        self.beaten_by = not_beaten(self.evaluation.metrics, self.found)
        if trainer.is_global_zero:
            rows_of_file = [[kind, *(values.get(name, "") for name in COMPARED)] for kind, values in self.found.items()]
            write_csv(Path(trainer.default_root_dir) / "controls.csv", ("control", *COMPARED), rows_of_file)
            for name, (control, value) in self.beaten_by.items():
                say(f"{name} {self.evaluation.metrics[name]:.3f} does not beat the control {control}, {value:.3f}")

    def metrics(self) -> dict[str, float]:
        """The value of the best control for each metric, as `control_<metric>`."""
        best = strongest_ones(self.evaluation.metrics, self.found)
        return {f"control_{name}": value for name, (_, value) in best.items()}


def not_beaten(metrics: dict[str, float], found: Figures) -> dict[str, tuple[str, float]]:
    """The metrics that a control reaches or exceeds: name -> strongest control, its value."""
    return {name: best for name, best in strongest_ones(metrics, found).items() if not metrics[name] > best[1]}


def strongest_ones(metrics: dict[str, float], found: Figures) -> dict[str, tuple[str, float]]:
    """The strongest control, and its value, for each metric that the method and a control have."""
    return {
        name: strongest(name, found)
        for name in COMPARED
        if name in metrics and any(name in figures for figures in found.values())
    }


@torch.inference_mode()
def figures_of(trainer: pl.Trainer) -> Figures:
    """The figures of all controls, from the training and the test images. Collective."""
    data = data_of(trainer)
    device, samples = trainer.strategy.root_device, data.test_samples
    control = Control(WholeImage(), data.decoding.image_size, data.decoding.channels, "brightness")
    for batch in data.whole_training_images(trainer.global_rank, trainer.world_size):
        control.update(batch.image, batch.index)
    control.fit()
    control.to(device)
    scores: dict[Kind, list[tuple[int, float]]] = {kind: [] for kind in KINDS}
    maps = {kind: PixelEvaluation() for kind in LOCAL}
    loader, limit = data.test_dataloader(), trainer.limit_test_batches
    most = limit if isinstance(limit, int) else int(limit * len(loader))
    for batch in islice(loader, most):
        batch = data.moved(batch, device)
        valid = content(batch.placement, batch.image)
        for kind in KINDS:
            anomaly_map = enlarge(control.answer(kind, batch.image), batch.image)
            scores[kind] += zip(batch.index.tolist(), default_score(anomaly_map, valid).tolist(), strict=True)
            if kind in LOCAL:
                maps[kind].update(Prediction(anomaly_map, None, None), batch, samples)
    figures: Figures = {}
    for kind in KINDS:
        rows = sorted(of_all_processes(scores[kind]))
        label, score = np.array([samples[index].label for index, _ in rows]), np.array([score for _, score in rows])
        figures[kind] = maps[kind].compute(samples) if kind in LOCAL else {}
        if (label == 0).any() and (label == 1).any():
            auroc = rank(score[label == 0], score[label == 1]).auroc().value
            figures[kind]["image_auroc"] = max(auroc, 1 - auroc) if kind in IMAGE_LEVEL_CONTROLS else auroc
    return figures


def _wait(_: str) -> None:
    say("cache: another process computes the controls of these images, waiting for it")


def _read(cache: Path | None) -> Figures:
    """The figures of a complete entry; {} without one."""
    try:
        found = json.loads((cache / FIGURES).read_text()) if cache is not None else {}
        return {
            kind: {name: math.nan if value is None else float(value) for name, value in figures.items()}
            for kind, figures in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):  # missing or damaged
        return {}


def _write(cache: Path, found: Figures) -> None:
    try:
        with writing(cache) as part:
            write_json(part / FIGURES, found)
    except (OSError, UserError) as error:  # a UserError: the disk is full
        say(f"cache: {cache} cannot be written ({error}); the next run computes the controls again")
