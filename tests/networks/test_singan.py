"""SinGAN: its scales; the sizes of its networks, the field of a number, what a generator may change."""

import pytest
import torch
from torch.nn.functional import avg_pool2d

from anomaly_lab.core.errors import UserError
from anomaly_lab.networks.singan import BORDER, Generator, patch_layers, resized, sides_of


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


def test_sides_are_those_of_the_authors():
    assert sides_of(64, 25, 5) == [25, 32, 40, 51, 64]
    assert sides_of(64, 25, 1) == [64]
    assert sides_of(32, 16, 2) == [16, 32]


def test_too_small_images_and_too_many_scales_are_refused():
    with pytest.raises(UserError, match=r"data.patch_size: expected at least 16 px, the coarsest scale .*found 15 px"):
        sides_of(15, 16, 2)
    with pytest.raises(UserError, match=r"method.scales: expected fewer, .* from 16 px .* to 32 px differ, found 18"):
        sides_of(32, 16, 18)


def test_smaller_images_are_smoothed():
    """A fine grid becomes gray instead of what lies under the new pixels; a plain image and a size stay as they are."""
    grid = (torch.arange(40)[:, None] + torch.arange(40)).remainder(2).float().expand(2, 3, 40, 40)
    small = resized(grid, 10)
    assert small.shape == (2, 3, 10, 10)
    torch.testing.assert_close(small, avg_pool2d(grid, 4), atol=0.02, rtol=0)
    torch.testing.assert_close(resized(torch.full((1, 1, 40, 40), 0.3), 64), torch.full((1, 1, 64, 64), 0.3))
    images = torch.rand(2, 1, 12, 12)
    torch.testing.assert_close(resized(images, 12), images)
