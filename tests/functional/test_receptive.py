"""Receptive fields against gradients, Gaussians against the authors' numbers."""

import math

import pytest
import torch
from torch import nn

from anomaly_lab.functional.receptive import Field, field_of, gaussian, gaussian_upsample, receptive_field
from anomaly_lab.networks.backbone import Backbone

VGG = Field(62, 8, 3.5)  # VGG11 up to its sixth convolution


@pytest.mark.parametrize(
    ("name", "expected"),
    [("vgg11_bn", VGG), ("resnet18", Field(99, 8, 0.0)), ("tf_efficientnet_lite0", Field(67, 8, 7.0))],
)
def test_the_fields_of_the_networks_of_fcdd(name, expected):
    with torch.device("meta"):  # a VGG draws 120 million weights of its head
        assert field_of(Backbone(name, ["stride8"], trainable=True).network) == expected


def test_by_hand():
    assert receptive_field([]) == Field(1, 1, 0)
    assert receptive_field([nn.Conv2d(1, 1, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]) == Field(6, 2, 0.5)
    assert receptive_field([nn.Conv2d(1, 1, 3, dilation=2), nn.AvgPool2d(2)]) == Field(6, 2, 2.5)


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet18", "tf_efficientnet_lite0"])
def test_a_place_depends_on_its_field_and_on_nothing_else(name):
    with torch.device("meta"):
        network = Backbone(name, ["stride8"], trainable=True).eval()
    for layer in network.to_empty(device="cpu").modules():
        if isinstance(layer, nn.Conv2d):  # means, which no activation cuts off
            nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
        if isinstance(layer, nn.MaxPool2d):
            layer.forward = lambda maps, layer=layer: nn.functional.avg_pool2d(
                maps, layer.kernel_size, layer.stride, layer.padding
            )
    field, (row, column) = field_of(network.network), (9, 10)
    images = torch.ones(1, 3, 136, 136, dtype=torch.float64, requires_grad=True)
    network.double().extract(images)[0][0, :, row, column].sum().backward()
    reached = images.grad[0].abs().sum(dim=0) > 0
    for place, found in ((row, reached.any(dim=1)), (column, reached.any(dim=0))):
        middle = field.shift + field.jump * place
        first, last = middle - (field.extent - 1) / 2, middle + (field.extent - 1) / 2
        assert found.nonzero().flatten().tolist() == list(range(int(first), int(last) + 1))


def test_an_odd_gaussian_has_a_peak_of_one_and_an_even_one_two_halves():
    odd, even = gaussian(5, 2.0), gaussian(6, 2.0)
    expected = [math.exp(-(x**2) / 8) for x in (-2, -1, 0, 1, 2)]
    assert odd.tolist() == pytest.approx(expected)
    assert even.tolist() == pytest.approx([0.5 * expected[i] for i in (0, 1, 2, 2, 3, 4)])


def upsampled(maps, field=VGG, sigma=12.0, side=224):
    return gaussian_upsample(maps, field, gaussian(field.extent, sigma), side, side)


@pytest.mark.parametrize("place", [(0, 0), (5, 20), (27, 27)])
def test_an_impulse_peaks_in_the_middle_of_its_field(place):
    maps = torch.zeros(1, 1, 28, 28)
    maps[0, 0, place[0], place[1]] = 1
    found = upsampled(maps)[0, 0]
    rows, columns = ([8 * i + 3, 8 * i + 4] for i in place)
    peak = found == found.max()
    assert found.max().item() == pytest.approx(0.25)
    assert peak.nonzero().tolist() == [[row, column] for row in rows for column in columns]


def test_a_constant_is_darker_at_the_border():
    found = upsampled(torch.ones(1, 1, 28, 28))[0, 0]
    inside = found[40:-40, 40:-40]
    assert 3.62 <= inside.min() <= inside.max() <= 3.73
    assert found[0, 0].item() == pytest.approx(0.99, abs=0.01)


@pytest.mark.parametrize(("field", "side"), [(VGG, 224), (Field(99, 8, 0.0), 224), (Field(99, 8, 0.0), 37)])
def test_it_is_the_sum_of_gaussians_at_every_place(field, side):
    rows = -(-side // 8)
    maps = torch.rand(2, 1, rows, rows, generator=torch.Generator().manual_seed(0))
    kernel, expected = gaussian(field.extent, 5.0), torch.zeros(2, 1, side + 400, side + 400)
    start = 200 + round(field.shift - (field.extent - 1) / 2)
    for i in range(rows):
        for j in range(rows):
            window = expected[..., start + 8 * i :, start + 8 * j :][..., : field.extent, : field.extent]
            window += maps[..., i, j][..., None, None] * kernel[:, None] * kernel
    found = upsampled(maps, field, 5.0, side)
    torch.testing.assert_close(found, expected[..., 200 : 200 + side, 200 : 200 + side], rtol=1e-4, atol=1e-5)


def test_a_map_that_ends_before_the_image_is_zero_there():
    assert upsampled(torch.ones(1, 1, 1, 1), side=224)[0, 0, 100:].abs().max() == 0
