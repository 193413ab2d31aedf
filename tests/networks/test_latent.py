"""Gaussian codes: the divergence in closed form, what a draw is, the two kinds of heads."""

import math

import pytest
import torch

from anomaly_lab.networks.latent import GaussianHead, kl_to_standard_normal, sample


@pytest.mark.parametrize(
    ("mean", "variance", "expected"), [(0, 1, 0), (1, 1, 0.5), (0, math.e, (math.e - 2) / 2), (-2, 0.5, 2.096574)]
)
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1, 1), (3, 2, 1, 2)])
def test_the_divergence_is_that_of_the_books_for_each_number_of_a_code(mean, variance, expected, shape):
    divergence = kl_to_standard_normal(torch.full(shape, float(mean)), torch.full(shape, math.log(variance)))
    assert divergence.tolist() == pytest.approx([4 * expected] * 3, rel=1e-5)


def test_a_draw_has_the_mean_and_the_variance_of_its_gaussian_and_gradients_reach_both():
    mean, log_variance = torch.tensor([[3.0]], requires_grad=True), torch.tensor([[math.log(4)]], requires_grad=True)
    assert sample(mean, log_variance, torch.tensor([[1.5]])).item() == pytest.approx(3 + 2 * 1.5)
    sample(mean, log_variance, torch.tensor([[1.5]])).sum().backward()
    assert mean.grad.item() == 1
    assert log_variance.grad.item() == pytest.approx(1.5 * 2 / 2)


def test_a_head_is_dense_or_a_convolution():
    mean, log_variance = GaussianHead(7, 5)(torch.rand(2, 7))
    assert mean.shape == log_variance.shape == (2, 5)
    head = GaussianHead(7, 5, kernel=3)
    mean, log_variance = head(torch.rand(2, 7, 4, 4))
    assert mean.shape == log_variance.shape == (2, 5, 2, 2)
    assert sum(weight.numel() for weight in head.parameters()) == 2 * 5 * (7 * 9 + 1)


@pytest.mark.parametrize("far", [-1e4, 1e4])
def test_a_variance_that_one_step_has_moved_too_far_costs_much_and_is_finite(far):
    head = GaussianHead(1, 2)
    torch.nn.init.constant_(head.layer.weight, far)
    mean, log_variance = head(torch.ones(3, 1))
    divergence = kl_to_standard_normal(mean, log_variance)
    assert divergence.isfinite().all()
    assert sample(mean, log_variance, torch.ones_like(mean)).square().sum().isfinite()
    divergence.sum().backward()
    assert head.layer.weight.grad.isfinite().all()
    assert head.layer.weight.grad[0].item() * far > 0  # the mean still comes back


def test_usual_variances_are_left_as_they_are():
    head = GaussianHead(5, 5)
    torch.nn.init.zeros_(head.layer.bias)
    with torch.no_grad():
        head.layer.weight[5:] = torch.eye(5)
    levels = torch.tensor([[-29.0, -8.0, 0.0, 8.0, 19.0]])
    torch.testing.assert_close(head(levels)[1], levels)
