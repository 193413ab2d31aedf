"""Killed at any step and started again, a run ends with the same weights, in both modes of optimisation."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from anomaly_lab.runs.checkpoint import AtomicCheckpointIO

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, signal, sys
import numpy
import pytorch_lightning as pl, torch
from torch import nn
from anomaly_lab.training.checkpoint import LastCheckpoint
from anomaly_lab.runs.checkpoint import AtomicCheckpointIO
from anomaly_lab.training.seed import SeedEveryStep
from anomaly_lab.data.feeds import RowLoader
from anomaly_lab.data.patches import PatchPlan
from anomaly_lab.methods.base.schedule import cosine

folder, manual, kill_at = sys.argv[1], sys.argv[2] == "manual", int(sys.argv[3])

class Toy(pl.LightningModule):
    "Dropout, injected noise, batch norm, a scheduler; two optimizers by turns in manual mode."
    resumable = True
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 4))
        self.b = nn.Linear(4, 1)
        self.automatic_optimization = not manual
        self.seen = 0
    def training_step(self, x, batch_idx):
        self.seen += 1
        if self.seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        loss = (self.a(x + torch.randn_like(x)) - x).square().mean()
        if not manual:
            return loss + self.b(x).square().mean()
        first, second = self.optimizers()
        first.zero_grad(); self.manual_backward(loss); first.step()
        if batch_idx % 2:
            second.zero_grad(); self.manual_backward((self.b(x) - torch.rand(1)).square().mean()); second.step()
    def configure_optimizers(self):
        if manual:
            return [torch.optim.Adam(self.a.parameters(), 0.01), torch.optim.Adam(self.b.parameters(), 0.02)], []
        optimizer = torch.optim.Adam(self.parameters(), 0.01)
        return [optimizer], [cosine(optimizer, self.trainer)]

class Data(pl.LightningDataModule):
    def train_dataloader(self):
        order = torch.from_numpy(numpy.random.default_rng([0, self.trainer.current_epoch]).permutation(40))
        return RowLoader(self.trainer.current_epoch, PatchPlan(order, *[order] * 5), torch.arange(40).split(4))
    def transfer_batch_to_device(self, batch, device, _):
        return batch
    def on_after_batch_transfer(self, batch, _):
        return batch.plan.image.float()[:, None].repeat(1, 4) / 40

checkpoint = os.path.join(folder, "checkpoints", "last.ckpt")
toy = Toy()
trainer = pl.Trainer(
    max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
    callbacks=[SeedEveryStep(0), LastCheckpoint(every_batches=3)], plugins=[AtomicCheckpointIO()],
    default_root_dir=folder, reload_dataloaders_every_n_epochs=1, use_distributed_sampler=False,
)
trainer.fit(toy, Data(), ckpt_path=checkpoint if os.path.exists(checkpoint) else None, weights_only=True)
trainer.save_checkpoint(checkpoint)
"""


def run(folder, mode, kill_at=0):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(folder), mode, str(kill_at)], cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == (-9 if kill_at else 0), done.stderr
    return folder / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize("mode", [pytest.param("automatic", marks=pytest.mark.slow), "manual"])
def test_killed_inside_epochs_and_started_again_it_ends_with_the_same_weights(tmp_path, mode):
    whole = torch.load(run(tmp_path / "whole", mode), weights_only=True)
    folder = tmp_path / "killed"
    for kill_at in (6, 12):  # in batch 5 of epoch 0, and, from the checkpoint after its third on, in batch 4 of epoch 1
        run(folder, mode, kill_at)
    last = torch.load(run(folder, mode), weights_only=True)
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


FULL = """
import resource, sys, torch
from pathlib import Path
from anomaly_lab.runs.checkpoint import AtomicCheckpointIO
from anomaly_lab.core.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    AtomicCheckpointIO().save_checkpoint({"a": torch.zeros(100_000)}, Path(sys.argv[1]))
except UserError as error:
    print(error)
"""


def test_on_a_full_disk_the_old_file_stays_and_one_line_says_so(tmp_path):
    """A limit on the size of files stands for the disk; torch wraps the error in one about its own format."""
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": torch.ones(2)}, path)
    done = subprocess.run([sys.executable, "-c", FULL, path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == (
        f"{path}: expected room on the disk, found none (File too large); earlier files are unchanged; free some "
        "space, and the same command continues\n"
    )
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.ones(2))
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
