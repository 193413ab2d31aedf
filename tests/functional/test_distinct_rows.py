"""Distinct rows: those of NumPy, in the order in which they come."""

import numpy as np
import pytest

from anomaly_lab.functional.distinct_rows import first_distinct


@pytest.mark.parametrize("count", [1, 3, 7, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_first_distinct_rows_are_those_of_numpy(count, dtype):
    rows = np.random.default_rng(0).integers(0, 2, size=(40, 3)).astype(dtype)
    first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
    assert len(first) == 8
    found = first_distinct(rows, count)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, rows[first[:count]])


def test_0_is_not_minus_0():
    found = first_distinct(np.float32([[0.0], [-0.0], [0.0]]), 3)
    np.testing.assert_array_equal(np.signbit(found), [[False], [True]])


def test_copies_are_one_row():
    rows = np.full((5, 2), 0.3, np.float32)
    np.testing.assert_array_equal(first_distinct(rows, 4), rows[:1])
