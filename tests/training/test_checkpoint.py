"""Broken off at any step and continued, a training ends with the same weights, in both modes of optimisation."""

import resource

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.feeds import RowLoader
from anomaly_lab.data.patches import PatchPlan
from anomaly_lab.methods.base.method import Method
from anomaly_lab.methods.base.schedule import scheduled
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.runs.checkpoint import AtomicCheckpointIO
from anomaly_lab.training.checkpoint import LastCheckpoint
from anomaly_lab.training.seed import SeedEveryStep


class BrokenOffError(Exception):
    """As a kill leaves it: nothing is written at the end."""


class Toy(Method):
    """Dropout, injected noise, batch norm, a scheduler; two optimizers by turns in manual mode."""

    predict = None

    def __init__(self, manual, last_step):
        super().__init__(WholeImage())
        torch.manual_seed(0)
        self.a = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 4))
        self.b = nn.Linear(4, 1)
        self.automatic_optimization = not manual
        self.left = last_step

    def training_step(self, x, batch_idx):
        self.left -= 1
        if not self.left:
            raise BrokenOffError
        loss = (self.a(x + torch.randn_like(x)) - x).square().mean()
        if self.automatic_optimization:
            return loss + self.b(x).square().mean()
        first, second = self.optimizers()
        first.zero_grad()
        self.manual_backward(loss)
        first.step()
        if batch_idx % 2:
            second.zero_grad()
            self.manual_backward((self.b(x) - torch.rand(1)).square().mean())
            second.step()
        return None

    def configure_optimizers(self):
        if not self.automatic_optimization:
            return [torch.optim.Adam(self.a.parameters(), 0.01), torch.optim.Adam(self.b.parameters(), 0.02)], []
        optimizer = torch.optim.Adam(self.parameters(), 0.01)
        return [optimizer], [scheduled(optimizer, "cosine", self.trainer)]


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        order = torch.from_numpy(np.random.default_rng([0, self.trainer.current_epoch]).permutation(40))
        pairs, numbers = torch.zeros(40, 2), torch.zeros(40)
        plan = PatchPlan(order, pairs, numbers, pairs.bool(), numbers, numbers)
        return RowLoader(self.trainer.current_epoch, plan, torch.arange(40).split(4))

    def transfer_batch_to_device(self, batch, device, _):
        return batch

    def on_after_batch_transfer(self, batch, _):
        return batch.plan.image.float()[:, None].repeat(1, 4) / 40


def fit(folder, manual, last_step=0):
    """Train for three epochs, or to this step, from the checkpoint that is there; the checkpoint."""
    checkpoint = folder / "checkpoints" / "last.ckpt"
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[SeedEveryStep(0), LastCheckpoint(every_batches=3)], plugins=[AtomicCheckpointIO()],
        default_root_dir=folder, reload_dataloaders_every_n_epochs=1, use_distributed_sampler=False,
    )  # fmt: skip
    resume = checkpoint if checkpoint.exists() else None
    trainer.fit(Toy(manual, last_step), Data(), ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(checkpoint)
    return torch.load(checkpoint, weights_only=True)


@pytest.mark.filterwarnings("ignore")  # of Lightning, about loaders
@pytest.mark.parametrize("manual", [False, True])
def test_broken_off_inside_epochs_and_continued_it_ends_with_the_same_weights(tmp_path, manual):
    whole = fit(tmp_path / "whole", manual)
    for step in (6, 12):  # in batch 5 of epoch 0, and, from the checkpoint after its third on, in batch 4 of epoch 1
        with pytest.raises(BrokenOffError):
            fit(tmp_path / "broken", manual, step)
    last = fit(tmp_path / "broken", manual)
    assert last["epoch"] == whole["epoch"] == 3
    assert last["global_step"] == whole["global_step"]
    assert len(whole["state_dict"]) > 8
    for name, value in whole["state_dict"].items():
        assert torch.equal(last["state_dict"][name], value), name
    for ours, theirs in zip(last["optimizer_states"], whole["optimizer_states"], strict=True):
        for key, state in theirs["state"].items():
            assert all(torch.equal(ours["state"][key][name], value) for name, value in state.items())


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path, io = tmp_path / "deep" / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"state_dict": {"a": torch.ones(2)}}, path)

    class Fails:
        def __reduce__(self):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        io.save_checkpoint({"state_dict": {"a": torch.zeros(1000), "b": Fails()}}, path)
    assert torch.equal(torch.load(path, weights_only=True)["state_dict"]["a"], torch.ones(2))
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_on_a_full_disk_the_old_file_stays_and_one_line_says_so(tmp_path):
    """A limit on the size of files stands for the disk; torch wraps the error in one about its own format."""
    path, limits = tmp_path / "last.ckpt", resource.getrlimit(resource.RLIMIT_FSIZE)
    AtomicCheckpointIO().save_checkpoint({"a": torch.ones(2)}, path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError) as told:
            AtomicCheckpointIO().save_checkpoint({"a": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(told.value) == (
        f"{path}: expected room on the disk, found none (File too large); earlier files are unchanged; free some "
        "space, and the same command continues"
    )
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.ones(2))
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
