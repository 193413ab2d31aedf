"""Principal directions: those of scikit-learn, and distances along them that are lower bounds."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from anomaly_lab.functional.principal_directions import (
    DIRECTIONS,
    SAMPLE,
    principal_components,
    principal_directions,
)


def rows_of(count, features, seed=0):
    """Far from zero, and each direction half as long as the one before it."""
    random = np.random.default_rng(seed)
    turned = np.linalg.qr(random.normal(size=(features, features)))[0]
    return (7 + random.normal(size=(count, features)) * 0.5 ** np.arange(features) @ turned).astype(np.float32)


@pytest.mark.parametrize("features", [5, 40])
def test_the_directions_are_those_of_scikit_learn(features):
    rows = rows_of(500, features)
    centre, directions = principal_directions(rows)
    expected = PCA(min(features, 8)).fit(rows.astype(np.float64))
    np.testing.assert_allclose(centre, expected.mean_)
    assert directions.shape == (features, min(features, DIRECTIONS))
    first = directions.T[::-1][: len(expected.components_)]  # ascending
    np.testing.assert_allclose(np.abs((first * expected.components_).sum(axis=1)), 1, rtol=1e-6)  # up to the sign
    np.testing.assert_allclose(directions.T @ directions, np.eye(directions.shape[1]), atol=1e-12)


def test_of_more_rows_every_second_is_looked_at():
    rows = rows_of(SAMPLE + 5, 3)
    some, every = principal_directions(rows[::2]), principal_directions(rows)
    np.testing.assert_array_equal(some[0], every[0])
    np.testing.assert_array_equal(some[1], every[1])
    rows[1::2] = 0
    np.testing.assert_array_equal(principal_directions(rows)[0], some[0])


def test_distances_are_lower_bounds_and_nearly_the_distances():
    rows = rows_of(SAMPLE + 5, 40)
    centre, directions = principal_directions(rows)
    short = principal_components(rows)
    assert short.shape == (len(rows), DIRECTIONS)
    np.testing.assert_allclose(short, (rows - centre) @ directions, atol=1e-5)
    apart, along = (np.linalg.norm(part[1:] - part[:1], axis=1) for part in (rows, short))
    assert (along <= apart * (1 + 1e-5)).all()
    np.testing.assert_allclose(along, apart, rtol=1e-4)


def test_rows_of_few_features_stay_as_they_are():
    rows = rows_of(9, DIRECTIONS)
    assert principal_components(rows) is rows
