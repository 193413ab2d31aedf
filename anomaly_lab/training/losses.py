"""The losses of a training by epoch, with any logger and with none."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from anomaly_lab.core.files import write_csv
from anomaly_lab.evaluation import figures
from anomaly_lab.evaluation.drawing import write_picture
from anomaly_lab.runs.measures import is_loss
from anomaly_lab.tracking.logged import logged_since
from anomaly_lab.tracking.loggers import log_pictures


class Losses(pl.Callback):
    """Write `curves/losses.csv` after every epoch, one row per epoch, and draw it at the end of the training.

    A resumed run continues after the earlier epochs.
    """

    def __init__(self) -> None:
        self._epochs: list[dict[str, float]] = []
        self._validated: dict[str, float] = {}
        self._before: dict[str, Tensor] = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the values logged before: Lightning retains them, and those of an earlier stage must not be repeated."""
        self._before = dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the values of this validation: later epochs without one must not repeat them."""
        if not trainer.sanity_checking:
            self._validated = self._logged(trainer, validation=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the values of the epoch and write those of all epochs."""
        values, self._validated = {**self._logged(trainer, validation=False), **self._validated}, {}
        if values:
            self._epochs.append({"epoch": trainer.current_epoch + 1, **values})
        self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero and self._epochs:
            names = list(dict.fromkeys(name for row in self._epochs for name in row))
            rows = [[row.get(name, "") for name in names] for row in self._epochs]
            write_csv(Path(trainer.default_root_dir) / "curves" / "losses.csv", names, rows)

    def _logged(self, trainer: pl.Trainer, validation: bool) -> dict[str, float]:
        values = logged_since(self._before, trainer.callback_metrics)
        return {name: value for name, value in values.items() if name.startswith("validation/") == validation}

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the losses, also where a run goes on after its last epoch."""
        self._write(trainer)
        lines = series(self._epochs)
        if trainer.is_global_zero and lines:
            picture = figures.losses(lines)
            write_picture(Path(trainer.default_root_dir) / "curves" / "losses.png", picture)
            log_pictures(trainer.loggers, {"curves/losses": {"": picture}})

    def state_dict(self) -> dict[str, Any]:
        """The losses so far."""
        return {"losses": self._epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after these epochs."""
        self._epochs = list(state_dict["losses"])


def series(rows: list[dict[str, float]]) -> dict[str, tuple[list[int], list[float]]]:
    """The epochs and values of every loss by its name, from one row per epoch."""
    losses = dict.fromkeys(name for row in rows for name in row if is_loss(name))
    return {
        name: ([int(row["epoch"]) for row in rows if name in row], [row[name] for row in rows if name in row])
        for name in losses
    }
