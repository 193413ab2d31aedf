"""Costs of a run: seconds of training and test, seconds per image of the method alone, peak memory."""

import time
from typing import Any

import pytorch_lightning as pl
import torch

from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.method import Method
from anomaly_lab.training.cost import peak_memory


class Throughput(pl.Callback):
    """Collect the costs of a run in `costs`. Must be the first callback.

    - `fit_seconds`, `train_images_per_second`: whole epochs, including data and logging. A resumed run continues to
      count; a run that is only tested again keeps its figures.
    - `predict_seconds_per_image`: the method alone, from the decoded image on the device to map and score, with the
      device synchronised. The first batch warms up and is not counted; if it is the only one, it is timed again.
    - `test_seconds`: the test with decoding, map files, pictures and metrics; the controls come before it.
    - `peak_memory_mb`: of the accelerator if there is one, else of the process; the largest over all attempts at this
      run.
    """

    def __init__(self) -> None:
        self.costs: dict[str, float] = {}
        self.has_trained = False
        self._since: float | None = None  # the start of this training, while it lasts
        self._seconds = 0.0  # of training before that
        self._images = 0
        self._peak = 0.0  # bytes
        self._test_start = self._batch_start = 0.0
        self._predicted: list[tuple[float, int]] = []  # seconds and images of each batch

    def on_train_start(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Start the clock of the training."""
        self._since, self.has_trained = time.perf_counter(), True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Method, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the images of all processes."""
        self._images += len(batch.image) * trainer.world_size

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Record the peak memory before the checkpoint of this epoch is written."""
        self._peak = max(self._peak, peak_memory(pl_module.device))

    def on_train_end(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Stop the clock of the training."""
        self._seconds, self._since = self._spent(), None
        self._tell_training()

    def _spent(self) -> float:
        return self._seconds + (time.perf_counter() - self._since if self._since is not None else 0.0)

    def _tell_training(self) -> None:
        self.costs |= {"fit_seconds": self._seconds, "train_images_per_second": self._images / self._seconds}

    def state_dict(self) -> dict[str, float]:
        """Seconds and images of training so far, and the peak of memory."""
        return {"seconds": self._spent(), "images": self._images, "peak": self._peak}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Continue from these."""
        self._seconds, self._images = state_dict["seconds"], int(state_dict["images"])
        self._peak = state_dict["peak"]
        self._tell_training()

    def on_test_start(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Start the clock of the test."""
        self._test_start = time.perf_counter()

    def on_test_batch_start(self, trainer: pl.Trainer, pl_module: Method, batch: Batch, *_: int) -> None:
        """Start the clock of a batch."""
        self._batch_start = _now(pl_module.device)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Method, outputs: Any, batch: Batch, batch_idx: int, *_: int
    ) -> None:
        """Stop the clock of a batch."""
        self._predicted.append((_now(pl_module.device) - self._batch_start, len(batch.image)))
        if batch_idx == 0 and trainer.num_test_batches == [1]:
            start = _now(pl_module.device)
            pl_module.test_step(batch, 0)
            self._predicted.append((_now(pl_module.device) - start, len(batch.image)))

    def on_test_end(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Stop the clock of the test."""
        timed = self._predicted[1:] or self._predicted
        self.costs["predict_seconds_per_image"] = sum(span for span, _ in timed) / sum(images for _, images in timed)
        self.costs["test_seconds"] = time.perf_counter() - self._test_start

    def teardown(self, trainer: pl.Trainer, pl_module: Method, stage: str) -> None:
        """Record the peak memory so far."""
        self._peak = max(self._peak, peak_memory(pl_module.device))
        self.costs["peak_memory_mb"] = self._peak / 2**20


def _now(device: torch.device) -> float:
    """The time at which the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
