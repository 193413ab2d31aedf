"""Trivial detectors beside every result: a method that does not beat them has shown nothing."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from anomaly_lab.core.console import say
from anomaly_lab.core.distributed import of_all_processes
from anomaly_lab.core.files import write_csv, write_json
from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.data.datamodule import DataModule
from anomaly_lab.data.placement import content
from anomaly_lab.data.samples import Sample
from anomaly_lab.evaluation.evaluation import Evaluation
from anomaly_lab.evaluation.maps import PixelEvaluation
from anomaly_lab.functional.scores import default_score
from anomaly_lab.methods.base.tiling import WholeImage, enlarge
from anomaly_lab.methods.control import IMAGE_LEVEL_CONTROLS, KINDS, Control, Kind
from anomaly_lab.metrics.ranking import rank

LOCAL: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind not in IMAGE_LEVEL_CONTROLS)
COMPARED = (
    "image_auroc", "pixel_auroc", "pixel_aupr", "pixel_aupro",
    "pixel_auroc_smoothed", "pixel_aupr_smoothed", "pixel_aupro_smoothed",
)  # fmt: skip


CONTROLS_VERSION = 1  # raise it when the figures of the controls change


def controls_file(folder: Path, decides: list[Any]) -> Path:
    """The file of the figures of the controls for everything that decides them."""
    text = json.dumps([CONTROLS_VERSION, *decides], default=str)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"


class Controls(pl.Callback):
    """Ask every `Control` about the same test images, write controls.csv, and say which metrics one of them reaches.

    Their figures depend on the data and the decoding alone: the first run computes them into the file `cache`, the
    others read them there. Image-level controls are scored in both directions: darker good images are as easy to detect
    as brighter ones.
    """

    def __init__(self, evaluation: Evaluation, cache: Path | None = None) -> None:
        self.evaluation = evaluation
        self.cache = cache
        self.found: dict[str, dict[str, float]] = {}
        self.beaten_by: dict[str, tuple[str, float]] = {}
        self._control: Control | None = None  # None: the figures are known
        self._scores: dict[Kind, list[tuple[int, float]]] = {kind: [] for kind in KINDS}
        self._maps = {kind: PixelEvaluation() for kind in LOCAL}

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the figures, or take the statistics of the training images."""
        self.found = of_all_processes([_read(self.cache)])[0]  # all do what the first one can
        if self.found:
            return
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        self._control = Control(WholeImage(), data.decoding.image_size, data.decoding.channels, "brightness")
        for batch in data.whole_training_images(trainer.global_rank, trainer.world_size):
            self._control.update(batch.image, batch.index)
        self._control.fit()
        self._control.to(pl_module.device)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Prediction, batch: Batch, *_: int
    ) -> None:
        """Ask all kinds about a batch."""
        if self._control is None:
            return
        samples = trainer.datamodule.test_samples  # type: ignore[attr-defined]
        valid = content(batch.placement, batch.image)
        for kind in KINDS:
            anomaly_map = enlarge(self._control.answer(kind, batch.image), batch.image)
            scores = default_score(anomaly_map, valid).tolist()
            self._scores[kind] += zip(batch.index.tolist(), scores, strict=True)
            if kind in LOCAL:
                self._maps[kind].update(Prediction(anomaly_map, None, None), batch, samples)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute, compare, write; `Evaluation` comes first in the list of callbacks and has its metrics."""
        if self._control is not None:
            self._compute(trainer.datamodule.test_samples)  # type: ignore[attr-defined]
            if trainer.is_global_zero and self.cache is not None:
                write_json(self.cache, self.found)
        self.beaten_by = not_beaten(self.evaluation.metrics, self.found)
        if trainer.is_global_zero:
            rows_of_file = [[kind, *(values.get(name, "") for name in COMPARED)] for kind, values in self.found.items()]
            write_csv(Path(trainer.default_root_dir) / "controls.csv", ("control", *COMPARED), rows_of_file)
            for name, (control, value) in self.beaten_by.items():
                say(f"{name} {self.evaluation.metrics[name]:.3f} does not beat the control {control}, {value:.3f}")

    def _compute(self, samples: list[Sample]) -> None:
        for kind in KINDS:
            rows = sorted(of_all_processes(self._scores[kind]))
            label, score = np.array([samples[index].label for index, _ in rows]), np.array([score for _, score in rows])
            metrics = self._maps[kind].compute(samples) if kind in LOCAL else {}
            if (label == 0).any() and (label == 1).any():
                metrics["image_auroc"] = rank(score[label == 0], score[label == 1]).auroc().value
            self.found[kind] = metrics

    def metrics(self) -> dict[str, float]:
        """The best control of each metric, `control_<metric>`."""
        best = {name: strongest(name, self.found)[1] for name in COMPARED if name in self.evaluation.metrics}
        return {f"control_{name}": value for name, value in best.items()}


def not_beaten(metrics: dict[str, float], found: dict[str, dict[str, float]]) -> dict[str, tuple[str, float]]:
    """The metrics that a control reaches: name -> the strongest control and its value."""
    strongest_ones = {name: strongest(name, found) for name in COMPARED if name in metrics}
    return {name: best for name, best in strongest_ones.items() if not metrics[name] > best[1]}


def strongest(name: str, found: dict[str, dict[str, float]]) -> tuple[str, float]:
    """The control with the largest value of a metric."""
    values = []
    for kind, metrics in found.items():
        if name in metrics:
            values.append((metrics[name], kind))
            if kind in IMAGE_LEVEL_CONTROLS:
                values.append((1 - metrics[name], f"low {kind}"))
    value, kind = max(values)
    return kind, value


def _read(cache: Path | None) -> dict[str, dict[str, float]]:
    """The figures of a file that is whole; {} without one."""
    try:
        return json.loads(cache.read_text()) if cache is not None else {}
    except (OSError, ValueError):
        return {}
