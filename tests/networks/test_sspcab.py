"""SSPCAB: what a place sees of the others, the gate, the loss of the block."""

import pytest
import torch

from anomaly_lab.networks.sspcab import SSPCAB


def test_a_place_is_predicted_from_four_corners_and_sees_nothing_between():
    torch.manual_seed(0)
    maps = torch.rand(1, 4, 11, 11, requires_grad=True)
    predicted = SSPCAB(4).predicted(maps)[0, :, 5, 5]
    (gradient,) = torch.autograd.grad(predicted.sum(), maps)
    assert predicted.min() >= 0
    places = {(int(y), int(x)) for y, x in gradient[0].abs().sum(0).nonzero()}
    assert places == {(3, 3), (7, 3), (3, 7), (7, 7)}


def test_larger_windows_lie_further_out():
    torch.manual_seed(1)
    maps = torch.rand(1, 2, 21, 21, requires_grad=True)
    (gradient,) = torch.autograd.grad(SSPCAB(2, kernel=2, dilation=1).predicted(maps)[0, :, 10, 10].sum(), maps)
    rows = sorted({int(y) for y, _ in gradient[0].abs().sum(0).nonzero()})
    assert rows == [7, 8, 12, 13]  # a window of 7 = 2 * 2 + 2 * 1 + 1 places, of which the middle three are hidden


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("dilation", [0, 1, 2])
def test_the_answer_has_the_size_of_the_maps(kernel, dilation):
    maps = torch.rand(2, 8, 9, 7)
    assert SSPCAB(8, kernel, dilation)(maps)[0].shape == maps.shape


def averaging():
    """A block whose prediction is the mean of its four corners."""
    block = SSPCAB(8)
    with torch.no_grad():
        for corner in block.corners:
            corner.weight.copy_(torch.eye(8).view(8, 8, 1, 1) / 4)
            corner.bias.zero_()
        for layer in (block.excitation[0], block.excitation[2]):
            layer.weight.zero_()
            layer.bias.zero_()
    return block


def test_the_mean_of_the_corners_of_a_flat_image_is_the_image_but_near_the_border():
    predicted = averaging().predicted(torch.ones(1, 8, 9, 9))[0, 0]
    assert (predicted[2:-2, 2:-2] == 1).all()
    assert predicted[0, 0] == predicted[8, 0] == 0.25
    assert predicted[0, 4] == 0.5


def test_an_excitation_without_weights_halves_all_channels():
    maps = torch.rand(1, 8, 9, 9)
    block = averaging()
    answer, loss = block(maps)
    assert torch.equal(answer, block.predicted(maps) / 2)
    torch.testing.assert_close(loss, (answer - maps).square().mean())


def test_channels_are_weighed_by_the_mean_of_what_is_predicted():
    block, maps = averaging(), torch.rand(2, 8, 9, 9)
    with torch.no_grad():
        block.excitation[0].weight[:, 0] = 1  # reads the first channel
        block.excitation[2].weight.fill_(1)
    predicted = block.predicted(maps)
    gate = predicted[:, :1].mean(dim=(2, 3), keepdim=True).sigmoid()
    torch.testing.assert_close(block(maps)[0], predicted * gate)


def test_a_prediction_that_is_right_costs_nothing_and_half_of_it_a_quarter_of_the_square():
    """Waves that vanish outside: along an axis the two neighbours of a place are the root of two times the place."""
    block = averaging()
    wave = torch.tensor([0.5**0.5, 0, 1, 0, 0.5**0.5])
    maps = wave.outer(wave).expand(1, 8, 5, 5)
    with torch.no_grad():
        for corner in block.corners:
            corner.weight.mul_(2)
        torch.testing.assert_close(block(maps)[1], maps.square().mean() / 4)  # a gate of a half
        block.excitation[2].bias.fill_(100.0)  # of one
        assert block(maps)[1] < 1e-12


def test_it_has_fewer_weights_than_the_convolution_in_whose_place_it_is():
    count = sum(weight.numel() for weight in SSPCAB(64).corners.parameters())
    assert count == 4 * (64 * 64 + 64) < 9 * 64 * 64
