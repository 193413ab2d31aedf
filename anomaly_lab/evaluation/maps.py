"""Anomaly maps at the size of the photo, and the pixels that are evaluated."""

import math
import warnings

import cv2
import numpy as np
import pytorch_lightning as pl

from anomaly_lab.core.types import Batch, Placement, Prediction
from anomaly_lab.data.placement import content, to_photo
from anomaly_lab.data.samples import Sample
from anomaly_lab.functional.scores import smooth
from anomaly_lab.metrics.aupimo import LOWER, UPPER
from anomaly_lab.metrics.pixel_metrics import PixelMetrics

PIXEL_NAMES = ("auroc", "aupr", "aupro", "aupimo", "f1max")
FEW = 10  # scores that reach the lowest false positive rate of AUPIMO: below that it is called uncertain


class PixelEvaluation:
    """Pixel metrics of the raw maps and of the maps smoothed by the Gaussian of the default score.

    Maps are compared with masks at the size of the photos. Abnormal images without a mask and pixels outside the
    inspected region are left out (`counted`).
    """

    def __init__(self) -> None:
        self.raw = PixelMetrics()
        self.smoothed = PixelMetrics()
        self.wide: list[str] = []

    def update(self, prediction: Prediction, batch: Batch, samples: list[Sample]) -> None:
        """Add a batch."""
        smoothed = smooth(prediction.anomaly_map, content(batch.placement, batch.image))
        for i in masked(batch, samples):
            mask = batch.mask[i][0].cpu().numpy()
            for metrics, maps in ((self.raw, prediction.anomaly_map), (self.smoothed, smoothed)):
                metrics.update(*counted(maps[i, 0].cpu().numpy(), mask, batch.placement[i]), one_image=True)

    def compute(self, samples: list[Sample]) -> dict[str, float]:
        """`pixel_auroc`, ..., `pixel_auroc_smoothed`, ...; empty if no defect is marked. No AUPIMO without good images.

        `self.wide` then has a line for each value whose bounds are wider than the metric's tolerance, and one if the
        good images have too few pixels for the false positive rates of AUPIMO.
        """
        if not any(sample.mask_path for sample in samples):
            return {}
        metrics: dict[str, float] = {}
        for pixels, suffix in ((self.raw, ""), (self.smoothed, "_smoothed")):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*wider than.*")  # `wide` says it with the names of metrics.json
                values = pixels.compute()
            for name in PIXEL_NAMES:
                key, (low, high) = f"pixel_{name}{suffix}", values["bounds"][name]
                if name == "aupimo" and math.isnan(values[name]):
                    continue
                metrics[key] = values[name]
                if high - low > pixels.tolerance:
                    bounds = f"between {low:.4f} and {high:.4f} only"
                    self.wide.append(f"{key} is certain {bounds}: too many scores are nearly equal")
        if "pixel_aupimo" in metrics and (count := values["good_pixels"]) * LOWER < FEW:
            few = f"the highest {count * LOWER:.2g} to {count * UPPER:.2g} of {count} pixels of good images"
            self.wide.append(f"pixel_aupimo is uncertain: it depends on {few}")
        return metrics


def localises(method: pl.LightningModule) -> bool:
    """Whether the map of a method says more than one number for the whole image; pixel metrics are for such alone."""
    return bool(getattr(method, "localises", True))


def masked(batch: Batch, samples: list[Sample]) -> list[int]:
    """The positions in the batch of normal images and of images with a mask."""
    known = [samples[index].label == 0 or samples[index].mask_path is not None for index in batch.index.tolist()]
    return [i for i, yes in enumerate(known) if yes]


def inner_map(prediction: Prediction, batch: Batch, i: int) -> np.ndarray:
    """The map of image `i` at the working size, float32 (height, width), without padding.

    Pixels outside the mask image of `data.region` get the lowest value of the others: no defect reaches into them.
    """
    top, left, height, width = batch.placement[i].target
    inner = prediction.anomaly_map[i, 0, top : top + height, left : left + width].float().cpu().numpy()
    valid = inner_valid(batch, i)
    return inner if valid is None else np.where(valid, inner, inner[valid].min())


def inner_valid(batch: Batch, i: int) -> np.ndarray | None:
    """The inspected pixels of `inner_map`, bool; None: all of them."""
    place = batch.placement[i]
    top, left, height, width = place.target
    return None if place.valid is None else place.valid[top : top + height, left : left + width]


def counted(anomaly_map: np.ndarray, mask: np.ndarray, place: Placement) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The parts of a map (working size) and of its mask (size of the photo) that pixel metrics count: maps, masks.

    Without a region that is the whole photo, including pixels that `crop` cut away: a defect there is missed. With a
    box it is the box. With a mask image it is the white pixels: one strip of height 1 with the normal ones, and one
    per defect, so that each defect remains one region.
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
