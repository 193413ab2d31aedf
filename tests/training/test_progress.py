"""What is said before and during training."""

from types import SimpleNamespace

import pytorch_lightning as pl
import torch
from rich.progress import Task

from anomaly_lab.data.datamodule import DataModule
from anomaly_lab.methods.anogan import AnoGAN, Discriminator, Generator
from anomaly_lab.methods.base.tiling import SlidingWindow, WholeImage
from anomaly_lab.training import progress
from anomaly_lab.training.progress import ImagesPerSecond
from tests.conftest import stand_in


def test_speed_is_told_in_images():
    data, loader = stand_in(DataModule, test_batch_size=8), SimpleNamespace(batch_size=16)
    column = ImagesPerSecond(stand_in(pl.Trainer, datamodule=data, train_dataloader=loader, training=True))
    assert column.render(stand_in(Task, speed=2.0, fields={})).plain == "32 images/s"
    assert column.render(stand_in(Task, speed=0.02, fields={})).plain == "0.32 images/s"
    assert column.render(stand_in(Task, speed=None, fields={})).plain == ""
    column = ImagesPerSecond(stand_in(pl.Trainer, datamodule=data, training=False))
    assert column.render(stand_in(Task, speed=2.0, fields={})).plain == "16 images/s"


def test_cost_and_epochs_are_told_without_a_terminal(toy_run):
    assert "128 patches of 64 px in 2 epochs · about" in toy_run.said
    assert "on cpu, about" in toy_run.said
    for epoch in (1, 2):
        (line,) = [line for line in toy_run.said.splitlines() if line.startswith(f"epoch {epoch}/2:")]
        assert "validation/loss" in line
        assert "train/loss" in line
        assert "images/s" in line
        assert line.endswith("left") is (epoch < 2)


def test_the_bar_counts_epochs_as_the_lines_do():
    bar = progress.Progress()
    bar._trainer = stand_in(pl.Trainer, max_epochs=4)
    assert [bar._get_train_description(epoch) for epoch in (0, 3)] == ["epoch 1/4", "epoch 4/4"]


def test_the_bar_has_losses_and_no_number_of_a_version():
    logger = stand_in(pl.loggers.CSVLogger, version=3)
    trainer = stand_in(pl.Trainer, progress_bar_metrics={"train/loss": 0.5}, loggers=[logger])
    assert progress.Progress().get_metrics(trainer, stand_in(pl.LightningModule)) == {"train/loss": 0.5}


def test_the_cost_of_a_search_is_that_of_two_steps_times_what_was_cut(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])

    class Searches(AnoGAN):
        def search(self, photos):
            clock[0] += 0.5 * self.search_steps * len(photos)
            return super().search(photos)

    networks = Generator(32, 3, 8, 4), Discriminator(32, 3, 4)
    method = Searches(*networks, optimizer=torch.optim.Adam, tiling=SlidingWindow(32, 16), search_steps=300)
    state = {name: value.clone() for name, value in method.state_dict().items()}
    assert progress.search_cost(method, torch.rand(1, 3, 64, 64)) == 300 * 0.5 * 9  # nine windows
    assert all(torch.equal(value, state[name]) for name, value in method.state_dict().items())
    assert method.search_steps == 300


def test_modes_are_put_back():
    networks = Generator(32, 3, 8, 4), Discriminator(32, 3, 4)
    method = AnoGAN(*networks, optimizer=torch.optim.Adam, tiling=WholeImage(), search_steps=3)
    method.generator.eval()
    progress.search_cost(method, torch.rand(1, 3, 32, 32))
    assert method.discriminator.training
    assert not method.generator.training
