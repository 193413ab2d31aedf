"""Farthest points: the naive greedy's selection, at every prefix."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly_lab.functional.farthest_points import farthest_points


def naive(rows, count, first):
    """All distances at every pick; the smallest number wins a tie, and copies of what is there are no picks."""
    picks = [first]
    distance = np.full(len(rows), np.inf)
    while len(picks) < count:
        distance = np.minimum(distance, ((rows - rows[picks[-1]]) ** 2).sum(axis=1))
        if not distance.any():
            break
        picks.append(int(distance.argmax()))
    return picks


def test_points_on_a_line():
    rows = np.array([[0], [1], [3], [7], [15]], np.float32)
    picks, radius = farthest_points(rows, 5)
    assert picks.tolist() == [0, 4, 3, 2, 1]
    assert radius == 0
    assert farthest_points(rows, 3)[1] == 3.0  # 3 lies between 0 and 7


@pytest.mark.parametrize("features", [1, 7, 64, 100, 192])
@pytest.mark.parametrize("clusters", [1, 5, 400])
def test_the_selection_is_the_naive_greedys(features, clusters):
    random = np.random.default_rng(features)
    centres = random.normal(size=(clusters, features))[random.integers(0, clusters, 400)]
    rows = centres + 0.1 * random.normal(size=(400, features))
    rows = (np.round(rows * 64) / 64).astype(np.float32)  # squares of these add up exactly
    picks, radius = farthest_points(rows, 400, 17)
    assert picks.tolist() == naive(rows.astype(np.float64), 400, 17)
    assert radius == 0
    part, radius = farthest_points(rows, 120, 17)
    assert part.tolist() == picks[:120].tolist()
    apart = np.linalg.norm(rows[:, None] - rows[part][None], axis=2).min(axis=1).max()
    assert radius == pytest.approx(apart, rel=1e-5)


@pytest.mark.parametrize(("features", "scale"), [(20, 1.0), (33, 1e-3), (100, 50.0), (130, 1.0)])
def test_near_ties_are_decided_by_sums_that_are_rounded_once(features, scale):
    """Real numbers far from zero, some rows far outside what the principal components are computed from."""
    random = np.random.default_rng(features)
    centres = random.normal(size=(300, features)) * random.exponential(size=features)
    rows = scale * (7 + centres[random.integers(0, 300, 2000)] + 0.02 * random.normal(size=(2000, features)))
    rows[1:200:40] += scale * 30 * random.normal(size=(5, features))
    rows[1000:1010] = rows[10:20]
    rows = rows.astype(np.float32)
    picks, _ = farthest_points(rows, 400, 17)
    expected, bound = [17], np.full(2000, np.inf, np.float32)
    for _ in range(399):
        squares = np.square(rows - rows[expected[-1]], dtype=np.float64).sum(axis=1)
        bound = np.minimum(bound, squares.astype(np.float32))
        expected.append(int(bound.argmax()))
    assert picks.tolist() == expected


@given(
    rows=st.lists(st.lists(st.integers(-4, 4), min_size=3, max_size=3), min_size=1, max_size=60),
    count=st.integers(1, 60),
    first=st.integers(0, 59),
)
def test_ties_and_copies(rows, count, first):
    """Integers: many rows are copies, many distances equal. The selection ends when only copies are left."""
    rows, count, first = np.array(rows, np.float32), min(count, len(rows)), first % len(rows)
    picks, _ = farthest_points(rows, count, first)
    assert picks.tolist() == naive(rows, count, first)
    assert len({*map(tuple, rows[picks].tolist())}) == len(picks)


def test_it_covers_at_most_twice_as_far_as_the_best_selection():
    random = np.random.default_rng(0)
    for _ in range(20):
        rows = random.normal(size=(10, 2)).astype(np.float32)
        apart = np.linalg.norm(rows[:, None] - rows[None], axis=2)
        radii = [farthest_points(rows, count)[1] for count in range(1, 11)]
        assert radii == sorted(radii, reverse=True)
        for count in (2, 3):
            best = min(apart[:, list(some)].min(axis=1).max() for some in combinations(range(10), count))
            assert radii[count - 1] <= 2 * best + 1e-6


def test_its_parts_are_shown_and_what_is_not_finite_is_refused():
    rows = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    shown = []
    farthest_points(rows, 300, 0, lambda parts: shown.extend(parts) or parts)
    assert shown[-1] == 300
    assert shown == sorted(set(shown))
    for value in (np.nan, np.inf):
        rows[3, 3] = value
        with pytest.raises(ValueError, match="expected finite numbers, found NaN or infinity among the rows"):
            farthest_points(rows, 3)
    with pytest.raises(ValueError, match="expected 1 to 500 rows"):
        farthest_points(rows, 501)
