"""What lies above the line, counted by hand and by scikit-learn."""

import numpy as np
import pytest
from scipy.ndimage import label
from sklearn.metrics import jaccard_score, precision_score, recall_score

from anomaly_lab.metrics.pixel_decisions import PixelDecisions, without_small_regions


def test_closed_form_of_two_regions():
    mask = np.zeros((10, 10), bool)
    mask[1, 1] = mask[5:8, 5:8] = True
    anomaly_map = np.zeros((10, 10), np.float32)
    anomaly_map[5:8, 5:7] = 1.0  # six of nine
    anomaly_map[0, :3] = anomaly_map[1, 1] = 2.0  # one of one, by a region of four pixels
    decisions = PixelDecisions(1.0)
    decisions.update(anomaly_map, mask, without_small_regions(anomaly_map, 1.0, 5))
    values = decisions.compute()
    assert values["overlap"] == pytest.approx((6 / 9 + 0) / 2)
    assert values["overlap_all"] == pytest.approx((6 / 9 + 1) / 2)
    assert values["iou"] == pytest.approx(7 / (10 + 3))
    assert values["precision"] == values["recall"] == pytest.approx(7 / 10)


@pytest.mark.parametrize("area", [1, 3, 12, 1000])
def test_small_regions_are_those_of_scipy(area):
    anomaly_map = np.random.default_rng(area).normal(size=(40, 50)).astype(np.float32)
    large = without_small_regions(anomaly_map, 0.7, area)
    regions, _ = label(anomaly_map >= 0.7, np.ones((3, 3)))
    expected = (np.bincount(regions.ravel()) >= area)[regions] & (regions > 0)
    assert ((large >= 0.7) == expected).all()
    assert (large[expected | (regions == 0)] == anomaly_map[expected | (regions == 0)]).all()


def test_pools_all_images_and_equals_scikit_learn():
    random, decisions, pairs = np.random.default_rng(0), PixelDecisions(0.5), []
    for _ in range(5):
        pairs.append((random.normal(size=(9, 7)).astype(np.float32), random.random((9, 7)) < 0.2))
        decisions.update(*pairs[-1], pairs[-1][0])
    called = np.concatenate([(m >= 0.5).ravel() for m, _ in pairs])
    mask = np.concatenate([m.ravel() for _, m in pairs])
    values = decisions.compute()
    for name, reference in (("iou", jaccard_score), ("precision", precision_score), ("recall", recall_score)):
        assert values[name] == pytest.approx(reference(mask, called))


def test_nothing_found_and_nothing_there():
    decisions = PixelDecisions(1.0)
    decisions.update(np.zeros((4, 4), np.float32), np.zeros((4, 4), bool), np.zeros((4, 4), np.float32))
    assert np.isnan(list(decisions.compute().values())).all()
