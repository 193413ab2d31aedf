"""The LeNets without biases: sizes, weights, what zeros lead to."""

import pytest
import torch
from torch import nn

from anomaly_lab.networks.lenet import decoder, encoder, latent_size, widths


def weights(network):
    return sum(weight.numel() for weight in network.parameters())


def test_weights_are_those_of_the_authors():
    assert (weights(encoder(28, 1)), weights(decoder(28, 1))) == (7272, 1200)
    assert (weights(encoder(32, 3)), weights(decoder(32, 3))) == (520_544, 284_000)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [28, 32, 64, 128, 256])
def test_images_become_codes_and_codes_images(side, channels):
    codes = encoder(side, channels)(torch.rand(2, channels, side, side))
    assert codes.shape == (2, latent_size(side))
    images = decoder(side, channels)(codes)
    assert images.shape == (2, channels, side, side)
    assert 0 < images.min() <= images.max() < 1


def test_larger_images_have_more_convolutions():
    assert widths(64) == (32, 64, 64, 128, 128)
    assert widths(128) == (32, 32, 64, 64, 128, 128)
    assert widths(256) == (32, 32, 32, 64, 64, 128, 128)


@pytest.mark.parametrize("side", [28, 32, 128])
def test_nothing_has_a_bias(side):
    for network in (encoder(side, 3), decoder(side, 3)):
        assert not [name for name, _ in network.named_parameters() if name.endswith("bias")]
        norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
        assert norms
        assert all(norm.weight is None and norm.bias is None and norm.eps == 1e-4 for norm in norms)


def test_the_encoder_is_the_sequence_of_the_paper_by_hand():
    network, images = encoder(28, 1).eval(), torch.rand(2, 1, 28, 28)
    first, second, dense = (weight for weight in network.parameters())
    maps = images
    for weight in (first, second):
        maps = nn.functional.conv2d(maps, weight, padding=2) / (1 + 1e-4) ** 0.5
        maps = nn.functional.max_pool2d(torch.where(maps > 0, maps, 0.01 * maps), 2)
    torch.testing.assert_close(network(images), maps.flatten(1) @ dense.T)


def test_a_network_of_zeros_answers_zero():
    network = encoder(32, 3)
    for weight in network.parameters():
        nn.init.zeros_(weight)
    assert not network(torch.rand(4, 3, 32, 32)).any()
