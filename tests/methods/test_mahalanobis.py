"""Mahalanobis AD: Gaussians of the levels against scikit-learn and closed forms."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from sklearn.covariance import LedoitWolf

from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.mahalanobis import Mahalanobis, selected
from tests.features import Pixels


def mahalanobis(components="all", variance=0.99):
    return Mahalanobis(WholeImage(), Pixels(), components, variance, seed=0)


def photos(count, seed=0):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def fitted(method, images):
    method.update(images, torch.arange(len(images)))
    method.fit()
    return method


def test_the_score_is_the_sum_of_the_distances_of_scikit_learn():
    images, new = photos(40), photos(5, seed=1)
    method = fitted(mahalanobis(), images)
    rows, vectors = (method.vectors(each).double().numpy() for each in (images, new))
    expected = sum(
        np.sqrt(LedoitWolf().fit(rows[:, level]).mahalanobis(vectors[:, level])) for level in (slice(3), slice(3, 6))
    )
    answer = method.predict(new)
    assert not method.localises  # so that no pixel metric is made of it
    np.testing.assert_allclose(answer.score, expected, rtol=1e-4)
    np.testing.assert_allclose(answer.anomaly_map[:, 0, 0, 0], expected, rtol=1e-4)


def test_leading_and_trailing_components_part_the_square_of_a_distance():
    variances = np.array([6.0, 3.0, 0.9, 0.1])
    assert selected(variances, "all", 0.9) == slice(None)
    assert selected(variances, "leading", 0.85) == slice(2)
    assert selected(variances, "trailing", 0.85) == slice(0, None)  # from one before the share is reached
    assert selected(variances, "trailing", 0.95) == slice(1, None)
    images, new = photos(40), photos(5, seed=1)
    whole, leading = (fitted(mahalanobis(kind, 0.5), images) for kind in ("all", "leading"))
    assert [len(whitener) for whitener in leading.whiteners] < [len(whitener) for whitener in whole.whiteners]
    assert (leading.predict(new).score < whole.predict(new).score).all()


def test_distances_of_a_gaussian_follow_chi_squared():
    """The threshold of the paper: 99.73 % of normal images lie below the root of the quantile."""
    assert [round(float(np.sqrt(chi2.ppf(0.9973, n))), 4) for n in (1, 64, 100)] == [3.0, 9.9987, 11.9936]
    images = photos(400)
    method = fitted(mahalanobis(), images)
    (level, _), (whitener, _) = (method.vectors(images) - method.mean).split(3, dim=1), method.whiteners
    share = ((level @ whitener.T).norm(dim=1) < float(np.sqrt(chi2.ppf(0.95, 3)))).float().mean()
    assert 0.92 < share < 0.98


def test_features_that_are_not_finite_are_refused():
    images = photos(3)
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match="expected finite features"):
        fitted(mahalanobis(), images)


def test_a_level_that_never_varies_is_refused():
    with pytest.raises(UserError, match=r"expected layers that differ between images, found fine the same in all of 4"):
        fitted(mahalanobis(), torch.full((4, 3, 8, 8), 0.5))
