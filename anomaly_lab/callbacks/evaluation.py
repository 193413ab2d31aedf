"""Scores, threshold and metrics of a test, from predictions and batches alone."""

import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytorch_lightning as pl

from anomaly_lab.console import printable
from anomaly_lab.data.images import Placement, to_photo
from anomaly_lab.data.layouts import Sample
from anomaly_lab.distributed import of_all_processes
from anomaly_lab.errors import UserError
from anomaly_lab.methods.method import content, smooth
from anomaly_lab.metrics.image_metrics import by_defect, decision_metrics, ranking_metrics
from anomaly_lab.metrics.pixel_decisions import PixelDecisions
from anomaly_lab.metrics.pixel_metrics import PixelMetrics
from anomaly_lab.metrics.ranking import rank
from anomaly_lab.metrics.thresholds import Strategy, Threshold
from anomaly_lab.run_folder import write_csv, write_threshold
from anomaly_lab.types import Batch, Prediction

SCORES = ("path", "defect", "label", "score", "mean", "scaled", "decision_score", "threshold", "decision")
DEFECTS = ("defect", "images", "accuracy", "auroc", "auroc_low", "auroc_high")
PIXEL_NAMES = ("auroc", "aupr", "aupro", "f1max")
NAMED = 5  # images, at most, that a message names


