"""The angle between features, in closed form."""

import pytest
import torch

from anomaly_lab.functional.feature_distance import cosine_distance


def test_it_is_one_minus_the_cosine_at_each_place():
    one, other = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    found = cosine_distance(one, other)
    assert found.shape == (2, 1, 3, 4)
    torch.testing.assert_close(found[:, 0], 1 - torch.cosine_similarity(one, other))
    torch.testing.assert_close(found, cosine_distance(7 * one, 0.1 * other))
    assert not cosine_distance(one, one).any()
    torch.testing.assert_close(cosine_distance(one, -one), torch.full_like(found, 2))


def test_a_vector_without_places_is_one_angle():
    assert cosine_distance(torch.tensor([[1.0, 0, 0, 3]]), torch.tensor([[0.0, 1, 0, 3]])).item() == pytest.approx(0.1)


def test_a_vector_of_zeros_is_at_a_right_distance_from_all_and_gives_finite_gradients():
    zeros = torch.zeros(1, 4, requires_grad=True)
    distance = cosine_distance(torch.ones(1, 4), zeros)
    assert distance.item() == pytest.approx(0.5)
    distance.sum().backward()
    assert zeros.grad.isfinite().all()
