"""Draws follow from (seed, epoch, batch, rank) and from nothing else."""

import pytorch_lightning as pl
import torch

from anomaly_lab.callbacks.seed import SeedEveryStep
from tests.conftest import stand_in


def draw(seed=0, epoch=0, batch=0, rank=0):
    trainer = stand_in(pl.Trainer, current_epoch=epoch, global_rank=rank)
    SeedEveryStep(seed).on_train_batch_start(trainer, stand_in(pl.LightningModule), None, batch)
    return tuple(torch.rand(3).tolist())


def test_draws_are_repeated_and_differ_in_every_coordinate():
    torch.manual_seed(5)
    first = draw()
    torch.manual_seed(6)
    assert draw() == first
    assert len({first, draw(seed=1), draw(epoch=1), draw(batch=1), draw(rank=1)}) == 5
