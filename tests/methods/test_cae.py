"""What is particular about AE-L2: its loss, its map, its pictures."""

from functools import partial

import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.base.build import build_method
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.cae import CAE
from anomaly_lab.networks.autoencoder import Autoencoder, PoolingAutoencoder
from tests.adversarial import configured


def cae(**changes):
    torch.manual_seed(0)
    optimizer = partial(torch.optim.Adam, lr=1e-3, weight_decay=1e-5)
    return CAE(changes.pop("network", None) or Autoencoder(128, 3, 100), optimizer, WholeImage(), **changes)


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


def test_the_tutorial_descends_the_cross_entropy_of_its_sigmoid():
    method = cae(network=PoolingAutoencoder(16, 3), likelihood="bernoulli")
    x, y = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(method.loss(x, y), torch.nn.functional.binary_cross_entropy(y, x))
    certain = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    assert method.loss(certain, certain).item() == pytest.approx(0, abs=1e-6)
    assert method.loss(1 - certain, certain).item() == pytest.approx(16.1, abs=0.1)  # of a probability of 1e-7
    torch.testing.assert_close(method.residual(x, y), cae().residual(x, y))
    with pytest.raises(UserError, match="method.network.output: expected sigmoid, .*found linear"):
        cae(likelihood="bernoulli")


def test_the_tutorial_is_an_experiment():
    method = build_method(configured("experiment=keras_cae", "data.category=screw"))
    assert isinstance(method.network, PoolingAutoencoder)
    assert sum(parameter.numel() for parameter in method.network.parameters()) == 4385
