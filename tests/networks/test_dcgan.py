"""The shared trunk: shapes, the published numbers of weights, the initialisation, batch norm at test."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from anomaly_lab.networks.dcgan import (
    CONVOLUTIONS,
    Decoder,
    Encoder,
    batch_statistics,
    cross_entropy,
    initialise,
    learns_from_batches,
    trunk,
)


@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(size, channels):
    encoder, decoder = Encoder(size, channels, 10, 2), Decoder(size, channels, 10, 2)
    images = torch.rand(2, channels, size, size)
    assert encoder.features(images).shape == (2, 2 * size // 8, 4, 4)
    codes = encoder(images)
    assert codes.shape == (2, 10, 1, 1)
    assert decoder(codes).shape == images.shape
    assert decoder(100 * codes).abs().max() <= 1


def test_the_layers_are_those_of_the_paper():
    """At 64 px: no batch norm after the first convolution, a LeakyReLU of 0.2, no bias anywhere."""
    layers = list(trunk(64, 3, 64))
    assert [layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)] == [64, 128, 256, 512]
    assert [type(layer).__name__ for layer in layers[:5]] == [
        "Conv2d", "LeakyReLU", "Conv2d", "BatchNorm2d", "LeakyReLU"
    ]  # fmt: skip
    assert {layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)} == {0.2}
    decoder = [layer for layer in Decoder(64, 3).layers if isinstance(layer, nn.ConvTranspose2d)]
    assert [layer.out_channels for layer in decoder] == [512, 256, 128, 64, 3]
    assert all(layer.bias is None for layer in [*layers, *decoder] if isinstance(layer, CONVOLUTIONS))


def test_the_initialisation_is_measured():
    """A weight matrix of n numbers has the deviation 0.02 but for 0.02 / sqrt(2 n)."""
    torch.manual_seed(0)
    network = nn.Sequential(Encoder(64, 3, 100), Decoder(64, 3, 100))
    before = {name: value.clone() for name, value in network.named_parameters()}
    initialise(network)
    assert all(not torch.equal(value, before[name]) for name, value in network.named_parameters() if "bias" not in name)
    convolutions = [module for module in network.modules() if isinstance(module, CONVOLUTIONS)]
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    assert (len(convolutions), len(norms)) == (10, 7)
    for module in convolutions:
        count = module.weight.numel()
        assert module.weight.std().item() == pytest.approx(0.02, abs=5 * 0.02 / (2 * count) ** 0.5)
        assert abs(module.weight.mean().item()) < 5 * 0.02 / count**0.5
    weights = torch.cat([module.weight for module in norms])
    assert weights.mean().item() == pytest.approx(1, abs=5 * 0.02 / len(weights) ** 0.5)
    assert weights.std().item() == pytest.approx(0.02, rel=0.15)
    assert not any(module.bias.any() for module in norms)


def test_batch_norm_looks_at_the_batch_and_forgets_it():
    torch.manual_seed(0)
    network = Encoder(32, 3, 4, 4).eval()
    images = torch.rand(4, 3, 32, 32)
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    running = network(images)
    with batch_statistics(network):
        batch = network(images)
        assert not learns_from_batches(network)
    assert torch.equal(network(images), running)
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    network.train()
    assert learns_from_batches(network)
    torch.testing.assert_close(network(images), batch)
    assert not torch.equal(batch, running)


def test_cross_entropy_is_that_of_a_sigmoid_and_stays_finite():
    logits = torch.tensor([-2.0, 0.5, 3.0])
    for real, target in ((True, torch.ones(3)), (False, torch.zeros(3))):
        expected = nn.functional.binary_cross_entropy(logits.sigmoid(), target)
        torch.testing.assert_close(cross_entropy(logits, real), expected)
    assert cross_entropy(torch.zeros(5), True).item() == pytest.approx(0.693147, abs=1e-6)
    assert cross_entropy(torch.tensor([1000.0]), False).item() == 1000
    assert cross_entropy(logits.bfloat16(), True).dtype == torch.float32
