"""The networks of EGBAD: published sizes, layers by closed forms."""

import pytest
import torch
from torch import nn

from anomaly_lab.networks.bigan import Discriminator, Encoder, Generator


@pytest.mark.parametrize(
    ("side", "channels", "weights"),
    [
        (28, 1, (1_347_656, 6_781_505, 3_907_329)),  # as published
        (32, 1, (1_731_656, 8_753_345, 4_890_369)),
        (64, 3, (1_880_072, 9_017_923, 4_958_145)),
        (256, 3, (2_175_752, 9_542_979, 5_089_601)),
    ],
)
def test_networks_have_the_published_size(side, channels, weights):
    with torch.device("meta"):
        encoder, *others = networks = [kind(side, channels, 200, width) for kind, width in KINDS]
        images = torch.zeros(2, channels, side, side)
        codes, (generator, discriminator) = encoder(images), others
        assert generator(codes).shape == images.shape
        assert discriminator(images, codes).shape == (2,)
        assert discriminator.features(images, codes).shape == (2, 1024)
    assert codes.shape == (2, 200)
    assert tuple(sum(weight.numel() for weight in network.parameters()) for network in networks) == weights


KINDS = (Encoder, 32), (Generator, 64), (Discriminator, 64)


def test_layers_have_the_published_settings():
    torch.manual_seed(0)
    encoder, generator, discriminator = (kind(28, 1, 200, width) for kind, width in KINDS)
    layers = [layer for network in (encoder, generator, discriminator) for layer in network.modules()]
    norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
    assert [norm.num_features for norm in norms] == [64, 128, 1024, 6272, 64, 64]
    assert {layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)} == {0.1}
    assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == [0.5] * 4
    for layer in layers:
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert not layer.bias.any()


def test_strided_layers_of_the_encoder_start_at_the_first_pixel():
    """TensorFlow pads an even side below and to the right only, for a kernel of 3 and a stride of 2."""
    pad, convolution = Encoder(28, 1, 8, 1).network[2:4]
    nn.init.zeros_(convolution.weight)
    convolution.weight.data[:, :, 0, 0] = 1
    images = torch.rand(2, 1, 28, 28)
    found = convolution(pad(images))
    assert found.shape == (2, 2, 14, 14)
    torch.testing.assert_close(found[:, :1], images[:, :, ::2, ::2])
