"""The blocks of the improved Wasserstein GAN by closed forms: norms, weights, what they do to pixels."""

import pytest
import torch
from torch import nn

from anomaly_lab.networks.wgan import ResidualBlock, batch_norm, glorot, layer_norm, trunk, widths


def test_layers_have_the_published_settings():
    norm = batch_norm(4)
    assert (norm.eps, norm.momentum) == (1e-3, 0.01)
    images = 5 + 3 * torch.rand(2, 4, 8, 8)
    expected = nn.functional.layer_norm(images, images.shape[1:], eps=1e-5)
    torch.testing.assert_close(layer_norm(4)(images), expected)
    convolutions = [layer for layer in ResidualBlock(8, 4, "up", batch_norm).modules() if isinstance(layer, nn.Conv2d)]
    assert [convolution.bias is None for convolution in convolutions] == [True, False, False]


def test_weights_are_uniform_with_the_published_variances():
    torch.manual_seed(0)
    block, linear = ResidualBlock(64, 64, "down", layer_norm), glorot(nn.Linear(512, 128))
    for layer, variance in (
        (block.residual[3], 4 / (2 * 9 * 64)),
        (block.residual[6], 4 / (2 * 9 * 64)),
        (block.shortcut[-1], 2 / 128),
        (linear, 2 / (512 + 128)),
    ):
        assert layer.weight.std().item() == pytest.approx(variance**0.5, rel=0.05)
        assert layer.weight.abs().max().item() == pytest.approx((3 * variance) ** 0.5, rel=0.02)
        assert layer.bias is None or not layer.bias.any()


def test_blocks_repeat_pixels_upwards_and_average_them_downwards():
    images = torch.rand(1, 2, 4, 4)
    for direction, expected in (
        ("up", images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)),
        ("down", images.view(1, 2, 2, 2, 2, 2).mean(dim=(3, 5))),
    ):
        block = ResidualBlock(2, 2, direction, layer_norm)
        nn.init.eye_(block.shortcut[-1].weight.data[:, :, 0, 0])
        nn.init.zeros_(block.residual[6].weight)
        torch.testing.assert_close(block(images), expected)


@pytest.mark.parametrize(
    ("side", "expected"), [(32, [3, 6, 12, 24]), (64, [3, 6, 12, 24, 24]), (128, [3, 6, 12, 24, 24, 24])]
)
def test_a_trunk_ends_at_four_pixels_and_eight_times_the_width(side, expected):
    assert widths(side, 3) == expected
    network, images = trunk(side, 1, 3, layer_norm), torch.rand(2, 1, side, side)
    assert [block.shortcut[-1].out_channels for block in network[1:-1]] == expected[1:]
    assert network(images).shape == (2, 24 * 4 * 4)
