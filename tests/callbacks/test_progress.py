"""What is said before and during training."""

from types import SimpleNamespace

import pytorch_lightning as pl
from rich.progress import Task

from anomaly_lab.callbacks.progress import ImagesPerSecond
from tests.conftest import stand_in


def test_speed_is_told_in_images():
    data, loader = SimpleNamespace(test_batch_size=8), SimpleNamespace(batch_size=16)
    column = ImagesPerSecond(stand_in(pl.Trainer, datamodule=data, train_dataloader=loader, training=True))
    assert column.render(stand_in(Task, speed=2.0, fields={})).plain == "32 images/s"
    assert column.render(stand_in(Task, speed=None, fields={})).plain == ""
    column = ImagesPerSecond(stand_in(pl.Trainer, datamodule=data, training=False))
    assert column.render(stand_in(Task, speed=2.0, fields={})).plain == "16 images/s"


def test_cost_and_epochs_are_told_without_a_terminal(lab, tiny, parts):
    lines = lab("data=folder", f"data.root={parts}", *tiny).stdout
    assert "128 patches of 128 px in 2 epochs · about" in lines
    assert "on cpu, about" in lines
    for epoch in (1, 2):
        (line,) = [line for line in lines.splitlines() if line.startswith(f"epoch {epoch}/2:")]
        assert "validation/loss" in line
        assert "train/loss" in line
        assert "images/s" in line
        assert line.endswith("left")


def test_a_long_training_on_a_processor_names_the_shorter_one(lab, tiny, parts):
    """Asked for 2 million patches; stopped by the loss, so that the test does not train them."""
    long = [argument for argument in tiny if not argument.startswith(("data.patches", "trainer.max"))]
    done = lab("data=folder", f"data.root={parts}", *long, "method.optimizer.lr=1e30", code=1)
    assert "experiment=quick" in done.stdout
