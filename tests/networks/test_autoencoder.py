"""The layer table: parameter counts and shapes."""

import pytest
import torch

from anomaly_lab.networks.autoencoder import Autoencoder, GaussianAutoencoder, PoolingAutoencoder

COUNTS = {  # (image_size, channels, latent_size): parameters with biases, methods.md A1
    (128, 1, 100): 1_048_549, (256, 1, 100): 1_081_381, (128, 1, 500): 2_687_349, (256, 1, 500): 2_720_181,
    (128, 1, 128): 1_163_265, (256, 1, 128): 1_196_097, (128, 3, 100): 1_050_599, (256, 3, 100): 1_083_431,
    (128, 3, 500): 2_689_399, (256, 3, 500): 2_722_231, (128, 3, 128): 1_165_315, (256, 3, 128): 1_198_147,
}  # fmt: skip


@pytest.mark.parametrize(("setting", "expected"), COUNTS.items())
def test_parameter_counts_are_the_published_ones(setting, expected):
    network = Autoencoder(*setting)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_biases_are_999():
    network = Autoencoder(128, 3, 100)
    assert sum(p.numel() for name, p in network.named_parameters() if name.endswith("bias")) == 999


@pytest.mark.parametrize("size", [128, 256, 512])
def test_the_code_is_one_pixel_and_the_image_comes_back(size):
    network = Autoencoder(size, 3, 100)
    images = torch.rand(2, 3, size, size)
    assert network.encoder(images).shape == (2, 100, 1, 1)
    assert network(images).shape == images.shape


def test_xavier_is_really_applied_and_a_sigmoid_bounds_the_output():
    network = Autoencoder(128, 1, initialisation="xavier", output="sigmoid")
    weight = network.encoder[2].weight  # 32 x 32 x 4 x 4
    assert weight.std().item() == pytest.approx((2 / (2 * 32 * 16)) ** 0.5, rel=0.03)
    assert all(not p.any() for name, p in network.named_parameters() if name.endswith("bias"))
    output = network(100 * torch.randn(1, 1, 128, 128))
    assert output.min() >= 0
    assert output.max() <= 1


def test_he_keeps_the_variance_through_all_layers():
    torch.manual_seed(0)
    network = Autoencoder(256, 3, 100)
    values = torch.randn(8, 3, 256, 256)
    for layer in [*network.encoder, *network.decoder]:
        values = layer(values)
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            assert 0.4 < values.square().mean() < 2.5, layer


def test_a_gaussian_stands_between_encoder_and_decoder():
    network = GaussianAutoencoder(128, 3, 100)
    assert sum(parameter.numel() for parameter in network.parameters()) == COUNTS[128, 3, 100] + 100 * (32 * 64 + 1)
    images = torch.rand(2, 3, 128, 128)
    mean, log_variance = network.encode(images)
    assert mean.shape == log_variance.shape == (2, 100, 1, 1)
    torch.testing.assert_close(network(images), network.decoder(mean))
    assert not network.encoder[-1].layer.bias.any()  # the initialisation reaches it


@pytest.mark.parametrize("side", [8, 32, 56])
def test_the_code_of_the_tutorial_has_an_eighth_of_the_side(side):
    network = PoolingAutoencoder(side, 1)
    images = torch.rand(2, 1, side, side)
    assert network.encoder(images)[0].numel() == 8 * (side // 8) ** 2
    assert network(images).shape == images.shape


def test_doubling_by_the_nearest_pixel_keeps_constants():
    """Inside, where no border of zeros is seen."""
    made = PoolingAutoencoder(64, 3).decoder(torch.full((1, 8, 8, 8), 0.3))
    inner = made[..., 20:44, 20:44]
    torch.testing.assert_close(inner, inner[..., :1, :1].expand_as(inner))


def test_small_images_have_the_published_network_of_mnist():
    network = GaussianAutoencoder(28, 1, 32)
    parts = network.encoder[:-1], network.encoder[-1], network.decoder
    assert [sum(weight.numel() for weight in part.parameters()) for part in parts] == [6_555_840, 65_600, 6_594_753]


@pytest.mark.parametrize(("side", "channels"), [(28, 1), (32, 3)])
def test_small_images_come_back_too(side, channels):
    torch.manual_seed(0)
    network, images = GaussianAutoencoder(side, channels, 8), torch.rand(3, channels, side, side)
    mean, log_variance = network.encode(images)
    assert mean.shape == log_variance.shape == (3, 8, 1, 1)
    assert network(images).shape == images.shape
    assert network.encoder[: network.attended](images).shape == (3, 128, side // 4, side // 4)
