"""What every method is: a LightningModule that learns what normal looks like and says how abnormal a pixel is."""

from abc import ABC, abstractmethod
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anomaly_lab.data.images import Placement
from anomaly_lab.functional.blur import gaussian_blur
from anomaly_lab.tiling import Tiling
from anomaly_lab.types import Batch, Prediction

Images = Float[Tensor, "batch channel height width"]


class Method(pl.LightningModule, ABC):
    """One paper: `training_step` tells how it learns, `inspect` what it says about images or tiles.

    Methods draw from torch's global generator only (it is seeded at every step) and never see a file, a mask or
    a metric. Tiling, scores, thresholds, metrics and pictures are outside and know only `forward`.
    """

    def __init__(self, tiling: Tiling) -> None:
        super().__init__()
        self.tiling = tiling

    @property
    def export_obstacle(self) -> str | None:
        """Why `export` cannot write `inspect` as one forward pass over any number of images; None: it can."""
        return None

    @abstractmethod
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        """Learn from a batch of normal patches."""

    @abstractmethod
    def inspect(self, images: Images) -> Prediction:
        """Map, score (None: the default score is meant) and reconstruction of images or tiles, in one forward pass."""

    def forward(self, images: Images, placement: tuple[Placement, ...] = ()) -> Prediction:
        """Inspect images of any size; padding does not count in a score of the map nor, later, in the metrics."""
        prediction = self.tiling(self.inspect, images)
        if prediction.score is not None:
            return prediction
        return prediction._replace(score=default_score(prediction.anomaly_map, content(placement, images)))

    def rehearse(self, images: Images) -> Float[Tensor, ""]:
        """What costs about as much as a training step, for the estimate before a training: its loss, or a look."""
        return self.inspect(images).anomaly_map.mean()

    def test_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """Answer in float32 whatever the precision of training, so that a score does not depend on its batch."""
        with torch.autocast(self.device.type, enabled=False):
            return self(batch.image, batch.placement)

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """The same answer as in the test."""
        return self.test_step(batch, batch_idx)


class StatisticsMethod(Method):
    """A method without a gradient: it sees every training image once, unaugmented, and then closes its statistics.

    The configuration of such a method sets `data.plan: images_once`, `trainer.max_epochs: 1` and
    `trainer.limit_val_batches: 0`. What decides a result ends up in buffers, so that the checkpoint carries it; their
    size may follow from the data. Under several processes each sees its share of the images, and `fit` runs in all of
    them: it brings the shares together (`Reservoir.rows`, `of_all_processes`) and comes to the same result everywhere.
    """

    def __init__(self, tiling: Tiling) -> None:
        super().__init__(tiling)
        self.automatic_optimization = False

    def on_fit_start(self) -> None:
        """Say how much memory the statistics will take."""
        images = len(self.trainer.datamodule.train_samples)  # type: ignore[attr-defined]
        if self.trainer.is_global_zero:
            kept = self.memory(images) / 2**20
            print(f"{type(self).__name__}: takes up to {kept:.0f} MiB of memory for {images} training images")

    @abstractmethod
    def memory(self, images: int) -> int:
        """At most how many bytes of so many training images are kept until `fit` has closed the statistics."""

    @abstractmethod
    def update(self, images: Images, index: Int[Tensor, " batch"]) -> None:
        """See some training images, whole and at the working size; `index` numbers them."""

    @abstractmethod
    def fit(self) -> None:
        """Close the statistics after the last image."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """See a batch."""
        with torch.autocast(self.device.type, enabled=False):
            self.update(batch.image, batch.index)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """After the last image and before anything is validated."""
        if self.trainer.is_last_batch:
            self.fit()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """There is no loss to look at; `trainer.limit_val_batches: 0` in the configuration spares the reading."""

    def configure_optimizers(self) -> list:
        """There is nothing to optimise."""
        return []

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Give every buffer the size that the training data gave it."""
        for name, buffer in self.named_buffers(recurse=False):
            if (saved := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(saved, device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def default_score(
    anomaly_map: Float[Tensor, "batch 1 height width"], valid: Bool[Tensor, "batch 1 height width"] | None = None
) -> Float[Tensor, " batch"]:
    """Maximum of the smoothed map over the valid pixels: the score of methods whose paper defines only a map."""
    smoothed = smooth(anomaly_map, valid)
    if valid is not None:
        smoothed = smoothed.masked_fill(~valid, -torch.inf)
    return smoothed.amax(dim=(1, 2, 3))


def smooth(
    anomaly_map: Float[Tensor, "batch 1 height width"], valid: Bool[Tensor, "batch 1 height width"] | None = None
) -> Float[Tensor, "batch 1 height width"]:
    """Smooth maps by a Gaussian of sigma 4 px per 256 px of side."""
    return gaussian_blur(anomaly_map, 4 * max(anomaly_map.shape[-2:]) / 256, valid)


def content(placement: tuple[Placement, ...], images: Images) -> Bool[Tensor, "batch 1 height width"] | None:
    """Which pixels of the working images show the inspected part of the photo; None where all do."""
    height, width = images.shape[-2:]
    if all(place.target == (0, 0, height, width) and place.valid is None for place in placement):
        return None
    valid = torch.zeros((len(images), 1, height, width), dtype=torch.bool, device=images.device)
    for pixels, place in zip(valid, placement, strict=True):
        top, left, inner_height, inner_width = place.target
        pixels[:, top : top + inner_height, left : left + inner_width] = True
        if place.valid is not None:
            pixels &= torch.from_numpy(place.valid).to(images.device)
    return valid
