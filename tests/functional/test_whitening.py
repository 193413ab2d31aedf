"""Whitening: the Mahalanobis distance of scikit-learn's covariance, and one root for all orders of the rows."""

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf

from anomaly_lab.core.errors import UserError
from anomaly_lab.functional.whitening import whitening


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    return torch.from_numpy(random.normal(size=(30, 4)) @ random.normal(size=(4, 4)) + 3)


def test_distances_are_those_of_scikit_learn(rows):
    mean, whitener = whitening(rows)
    points = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = ((points - mean) @ whitener.T).square().sum(dim=1)
    np.testing.assert_allclose(found, LedoitWolf().fit(rows.numpy()).mahalanobis(points.numpy()))


def test_the_order_of_rows_changes_nothing(rows):
    for first, second in zip(whitening(rows), whitening(rows.flip(0)), strict=True):
        torch.testing.assert_close(first, second)
    torch.testing.assert_close(whitening(rows)[1], whitening(rows)[1].T)  # the symmetric root


@pytest.mark.parametrize("count", [1, 2])
def test_so_few_rows_have_no_gaussian(rows, count):
    with pytest.raises(UserError, match=f"expected three training images at least, for a Gaussian, found {count}"):
        whitening(rows[:count])
    assert whitening(rows[:3])[1].isfinite().all()


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_rows_that_are_all_the_same_have_no_gaussian(value):
    same = torch.full((3, 4), value)
    with pytest.raises(UserError, match="expected training images whose features differ.*found 3 with the same; add"):
        whitening(same)
    same[1, 2] += 1e-6
    assert whitening(same)[1].isfinite().all()
