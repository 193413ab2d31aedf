"""Curves: their points against scikit-learn and the definition, their areas against the metrics."""

import numpy as np
import pytest
from sklearn import metrics as reference

from anomaly_lab.metrics import PixelMetrics
from anomaly_lab.metrics.curves import Curve, precision_recall, pro, roc
from anomaly_lab.metrics.ranking import rank

RANDOM = np.random.default_rng(0)
SCORE = np.round(RANDOM.normal(size=200) + np.repeat([0.0, 1.0], 100), 1)  # with ties
LABEL = np.repeat([0, 1], 100)
RANKING = rank(SCORE[LABEL == 0], SCORE[LABEL == 1])


def test_the_points_of_roc_are_points_of_scikit_learn():
    curve = roc(RANKING)
    x, y, _ = reference.roc_curve(LABEL, SCORE, drop_intermediate=False)
    points = set(zip(curve.x.round(9), curve.y.round(9), strict=True))
    assert len(points) > 20
    assert points <= set(zip(x.round(9), y.round(9), strict=True))
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(RANKING.auroc().value, abs=1e-12)
    assert (curve.x[0], curve.y[0], curve.threshold[0]) == (0, 0, np.inf)
    assert (curve.x[-1], curve.y[-1]) == (1, 1)


def test_every_point_is_what_its_threshold_decides():
    curve = roc(RANKING)
    for x, y, threshold in zip(*curve, strict=True):
        assert x == pytest.approx((SCORE[LABEL == 0] >= threshold).mean())
        assert y == pytest.approx((SCORE[LABEL == 1] >= threshold).mean())


def test_precision_and_recall_are_those_of_scikit_learn():
    curve = precision_recall(RANKING)
    precision, recall, threshold = reference.precision_recall_curve(LABEL, SCORE)
    expected = dict(zip(threshold.round(6), zip(recall[:-1], precision[:-1], strict=True), strict=True))
    found = dict(zip(curve.threshold.round(6), zip(curve.x, curve.y, strict=True), strict=True))
    common = set(expected) & set(found)
    assert len(common) > 20
    for key in common:
        assert found[key] == pytest.approx(expected[key])
    assert (np.diff(curve.x) * curve.y[1:]).sum() == pytest.approx(RANKING.aupr().value, abs=1e-12)


def test_pro_has_the_area_of_the_metric_up_to_the_limit_and_ends_there():
    random = np.random.default_rng(1)
    masks = np.zeros((3, 32, 32), bool)
    masks[0, 4:12, 4:12] = masks[1, 20:24, 2:30] = masks[1, 2:4, 2:4] = True
    maps = (random.normal(size=masks.shape) + 1.5 * masks).astype(np.float32)
    pixels = PixelMetrics(mode="exact")
    pixels.update(maps, masks)
    ranking = pixels.ranking()
    curve = pro(ranking, 0.3)
    assert np.trapezoid(curve.y, curve.x) / 0.3 == pytest.approx(pixels.compute()["aupro"], abs=1e-9)
    assert curve.x[-1] == 0.3
    assert pro(ranking).x[-1] == 1
    regions = [masks[0], np.pad(masks[1:2, 20:24], ((0, 0), (20, 8), (0, 0)))[0], None]
    small = masks[1] & ~regions[1]
    threshold = curve.threshold[len(curve.threshold) // 2]
    shares = [
        (part >= threshold)[mask].mean()
        for part, mask in ((maps[0], masks[0]), (maps[1], regions[1]), (maps[1], small))
    ]
    assert curve.y[len(curve.y) // 2] == pytest.approx(np.mean(shares))


def test_thinning_moves_no_point_keeps_the_ends_and_hardly_the_area():
    random = np.random.default_rng(2)
    many = roc(rank(random.normal(size=20_000), random.normal(size=20_000) + 1))
    few = many.thinned(200)
    assert 100 < len(few.x) <= 200
    assert set(zip(*few, strict=True)) <= set(zip(*many, strict=True))
    assert (few.x[0], few.x[-1]) == (0, 1)
    assert np.trapezoid(few.y, few.x) == pytest.approx(np.trapezoid(many.y, many.x), abs=1e-3)
    assert many.thinned(10**6) is many


def test_where_a_class_is_missing_the_curve_says_nan():
    curve = roc(rank(np.array([1.0, 2.0]), np.zeros(0)))
    assert np.isnan(curve.y[1:]).all()
    assert isinstance(curve, Curve)
