"""Gaussian smoothing against SciPy, at borders and beside padding; odd sides."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from anomaly_lab.functional.blur import gaussian_blur, odd


def test_equals_scipy_away_from_the_border():
    maps = torch.rand(1, 1, 80, 60, generator=torch.Generator().manual_seed(0))
    expected = gaussian_filter(maps[0, 0].numpy().astype(np.float64), 3.0, truncate=4.0)
    np.testing.assert_allclose(gaussian_blur(maps, 3.0)[0, 0, 12:-12, 12:-12], expected[12:-12, 12:-12], atol=1e-6)


def test_constant_maps_stay_constant_up_to_the_border():
    maps = torch.full((2, 1, 30, 20), 0.7)
    torch.testing.assert_close(gaussian_blur(maps, 8.0), maps)


def test_a_map_of_one_pixel_stays_itself():
    maps = torch.tensor([3.5, -2.0]).view(2, 1, 1, 1)
    torch.testing.assert_close(gaussian_blur(maps, 4.0), maps)


def test_what_is_not_valid_does_not_leak():
    maps = torch.ones(1, 1, 32, 32)
    maps[..., :8] = 1e6
    valid = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    valid[..., :8] = False
    torch.testing.assert_close(gaussian_blur(maps, 2.0, valid)[..., 8:], torch.ones(1, 1, 32, 24))


def test_the_nearest_odd_side_of_a_window():
    assert [odd(side) for side in (0.2, 0.9, 1.9, 2.9, 4.1, 5.0)] == [1, 1, 1, 3, 5, 5]
