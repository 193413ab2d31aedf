"""ResNet-18 for small images: the number of weights that everybody counts on CIFAR-10, and its maps."""

import pytest
import torch
from torch import nn

from anomaly_lab.networks.resnet import ResNet18


def test_it_has_the_weights_of_cifar_10():
    with torch.device("meta"):
        network = ResNet18(64, 3)
        head = nn.Linear(network.features, 10)
    assert sum(weight.numel() for layer in (network, head) for weight in layer.parameters()) == 11_173_962


@pytest.mark.parametrize(("side", "places"), [(32, 4), (28, 4), (64, 8)])
def test_features_are_the_mean_of_the_last_map(side, places):
    torch.manual_seed(0)
    network = ResNet18(4, 1).eval()
    images = torch.rand(2, 1, side, side)
    with torch.no_grad():
        maps = network.layers(images)
        assert maps.shape == (2, 32, places, places)
        torch.testing.assert_close(network(images), maps.mean(dim=(2, 3)))
