"""Scores, threshold and metrics of a test, from predictions and batches alone."""

from pathlib import Path

import pytorch_lightning as pl
import torch

from anomaly_lab.data.images import to_photo
from anomaly_lab.methods.method import content, smooth
from anomaly_lab.metrics.pixel_metrics import PixelMetrics
from anomaly_lab.metrics.ranking import rank
from anomaly_lab.metrics.thresholds import maximum
from anomaly_lab.run_folder import write_csv
from anomaly_lab.types import Batch, Prediction

SCORES = ("path", "defect", "label", "score", "mean", "threshold", "decision")


class Evaluation(pl.Callback):
    """Threshold from the held-out normal images (predict), then scores.csv and metrics from the test images.

    Image metrics: `image_*` of the score and `image_auroc_mean` of the mean of the map. Pixel metrics: `pixel_*` of
    the map and `pixel_*_smoothed` of the map after the Gaussian of the default score, at the size of the photos.
    Abnormal images without a mask count on the image level only.
    """

    def __init__(self) -> None:
        self.threshold = float("nan")
        self._held_out: list[torch.Tensor] = []
        self._rows: list[tuple] = []
        self._pixels = PixelMetrics()
        self._smoothed = PixelMetrics()

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Prediction, batch: Batch, *_: int
    ) -> None:
        """Collect the scores of held-out normal images."""
        assert outputs.score is not None
        self._held_out.append(outputs.score.cpu())

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the line."""
        self.threshold = maximum(torch.cat(self._held_out))

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Prediction, batch: Batch, *_: int
    ) -> None:
        """Add a batch; memory grows with the pixels only inside `PixelMetrics`."""
        assert outputs.score is not None
        samples = trainer.datamodule.test_samples  # type: ignore[attr-defined]
        valid = content(batch.placement, batch.image)
        maps, smoothed = outputs.anomaly_map.cpu().numpy(), smooth(outputs.anomaly_map, valid).cpu().numpy()
        for i, (index, place) in enumerate(zip(batch.index.tolist(), batch.placement, strict=True)):
            sample, score = samples[index], outputs.score[i].item()
            top, left, height, width = place.target
            mean = float(maps[i, 0, top : top + height, left : left + width].mean())
            decision = "abnormal" if score > self.threshold else "normal"
            self._rows.append((sample.path, sample.defect, sample.label, score, mean, self.threshold, decision))
            if sample.label == 0 or sample.mask_path is not None:
                mask = batch.mask[i][0].cpu().numpy()
                self._pixels.update([to_photo(maps[i, 0], place)], [mask])
                self._smoothed.update([to_photo(smoothed[i, 0], place)], [mask])

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the table."""
        if trainer.is_global_zero:
            write_csv(Path(trainer.default_root_dir) / "scores.csv", SCORES, self._rows)

    def metrics(self) -> dict[str, float]:
        """The metrics of the images seen so far; those that need what is not there are left out."""
        metrics = {"threshold": self.threshold}
        label = torch.tensor([row[2] for row in self._rows])
        score, mean = (torch.tensor([row[i] for row in self._rows], dtype=torch.float64) for i in (3, 4))
        if (label == 0).any() and (label == 1).any():
            ranking = rank(score[label == 0].numpy(), score[label == 1].numpy())
            metrics |= {"image_auroc": ranking.auroc(), "image_aupr": ranking.aupr(), "image_f1max": ranking.f1max()[0]}
            metrics["image_auroc_mean"] = rank(mean[label == 0].numpy(), mean[label == 1].numpy()).auroc()
        for value, name in ((0, "normal"), (1, "abnormal")):
            if (label == value).any():
                right = (score[label == value] > self.threshold) == bool(value)
                metrics[f"image_accuracy_{name}"] = right.double().mean().item()
        if self._pixels.regions:
            for pixels, suffix in ((self._pixels, ""), (self._smoothed, "_smoothed")):
                values = pixels.compute()
                names = ("auroc", "aupr", "aupro", "f1max")
                metrics |= {f"pixel_{name}{suffix}": values[name] for name in names}
        return metrics
