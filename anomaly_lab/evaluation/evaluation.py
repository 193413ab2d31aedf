"""Scores, threshold and metrics of a test, from predictions and batches only."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
from jaxtyping import Float

from anomaly_lab.core.console import printable, say
from anomaly_lab.core.distributed import of_all_processes
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_csv
from anomaly_lab.core.remarks import Remark, RemarkCounter
from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.data.datamodule import data_of
from anomaly_lab.data.samples import Sample
from anomaly_lab.evaluation.maps import PixelEvaluation, counted, inner_map, inner_valid, localises, masked
from anomaly_lab.evaluation.plausibility import implausible, peak
from anomaly_lab.metrics.image_metrics import by_defect, decision_metrics, ranking_metrics
from anomaly_lab.metrics.pixel_decisions import PixelDecisions, without_small_regions
from anomaly_lab.metrics.ranking import rank
from anomaly_lab.metrics.thresholds import Threshold, ThresholdRule, pixels
from anomaly_lab.runs.folder import write_threshold

SCORES = ("path", "defect", "label", "score", "mean", "scaled", "decision_score", "threshold", "decision")
DEFECTS = ("defect", "images", "accuracy", "auroc", "auroc_low", "auroc_high")


class Row(NamedTuple):
    """The scores of a test image."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    score: float
    mean: float  # of the map
    decision_score: float
    peak: int | None = None  # where the maximum of the map lies


class Evaluation(pl.Callback):
    """The threshold from normal images (predict), then scores.csv, defects.csv and the metrics of the test.

    Image metrics: `image_*` of the score, and `image_auroc_mean` of the mean of the map. Pixel metrics: those of
    `PixelEvaluation`, and `pixel_*` at the threshold; none for a method with one number an image. Several processes
    share the images and get the same metrics.
    """

    def __init__(self, rule: ThresholdRule) -> None:
        self.rule = rule
        self.threshold: Threshold | None = None
        self.metrics: dict[str, float] = {}
        self.rows: list[Row] = []  # after the test of all processes, in the order of the images
        self.localisation = PixelEvaluation()
        self._decisions: PixelDecisions | None = None
        self._remarks: list[Remark] = []

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Prediction, batch: Batch, *_: int
    ) -> None:
        """Update the threshold rule with a batch of normal images."""
        assert outputs.score is not None
        for i, score in enumerate(outputs.score.tolist()):
            anomaly_map = inner_map(outputs, batch, i)
            refuse_infinite(pl_module, anomaly_map, score, "a held-out image")
            self.rule.update(anomaly_map, score)
        if outputs.remarks:
            loader = trainer.predict_dataloaders
            assert loader is not None
            self._remarks += remarks_of(outputs, batch, loader.samples)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the threshold."""
        self.threshold = self.rule.compute()
        self._decisions = PixelDecisions(self.threshold.pixel)
        self.metrics = {"threshold": self.threshold.image}
        if localises(pl_module):
            self.metrics["pixel_threshold"] = self.threshold.pixel
        if trainer.is_global_zero:
            write_threshold(Path(trainer.default_root_dir), self.threshold._asdict())
            for line in self.threshold.lines():
                say(f"threshold: {line}")
            report_remarks(self._remarks, "of the images that set the threshold, ")
        self._remarks = []  # every process has seen all of these images

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Prediction, batch: Batch, *_: int
    ) -> None:
        """Add a batch; memory does not grow with the pixels."""
        assert outputs.score is not None
        assert self.threshold is not None
        assert self._decisions is not None
        samples = data_of(trainer).test_samples
        for i, index in enumerate(batch.index.tolist()):
            anomaly_map, score = inner_map(outputs, batch, i), outputs.score[i].item()
            refuse_infinite(pl_module, anomaly_map, score, printable(samples[index].place))
            decision_score = self.threshold.decision_score(anomaly_map, score)
            valid = inner_valid(batch, i)
            mean = (anomaly_map if valid is None else anomaly_map[valid]).mean()
            self.rows.append(Row(index, score, float(mean), decision_score, peak(anomaly_map)))
        self._remarks += remarks_of(outputs, batch, samples)
        if not localises(pl_module):
            return
        self.localisation.update(outputs, batch, samples)
        for i in masked(batch, samples):
            anomaly_map, mask = outputs.anomaly_map[i, 0].cpu().numpy(), batch.mask[i][0].cpu().numpy()
            inner, large, placed = inner_map(outputs, batch, i), anomaly_map.copy(), batch.placement[i]
            top, left, height, width = placed.target
            area = pixels(self.threshold.minimum_area, inner)
            shown = large[top : top + height, left : left + width]
            shown[:] = without_small_regions(inner, self.threshold.pixel, area)
            parts = *counted(anomaly_map, mask, placed), counted(large, mask, placed)[0]
            for part, defect, kept in zip(*parts, strict=True):
                self._decisions.update(part, defect, kept)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather the rows of all processes, compute the metrics and write the tables."""
        assert self.threshold is not None
        assert self._decisions is not None
        samples = data_of(trainer).test_samples
        self.rows = rows = sorted(of_all_processes(self.rows), key=lambda row: row.index)
        remarks = sorted(of_all_processes(self._remarks))
        score, mean, decision_score = (np.array([row[i] for row in rows]) for i in (1, 2, 3))
        label = np.array([samples[row.index].label for row in rows])
        abnormal = decision_score >= self.threshold.image
        if (label == 0).any() and (label == 1).any():
            self.metrics |= {f"image_{name}": value for name, value in ranking_metrics(score, label).items()}
            self.metrics["image_auroc_mean"] = rank(mean[label == 0], mean[label == 1]).auroc().value
        self.metrics |= {f"image_{name}": value for name, value in decision_metrics(abnormal, label).items()}
        if (line := getattr(pl_module, "scaled_line", None)) is not None:
            found = decision_metrics(scaled(score) > line, label)
            self.metrics |= {f"oracle_{type(pl_module).__name__.lower()}_{name}": found[name] for name in found}
        if localises(pl_module) and (localisation := self.localisation.compute(samples)):
            at_threshold = {f"pixel_{name}": value for name, value in self._decisions.compute().items()}
            self.metrics |= localisation | at_threshold
        if trainer.is_global_zero:
            folder, tested = Path(trainer.default_root_dir), [samples[row.index] for row in rows]
            write_csv(folder / "scores.csv", SCORES, table(rows, tested, abnormal, self.threshold.image))
            by_type = by_defect(score, abnormal, label, [sample.defect for sample in tested])
            lines = [[name, *(values.get(column, "") for column in DEFECTS[1:])] for name, values in by_type.items()]
            write_csv(folder / "defects.csv", DEFECTS, lines)
            report_remarks(remarks, "of the test images, ")
            for line in (*self.localisation.wide, *implausible(score.tolist(), [row.peak for row in rows])):
                say(line)


