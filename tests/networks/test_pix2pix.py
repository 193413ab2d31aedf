"""The U-Net of pix2pix: its levels, its skips. Its published size is in tests/methods/test_skip_ganomaly.py."""

import pytest
import torch

from anomaly_lab.networks.dcgan import initialise
from anomaly_lab.networks.pix2pix import UNet


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_the_u_goes_down_to_one_pixel(size):
    network, sides = UNet(size, 1, 2), []
    for down in network.down:
        down.register_forward_hook(lambda _module, _inputs, output: sides.append(output.shape[-1]))
    images = torch.rand(2, 1, size, size)
    assert network(images).shape == images.shape
    assert (sides[0], sides[-1], len(sides)) == (size // 2, 1, size.bit_length() - 1)


def test_fine_detail_passes_the_bottleneck_by():
    torch.manual_seed(0)
    network = UNet(32, 3, 4).eval()
    initialise(network)
    torch.nn.init.zeros_(network.down[-1].weight)  # the bottleneck says nothing
    for layer in (network.down[0], network.output):  # wide enough to be seen
        torch.nn.init.normal_(layer.weight, 0, 0.5)
    stripes = torch.ones(1, 3, 32, 32)
    stripes[..., ::2] = -1  # as fine as they can be
    change = network(stripes) - network(-stripes)
    assert (change[..., 1:] - change[..., :-1]).abs().mean() > 0.1
