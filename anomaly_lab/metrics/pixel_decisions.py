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

    `overlap` is the mean share of a defect region that was found (8-connected; the per-region overlap of CVPR 2019,
    table 3), `iou`, `precision` and `recall` pool all pixels.
    """

    full_state_update = False
    found: Tensor
    wrong: Tensor
    missed: Tensor
    overlap: Tensor
    regions: Tensor

    def __init__(self, threshold: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.threshold = threshold
        for name in ("found", "wrong", "missed", "overlap", "regions"):
            self.add_state(name, torch.tensor(0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, anomaly_map: Float[np.ndarray, "height width"], mask: Bool[np.ndarray, "height width"]) -> None:
        """Add a map and its mask."""
        called = anomaly_map >= self.threshold
        found, there = int((called & mask).sum()), int(mask.sum())
        self.found += found
        self.wrong += int(called.sum()) - found
        self.missed += there - found
        if there:
            count, region = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
            area = np.bincount(region.ravel(), minlength=count)[1:]
            hit = np.bincount(region[called & mask], minlength=count)[1:]
            self.overlap += float((hit / area).sum())
            self.regions += count - 1

    def compute(self) -> dict[str, float]:
        """The shares; nan where there is nothing to divide by."""
        found, wrong, missed, overlap, regions = (
            float(value) for value in (self.found, self.wrong, self.missed, self.overlap, self.regions)
        )

        def ratio(part: float, whole: float) -> float:
            return part / whole if whole else float("nan")

        return {
            "overlap": ratio(overlap, regions),
            "iou": ratio(found, found + wrong + missed),
            "precision": ratio(found, found + wrong),
            "recall": ratio(found, found + missed),
        }