def refuse_infinite(method: pl.LightningModule, anomaly_map: Float[np.ndarray, "*_"], score: float, whose: str) -> None:
    """Raise UserError for a score or a map that is NaN or infinite: no threshold and no figure would mean anything."""
    if not (math.isfinite(score) and np.isfinite(anomaly_map).all()):
        raise UserError(
            f"{type(method).__name__}: expected a finite map and score of {whose}, found NaN or infinity; try lower "
            "learning rates, if it has any"
        )


def remarks_of(prediction: Prediction, batch: Batch, samples: list[Sample]) -> list[Remark]:
    """The remarks of the method on the images of a batch."""
    remarks = zip(batch.index.tolist(), prediction.remarks, strict=False)  # a method that never remarks has ()
    return [Remark(samples[index].place, text) for index, text in remarks if text]


def report_remarks(remarks: list[Remark], whose: str = "") -> None:
    """Print one line per text: the number of its images and the names of the first few."""
    tally = RemarkCounter()
    for remark in remarks:
        tally.add(remark.text, Path(remark.path))
    for line in tally.lines():
        say(f"{whose}{line}")


def table(rows: list[Row], samples: list[Sample], abnormal: np.ndarray, threshold: float) -> list[tuple]:
    """The rows of scores.csv. `scaled` maps the scores of the test to [0, 1]; it decides nothing."""
    return [
        (
            sample.place, sample.defect, sample.label, row.score, row.mean, share,
            row.decision_score, threshold, "abnormal" if beyond else "normal",
        )
        for row, sample, share, beyond in zip(
            rows, samples, scaled(np.array([row.score for row in rows])).tolist(), abnormal, strict=True
        )
    ]  # fmt: skip


def scaled(scores: Float[np.ndarray, " image"]) -> Float[np.ndarray, " image"]:
    """The scores of a test, mapped to [0, 1]; 0 where all are equal."""
    return (scores - scores.min()) / (np.ptp(scores) or 1.0)


def evaluation_of(trainer: pl.Trainer) -> Evaluation:
    """The evaluation of a trainer; it processes a batch before the callbacks after it in the list."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, Evaluation))  # type: ignore[attr-defined]
