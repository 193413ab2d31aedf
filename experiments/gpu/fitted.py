"""What a method without a gradient does with an image in training and in the test: rows of `fitted.csv`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from steps import QUIET, Synchronisations, assembled, configured, forget_peak, now

from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.method import Method, evaluating
from anomaly_lab.training.cost import peak_memory


class UpdateClock(pl.Callback):
    """Times what a method does with each batch of training images; the second batch is watched instead."""

    def __init__(self) -> None:
        self.times: list[tuple[float, int]] = []
        self.waits, self.watched = Synchronisations(), 0
        self.start = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Method, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 1:
            self.waits.__enter__()
        self.start = now()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Method, outputs: Any, batch: Batch, idx: int) -> None:
        self.times.append((now() - self.start, len(batch.image)))
        if idx == 1:
            self.waits.__exit__()
            self.watched = len(batch.image)


def ms_an_image(times: list[tuple[float, int]], warm: int) -> float:
    """Of batches (seconds, images) after the first ones; of all where there are no others."""
    seconds, images = zip(*(times[warm:] or times), strict=True)
    return 1000 * sum(seconds) / sum(images)


def fitted(words: Sequence[str], folder: Path, batches: int | None) -> dict[str, Any]:
    """A row of `fitted.csv`, of so many batches (None: all): an image in training and in the test, and the whole."""
    resolved = configured(*words, *QUIET, f"run_folder={folder}")
    forget_peak()
    decoding = now()
    clock = UpdateClock()
    if batches:
        resolved["trainer"]["limit_train_batches"] = batches
    data, method, trainer = assembled(resolved, folder, clock)
    start = now()
    try:
        trainer.fit(method, data)
    finally:
        clock.waits.__exit__()
    device = trainer.strategy.root_device
    with evaluating(method.to(device)), torch.no_grad():
        method.calibrate(data.held_out_images(device))
    middle = now()
    predicted = []
    with evaluating(method), torch.inference_mode():
        for number, batch in zip(range(batches or sys.maxsize), data.test_dataloader(), strict=False):
            moved = data.moved(batch, device)
            begin = now()
            method.test_step(moved, number)
            predicted.append((now() - begin, len(batch.image)))
    return {
        "side": resolved["data"]["image_size"], "trained_on": sum(images for _, images in clock.times),
        "tested": sum(images for _, images in predicted), "update_ms": ms_an_image(clock.times, 2),
        "predict_ms": ms_an_image(predicted, 1), "decoding_s": start - decoding, "fit_s": middle - start,
        "test_s": now() - middle, "peak_mib": peak_memory(device) / 2**20, **clock.waits.columns(clock.watched),
    }  # fmt: skip
