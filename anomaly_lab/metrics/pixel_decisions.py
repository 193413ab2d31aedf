"""How well the pixels above a line cover the defects."""

from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric


class PixelDecisions(Metric):
    """Counts of pixels that are called defective: map >= `threshold`.

    `overlap` is the mean share of a defect region (8-connected) that was found by regions of the minimum area, as in
    CVPR 2019, table 3; `overlap_all` that found by any pixel. `iou`, `precision` and `recall` pool all pixels.
    """

    full_state_update = False
    found: Tensor
    wrong: Tensor
    missed: Tensor
    overlap: Tensor
    overlap_all: Tensor
    regions: Tensor

    def __init__(self, threshold: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.threshold = threshold
        for name in ("found", "wrong", "missed", "overlap", "overlap_all", "regions"):
            self.add_state(name, torch.tensor(0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        anomaly_map: Float[np.ndarray, "height width"],
        mask: Bool[np.ndarray, "height width"],
        large: Float[np.ndarray, "height width"],
    ) -> None:
        """Add a map, its mask, and the map `without_small_regions`."""
        called = anomaly_map >= self.threshold
        found, there = int((called & mask).sum()), int(mask.sum())
        self.found += found
        self.wrong += int(called.sum()) - found
        self.missed += there - found
        if there:
            count, region = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
            area = np.bincount(region.ravel(), minlength=count)[1:]
            hit, hit_by_large = (
                np.bincount(region[above & mask], minlength=count)[1:] for above in (called, large >= self.threshold)
            )
            self.overlap += float((hit_by_large / area).sum())
            self.overlap_all += float((hit / area).sum())
            self.regions += count - 1

    def compute(self) -> dict[str, float]:
        """The shares; nan where there is nothing to divide by."""
        found, wrong, missed, regions = (float(value) for value in (self.found, self.wrong, self.missed, self.regions))

        def ratio(part: float, whole: float) -> float:
            return part / whole if whole else float("nan")

        return {
            "overlap": ratio(float(self.overlap), regions),
            "overlap_all": ratio(float(self.overlap_all), regions),
            "iou": ratio(found, found + wrong + missed),
            "precision": ratio(found, found + wrong),
            "recall": ratio(found, found + missed),
        }


def without_small_regions(
    anomaly_map: Float[np.ndarray, "height width"], threshold: float, minimum_area: int
) -> Float[np.ndarray, "height width"]:
    """The map, lowered to just below the threshold where fewer than `minimum_area` connected pixels lie on or above it.

    A region that is smaller is no defect (8-connected; Bergmann et al., CVPR 2019, section 4.3).
    """
    _, region = cv2.connectedComponents((anomaly_map >= threshold).view(np.uint8), connectivity=8)
    small = np.bincount(region.ravel()) < minimum_area
    small[0] = False  # what lies below
    return np.where(small[region], np.nextafter(np.float32(threshold), np.float32(-np.inf)), anomaly_map)
