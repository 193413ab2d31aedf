"""Grad-CAM of numbers whose gradient is known."""

import pytest
import torch

from anomaly_lab.functional.attention import grad_cam

WEIGHTS = torch.tensor([1.0, -2, 0.5])


def numbers(features, factor=1.0):
    """The weighted sum of the channels' means."""
    return factor * features.mean(dim=(2, 3)) @ WEIGHTS


@pytest.mark.parametrize("rectify", ["abs", "relu"])
def test_a_linear_number_has_the_weighted_sum_of_the_channels(rectify):
    features = torch.randn(2, 3, 4, 5, requires_grad=True)
    found = grad_cam(features, numbers(features), rectify)
    expected = torch.einsum("bkij,k->bij", features.detach(), WEIGHTS)[:, None] / 20
    torch.testing.assert_close(found, expected.abs() if rectify == "abs" else expected.relu())
    assert not found.requires_grad
    torch.testing.assert_close(grad_cam(features, numbers(features, 3.0), rectify), 3 * found)


def test_constant_channels_have_a_constant_map():
    features = torch.tensor([2.0, 3, 4]).view(1, 3, 1, 1).expand(1, 3, 4, 4).clone().requires_grad_()
    assert grad_cam(features, numbers(features)).flatten().tolist() == pytest.approx([abs(2 - 6 + 2) / 16] * 16)


def test_a_channel_is_weighted_by_its_mean_gradient():
    """The gradient of half the sum of the squares is the features."""
    features = torch.randn(2, 3, 4, 5, requires_grad=True)
    found = grad_cam(features, features.square().sum(dim=(1, 2, 3)) / 2)
    values = features.detach()
    torch.testing.assert_close(found, (values.mean(dim=(2, 3), keepdim=True) * values).sum(1, keepdim=True).abs())


def test_the_gradient_of_a_map_is_that_of_its_weights_and_of_its_features():
    """Of half the sum of the squares, a channel's map adds up to 20 times the square of its mean."""
    features = torch.randn(2, 3, 4, 5, requires_grad=True)
    grad_cam(features, features.square().sum(dim=(1, 2, 3)) / 2, rectify=None, create_graph=True).sum().backward()
    expected = 2 * features.detach().mean(dim=(2, 3), keepdim=True).expand_as(features)
    torch.testing.assert_close(features.grad, expected)


def test_a_batch_needs_one_backward_pass(monkeypatch):
    calls, backward = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *given, **rest: calls.append(1) or backward(*given, **rest))
    features = torch.randn(5, 3, 4, 4, requires_grad=True)
    grad_cam(features, numbers(features))
    assert len(calls) == 1


def test_a_batch_gives_what_single_images_give():
    features = torch.randn(3, 3, 4, 4, requires_grad=True)
    alone = [row.detach()[None].clone().requires_grad_() for row in features]
    found = torch.cat([grad_cam(row, numbers(row).square()) for row in alone])
    torch.testing.assert_close(grad_cam(features, numbers(features).square()), found)
