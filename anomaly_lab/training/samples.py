"""Samples of a generative method during training, and their diversity."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from anomaly_lab.core.types import Batch, Images
from anomaly_lab.evaluation.drawing import write_picture
from anomaly_lab.methods.base.method import Method, evaluating
from anomaly_lab.tracking.loggers import log_pictures


class Samples(pl.Callback):
    """Write `samples/epoch_<n>.png` and log `samples/diversity`, every `every_epochs` epochs and after the last one.

    A method may have `samples(images)`, which returns one image in [0, 1] per training patch, generated from noise or
    reconstructed from the patch. `samples/diversity` is the mean pairwise L1 distance of the samples divided by that of
    the patches: near 1 if they differ as much as the data, near 0 after a mode collapse.
    """

    def __init__(self, every_epochs: PositiveInt = 1, count: PositiveInt = 16) -> None:
        self.every_epochs = every_epochs
        self.count = count
        self._patches: Tensor | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the patches of the last step of an epoch."""
        if trainer.is_last_batch and trainer.is_global_zero:
            self._patches = batch.image[: self.count]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Draw, write, log."""
        epoch = trainer.current_epoch + 1
        patches, self._patches = self._patches, None
        if patches is None or (epoch % self.every_epochs and epoch != trainer.max_epochs):
            return
        with evaluating(pl_module), torch.no_grad(), torch.autocast(patches.device.type, enabled=False):
            samples = pl_module.samples(patches)
        if samples is None:
            return
        if len(patches) > 1:
            pl_module.log("samples/diversity", diversity(samples, patches), batch_size=1, rank_zero_only=True)
        picture = grid(samples)
        write_picture(Path(trainer.default_root_dir) / "samples" / f"epoch_{epoch:04d}.png", picture)
        log_pictures(trainer.loggers, {"samples/drawn": {"": picture}}, epoch)


def diversity(samples: Images, patches: Images) -> float:
    """Mean pairwise L1 distance of the samples divided by that of the patches, which counts as at least 1e-6."""
    return mean_distance(samples) / max(mean_distance(patches), 1e-6)


def mean_distance(images: Images) -> float:
    """Mean absolute difference of two images, over all pairs."""
    rows = images.flatten(1).float()
    return torch.pdist(rows, p=1).mean().item() / rows.shape[1]


def grid(images: Float[Tensor, "image channel height width"]) -> np.ndarray:
    """The images in rows of equal length as one RGB picture, padded with black."""
    columns = int(np.ceil(len(images) ** 0.5))
    pixels = (images.clamp(0, 1) * 255).round().byte().expand(-1, 3, -1, -1).cpu().numpy()
    empty = np.zeros((-len(pixels) % columns, *pixels.shape[1:]), np.uint8)
    cells = np.concatenate([pixels, empty]).transpose(0, 2, 3, 1)
    rows = [np.concatenate(list(row), axis=1) for row in np.split(cells, len(cells) // columns)]
    return np.concatenate(rows, axis=0)
