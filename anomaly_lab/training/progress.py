"""Progress of a run: the expected cost before training, then a bar with images per second and the time left."""

import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console
from rich.progress import ProgressColumn, Task
from rich.text import Text

from anomaly_lab.core.console import duration, say
from anomaly_lab.core.remarks import RemarkCounter
from anomaly_lab.data.datamodule import data_of
from anomaly_lab.methods.base.method import Method
from anomaly_lab.tracking.logged import logged_since
from anomaly_lab.training.cost import search_cost, step_cost


class Budget(pl.Callback):
    """Print the amount of work before training, with estimates of time and memory.

    The time is measured on real forward and backward passes over a few images; the weights do not change. For a method
    that searches (`search_steps`) the test is estimated too, from two steps on one image: it can take longer than
    training. After training, print the remarks of the method on single training images.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Print the line."""
        data = data_of(trainer)
        if trainer.current_epoch and trainer.is_global_zero:
            say(f"going on at epoch {trainer.current_epoch + 1} of {trainer.max_epochs}")
        counts = (
            f"{len(data.train_samples)} training {data.noun}, {len(data.held_out_samples)} held out, "
            f"{len(data.test_samples)} test {data.noun}"
        )
        if pl_module.passes is not None:  # nothing to estimate: no gradient
            if trainer.is_global_zero:
                times = "once" if pl_module.passes == 1 else f"{pl_module.passes} times"
                kept = f" · up to {pl_module.memory(len(data.train_samples)) / 2**20:.0f} MiB of memory for them"
                say(f"{counts} · every training image {times}, whole{kept}")
            return
        epochs = (trainer.max_epochs or 1) - trainer.current_epoch
        steps = int(trainer.num_training_batches) * epochs
        share = batch_size(trainer) // trainer.world_size
        count = min(share, 8)
        rows = data.feed.loader(0).rows(torch.arange(count))
        seconds, memory = step_cost(pl_module, lambda: data.rendered(rows, pl_module.device), count, share)
        what = "patches" if data.sees == "patches" else data.noun
        side = "" if data.noun == "rows" else f" of {data.feed.side} px"
        parts = [
            counts,
            f"{steps * batch_size(trainer):,} {what}{side} in {epochs} epochs",
            f"about {duration(steps * seconds)} on {pl_module.device.type}, about {memory / 2**30:.1f} GB",
        ]
        if pl_module.search_steps:
            size = (1, data.decoding.channels, data.decoding.image_size, data.decoding.image_size)
            search = search_cost(pl_module, torch.rand(size, device=pl_module.device))
            parts.append(f"the search in the test about {duration(search * len(data.test_samples))}")
        if pl_module.device.type == "cpu":
            parts.append(f"shorter: a smaller budget.epochs{' or data.patches' * (data.sees == 'patches')}")
        if trainer.is_global_zero:
            say(" · ".join(parts))

    def on_train_end(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Print the remarks."""
        if not trainer.is_global_zero:
            return
        samples = data_of(trainer).train_samples
        counter = RemarkCounter()
        for number, text in sorted(pl_module.remarks.items()):
            counter.add(text, samples[number].path)
        for line in counter.lines():
            say(line)


class Progress(RichProgressBar):
    """Lightning's rich bar with images per second instead of batches."""

    def configure_columns(self, trainer: pl.Trainer) -> list:
        """Description, bar, batches, elapsed and remaining time, images per second."""
        columns = super().configure_columns(trainer)
        return [*columns[:-1], ImagesPerSecond(trainer)]

    def _get_train_description(self, current_epoch: int) -> str:
        """Epochs counted from 1, as in all other lines; Lightning counts from 0."""
        return f"epoch {current_epoch + 1}/{self.trainer.max_epochs}"

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The losses, without Lightning's number of the version, which the run folder replaces."""
        metrics: dict[str, Any] = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        return metrics


class ImagesPerSecond(ProgressColumn):
    """Speed of a bar in images per second."""

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__()
        self.trainer = trainer

    def render(self, task: Task) -> Text:
        """`123 images/s`, empty before the first batch."""
        if task.fields.get("inside"):
            return Text()  # steps inside a batch
        data = data_of(self.trainer)
        batch = batch_size(self.trainer) if self.trainer.training else data.test_batch_size
        return Text(speed(task.speed * batch) if task.speed else "", style="progress.data.speed")


class EpochLines(pl.Callback):
    """One line per epoch where no terminal can draw a bar: batch jobs, logs, CI."""

    def __init__(self) -> None:
        self._start = 0.0
        self._first_epoch = 0
        self._before: dict[str, torch.Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start, self._first_epoch = time.perf_counter(), trainer.current_epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the values logged before: Lightning retains them, and those of an earlier stage must not be repeated."""
        self._before = dict(trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print epoch, losses, images per second and time left."""
        if not trainer.is_global_zero or Console().is_terminal:
            return
        done, epochs = trainer.current_epoch + 1, trainer.max_epochs or 1
        here = done - self._first_epoch
        seconds = time.perf_counter() - self._start
        images = here * int(trainer.num_training_batches) * batch_size(trainer)
        losses = logged_since(self._before, trainer.callback_metrics)
        losses_text = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        losses_text = f"{losses_text}; " if losses_text else ""
        left = f", {duration(seconds / here * (epochs - done))} left" if done < epochs else ""
        say(f"epoch {done}/{epochs}: {losses_text}{speed(images / seconds)}{left}")


def speed(images: float) -> str:
    """Images per second, with two digits where there are few."""
    return f"{images:.0f} images/s" if images >= 10 else f"{images:.2g} images/s"


def batch_size(trainer: pl.Trainer) -> int:
    """Patches per step over all ranks; less than `data.batch_size` if there are not as many."""
    assert trainer.train_dataloader is not None
    return trainer.train_dataloader.batch_size
