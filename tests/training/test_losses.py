"""Losses by epoch: written without a logger, in their own epoch only, and past a resume."""

import csv

import cv2
import pytest
import pytorch_lightning as pl
import torch

from anomaly_lab.training.losses import Losses, series
from tests.adversarial import Patches, anogan, f_anogan, fit
from tests.conftest import stand_in


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Kept(pl.Callback):
    """The losses of every epoch, as a user of Lightning would read them."""

    def __init__(self):
        self.values = []

    def on_train_epoch_end(self, trainer, *_):
        self.values.append(float(trainer.callback_metrics["train/loss_epoch"]))


def test_losses_of_every_epoch_are_written_without_a_logger(tmp_path):
    kept = Kept()
    fit(anogan(), tmp_path, 3, Patches(2), callbacks=(Losses(), kept))
    rows = rows_of(tmp_path / "curves" / "losses.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["train/loss"]) for row in rows] == kept.values
    assert float(rows[2]["validation/loss"]) > 0
    assert not any(name.endswith(("_step", "_epoch")) for name in rows[0])
    assert cv2.imread(str(tmp_path / "curves" / "losses.png")) is not None


def test_a_resumed_run_goes_on_after_the_epochs_before():
    before = Losses()
    before._epochs = [{"epoch": 1, "train/loss": 0.5}]
    after = Losses()
    after.load_state_dict(before.state_dict())
    assert after._epochs == [{"epoch": 1, "train/loss": 0.5}]


def test_a_run_that_goes_on_after_its_last_epoch_draws_its_losses(tmp_path):
    callback = Losses()
    callback.load_state_dict({"losses": [{"epoch": 1, "train/loss": 0.5}]})
    trainer = stand_in(pl.Trainer, is_global_zero=True, default_root_dir=str(tmp_path), loggers=[])
    callback.on_fit_end(trainer, stand_in(pl.LightningModule))  # there was no epoch left
    assert rows_of(tmp_path / "curves" / "losses.csv") == [{"epoch": "1", "train/loss": "0.5"}]
    assert cv2.imread(str(tmp_path / "curves" / "losses.png")) is not None


def test_a_validation_is_told_in_its_epoch_only(tmp_path):
    callback = Losses()
    trainer = stand_in(
        pl.Trainer, callback_metrics={"validation/loss": torch.tensor(2.0), "train/loss": torch.tensor(1.0)},
        sanity_checking=False, current_epoch=0, is_global_zero=True, default_root_dir=str(tmp_path),
    )  # fmt: skip
    callback.on_validation_end(trainer, stand_in(pl.LightningModule))
    callback.on_train_epoch_end(trainer, stand_in(pl.LightningModule))
    trainer.current_epoch = 1
    callback.on_train_epoch_end(trainer, stand_in(pl.LightningModule))
    rows = rows_of(tmp_path / "curves" / "losses.csv")
    assert [(row["epoch"], row["train/loss"], row["validation/loss"]) for row in rows] == [
        ("1", "1.0", "2.0"),
        ("2", "1.0", ""),
    ]


@pytest.mark.slow
def test_losses_of_an_earlier_stage_are_not_repeated(tmp_path):
    fit(f_anogan(), tmp_path, 4, Patches(6), callbacks=(Losses(),))
    rows = rows_of(tmp_path / "curves" / "losses.csv")
    assert [bool(row["discriminator/gradient_penalty"]) for row in rows] == [True, True, False, False]
    assert [bool(row["encoder/image"]) for row in rows] == [False, False, True, True]
    assert [bool(row["seconds/adversarial_training"]) for row in rows] == [False, True, False, False]
    assert [bool(row["seconds/encoder_training"]) for row in rows] == [False, False, False, True]
    assert all(row["train/loss"] and row["validation/loss"] for row in rows)


def test_series_leave_out_what_is_no_loss_and_epochs_without_a_value():
    rows = [{"epoch": 1, "a/loss": 3.0, "samples/diversity": 1.0}, {"epoch": 2, "a/loss": 2.0, "b": 1.0}]
    assert series(rows) == {"a/loss": ([1, 2], [3.0, 2.0]), "b": ([2], [1.0])}
