"""The network of the slides: its number of weights, and what is left of a photo."""

import pytest
import torch
from torch import nn

from anomaly_lab.networks.conv_net import ConvNet


def test_it_has_the_weights_of_the_slides():
    parts = [ConvNet(1024, 3), nn.Linear(84, 2)]
    assert sum(weight.numel() for part in parts for weight in part.parameters()) == 337_198


@pytest.mark.parametrize(("side", "places"), [(1024, 9), (1000, 9), (1099, 9), (200, 1)])
def test_places_before_the_first_dense_layer(side, places):
    network = ConvNet(side, 1)
    assert network.vectors[0].in_features == 32 * places**2
    assert network(torch.rand(2, 1, side, side)).shape == (2, 84)
