"""Stop where a loss is no number any more, or out of all proportion, before it spoils the checkpoint."""

import math
import statistics
from collections import deque
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pydantic import PositiveInt

from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.base.method import Method

STEPS, DIVERGED = 100, 1e4  # a loss so many times its median over so many steps is that of a game that is lost
FEW = 10  # steps after which a median says something


class FiniteLoss(pl.Callback):
    """Raise a `UserError` that names the step of the first NaN or infinite loss; the last checkpoint stays good.

    Methods that optimise by themselves, networks against each other, can diverge and stay finite: there a loss above
    1e4 times its median over the last 100 steps (from the 11th on: over those that there are), in training or on the
    held-out images, stops the run as well. What they log as `train/loss` is the loss of the generator, in f-AnoGAN that
    of the network of the stage; what their step returns, the loss of the discriminator, may be NaN a step earlier.
    No checkpoint is written whose weights are no numbers.

    Losses are looked at `every_batches` and before each checkpoint, because every look waits for the accelerator;
    the step is found exactly all the same. A method that learns in stages says in which it is (`stage`): what is usual
    in one is not in the next.
    """

    def __init__(self, every_batches: PositiveInt = 50) -> None:
        self.every_batches = every_batches
        self._pending: list[tuple[int, torch.Tensor]] = []
        self._last: deque[float] = deque(maxlen=STEPS)
        self._stage = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Forget another run."""
        self._pending.clear()
        self._last.clear()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Method, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember the losses of this step; look when it is time."""
        logged = trainer.callback_metrics
        losses = [value for name, value in logged.items() if name.startswith("train/") and not name.endswith("_epoch")]
        if losses:
            returned = list(outputs.values()) if isinstance(outputs, dict) and outputs else losses
            self._pending.append((batch_idx, torch.stack([total(losses), total(returned)])))
        on_host = pl_module.device.type == "cpu"
        if on_host or len(self._pending) >= self.every_batches or trainer.is_last_batch:
            self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Look before the checkpoint of the epoch is written, also at what the last step made of the weights."""
        self._look(trainer, pl_module)
        value = float(trainer.callback_metrics.get("validation/loss", 0.0))
        # Of AnoGAN it is another loss than that of the steps: small ones say nothing about its size.
        self._refuse(value, trainer, pl_module, f"after the last batch of epoch {trainer.current_epoch + 1}", least=1.0)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Method, checkpoint: dict[str, Any]) -> None:
        """Look before a checkpoint is written, at what is in it too."""
        self._look(trainer, pl_module)
        for name, weights in pl_module.named_parameters():
            if not weights.isfinite().all():
                raise stopped(trainer, pl_module, f"{name} is NaN or infinite in epoch {trainer.current_epoch + 1}")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Forget the losses of another stage."""
        if pl_module.stage != self._stage:
            self._last.clear()
        self._stage = pl_module.stage

    def _look(self, trainer: pl.Trainer, pl_module: Method) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        values = torch.stack([losses for _, losses in pending]).tolist()
        for (batch_idx, _), (value, returned) in zip(pending, values, strict=True):
            where = f"at batch {batch_idx} of epoch {trainer.current_epoch + 1}"
            self._refuse(value if math.isfinite(returned) else returned, trainer, pl_module, where)
            self._last.append(abs(value))

    def _refuse(self, value: float, trainer: pl.Trainer, pl_module: Method, where: str, least: float = 0.0) -> None:
        """Stop at a loss that is no number, or out of all proportion to the median (or to `least`, if larger)."""
        if not math.isfinite(value):
            raise stopped(trainer, pl_module, f"the loss is {value} {where}")
        median = max(statistics.median(self._last), least) if len(self._last) >= FEW else 0.0
        if median and abs(value) > DIVERGED * median and not pl_module.automatic_optimization:
            times = f"{abs(value) / median:.1e} times its median over the last {len(self._last)} steps"
            raise stopped(trainer, pl_module, f"the loss is {times} {where}")


def total(losses: list[torch.Tensor]) -> torch.Tensor:
    """Their sum, where they are."""
    return torch.stack([loss.detach().float() for loss in losses]).sum()


def stopped(trainer: pl.Trainer, pl_module: Method, why: str) -> UserError:
    """The error that names the step and what is left."""
    checkpoint = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
    left = f"the last good checkpoint is {checkpoint}" if checkpoint.is_file() else "no checkpoint was written before"
    rates = f" ({', '.join(f'method.{key}.lr' for key in pl_module.rates)})" if pl_module.rates else ""
    precision = "" if trainer.precision == "32-true" else " or trainer.precision=32-true"
    return UserError(f"{why}: training stopped, {left}; try a lower learning rate{rates}{precision}")
