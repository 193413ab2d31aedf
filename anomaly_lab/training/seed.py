"""Seeding: random numbers of a step follow from (seed, epoch, batch, rank), of an image from (seed, image)."""

from typing import Any, ClassVar

import pytorch_lightning as pl
from pydantic import NonNegativeInt

from anomaly_lab.core.randomness import PREDICTION, TEST, VALIDATION, seed
from anomaly_lab.core.types import Batch


class SeedEveryStep(pl.Callback):
    """Seed torch's generators before each batch, so that a resumed run draws the same random numbers.

    No generator state has to be saved (a checkpoint would contain only that of rank 0). Whole images are seeded by
    their numbers, so that methods with random predictions give the same result on any rank.
    """

    decides: ClassVar[str] = "weights"  # the key of the run that it enters

    def __init__(self, seed: NonNegativeInt) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed this step of this rank."""
        seed(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, *_: int
    ) -> None:
        """Seed these images."""
        seed(self.seed, VALIDATION, int(batch.index[0]))

    def on_test_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, *_: int) -> None:
        """Seed these images."""
        seed(self.seed, TEST, int(batch.index[0]))

    def on_predict_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, *_: int) -> None:
        """Seed these images."""
        seed(self.seed, PREDICTION, int(batch.index[0]))
