"""SSIM against scikit-image, closed forms and symmetry."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from anomaly_lab.functional.ssim import LIBRARY_CONSTANTS, PAPER_CONSTANTS, ssim_map


def pair(height=40, width=52):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 1, 1, height, width, generator=generator).unbind(0)


def test_equals_scikit_image_with_a_gaussian_window():
    x, y = pair()
    _, expected = structural_similarity(
        x[0, 0].numpy(), y[0, 0].numpy(), data_range=1.0, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True, win_size=11,
    )  # fmt: skip
    ours = ssim_map(x, y)[0, 0].numpy()
    np.testing.assert_allclose(ours[5:-5, 5:-5], expected[5:-5, 5:-5], atol=2e-5)
    np.testing.assert_allclose(ssim_map(x, y, padded=False)[0, 0].numpy(), expected[5:-5, 5:-5], atol=2e-5)


def test_float64_images_are_compared_in_float64():
    x, y = (
        0.9 + 0.01 * images.double() for images in pair()
    )  # hardly any variance: small differences of large numbers
    _, expected = structural_similarity(
        x[0, 0].numpy(), y[0, 0].numpy(), data_range=1.0, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True, win_size=11,
    )  # fmt: skip
    ours = ssim_map(x, y)
    assert ours.dtype == torch.float64
    np.testing.assert_allclose(ours[0, 0].numpy()[5:-5, 5:-5], expected[5:-5, 5:-5], atol=1e-7)


def test_equals_scikit_image_with_a_uniform_window():
    x, y = pair()
    _, expected = structural_similarity(
        x[0, 0].numpy(), y[0, 0].numpy(), data_range=1.0, win_size=11, use_sample_covariance=False, full=True
    )
    np.testing.assert_allclose(ssim_map(x, y, "uniform")[0, 0].numpy()[5:-5, 5:-5], expected[5:-5, 5:-5], atol=2e-5)


@pytest.mark.parametrize(
    ("a", "b", "constants", "expected"),
    [
        (0.25, 0.75, LIBRARY_CONSTANTS, 0.600064),
        (0.25, 0.75, PAPER_CONSTANTS, 0.606299),
        (0.0, 1.0, LIBRARY_CONSTANTS, 9.999e-5),
        (0.0, 1.0, PAPER_CONSTANTS, 0.009901),
    ],
)
def test_constant_images_have_a_closed_form(a, b, constants, expected):
    similarity = ssim_map(torch.full((1, 1, 16, 16), a), torch.full((1, 1, 16, 16), b), constants=constants)
    torch.testing.assert_close(similarity, torch.full_like(similarity, expected), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("constants", "expected"), [(LIBRARY_CONSTANTS, -0.996270), (PAPER_CONSTANTS, -0.886666)])
def test_checkerboard_against_its_inverse(constants, expected):
    board = (torch.arange(11)[:, None] + torch.arange(11)).remainder(2).eq(0).float()[None, None]
    similarity = ssim_map(board, 1 - board, "uniform", constants=constants, padded=False)
    assert similarity.shape == (1, 1, 1, 1)
    assert similarity.item() == pytest.approx(expected, abs=2e-5)


def test_taps_of_the_gaussian_window():
    impulse = torch.zeros(1, 1, 11, 11)
    impulse[..., 5] = 1
    from anomaly_lab.functional.ssim import _window_mean

    taps = [_window_mean(torch.roll(impulse, i - 5, 3), "gaussian").item() for i in range(6)]
    expected = [0.00102838, 0.00759876, 0.03600077, 0.10936069, 0.21300554, 0.26601172]
    assert taps == pytest.approx(expected, abs=1e-7)


def test_equal_images_are_exactly_one_and_the_measure_is_symmetric():
    x, y = pair()
    assert (ssim_map(x, x) == 1).all()
    torch.testing.assert_close(ssim_map(x, y), ssim_map(y, x), rtol=0, atol=1e-6)


def test_opposite_structure_is_negative_and_not_clamped():
    x, _ = pair()
    assert ssim_map(x, 1 - x).mean() < -0.9


def test_gradient_is_finite_where_there_is_no_variance():
    x = torch.full((1, 1, 16, 16), 0.5, requires_grad=True)
    ssim_map(x, torch.zeros_like(x)).mean().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0


def test_autocast_does_not_lose_the_variance():
    x, y = pair()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ssim_map(x, y), ssim_map(x, y))
        inside = ssim_map(x, y)
    assert torch.equal(inside, ssim_map(x, y))
