"""The descent of gamma-VAE-grad where each step is known."""

import pytest
import torch

from anomaly_lab.functional.projection import misfits, project

AXIS = torch.tensor([1.0, 0]).view(1, 2, 1, 1)  # the first of two channels


def first_axis(images):
    return images * AXIS


def narrow(images):
    """A model with a bend, so that its gradient counts."""
    return (images.flatten(1).mean(dim=1).square() + 0.1).view(-1, 1, 1, 1).expand_as(images)


def energy(images, start, weight):
    return misfits(images, narrow(images)) + weight * (images - start).abs().flatten(1).sum(dim=1)


def test_what_is_reconstructed_never_moves():
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(project(images, lambda x: x, 10, 0.5, 0.05), images)


def test_one_step_towards_black_is_known():
    images = torch.full((1, 1, 1, 1), 0.5)
    assert project(images, torch.zeros_like, 1, 0.5, 0.0).item() == 0.375
    # the distance from the start has no gradient at 0, and draws back from then on
    expected = 0.375 - 0.5 * (2 * 0.375 - 0.1) * 0.375**2
    for side in (1, 3):  # at every pixel
        found = project(images.expand(1, 1, side, side), torch.zeros_like, 2, 0.5, 0.1)
        assert found.flatten().tolist() == pytest.approx([expected] * side**2)
    assert images.item() == 0.5
    assert not images.requires_grad


def test_beside_a_subspace_only_what_leaves_it_falls():
    images, rate, second = torch.tensor([0.7, 0.9]).view(1, 2, 1, 1), 0.2, 0.9
    for steps in range(1, 5):
        second -= 2 * rate * second**3
        assert project(images, first_axis, steps, rate, 0.0).flatten().tolist() == pytest.approx([0.7, second])


@pytest.mark.parametrize("weight", [0.0, 0.05])
def test_the_energy_does_not_rise_at_a_small_rate(weight):
    images = torch.rand(4, 1, 3, 3)
    energies = torch.stack([energy(project(images, narrow, n, 0.05, weight), images, weight) for n in range(20)])
    assert (energies.diff(dim=0) <= 1e-6).all()
    assert (energies[-1] < energies[0]).all()


def test_the_model_is_differentiated():
    """x = .5, f(x) = x^2 + .1: the gradient of (x - f)^2 is 2 (x - f) (1 - 2 x), which is 0 here."""
    images = torch.full((1, 1, 1, 1), 0.5)
    assert project(images, narrow, 3, 0.5, 0.0).item() == pytest.approx(0.5)


def test_images_stay_in_their_range():
    assert project(torch.full((1, 1, 1, 1), 0.9), torch.zeros_like, 1, 5.0, 0.0).item() == 0
    assert project(torch.full((1, 1, 1, 1), 0.5), lambda x: 0 * x + 2, 1, 5.0, 0.0).item() == 1


def test_each_image_is_done_on_its_own():
    images = torch.tensor([0.1, 0.5, 0.9]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    found = project(images, torch.zeros_like, 100, 0.1, 0.0, enough=0.2)
    alone = [project(images[i : i + 1], torch.zeros_like, 100, 0.1, 0.0, enough=0.2) for i in range(3)]
    assert torch.equal(found, torch.cat(alone))
    assert torch.equal(found[0], images[0])  # 4 x .01 is below .2
    assert (misfits(found, torch.zeros_like(found))[1:] <= 0.2).all()
    assert (misfits(found, torch.zeros_like(found))[1:] > 0.15).all()  # the step that crosses the line is the last
    assert not found.requires_grad
