"""What the run cost: images a second, seconds of training, peak memory."""

import resource
import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch


class Throughput(pl.Callback):
    """Collect `train_images_per_second`, `test_images_per_second`, `fit_seconds`, `peak_memory_mb` in `costs`.

    Training counts whole epochs, their data and logging included; memory is the accelerator's where there is one,
    else the process's. A resumed run counts what was done since it resumed.
    """

    def __init__(self) -> None:
        self.costs: dict[str, float] = {}
        self._start = 0.0
        self._test_start = 0.0
        self._images = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start, self._images = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of all ranks."""
        self._images += len(batch.image) * trainer.world_size

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        seconds = time.perf_counter() - self._start
        self.costs |= {"fit_seconds": seconds, "train_images_per_second": self._images / seconds}

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of the test."""
        self._test_start, self._images = time.perf_counter(), 0

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: int
    ) -> None:
        """Count the images."""
        self._images += len(batch.image)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock of the test; reading, maps and metrics are in."""
        self.costs["test_images_per_second"] = self._images / (time.perf_counter() - self._test_start)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Ask for the peak of memory so far."""
        self.costs["peak_memory_mb"] = peak_memory(pl_module.device) / 2**20


def peak_memory(device: torch.device) -> int:
    """Bytes at the peak so far: of the accelerator where the work is done on one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
