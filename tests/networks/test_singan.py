"""The networks of SinGAN: sizes, the field of a number, what a generator may change."""

import pytest
import torch

from anomaly_lab.networks.singan import BORDER, Generator, patch_layers


def test_a_number_is_of_a_patch():
    network, x = patch_layers(3, 5, 4).eval(), torch.rand(1, 3, 25, 25, requires_grad=True)
    answer = network(x)
    assert answer.shape == (1, 5, 15, 15)
    (seen,) = torch.autograd.grad(answer[0, :, 4, 7].sum(), [x])
    rows, columns = (seen.abs().sum(dim=(0, 1, other)).nonzero().flatten().tolist() for other in (3, 2))
    assert rows == list(range(4, 4 + 11))
    assert columns == list(range(7, 7 + 11))
    assert 2 * BORDER + 1 == 11


@pytest.mark.parametrize(("width", "count"), [(32, 29_763), (64, 114_819)])
def test_the_weights_are_those_of_the_published_layers(width, count):
    """Of 3 x 3 convolutions with bias, and two numbers a channel of each batch norm."""
    inside = 9 * 3 * width + 3 * 9 * width * width + 4 * width + 4 * 2 * width
    assert count == inside + 9 * width * 3 + 3
    assert sum(weight.numel() for weight in Generator(3, width).parameters()) == count


def test_a_generator_adds_less_than_one():
    torch.manual_seed(0)
    network, images = Generator(3, 4).eval(), torch.rand(2, 3, 20, 20)
    torch.nn.init.normal_(network.layers[-1].weight, 0.0, 10.0)
    made = network(images, images + torch.randn(2, 3, 20, 20))
    assert made.shape == images.shape
    assert 0.5 < (made - images).abs().max() <= 1
    torch.nn.init.zeros_(network.layers[-1].weight)
    torch.nn.init.zeros_(network.layers[-1].bias)
    assert torch.equal(network(images, images), images)
