"""Stop where a loss is no number any more, before it spoils the checkpoint."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from pydantic import PositiveInt

from anomaly_lab.errors import UserError


class FiniteLoss(pl.Callback):
    """Raise a `UserError` that names the step of the first NaN or infinite loss; the last checkpoint stays good.

    Losses are looked at `every_batches` and before each checkpoint, because every look waits for the accelerator;
    the step is found exactly all the same.
    """

    def __init__(self, every_batches: PositiveInt = 50) -> None:
        self.every_batches = every_batches
        self._pending: list[tuple[int, torch.Tensor]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember the losses of this step; look when it is time."""
        logged = trainer.callback_metrics
        losses = [value for name, value in logged.items() if name.startswith("train/") and not name.endswith("_epoch")]
        if losses:
            self._pending.append((batch_idx, torch.stack([loss.detach().float() for loss in losses]).sum()))
        on_host = pl_module.device.type == "cpu"
        if on_host or len(self._pending) >= self.every_batches or trainer.is_last_batch:
            self._look(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look before the checkpoint of the epoch is written, also at what the last step made of the weights."""
        self._look(trainer)
        value = float(trainer.callback_metrics.get("validation/loss", 0.0))
        if not math.isfinite(value):
            raise not_finite(value, f"after the last batch of epoch {trainer.current_epoch}")

    def _look(self, trainer: pl.Trainer) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        values = torch.stack([loss for _, loss in pending]).tolist()
        for (batch_idx, _), value in zip(pending, values, strict=True):
            if not math.isfinite(value):
                raise not_finite(value, f"at batch {batch_idx} of epoch {trainer.current_epoch}")


def not_finite(value: float, where: str) -> UserError:
    """The error that names the step."""
    return UserError(
        f"the loss is {value} {where}: training stopped, a checkpoint saved before stays as it was; "
        "try a lower method.optimizer.lr or trainer.precision=32-true"
    )
