"""What is particular about AE-L2: its loss, its map, that it learns, its schedule."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.cae import CAE
from anomaly_lab.networks.autoencoder import Autoencoder


def cae(**changes):
    torch.manual_seed(0)
    optimizer = partial(torch.optim.Adam, lr=1e-3, weight_decay=1e-5)
    return CAE(Autoencoder(128, 3, 100), optimizer, WholeImage(), **changes)


def test_loss_and_residual_are_the_mean_squared_difference():
    x, y = torch.tensor([0.0, 0.5, 1.0, 0.25]).view(2, 2, 1, 1), torch.tensor([1.0, 0.5, 0.5, 0.0]).view(2, 2, 1, 1)
    assert cae().loss(x, y).item() == pytest.approx((1 + 0 + 0.25 + 0.0625) / 4)
    assert cae().residual(x, y).flatten().tolist() == pytest.approx([0.5, 0.15625])


def test_the_map_of_a_perfect_reconstruction_is_exactly_zero():
    x = torch.rand(2, 3, 128, 128)
    assert not cae().residual(x, x).any()


def test_it_defines_no_score_and_clips_its_reconstruction_for_pictures():
    prediction = cae().eval().predict(10 * torch.rand(1, 3, 128, 128))
    assert prediction.score is None
    assert prediction.reconstruction.min() >= 0
    assert prediction.reconstruction.max() <= 1


def test_constant_images_are_learnt_within_a_few_hundred_steps():
    method = cae()
    optimizer = method.optimizer(method.network.parameters())
    for _ in range(300):
        images = torch.tensor([0.3, 0.7]).view(2, 1, 1, 1).expand(2, 3, 128, 128)
        loss = method.loss(images, method.network(images))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 4e-3  # a tenth of the variance, 0.04


class Patches:
    """Ten batches of two images."""

    def __len__(self):
        return 10

    def __iter__(self):
        for i in range(10):
            yield Batch(torch.full((2, 3, 128, 128), i / 10), (), torch.zeros(2).long(), torch.zeros(2).long(), ())


@pytest.mark.parametrize(("schedule", "last"), [("constant", 1e-3), ("cosine", 0.0)])
def test_schedule(schedule, last, tmp_path):
    method = cae(schedule=schedule)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    method.validation_step = None  # the trainer then asks for no held-out images
    trainer.fit(method, Patches())
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(last, abs=1e-9)
    assert trainer.optimizers[0].param_groups[0]["weight_decay"] == 1e-5
