"""Stop a training whose loss is not finite or diverges, before it spoils the checkpoint."""

import math
import statistics
from collections import deque
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pydantic import PositiveInt

from anomaly_lab.core.console import say_first
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
    steps, or for a whole shorter epoch, whose held-out images have such a loss as well: near zero a median says
    nothing, and a photo unlike all others may cost any amount once. Held-out images with such a loss at the end of a
    training are told. What is known of a flow is in the checkpoint, so that a run that goes on is judged by its own
    first step. Every process looks at its own losses; the checkpoint has those of the first.

    Losses are checked every `every_batches` batches and before each checkpoint, because a check waits for the
    accelerator; the step is still found exactly. The median is reset at every new `stage` of a method.
    """

    def __init__(self, every_batches: PositiveInt = 50) -> None:
        self.every_batches = every_batches
        self._pending: list[tuple[int, torch.Tensor]] = []
        self._last: deque[float] = deque(maxlen=STEPS)
        self._stage = 0
        self._batches = 0  # of this epoch, looked at
        self._flow = False
        self._first: float | None = None  # of a flow: the loss of its first step,
        self._high = 0  # for how many steps it has been high,
        self._held_out = 0.0  # and that of the held-out images, where it is high
        self._validated = False  # in this epoch
        self._good = " good"  # whether the last checkpoint is

    def setup(self, trainer: pl.Trainer, pl_module: Method, stage: str) -> None:
        """Forget an earlier run; what this one knew when it broke off is loaded after this."""
        self._first, self._high, self._held_out, self._good = None, 0, 0.0, " good"

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on must know of a flow."""
        return {"first": self._first, "high": self._high, "held_out": self._held_out}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        self._first, self._high, self._held_out = (state_dict[name] for name in ("first", "high", "held_out"))
        self._good = self._checkpoint_is()

    def on_train_start(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Reset the losses of an earlier run."""
        self._pending.clear()
        self._last.clear()
        self._flow = any(isinstance(part, Flow | Glow) for part in pl_module.modules())

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

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """There is a loss of the held-out images; of another epoch it would say nothing about this one."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Check before the checkpoint of the epoch, including the loss on held-out images."""
        self._look(trainer, pl_module)
        value = float(trainer.callback_metrics.get("validation/loss", 0.0))
        where = f"after the last batch of epoch {trainer.current_epoch + 1}"
        # AnoGAN validates with another loss than it trains with; its scale is unknown, so small medians do not count.
        self._refuse(value, trainer, pl_module, where, least=1.0)
        if self._first is not None and self._validated:
            self._validated = False
            self._held_out = value if value > highest(self._first) else 0.0
            if self._held_out and self._high >= max(self._batches, 1):
                what = f"the loss is {value:.1e} on held-out images, and {above(self._first)} in training too, {where}"
                raise stopped(trainer, pl_module, what, self._good)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Say that held-out images are far off: a last step that nothing came after may have spoilt the flow."""
        if self._first is not None and self._held_out:
            say_first(
                f"the loss of the held-out images is {self._held_out:.1e}, {above(self._first)}: a photo among them is "
                "unlike all others, or the last steps spoilt the flow; look at its curve, try a lower learning rate"
            )

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Method, checkpoint: dict[str, Any]) -> None:
        """Check losses and weights before a checkpoint is written."""
        self._look(trainer, pl_module)
        for name, weights in pl_module.named_parameters():
            if not weights.isfinite().all():
                what = f"{name} is NaN or infinite in epoch {trainer.current_epoch + 1}"
                raise stopped(trainer, pl_module, what, self._good)
        self._good = self._checkpoint_is()
        checkpoint.setdefault("callbacks", {})[self.state_key] = self.state_dict()  # Lightning asked before this look

    def _checkpoint_is(self) -> str:
        return "" if self._high or self._held_out else " good"

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Reset the losses at a new stage."""
        if pl_module.stage != self._stage:
            self._last.clear()
        self._stage = pl_module.stage
        self._batches = 0

    def _look(self, trainer: pl.Trainer, pl_module: Method) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        values = torch.stack([losses for _, losses in pending]).tolist()
        for (batch_idx, _), (value, returned) in zip(pending, values, strict=True):
            where = f"at batch {batch_idx} of epoch {trainer.current_epoch + 1}"
            self._refuse(value if math.isfinite(returned) else returned, trainer, pl_module, where)
            self._last.append(abs(value))
            self._batches += 1
            if self._flow:
                self._refuse_explosion(returned, trainer, pl_module, where)

    def _refuse(self, value: float, trainer: pl.Trainer, pl_module: Method, where: str, least: float = 0.0) -> None:
        """Stop at a loss that is not finite, or far above the median (or `least`, if larger)."""
        if not math.isfinite(value):
            raise stopped(trainer, pl_module, f"the loss is {value} {where}", self._good)
        median = max(statistics.median(self._last), least) if len(self._last) >= FEW else 0.0
        if median and abs(value) > DIVERGED * median and not (pl_module.automatic_optimization or self._flow):
            times = f"{abs(value) / median:.1e} times its median over the last {len(self._last)} steps"
            raise stopped(trainer, pl_module, f"the loss is {times} {where}", self._good)

    def _refuse_explosion(self, value: float, trainer: pl.Trainer, pl_module: Method, where: str) -> None:
        """Stop a flow whose loss has gone up and stays there."""
        if self._first is None:
            self._first = value
        self._high = self._high + 1 if value > highest(self._first) else 0
        if self._high >= FEW:
            what = f"the loss is {value:.1e}, for {self._high} steps {above(self._first)}, {where}"
            raise stopped(trainer, pl_module, what, self._good)


def highest(first: float) -> float:
    """The loss above which that of a flow is high, by that of its first step."""
    return DIVERGED * max(abs(first), 1.0)


def above(first: float) -> str:
    """The same in words."""
    return f"above {DIVERGED:.0e} times that of the first step ({first:.2g})"


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
