"""Intervals: closed forms, scipy, the bootstrap."""

import numpy as np
import pytest
from scipy import stats

from anomaly_lab.metrics.intervals import auroc_difference, auroc_interval, auroc_variance, t_interval
from anomaly_lab.metrics.ranking import rank


def test_the_interval_of_a_mean_is_that_of_scipy():
    values = [0.91, 0.93, 0.88, 0.95]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert t_interval(values) == pytest.approx((low, high))
    assert t_interval([0.0, 2.0], 0.5) == pytest.approx((0.0, 2.0))  # one degree of freedom: t = 1 at a half


def test_one_value_has_no_interval():
    with pytest.raises(ValueError, match="at least two"):
        t_interval([1.0])


def test_delong_variance_in_closed_form():
    """Two and two images: components .5, 1 and 1, .5, so the variance is .0625 + .0625 and the AUROC .75."""
    low, high = auroc_interval(np.array([0.1, 0.4]), np.array([0.35, 0.8]))
    reach = 1.959964 * np.sqrt(0.125) / (0.75 * 0.25)
    assert low == pytest.approx(1 / (1 + np.exp(-(np.log(3) - reach))), rel=1e-5)
    assert high == pytest.approx(1 / (1 + np.exp(-(np.log(3) + reach))), rel=1e-5)


def test_the_interval_holds_the_truth_95_times_in_100():
    """Normal scores one standard deviation apart: AUROC Phi(1 / sqrt 2) = .76025."""
    random, inside = np.random.default_rng(0), 0
    for _ in range(400):
        low, high = auroc_interval(random.normal(size=40), random.normal(1, size=60))
        inside += low <= 0.76025 <= high
    assert 0.92 <= inside / 400 <= 0.98


def test_perfect_order_is_no_certainty():
    low, high = auroc_interval(np.arange(3.0), np.arange(10.0, 50.0))
    assert (low, high) == (pytest.approx(0.05 ** (1 / 3)), 1.0)
    assert auroc_interval(np.arange(10.0, 50.0), np.arange(3.0)) == (0.0, pytest.approx(1 - 0.05 ** (1 / 3)))
    assert np.isnan(auroc_interval(np.arange(3.0), np.zeros(0))).all()


@pytest.mark.parametrize(("normal", "abnormal"), [([1, 1], [1, 1]), ([5] * 3, [5] * 40), ([1, 3], [2]), ([0], [0, 1])])
def test_without_a_variance_the_interval_says_how_little_is_known(normal, abnormal):
    """Newcombe's method 5: at either end the observed AUROC lies 1.96 of its own standard errors away."""
    normal, abnormal = np.array(normal, float), np.array(abnormal, float)
    low, high = auroc_interval(normal, abnormal)
    auroc, images = rank(normal, abnormal).auroc().value, (len(normal) + len(abnormal)) / 2 - 1
    assert 0 < low < auroc < high < 1
    for a in (low, high):
        variance = a * (1 - a) * (1 + images * ((1 - a) / (2 - a) + a / (1 + a))) / len(normal) / len(abnormal)
        assert abs(auroc - a) == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-5)


def test_equal_scores_of_two_and_two_images():
    low, high = auroc_interval(np.ones(2), np.ones(2))
    assert (low, high) == pytest.approx((0.1122, 0.8878), abs=1e-4)  # .3878 from .5, 1.96 times .1979
    more_low, more_high = auroc_interval(np.ones(200), np.ones(200))
    assert low < more_low < 0.5 < more_high < high


def test_a_difference_without_variance_is_as_wide_as_its_two_intervals():
    abnormal = np.array([False, False, True, True])
    perfect, tied = np.array([1.0, 2, 3, 4]), np.ones(4)
    low, high = auroc_difference(perfect, tied, abnormal)
    (one, _), (least, largest) = (auroc_interval(score[:2], score[2:]) for score in (perfect, tied))
    assert low == pytest.approx(0.5 - np.hypot(1 - one, largest - 0.5))
    assert high == pytest.approx(0.5 + 0.5 - least)
    other = np.array([2.0, 1, 4, 3])  # as perfect, in another order
    low, high = auroc_difference(perfect, other, abnormal)
    assert low == -high < -0.5


def test_the_variance_is_that_of_the_interval_and_more_abnormal_images_lessen_their_part():
    normal, abnormal = np.array([0.1, 0.4]), np.array([0.35, 0.8])
    assert auroc_variance(normal, abnormal) == pytest.approx(0.0625 + 0.0625)
    assert auroc_variance(normal, abnormal, 2) == pytest.approx(0.0625 + 0.0625 / 2)
    tied = auroc_variance(np.ones(2), np.ones(2))
    assert tied == pytest.approx(0.25 * (1 + 2 / 3) / 4)  # Newcombe
    assert auroc_variance(np.ones(2), np.ones(2), 1) == pytest.approx(0.25 * (1 + 1.5 * 2 / 3) / 6)
    for more, pairs in ((0, 3), (1, 4), (9, 5)):
        low, high = auroc_interval(np.zeros(5), np.ones(pairs))
        found = auroc_variance(np.zeros(5), np.ones(3), more)
        assert 1.959964 * found**0.5 == pytest.approx(high - low, rel=1e-5)
        assert auroc_variance(np.ones(5), np.zeros(3), more) == found


def scores(count, seed=0):
    random = np.random.default_rng(seed)
    abnormal = np.arange(count) % 2 == 1
    shared = random.normal(size=count)
    one = shared + 2.0 * abnormal + 0.3 * random.normal(size=count)
    other = shared + 1.0 * abnormal + 0.3 * random.normal(size=count)
    return one, other, abnormal


def test_the_difference_is_that_of_the_areas_and_turns_its_sign():
    one, other, abnormal = scores(60)
    areas = [rank(score[~abnormal], score[abnormal]).auroc().value for score in (one, other)]
    low, high = auroc_difference(one, other, abnormal)
    assert (low + high) / 2 == pytest.approx(areas[0] - areas[1])
    assert auroc_difference(other, one, abnormal) == pytest.approx((-high, -low))
    assert auroc_difference(one, one, abnormal) == (0.0, 0.0)


def test_its_width_is_that_of_a_paired_bootstrap():
    one, other, abnormal = scores(120)
    low, high = auroc_difference(one, other, abnormal)
    random = np.random.default_rng(1)
    places = [np.flatnonzero(abnormal == value) for value in (False, True)]
    won = [(score[abnormal][:, None] > score[~abnormal]).astype(float) for score in (one, other)]  # all pairs
    found = []
    for _ in range(2000):
        above, below = (random.choice(len(part), len(part)) for part in places[::-1])
        areas = [pairs[np.ix_(above, below)].mean() for pairs in won]
        found.append(areas[0] - areas[1])
    assert high - low == pytest.approx(2 * 1.96 * np.std(found), rel=0.12)


def test_pairing_makes_the_interval_of_like_scores_narrow():
    one, other, abnormal = scores(60)
    shuffled = other.copy()
    for value in (False, True):
        shuffled[abnormal == value] = np.random.default_rng(2).permutation(other[abnormal == value])
    narrow, wide = (np.diff(auroc_difference(one, score, abnormal))[0] for score in (other, shuffled))
    assert narrow < 0.8 * wide
