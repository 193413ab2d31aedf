"""Every random draw of a step follows from (seed, epoch, batch, rank)."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pydantic import NonNegativeInt


class SeedEveryStep(pl.Callback):
    """Seed torch's generators before each training batch, so that a resumed run draws what it would have drawn.

    Nothing about randomness has to be saved: a generator state in the checkpoint would be rank 0's only.
    """

    def __init__(self, seed: NonNegativeInt) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed this step of this rank."""
        where = [self.seed, trainer.current_epoch, batch_idx, trainer.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(where).generate_state(1, np.uint64)[0]))
