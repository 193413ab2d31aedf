"""PaDiM: one Gaussian a place, in closed form."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis

from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.padim import PaDiM
from tests.features import Pixels


def padim(features=4, image_size=8, seed=0, ridge=0.01, largest=64.0):
    return PaDiM(WholeImage(), Pixels(), image_size, features, ridge, largest, seed)


def numbers(method):
    """The drawn channels of both layers, which have three each."""
    return [*method.channels[0].tolist(), *(method.channels[1] + 3).tolist()]


def fitted(method, images):
    method.update(images, torch.arange(len(images)))
    method.fit()
    return method


def test_the_map_is_the_distance_of_mahalanobis_at_every_place():
    images = torch.randint(256, (9, 3, 8, 8), generator=torch.Generator().manual_seed(0)) / 256  # exact means
    method = fitted(padim(), images)
    rows = method.embedding(images).numpy()
    assert rows.shape == (9, 4, 4, 4)
    expected = np.empty((4, 4))
    for y in range(4):
        for x in range(4):
            place = rows[:, :, y, x]
            covariance = np.cov(place, rowvar=False) + 0.01 * np.eye(4)  # divided by n - 1
            expected[y, x] = mahalanobis(rows[3, :, y, x], place.mean(axis=0), np.linalg.inv(covariance))
    np.testing.assert_allclose(method.predict(images[3:4]).anomaly_map[0, 0], expected, rtol=1e-4)


def test_deeper_layers_are_repeated_on_the_grid_of_the_first():
    image = torch.rand(1, 3, 8, 8)
    method = padim(features=6)
    fine, coarse = Pixels()(image)
    expected = torch.cat([fine, coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)], dim=1)
    torch.testing.assert_close(method.embedding(image), expected)
    some = padim(features=3, seed=1)
    torch.testing.assert_close(some.embedding(image), expected[:, numbers(some)])


def test_channels_are_drawn_once_by_the_seed():
    drawn = [numbers(padim(features=3, seed=seed)) for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len({*map(tuple, drawn)}) > 1
    assert all(some == sorted(set(some)) for some in drawn)
    with pytest.raises(UserError, match=r"method.features: expected at most 6, the channels of fine, coarse, found 7"):
        padim(features=7)


def test_what_does_not_vary_has_the_ridge_alone():
    method = fitted(padim(features=6, ridge=0.25), torch.full((4, 3, 8, 8), 0.5))
    answer = method.predict(torch.full((1, 3, 8, 8), 0.75)).anomaly_map
    torch.testing.assert_close(answer, torch.full((1, 1, 4, 4), (6 * 0.25**2 / 0.25) ** 0.5), rtol=1e-4, atol=1e-4)


def test_one_image_has_the_ridge_alone_and_what_cannot_be_added_exactly_is_refused():
    image = torch.full((1, 3, 8, 8), 0.5)
    answer = fitted(padim(features=6, ridge=0.25), image).predict(torch.full((1, 3, 8, 8), 0.75)).anomaly_map
    torch.testing.assert_close(answer, torch.full((1, 1, 4, 4), (6 * 0.25**2 / 0.25) ** 0.5), rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match=r"method.largest: expected features below 0.25 in size, found 0.5; a pow"):
        fitted(padim(largest=0.25), torch.full((2, 3, 8, 8), 0.5))


def test_a_part_in_another_place_is_abnormal():
    """Places are compared one by one, unlike in PatchCore and SPADE."""
    images = torch.zeros(8, 3, 8, 8)
    images[:, :, :4] = 1
    images += 0.01 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    method = fitted(padim(features=6), images.clamp(0, 1))
    usual, moved = (method.predict(image[None]).anomaly_map.max() for image in (images[0], images[0].flip(1)))
    assert moved > 5 * usual


def test_features_that_are_not_finite_are_refused():
    images = torch.rand(3, 3, 8, 8)
    images[1] = torch.nan
    with pytest.raises(UserError, match=r"^method.backbone: expected finite features"):
        fitted(padim(), images)
