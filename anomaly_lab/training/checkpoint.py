"""One checkpoint, `last.ckpt`, that is never half-written."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pydantic import PositiveInt

from anomaly_lab.methods.base.method import Method


class LastCheckpoint(pl.callbacks.Checkpoint):
    """Write `checkpoints/last.ckpt` at the end of every epoch and, for long epochs, every `every_batches` batches.

    Both resume exactly, with automatic and manual optimisation: the state of the loader counts the finished batches,
    and all random numbers of a step follow from its position. (Lightning's own callback ignores its time interval in
    manual mode and compares its step interval with a counter that grows by the number of optimizers.) Incomplete
    statistics are of no use: a method that is not `resumable` has a checkpoint only after the last epoch.
    """

    def __init__(self, every_batches: PositiveInt | None = None) -> None:
        self.every_batches = every_batches

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Method, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write inside an epoch; not at its end, which writes anyway."""
        if not self.every_batches or not pl_module.resumable:
            return
        if (batch_idx + 1) % self.every_batches == 0 and not trainer.is_last_batch:
            self._write(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Write after the validation of the epoch."""
        if pl_module.resumable or trainer.current_epoch + 1 == trainer.max_epochs:
            self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt")
