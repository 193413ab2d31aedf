"""What the run cost: images a second, seconds of training, peak memory."""

import time
from typing import Any

import pytorch_lightning as pl

from anomaly_lab.training.cost import peak_memory


class Throughput(pl.Callback):
    """Collect `train_images_per_second`, `test_images_per_second`, `fit_seconds`, `peak_memory_mb` in `costs`.

    Training counts whole epochs, their data and logging included, and goes on counting in a resumed run; memory is the
    accelerator's where there is one, else the process's.
    """

    def __init__(self) -> None:
        self.costs: dict[str, float] = {}
        self._start = 0.0
        self._seconds = 0.0  # of training, up to the last checkpoint
        self._test_start = 0.0
        self._images = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter() - self._seconds

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of all ranks."""
        self._images += len(batch.image) * trainer.world_size

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._seconds = seconds = time.perf_counter() - self._start
        self.costs |= {"fit_seconds": seconds, "train_images_per_second": self._images / seconds}

    def state_dict(self) -> dict[str, float]:
        """What was spent so far."""
        return {"seconds": time.perf_counter() - self._start, "images": self._images}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on from there."""
        self._seconds, self._images = state_dict["seconds"], int(state_dict["images"])
        self.costs = {"fit_seconds": self._seconds, "train_images_per_second": self._images / self._seconds}

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of the test."""
        self._test_start = time.perf_counter()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock of the test; reading, maps and metrics are in."""
        images = len(trainer.datamodule.test_samples)  # type: ignore[attr-defined]
        self.costs["test_images_per_second"] = images / (time.perf_counter() - self._test_start)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Ask for the peak of memory so far."""
        self.costs["peak_memory_mb"] = peak_memory(pl_module.device) / 2**20
