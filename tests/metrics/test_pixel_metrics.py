"""Pixel metrics against scikit-learn, closed forms and MVTec's algorithm written out slowly."""

import numpy as np
import pytest
from scipy.ndimage import label
from sklearn.metrics import average_precision_score, roc_auc_score

from anomaly_lab.metrics.pixel_metrics import PixelMetrics


def compute(maps, masks, pro_limit=0.3):
    metrics = PixelMetrics(pro_limit)
    metrics.update(maps, masks)
    return metrics.compute()


def two_regions():
    """10 x 10 pixels, a region of one pixel and one of 3 x 3."""
    mask = np.zeros((10, 10), bool)
    mask[1, 1] = True
    mask[5:8, 5:8] = True
    return mask


def mvtec_aupro(maps, masks, limit):
    """The algorithm of the script that comes with MVTec AD: sort all scores, add up, integrate."""
    rates, overlaps, scores = [], [], []
    regions = [(i, *label(mask, np.ones((3, 3)))) for i, mask in enumerate(masks)]
    total = sum(count for _, _, count in regions)
    normal = sum((~mask).sum() for mask in masks)
    for i, labelled, count in regions:
        areas = np.bincount(labelled.ravel(), minlength=count + 1)
        rates.append(np.where(labelled == 0, 1 / normal, 0).ravel())
        overlaps.append(np.where(labelled == 0, 0, 1 / (areas[labelled] * total)).ravel())
        scores.append(maps[i].ravel())
    order = np.argsort(-np.concatenate(scores), kind="stable")
    rate, overlap = np.concatenate(rates)[order].cumsum(), np.concatenate(overlaps)[order].cumsum()
    last = np.append(np.diff(np.concatenate(scores)[order]) != 0, True)
    rate, overlap = np.concatenate([[0], rate[last], [1]]), np.concatenate([[0], overlap[last], [1]])
    area = 0.0
    for left in range(len(rate) - 1):
        x0, x1, y0, y1 = rate[left], rate[left + 1], overlap[left], overlap[left + 1]
        if x0 >= limit or x1 == x0:
            continue
        if x1 > limit:
            y1, x1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0), limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def test_equals_mvtecs_algorithm_and_scikit_learn_on_random_maps():
    random = np.random.default_rng(0)
    masks = [random.random((40, 50)) < 0.1, np.zeros((30, 20), bool), random.random((25, 25)) < 0.02]
    levels = [random.normal(size=mask.shape) + mask for mask in masks]
    for maps in (
        [m.astype(np.float32) for m in levels],
        [np.round(m).astype(np.float32) for m in levels],  # ties
        [np.exp(6 * m).astype(np.float32) for m in levels],  # heavy tail
    ):
        values = compute(maps, masks)
        scores, labels = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])
        assert values["aupro"] == pytest.approx(mvtec_aupro(maps, masks, 0.3), abs=1e-9)
        assert values["auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
        assert values["aupr"] == pytest.approx(average_precision_score(labels, scores), abs=1e-9)


@pytest.mark.parametrize(
    ("found", "aupro", "whole", "auroc"), [("large", 0.575, 0.75, 0.95), ("small", 0.575, 0.75, 0.55)]
)
def test_one_region_found_of_two(found, aupro, whole, auroc):
    mask, anomaly_map = two_regions(), np.zeros((10, 10), np.float32)
    anomaly_map[(slice(5, 8), slice(5, 8)) if found == "large" else (1, 1)] = 1
    values = compute([anomaly_map], [mask])
    assert values["aupro"] == pytest.approx(aupro, abs=1e-6)
    assert values["auroc"] == pytest.approx(auroc, abs=1e-6)
    assert values["regions"] == 2
    assert compute([anomaly_map], [mask], 1.0)["aupro"] == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize(("sign", "limit", "expected"), [(1, 0.3, 1.0), (-1, 0.3, 0.0), (0, 0.3, 0.15), (0, 1.0, 0.5)])
def test_perfect_inverted_and_constant_maps(sign, limit, expected):
    mask = two_regions()
    assert compute([sign * mask.astype(np.float32)], [mask], limit)["aupro"] == pytest.approx(expected, abs=1e-9)


def test_false_alarms_above_all_defects():
    mask = two_regions()
    anomaly_map = mask.astype(np.float32)
    anomaly_map[9, :9] = 2  # 9 of 90 normal pixels
    assert compute([anomaly_map], [mask])["aupro"] == pytest.approx(2 / 3)


def test_corner_contact_joins_regions():
    mask = np.zeros((4, 4), bool)
    mask[1, 1] = mask[2, 2] = True
    assert compute([mask.astype(np.float32)], [mask])["regions"] == 1


def test_without_defects_all_is_nan_with_one_warning():
    with pytest.warns(UserWarning, match="need normal and defective pixels"):
        values = compute([np.zeros((4, 4), np.float32)], [np.zeros((4, 4), bool)])
    assert np.isnan(values["aupro"])
    assert np.isnan(values["auroc"])


def test_sizes_and_nan_are_refused():
    metrics = PixelMetrics()
    with pytest.raises(ValueError, match=r"size of its mask, \(4, 4\), found \(8, 8\)"):
        metrics.update([np.zeros((8, 8), np.float32)], [np.zeros((4, 4), bool)])
    with pytest.raises(ValueError, match="found 1 NaN"):
        metrics.update([np.array([[np.nan, 0]], np.float32)], [np.zeros((1, 2), bool)])
