"""The first loss that is no number stops the run at the next look, and its step is named exactly."""

import pytest
import pytorch_lightning as pl
import torch

from anomaly_lab.callbacks.finite_loss import FiniteLoss
from anomaly_lab.errors import UserError
from tests.conftest import stand_in


def feed(callback, losses, device):
    """Return how many batches passed before the stop."""
    module = stand_in(pl.LightningModule, device=torch.device(device))
    for i, loss in enumerate(losses):
        trainer = stand_in(
            pl.Trainer,
            callback_metrics={"train/loss": torch.tensor(loss), "train/loss_epoch": torch.tensor(float("nan"))},
            is_last_batch=i == len(losses) - 1, current_epoch=3,
        )  # fmt: skip
        try:
            callback.on_train_batch_end(trainer, module, None, None, i)
        except UserError as error:
            return i, str(error)
    return len(losses), ""


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_on_a_cpu_at_once(bad):
    seen, message = feed(FiniteLoss(), [1.0] * 7 + [bad] + [1.0] * 50, "cpu")
    assert seen == 7
    assert f"the loss is {bad} at batch 7 of epoch 3" in message


def test_on_an_accelerator_every_few_batches_but_with_the_right_step():
    seen, message = feed(FiniteLoss(every_batches=10), [1.0] * 7 + [float("nan")] + [1.0] * 50, "cuda")
    assert seen == 9
    assert "at batch 7 of epoch 3" in message


def test_at_the_last_batch_before_the_checkpoint():
    seen, message = feed(FiniteLoss(every_batches=100), [1.0, float("nan"), 1.0], "cuda")
    assert seen == 2
    assert "at batch 1" in message


def test_weights_that_the_last_step_spoilt_are_not_saved():
    trainer = stand_in(pl.Trainer, callback_metrics={"validation/loss": torch.tensor(float("nan"))}, current_epoch=2)
    with pytest.raises(UserError, match="the loss is nan after the last batch of epoch 2"):
        FiniteLoss().on_train_epoch_end(trainer, stand_in(pl.LightningModule))


def test_finite_losses_pass():
    assert feed(FiniteLoss(), [1e30, -1e30, 0.0], "cpu") == (3, "")
