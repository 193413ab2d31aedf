"""Several processes and a method that steps its optimizers itself; more of it in test_run.py and methods/."""

import pytorch_lightning as pl
import torch
from torch import nn

from tests.adversarial import two_processes


class Normalises(pl.LightningModule):
    """Batch norm, whose statistics differ from process to process, in manual mode."""

    stage = 0  # which the callbacks of a run ask for

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 3))

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.layers(batch.image).square().mean())
        optimizer.step()

    def validation_step(self, batch, batch_idx):
        return self.layers(batch.image).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


def test_processes_end_with_the_same_weights_and_the_same_statistics_of_batch_norm(tmp_path):
    first, second = two_processes(Normalises, tmp_path)
    assert first["layers.1.running_mean"].abs().min() > 0
    assert all(value.isfinite().all() for value in first.values())
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
