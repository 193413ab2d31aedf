"""Wide residual networks: the published numbers of weights, a block by hand."""

import pytest
import torch
from torch import nn

from anomaly_lab.networks.wide_resnet import Block, WideResNet


def weights(depth, width, outputs):
    with torch.device("meta"):
        network = WideResNet(depth, width, 3)
        layers = [network, nn.Linear(network.features, outputs)]
    return sum(weight.numel() for layer in layers for weight in layer.parameters())


def test_the_numbers_of_weights():
    assert weights(10, 4, 72) == 1_214_744  # GEOM
    assert weights(10, 1, 4) == 77_460
    assert round(weights(28, 10, 10) / 1e6, 1) == 36.5  # Zagoruyko and Komodakis 2016, table 4


@pytest.mark.parametrize("side", [28, 32, 65])
def test_features_are_the_mean_of_the_last_map(side):
    network = WideResNet(10, 1, 1).eval()
    images = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, maps = network(images), network.layers(images)
    assert maps.shape[2:] == (-(-side // 4), -(-side // 4))
    torch.testing.assert_close(features, maps.mean(dim=(2, 3)))
    assert features.shape == (2, network.features) == (2, 64)


@pytest.mark.parametrize(("outputs", "stride"), [(4, 1), (4, 2), (8, 2)])
def test_a_block_adds_a_branch_to_what_came_in(outputs, stride):
    """The shortcut is the input as it came where the shape stays, and a convolution of what is activated elsewhere."""
    torch.manual_seed(0)
    block, maps = Block(4, outputs, stride).eval(), torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        activated = torch.relu(maps / (1 + 1e-5) ** 0.5)
        shortcut = maps if block.shortcut is None else block.shortcut(activated)
        first, second = block.branch[0], block.branch[3]
        expected = shortcut + second(torch.relu(first(activated) / (1 + 1e-5) ** 0.5))
        torch.testing.assert_close(block(maps), expected)
    assert (block.shortcut is None) == (stride == 1 and outputs == 4)
