"""The three differences from AE-L2, and the warning of a dead start."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from anomaly_lab.functional.ssim import PAPER_CONSTANTS, ssim_map
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.ssim_ae import SSIMAE
from anomaly_lab.networks.autoencoder import Autoencoder


def ssim_ae(**changes):
    torch.manual_seed(0)
    network = Autoencoder(128, 1, 100, "xavier", "sigmoid")
    return SSIMAE(network, partial(torch.optim.Adam, lr=1e-3), WholeImage(), **changes)


def test_loss_counts_only_windows_inside_the_image_and_the_map_has_its_size():
    x, y = torch.rand(2, 3, 1, 32, 32).unbind(0)
    inside = 1 - ssim_map(x, y, padded=False)
    assert inside.shape[-2:] == (22, 22)
    assert ssim_ae().loss(x, y).item() == pytest.approx(inside.mean().item(), abs=1e-6)
    residual = ssim_ae().residual(x, y)
    assert residual.shape == (3, 1, 32, 32)
    torch.testing.assert_close(residual[:, :, 5:-5, 5:-5], inside)


def test_opposite_structure_is_worse_than_none():
    x = torch.rand(1, 1, 32, 32)
    assert ssim_ae().residual(x, 1 - x).max() > 1
    assert not ssim_ae().residual(x, x).any()


def test_constants_and_window_of_the_paper_are_named_switches():
    x, y = torch.rand(2, 1, 1, 32, 32).unbind(0)
    paper = ssim_ae(constants="paper", window="uniform")
    torch.testing.assert_close(paper.residual(x, y), 1 - ssim_map(x, y, "uniform", constants=PAPER_CONSTANTS))
    assert not torch.allclose(paper.residual(x, y), ssim_ae().residual(x, y))


@pytest.mark.parametrize("loss", [0.98, 0.995])
def test_a_dead_start_is_told(loss, recwarn):
    method = ssim_ae()
    method._trainer = SimpleNamespace(callback_metrics={"train/loss_epoch": torch.tensor(loss)})
    method.on_train_epoch_end()
    assert len([w for w in recwarn if "learns nothing" in str(w.message)]) == (loss >= 0.99)
