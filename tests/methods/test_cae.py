"""What is particular about AE-L2: its loss, its map, its pictures."""

from functools import partial

import pytest
import torch

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
    assert not cae().residual(x, x).any()


def test_it_defines_no_score_and_clips_its_reconstruction_for_pictures():
    prediction = cae().eval().predict(10 * torch.rand(1, 3, 128, 128))
    assert prediction.score is None
    assert prediction.reconstruction.min() >= 0
    assert prediction.reconstruction.max() <= 1
