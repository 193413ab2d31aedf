"""One checkpoint, `last.ckpt`, that is whole at any moment."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pydantic import PositiveInt

from anomaly_lab.methods.base.method import Method


class LastCheckpoint(pl.callbacks.Checkpoint):
    """Write `checkpoints/last.ckpt` at the end of every epoch and, for long epochs, every so many batches inside it.

    Both are exact in both modes of optimisation: the loader's state says which batches are done, and every random draw
    of a step follows from its number. (Lightning's own callback ignores its time interval in manual mode and compares
    its step interval with a counter that grows by the number of optimizers.) Statistics that are half taken are of no
    use: of a method that is not `resumable` there is a checkpoint after the last epoch only.
    """

    def __init__(self, every_batches: PositiveInt | None = None) -> None:
        self.every_batches = every_batches

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Method, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write inside an epoch; its end writes by itself."""
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
