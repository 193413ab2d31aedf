"""Draws follow from (seed, epoch, batch, rank) and from nothing else."""

import pytorch_lightning as pl
import torch

from anomaly_lab.core.types import Batch
from anomaly_lab.training.seed import SeedEveryStep
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


def test_whole_images_are_seeded_by_their_numbers_on_any_rank():
    def draw_for(stage, index, seed=0):
        images = Batch(torch.zeros(2, 1, 4, 4), (), torch.zeros(2).long(), torch.tensor([index, 7]), ())
        hook = getattr(SeedEveryStep(seed), f"on_{stage}_batch_start")
        hook(stand_in(pl.Trainer), stand_in(pl.LightningModule), images, 3)
        return tuple(torch.rand(3).tolist())

    first = draw_for("test", 4)
    assert draw_for("test", 4) == first
    others = [draw_for("test", 5), draw_for("predict", 4), draw_for("validation", 4), draw_for("test", 4, seed=1)]
    assert len({first, *others}) == 5
