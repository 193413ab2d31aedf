"""What every method is: a LightningModule that learns what normal looks like and says how abnormal a pixel is."""

from abc import ABC, abstractmethod
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from anomaly_lab.core.types import Batch, Images, Placement, Prediction
from anomaly_lab.functional.scores import content, default_score
from anomaly_lab.methods.base.tiling import Tiling


class Method(pl.LightningModule, ABC):
    """One paper: `training_step` tells how it learns, `predict` what it says about images or tiles.

    Methods draw from torch's global generator only (it is seeded at every step) and never see a file, a mask or
    a metric. Tiling, scores, thresholds, metrics and pictures are outside and know only `forward`.
    """

    def __init__(self, tiling: Tiling) -> None:
        super().__init__()
        self.tiling = tiling

    @property
    def export_obstacle(self) -> str | None:
        """Why `export` cannot write `predict` as one forward pass over any number of images; None: it can."""
        return None

    @abstractmethod
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        """Learn from a batch of normal patches."""

    @abstractmethod
    def predict(self, images: Images) -> Prediction:
        """Map, score (None: the default score is meant) and reconstruction of images or tiles, in one forward pass."""

    def forward(self, images: Images, placement: tuple[Placement, ...] = ()) -> Prediction:
        """Predict images of any size; padding does not count in a score of the map nor, later, in the metrics."""
        prediction = self.tiling(self.predict, images)
        if prediction.score is not None:
            return prediction
        return prediction._replace(score=default_score(prediction.anomaly_map, content(placement, images)))

    def rehearse(self, images: Images) -> Float[Tensor, ""]:
        """What costs about as much as a training step, for the estimate before a training: its loss, or a look."""
        return self.predict(images).anomaly_map.mean()

    def test_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """Answer in float32 whatever the precision of training, so that a score does not depend on its batch."""
        with torch.autocast(self.device.type, enabled=False):
            return self(batch.image, batch.placement)

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """The same answer as in the test."""
        return self.test_step(batch, batch_idx)
