"""Costs: seconds that passed, images of all processes, the method alone."""

import time

import pytest
import pytorch_lightning as pl
import torch

from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.method import Method
from anomaly_lab.training.throughput import Throughput
from tests.conftest import stand_in

BATCH = Batch(torch.zeros(5, 1, 2, 2), (), torch.zeros(5).long(), torch.arange(5), ())


def module(**attributes):
    return stand_in(Method, device=torch.device("cpu"), **attributes)


def trained(throughput, seconds):
    trainer = stand_in(pl.Trainer, world_size=2)
    throughput.on_train_start(trainer, module())
    for i in range(4):
        throughput.on_train_batch_end(trainer, module(), None, BATCH, i)
    time.sleep(seconds)
    throughput.on_train_end(trainer, module())
    return throughput


def test_training_counts_images_of_all_processes_over_real_time():
    throughput = trained(Throughput(), 0.2)
    assert throughput.costs["fit_seconds"] == pytest.approx(0.2, abs=0.1)
    assert throughput.costs["train_images_per_second"] * throughput.costs["fit_seconds"] == pytest.approx(40)
    throughput.teardown(stand_in(pl.Trainer), module(), "fit")
    assert 50 < throughput.costs["peak_memory_mb"] < 100_000


def test_the_peak_of_memory_is_that_of_all_processes_of_a_run(monkeypatch):
    peak = [0]
    monkeypatch.setattr("anomaly_lab.training.throughput.peak_memory", lambda device: peak[0])
    first, second = Throughput(), Throughput()
    trainer = stand_in(pl.Trainer, world_size=1)
    peak[0] = 900 * 2**20
    trained(first, 0.0)
    first.on_train_epoch_end(trainer, module())
    peak[0] = 300 * 2**20  # of the process that only tests
    second.load_state_dict(first.state_dict())
    second.teardown(trainer, module(), "test")
    assert second.costs["peak_memory_mb"] == 900


def test_a_run_that_goes_on_tells_the_seconds_of_all_its_parts():
    first = trained(Throughput(), 0.1)
    time.sleep(0.3)  # between two processes nothing is trained
    second = Throughput()
    second.load_state_dict(first.state_dict())
    assert second.costs == {name: first.costs[name] for name in second.costs}
    assert not second.has_trained
    assert second.state_dict() == first.state_dict()  # saved again without any training
    trained(second, 0.1)
    assert second.has_trained
    assert second.costs["fit_seconds"] == pytest.approx(0.2, abs=0.1)
    assert second.costs["train_images_per_second"] * second.costs["fit_seconds"] == pytest.approx(80)


@pytest.mark.parametrize(("batches", "expected"), [([0.3, 0.1, 0.1], 0.02), ([0.3], 0.004)])
def test_the_method_alone_is_timed_when_it_is_warm(batches, expected):
    throughput, trainer = Throughput(), stand_in(pl.Trainer, num_test_batches=[len(batches)])
    method = module(test_step=lambda batch, number: time.sleep(0.02))
    throughput.on_test_start(trainer, method)
    for number, seconds in enumerate(batches):
        throughput.on_test_batch_start(trainer, method, BATCH, number)
        time.sleep(seconds)
        throughput.on_test_batch_end(trainer, method, None, BATCH, number)
        time.sleep(0.05)  # maps, metrics, pictures
    throughput.on_test_end(trainer, method)
    assert throughput.costs["predict_seconds_per_image"] == pytest.approx(expected, rel=0.5)
    assert throughput.costs["test_seconds"] > sum(batches) + 0.05 * len(batches)
