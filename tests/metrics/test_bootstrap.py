"""The paired bootstrap, against one image after the other written out."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anomaly_lab.metrics.bootstrap import aupro, auroc, interval, resamples


def test_every_stratum_keeps_its_size_and_a_seed_its_resamples():
    strata = np.array([0] * 7 + [1] * 3 + [2])
    weights = resamples(strata, seed=4, count=500)
    for stratum, size in ((0, 7), (1, 3), (2, 1)):
        assert (weights[:, strata == stratum].sum(1) == size).all()
    assert np.array_equal(weights, resamples(strata, seed=4, count=500))
    assert not np.array_equal(weights, resamples(strata, seed=5, count=500))
    assert weights[:, :7].mean() == pytest.approx(1)
    assert weights[:, :7].var() == pytest.approx(1 - 1 / 7, rel=0.1)  # binomial


def test_auroc_is_that_of_the_repeated_images():
    random = np.random.default_rng(0)
    labels = (random.random(40) < 0.4).astype(int)
    scores = random.integers(0, 9, 40) + 2.0 * labels  # ties
    weights = resamples(labels, count=20)
    expected = [roc_auc_score(np.repeat(labels, times), np.repeat(scores, times)) for times in weights.astype(int)]
    assert auroc(scores, labels, weights) == pytest.approx(expected, abs=1e-12)
    assert auroc(np.zeros(40), labels, weights) == pytest.approx(np.full(20, 0.5))
    assert auroc(labels.astype(float), labels, weights) == pytest.approx(np.ones(20))


def test_aupro_is_that_of_the_repeated_images():
    random = np.random.default_rng(1)
    totals, regions = random.integers(50, 90, 6).astype(float), np.array([0.0, 2, 1, 0, 3, 1])
    rising = np.sort(random.random((6, 30)), axis=1)
    false_positives = rising**2 * totals[:, None]
    overlaps = np.sort(random.random((6, 30)), axis=1) * regions[:, None]
    weights = resamples(regions > 0, count=10)
    found = aupro(false_positives, overlaps, totals, regions, weights)
    for value, times in zip(found, weights, strict=True):
        x = np.concatenate([[0], times @ false_positives / (times @ totals)])
        y = np.concatenate([[0], times @ overlaps / (times @ regions)])
        fine = np.linspace(0, 0.3, 200_001)
        assert value == pytest.approx(np.trapezoid(np.interp(fine, x, y), fine) / 0.3, abs=1e-6)


@pytest.mark.parametrize(("reached", "overlap"), [(0.2, 0.9), (0.3, 0.9), (0.0, 0.5), (0.05, 1.0)])
def test_a_curve_that_ends_before_the_limit_goes_on_to_where_all_pixels_count(reached, overlap):
    x, y = np.array([[0, reached]]), np.array([[0, overlap]])
    (found,) = aupro(x * 100, y * 2, np.array([100.0]), np.array([2.0]), np.ones((1, 1)))
    at_limit = overlap + (1 - overlap) * (0.3 - reached) / (1 - reached)
    expected = reached * overlap / 2 + (0.3 - reached) * (overlap + at_limit) / 2
    assert found == pytest.approx(expected / 0.3)


def test_an_interval_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(2)
    inside = 0
    for _ in range(200):
        labels = np.repeat([0, 1], 30)
        scores = random.normal(size=60) + labels  # true AUROC: Phi(1 / sqrt 2) = 0.7602
        low, high = interval(auroc(scores, labels, resamples(labels, count=400)))
        inside += low <= 0.7602 <= high
    assert 0.88 <= inside / 200 <= 0.99