class Row(NamedTuple):
    """What is known of a test image after the method has seen it."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    score: float
    mean: float  # of the map
    decision_score: float


class Remark(NamedTuple):
    """What a method has to say about one image."""

    path: str
    text: str


class Localisation:
    """Pixel metrics of the maps as they are and smoothed by the Gaussian of the default score.

    Maps are compared at the size of the photos. Abnormal images without a mask do not count, nor does anything
    outside the region that is inspected (`counted`).
    """

    def __init__(self) -> None:
        self.raw = PixelMetrics()
        self.smoothed = PixelMetrics()

    def update(self, prediction: Prediction, batch: Batch, samples: list[Sample]) -> None:
        """Add a batch."""
        smoothed = smooth(prediction.anomaly_map, content(batch.placement, batch.image))
        for i in masked(batch, samples):
            mask = batch.mask[i][0].cpu().numpy()
            for metrics, maps in ((self.raw, prediction.anomaly_map), (self.smoothed, smoothed)):
                metrics.update(*counted(maps[i, 0].cpu().numpy(), mask, batch.placement[i]))

    def compute(self, samples: list[Sample]) -> dict[str, float]:
        """`pixel_auroc`, ..., `pixel_auroc_smoothed`, ...; nothing where no defect is marked."""
        if not any(sample.mask_path for sample in samples):
            return {}
        metrics: dict[str, float] = {}
        for pixels, suffix in ((self.raw, ""), (self.smoothed, "_smoothed")):
            values = pixels.compute()
            metrics |= {f"pixel_{name}{suffix}": values[name] for name in PIXEL_NAMES}
        return metrics


class Evaluation(pl.Callback):
    """Threshold from normal images (predict), then scores.csv, defects.csv and metrics from the test.

    Image metrics: `image_*` of the score and `image_auroc_mean` of the mean of the map; pixel metrics as in
    `Localisation`, and `pixel_*` at the threshold. Several processes share the images and have the same metrics.
    """

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.threshold: Threshold | None = None
        self.metrics: dict[str, float] = {}
        self.rows: list[Row] = []  # after the test those of all processes, in the order of the images
        self.localisation = Localisation()
        self._decisions: PixelDecisions | None = None
        self._remarks: list[Remark] = []

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Prediction, batch: Batch, *_: int
    ) -> None:
        """Show the strategy the normal images that it asked for."""
        assert outputs.score is not None
        for i, score in enumerate(outputs.score.tolist()):
            if math.isnan(score):
                name = type(pl_module).__name__
                raise UserError(
                    f"{name}: expected numbers as scores of held-out images, found NaN; try lower learning rates"
                )
            self.strategy.update(inner_map(outputs, batch, i), score)
        if outputs.remarks:
            loader = trainer.predict_dataloaders
            assert loader is not None
            self._remarks += remarks_of(outputs, batch, loader.samples)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the line."""
        self.threshold = self.strategy.compute()
        self._decisions = PixelDecisions(self.threshold.pixel)
        self.metrics = {"threshold": self.threshold.image, "pixel_threshold": self.threshold.pixel}
        if trainer.is_global_zero:
            write_threshold(Path(trainer.default_root_dir), self.threshold._asdict())
            if self.threshold.note:
                print(f"threshold: {self.threshold.note}")
            tell(self._remarks, "of the images that set the threshold, ")
        self._remarks = []  # every process has seen all of these images

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Prediction, batch: Batch, *_: int
    ) -> None:
        """Add a batch; memory does not grow with the pixels."""
        assert outputs.score is not None
        assert self.threshold is not None
        assert self._decisions is not None
        samples = trainer.datamodule.test_samples  # type: ignore[attr-defined]
        for i, index in enumerate(batch.index.tolist()):
            anomaly_map, score = inner_map(outputs, batch, i), outputs.score[i].item()
            decision_score = self.threshold.decides(anomaly_map, score)
            valid = inner_valid(batch, i)
            mean = (anomaly_map if valid is None else anomaly_map[valid]).mean()
            self.rows.append(Row(index, score, float(mean), decision_score))
        self._remarks += remarks_of(outputs, batch, samples)
        self.localisation.update(outputs, batch, samples)
        for i in masked(batch, samples):
            anomaly_map, mask = outputs.anomaly_map[i, 0].cpu().numpy(), batch.mask[i][0].cpu().numpy()
            for part, defect in zip(*counted(anomaly_map, mask, batch.placement[i]), strict=True):
                self._decisions.update(part, defect)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring together what the processes saw, compute the metrics and write the tables."""
        assert self.threshold is not None
        assert self._decisions is not None
        samples = trainer.datamodule.test_samples  # type: ignore[attr-defined]
        self.rows = rows = sorted(of_all_processes(self.rows))
        remarks = sorted(of_all_processes(self._remarks))
        score, mean, decision_score = (np.array([row[i] for row in rows]) for i in (1, 2, 3))
        label = np.array([samples[row.index].label for row in rows])
        abnormal = decision_score >= self.threshold.image
        if (label == 0).any() and (label == 1).any():
            self.metrics |= {f"image_{name}": value for name, value in ranking_metrics(score, label).items()}
            self.metrics["image_auroc_mean"] = rank(mean[label == 0], mean[label == 1]).auroc().value
        self.metrics |= {f"image_{name}": value for name, value in decision_metrics(abnormal, label).items()}
        if localisation := self.localisation.compute(samples):
            at_threshold = {f"pixel_{name}": value for name, value in self._decisions.compute().items()}
            self.metrics |= localisation | at_threshold
        if trainer.is_global_zero:
            folder, tested = Path(trainer.default_root_dir), [samples[row.index] for row in rows]
            write_csv(folder / "scores.csv", SCORES, table(rows, tested, abnormal, self.threshold.image))
            found = by_defect(score, abnormal, label, [sample.defect for sample in tested])
            lines = [[name, *(values.get(column, "") for column in DEFECTS[1:])] for name, values in found.items()]
            write_csv(folder / "defects.csv", DEFECTS, lines)
            tell(remarks, "of the test images, ")


def remarks_of(prediction: Prediction, batch: Batch, samples: list[Sample]) -> list[Remark]:
    """What the method remarks on the images of a batch."""
    said = zip(batch.index.tolist(), prediction.remarks, strict=False)  # a method that never remarks has ()
    return [Remark(str(samples[index].path), text) for index, text in said if text]


def tell(remarks: list[Remark], whose: str = "") -> None:
    """Print a line for each text: how many images it holds for, and the names of the first of them."""
    tally = Tally()
    for remark in remarks:
        tally.add(remark.text, Path(remark.path))
    for line in tally.lines():
        print(f"{whose}{line}")


class Tally:
    """How many images a remark holds for, and the names of the first of them: all that is kept of a million."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, list[str]] = {}

    def add(self, text: str, path: Path) -> None:
        """Note that `text` is said of an image."""
        self._counts[text] += 1
        names = self._first.setdefault(text, [])
        if len(names) < NAMED:
            names.append(printable(f"{path.parent.name}/{path.name}"))

    def lines(self) -> list[str]:
        """A line a text: `3 not aligned: good/000.png, good/001.png, good/007.png`."""
        return [
            f"{count} {text}: {', '.join(self._first[text])}{', ...' if count > NAMED else ''}"
            for text, count in self._counts.items()
        ]


