"""The learning rate over a run; that a resumed run goes on with it is shown in callbacks/test_checkpoint.py."""

import pytest
import pytorch_lightning as pl
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from anomaly_lab.methods.base.schedule import scheduled


class Toy(pl.LightningModule):
    """Notes its learning rate at every step."""

    def __init__(self, schedule="cosine"):
        super().__init__()
        self.schedule = schedule
        self.layer = torch.nn.Linear(1, 1)
        self.rates = []

    def training_step(self, batch, batch_idx):
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return self.layer(batch[0]).sum()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        return [optimizer], [scheduled(optimizer, self.schedule, self.trainer)]


@pytest.mark.parametrize(("accumulated", "steps"), [(1, 10), (2, 6)])
def test_half_a_cosine_that_ends_at_zero(tmp_path, accumulated, steps):
    toy = Toy()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(5, 1)), 1)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, accumulate_grad_batches=accumulated, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(toy, loader)
    reference = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    schedule = CosineAnnealingLR(reference, steps)
    expected = []
    for _ in range(steps):
        expected.append(reference.param_groups[0]["lr"])
        reference.step()
        schedule.step()
    rates = sorted(set(toy.rates), reverse=True)
    assert rates == pytest.approx(expected)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("exponential", [0.1 * 0.985 ** (5 * step) for step in range(40)]),
        ("early_drop", [0.1] * 14 + [0.01] * 26),
        ("drop", [0.1] * 38 + [0.01] * 2),
        ("two_drops", [0.1] * 32 + [0.02] * 4 + [0.004] * 4),
    ],
)
def test_the_rate_drops(tmp_path, schedule, expected):
    """Evenly to a twentieth; once to a tenth; to a fifth in the last fifth, and again in the last tenth."""
    toy = Toy(schedule)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(20, 1)), 1)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(toy, loader)
    assert toy.rates == pytest.approx(expected)
