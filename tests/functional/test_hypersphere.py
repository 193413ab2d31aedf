"""The losses around a centre, in closed form."""

import numpy as np
import pytest
import torch

from anomaly_lab.functional.hypersphere import (
    centre,
    classification_loss,
    pixel_loss,
    pseudo_huber,
    radius,
    semi_supervised_loss,
    soft_boundary_loss,
    squared_distances,
)


def test_the_centre_is_a_mean_away_from_zero():
    codes = torch.tensor([[1.0, 0.04, -0.04, 0.0, -3.0], [3.0, 0.06, -0.06, 0.0, -1.0]])
    torch.testing.assert_close(centre(codes), torch.tensor([2.0, 0.1, -0.1, 0.1, -2.0]))


def test_zeros_are_never_the_centre():
    latent = 32
    assert centre(torch.zeros(5, latent)).square().sum().item() >= 0.01 * latent * (1 - 1e-6)


def test_distances_are_squared():
    codes = torch.tensor([[3.0, 4.0], [1.0, 1.0]])
    assert squared_distances(codes, torch.ones(2)).tolist() == [13, 0]


def test_the_soft_boundary_by_hand():
    assert soft_boundary_loss(torch.tensor([0.0, 1.0, 4.0]), torch.tensor(1.0), 0.5).item() == pytest.approx(3)


def test_the_radius_by_hand_and_as_numpy():
    assert radius(torch.tensor([0.0, 4.0, 1.0]), 0.5).item() == 1
    squares = torch.rand(37, generator=torch.Generator().manual_seed(0))
    for nu in (0.01, 0.1, 0.5, 0.99):
        assert radius(squares, nu).item() == pytest.approx(np.quantile(squares.sqrt().numpy(), 1 - nu), rel=1e-5)
    assert radius(torch.tensor([9.0]), 0.1).item() == 3


def test_an_abnormal_image_costs_the_inverse():
    distances = torch.tensor([4.0, 4.0])
    both = semi_supervised_loss(distances, torch.tensor([False, True]), 1.0).item()
    assert both == pytest.approx((4 + 0.25) / 2, abs=1e-6)
    assert semi_supervised_loss(distances[1:], torch.tensor([True]), 3.0).item() == pytest.approx(0.75, abs=1e-6)


def test_an_abnormal_image_at_the_centre_has_a_finite_gradient_that_no_normal_one_has():
    distances = torch.zeros(2, requires_grad=True)
    semi_supervised_loss(distances, torch.tensor([False, True]), 1.0).backward()
    assert distances.grad is not None
    assert distances.grad.isfinite().all()
    assert distances.grad[0] == 0.5
    assert distances.grad[1] < -1e6


def test_the_pseudo_huber_distance_by_hand():
    torch.testing.assert_close(pseudo_huber(torch.tensor([0.0, 3**0.5, -(8**0.5)])), torch.tensor([0.0, 1.0, 2.0]))


def test_the_classification_loss_by_hand():
    """FCDD: normal 1, abnormal .458675 for the same distance, 2.352168 for a tenth."""
    distances, abnormal = torch.tensor([1.0, 1.0, 0.1]), torch.tensor([False, True, True])
    expected = (1 + 0.458675 + 2.352168) / 3
    assert classification_loss(distances, abnormal).item() == pytest.approx(expected, abs=1e-6)
    assert classification_loss(distances, abnormal & False).item() == pytest.approx(0.7)


def test_an_abnormal_image_without_distance_is_finite_with_its_gradient():
    distances = torch.tensor([1e-8, 0.0, 0.0], requires_grad=True)
    loss = classification_loss(distances, torch.tensor([True, True, False]))
    loss.backward()
    assert loss.item() == pytest.approx((18.420681 + 71.3802) / 3, rel=1e-4)
    assert distances.grad is not None
    assert distances.grad.isfinite().all()
    assert distances.grad[0].item() == pytest.approx(-1e8 / 3, rel=1e-3)
    assert distances.grad[2].item() == pytest.approx(1 / 3)


def marks(*shares, side=4):
    """A mask for each share of its rows."""
    marked = torch.zeros(len(shares), 1, side, side, dtype=torch.bool)
    for mask, share in zip(marked, shares, strict=True):
        mask[:, : round(share * side)] = True
    return marked


@pytest.mark.parametrize("heat", [0.1, 1.0, 5.0])
def test_the_pixel_loss_of_constant_heat_in_closed_form(heat):
    """FCDD, equation 3: a share p that is marked costs (1 - p) A - log(1 - exp(-p A)), nothing marked A."""
    found = pixel_loss(torch.full((3, 1, 4, 4), heat), marks(0, 0.25, 1))
    expected = [heat, 0.75 * heat - np.log(1 - np.exp(-0.25 * heat)), -np.log(1 - np.exp(-heat))]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_marked_pixels_are_pushed_up_and_the_others_down():
    heat = torch.full((2, 1, 4, 4), 0.8, requires_grad=True)
    marked = marks(0, 0.25)
    pixel_loss(heat, marked).sum().backward()
    assert heat.grad is not None
    torch.testing.assert_close(heat.grad[~marked], torch.full((28,), 1 / 16))
    pushed = -1 / (np.exp(0.25 * 0.8) - 1) / 16  # of -log(1 - exp(-x)) at x, the mean of the marked heat
    torch.testing.assert_close(heat.grad[marked], torch.full((4,), pushed))


def test_no_marked_heat_at_all_has_a_finite_gradient():
    heat = torch.zeros(2, 1, 4, 4, requires_grad=True)
    loss = pixel_loss(heat, marks(0, 0.5))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0, 71.3802], rel=1e-4)
    assert heat.grad is not None
    assert heat.grad.isfinite().all()
    assert (heat.grad[0] == 1 / 16).all()
