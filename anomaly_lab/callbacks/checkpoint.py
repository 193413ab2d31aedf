"""One checkpoint, `last.ckpt`, that is whole at any moment."""

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pydantic import PositiveInt

from anomaly_lab.errors import UserError
from anomaly_lab.methods.method import StatisticsMethod
from anomaly_lab.run_folder import write_whole


class LastCheckpoint(pl.callbacks.Checkpoint):
    """Write `checkpoints/last.ckpt` at the end of every epoch and, for long epochs, every so many batches inside it.

    Both are exact in both modes of optimisation: the loader's state says which batches are done, and every random draw
    of a step follows from its number. (Lightning's own callback ignores its time interval in manual mode and compares
    its step interval with a counter that grows by the number of optimizers.)
    """

    def __init__(self, every_batches: PositiveInt | None = None) -> None:
        self.every_batches = every_batches

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write inside an epoch; its end writes by itself. Statistics half taken are of no use."""
        if isinstance(pl_module, StatisticsMethod):
            return
        if self.every_batches and (batch_idx + 1) % self.every_batches == 0 and not trainer.is_last_batch:
            self._write(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write after the validation of the epoch."""
        self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The tensors and numbers of a checkpoint, on the host.

    Raises UserError where the file is missing or damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no checkpoint can raise anything
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"{path}: expected a whole checkpoint, found: {reason}") from error


class WholeFile(TorchCheckpointIO):
    """Write to a temporary name in the same folder, flush to the disk, rename: the old file is there until then."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint, whole or not at all."""

        def write(part: Path) -> None:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())

        write_whole(Path(path), write)
