"""Costs: images of all ranks over the seconds that passed."""

import time
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from anomaly_lab.training.throughput import Throughput
from tests.conftest import stand_in


def test_counts_images_of_all_ranks_over_real_time():
    throughput, trainer = (
        Throughput(),
        stand_in(pl.Trainer, world_size=2, datamodule=SimpleNamespace(test_samples=[None] * 5)),
    )
    module = stand_in(pl.LightningModule, device=torch.device("cpu"))
    batch = SimpleNamespace(image=torch.zeros(5))
    throughput.on_train_start(trainer, module)
    for i in range(4):
        throughput.on_train_batch_end(trainer, module, None, batch, i)
    time.sleep(0.2)
    throughput.on_train_end(trainer, module)
    assert throughput.costs["fit_seconds"] == pytest.approx(0.2, abs=0.1)
    assert throughput.costs["train_images_per_second"] * throughput.costs["fit_seconds"] == pytest.approx(40)
    throughput.on_test_start(trainer, module)
    throughput.on_test_end(trainer, module)
    assert throughput.costs["test_images_per_second"] > 0
    throughput.teardown(trainer, module, "fit")
    assert 50 < throughput.costs["peak_memory_mb"] < 100_000
