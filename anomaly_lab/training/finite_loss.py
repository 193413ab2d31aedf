"""Stop a training whose loss is not finite or diverges, before it spoils the checkpoint."""

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
from anomaly_lab.networks.flow import Flow
from anomaly_lab.networks.glow import Glow

STEPS, DIVERGED = 100, 1e4  # a loss above DIVERGED times the median of the last STEPS losses has diverged
FEW = 10  # steps before the median is used, and steps that the loss of a flow stays up


class FiniteLoss(pl.Callback):
    """Raise a `UserError` that names the step of the first NaN or infinite loss; the last checkpoint stays good.

    Methods with manual optimisation, networks against each other, can diverge and stay finite. There a loss above 1e4
    times the median of the last 100 losses (at least 10), in training or on the held-out images, stops the run too.
    Such a method logs the loss of the generator as `train/loss` (f-AnoGAN: of the network of the stage); the loss of
    the discriminator, which its step returns, may be NaN one step earlier. No checkpoint is written with weights that
    are not finite.

    A normalizing flow stops if its loss stays above 1e4 times that of its first step (1, if that is larger) for ten
    steps: near zero a median says nothing, and a photo unlike all others, or a held-out one, may cost any amount once.
    A checkpoint of these steps has what the explosion left.

    Losses are checked every `every_batches` batches and before each checkpoint, because a check waits for the
    accelerator; the step is still found exactly. The median is reset at every new `stage` of a method.
    """

    def __init__(self, every_batches: PositiveInt = 50) -> None:
        self.every_batches = every_batches
        self._pending: list[tuple[int, torch.Tensor]] = []
        self._last: deque[float] = deque(maxlen=STEPS)
        self._stage = 0
        self._flow = False
        self._first: float | None = None
        self._high = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Reset the losses of an earlier run."""
        self._pending.clear()
        self._last.clear()
        self._flow = any(isinstance(part, Flow | Glow) for part in pl_module.modules())
        self._first, self._high = None, 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Method, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the losses of this step; check them when it is time."""
        logged = trainer.callback_metrics
        losses = [value for name, value in logged.items() if name.startswith("train/") and not name.endswith("_epoch")]
        if losses:
            returned = list(outputs.values()) if isinstance(outputs, dict) and outputs else losses
            self._pending.append((batch_idx, torch.stack([total(losses), total(returned)])))
        on_host = pl_module.device.type == "cpu"
        if on_host or len(self._pending) >= self.every_batches or trainer.is_last_batch:
            self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Check before the checkpoint of the epoch, including the loss on held-out images."""
        self._look(trainer, pl_module)
        value = float(trainer.callback_metrics.get("validation/loss", 0.0))
        # AnoGAN validates with another loss than it trains with; its scale is unknown, so small medians do not count.
        self._refuse(value, trainer, pl_module, f"after the last batch of epoch {trainer.current_epoch + 1}", least=1.0)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Method, checkpoint: dict[str, Any]) -> None:
        """Check losses and weights before a checkpoint is written."""
        self._look(trainer, pl_module)
        for name, weights in pl_module.named_parameters():
            if not weights.isfinite().all():
                raise stopped(trainer, pl_module, f"{name} is NaN or infinite in epoch {trainer.current_epoch + 1}")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Reset the losses at a new stage."""
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
            if self._flow:
                self._refuse_explosion(returned, trainer, pl_module, where)

    def _refuse(self, value: float, trainer: pl.Trainer, pl_module: Method, where: str, least: float = 0.0) -> None:
        """Stop at a loss that is not finite, or far above the median (or `least`, if larger)."""
        if not math.isfinite(value):
            raise stopped(trainer, pl_module, f"the loss is {value} {where}")
        median = max(statistics.median(self._last), least) if len(self._last) >= FEW else 0.0
        if median and abs(value) > DIVERGED * median and not (pl_module.automatic_optimization or self._flow):
            times = f"{abs(value) / median:.1e} times its median over the last {len(self._last)} steps"
            raise stopped(trainer, pl_module, f"the loss is {times} {where}")

    def _refuse_explosion(self, value: float, trainer: pl.Trainer, pl_module: Method, where: str) -> None:
        """Stop a flow whose loss has gone up and stays there."""
        if self._first is None:
            self._first = value
        self._high = self._high + 1 if value > DIVERGED * max(abs(self._first), 1.0) else 0
        if self._high == FEW:
            above = f"for {FEW} steps above {DIVERGED:.0e} times that of the first step ({self._first:.2g})"
            raise stopped(trainer, pl_module, f"the loss is {value:.1e}, {above}, {where}", good="")


def total(losses: list[torch.Tensor]) -> torch.Tensor:
    """The sum, on the device of the losses."""
    return torch.stack([loss.detach().float() for loss in losses]).sum()


def stopped(trainer: pl.Trainer, pl_module: Method, why: str, good: str = " good") -> UserError:
    """The error that names the step, the last (good) checkpoint and, if there is one rate, a tenth of it."""
    checkpoint = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
    left = f"the last{good} checkpoint is {checkpoint}" if checkpoint.is_file() else "no checkpoint was written before"
    keys = [f"method.{key}.lr" for key in pl_module.rates]
    if len(keys) == 1:
        keys[0] += f"={trainer.optimizers[0].defaults['lr'] / 10:g}"
    rates = f" ({', '.join(keys)})" if keys else ""
    tries = [f"a lower learning rate{rates}"]
    if pl_module.automatic_optimization and trainer.gradient_clip_val is None:
        tries.append("trainer.gradient_clip_val=1")
    if trainer.precision != "32-true":
        tries.append("trainer.precision=32-true")
    return UserError(f"{why}: training stopped, {left}; try {' or '.join(tries)}")