def table(rows: list[Row], samples: list[Sample], abnormal: np.ndarray, threshold: float) -> list[tuple]:
    """The rows of scores.csv. `scaled` lies between the least and the largest score of the test: it decides nothing."""
    scores = [row.score for row in rows]
    low, span = min(scores), (max(scores) - min(scores)) or 1.0
    return [
        (
            sample.path, sample.defect, sample.label, row.score, row.mean, (row.score - low) / span,
            row.decision_score, threshold, "abnormal" if beyond else "normal",
        )
        for row, sample, beyond in zip(rows, samples, abnormal, strict=True)
    ]  # fmt: skip


def masked(batch: Batch, samples: list[Sample]) -> list[int]:
    """The places in the batch of the images of which every pixel is known to be normal or defective."""
    known = [samples[index].label == 0 or samples[index].mask_path is not None for index in batch.index.tolist()]
    return [i for i, yes in enumerate(known) if yes]


def inner_map(prediction: Prediction, batch: Batch, i: int) -> np.ndarray:
    """The map of image `i` at the working size, float32 (height, width), without padding.

    Pixels within it that a mask image leaves out have the lowest value of the others: no region reaches into them.
    """
    top, left, height, width = batch.placement[i].target
    inner = prediction.anomaly_map[i, 0, top : top + height, left : left + width].float().cpu().numpy()
    valid = inner_valid(batch, i)
    return inner if valid is None else np.where(valid, inner, inner[valid].min())


def inner_valid(batch: Batch, i: int) -> np.ndarray | None:
    """Which pixels of `inner_map` are inspected, bool; None: all of them."""
    place = batch.placement[i]
    top, left, height, width = place.target
    return None if place.valid is None else place.valid[top : top + height, left : left + width]


def counted(anomaly_map: np.ndarray, mask: np.ndarray, place: Placement) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What of a map (working size) and its mask (size of the photo) counts in pixel metrics: maps, and their masks.

    Without a region that is the whole photo, what `crop` cut away included: a defect there is missed. With one it is
    the region's box. Of a mask image it is the white pixels and nothing else: in a strip one pixel high for those that
    are normal, and one for each defect, so that it is a region still.
    """
    at_photo = to_photo(anomaly_map, place)
    if place.region is None:
        return [at_photo], [mask]
    top, left, height, width = place.region
    at_photo, mask = (values[top : top + height, left : left + width] for values in (at_photo, mask))
    if place.white is None:
        return [at_photo], [np.ascontiguousarray(mask)]
    defect = mask & place.white
    count, region = cv2.connectedComponents(defect.view(np.uint8), connectivity=8)
    number = region[defect]
    defects = np.split(at_photo[defect][number.argsort(kind="stable")], np.bincount(number, minlength=count).cumsum())
    strips = [at_photo[place.white & ~mask], *defects]
    labels = [np.full((1, len(strip)), row > 0) for row, strip in enumerate(strips) if len(strip)]
    return [strip[None] for strip in strips if len(strip)], labels
