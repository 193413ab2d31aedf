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
