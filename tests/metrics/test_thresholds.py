"""The line that normal images draw, in closed form."""

import math

import numpy as np
import pytest

from anomaly_lab.core.errors import UserError
from anomaly_lab.metrics.thresholds import (
    Area,
    FalseAlarms,
    Maximum,
    Own,
    Quantile,
    Sigma,
    Threshold,
    TrainPercentile,
    guarantee,
    just_above,
    pixels,
)

RANDOM = np.random.default_rng(0)
MAPS = [RANDOM.normal(size=(40, 50)).astype(np.float32) for _ in range(7)]


def drawn(strategy, maps=MAPS, scores=None):
    for i, anomaly_map in enumerate(maps):
        strategy.update(anomaly_map, float(anomaly_map.max()) if scores is None else scores[i])
    return strategy.compute()


def chain():
    anomaly_map = np.zeros((10, 10), np.float32)
    anomaly_map[4, 2:7] = [9, 8, 7, 6, 5]
    return anomaly_map


def test_area_leaves_exactly_what_is_smaller_than_a_defect():
    threshold = drawn(Area(0.03), [chain(), np.zeros((10, 10), np.float32)])
    assert 7 < threshold.pixel <= 8
    assert (chain() >= threshold.pixel).sum() == 2
    assert threshold.normals == 2
    nothing_survives = drawn(Area(0.01), [chain()])
    assert nothing_survives.pixel == just_above(9) > 9


def test_maximum_lies_just_above_every_pixel():
    threshold = drawn(Maximum(0.01))
    assert threshold.pixel == just_above(float(max(m.max() for m in MAPS)))
    assert not any((m >= threshold.pixel).any() for m in MAPS)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99, 0.9999])
def test_quantile_leaves_at_most_its_share_of_pixels_and_no_less_than_a_bin(quantile):
    line, values = drawn(Quantile(0.01, quantile)).pixel, np.concatenate(MAPS, axis=None)
    assert (values >= line).mean() <= 1 - quantile
    assert (values >= values[values < line - 2e-3].max()).mean() > 1 - quantile


def test_quantile_of_equal_pixels_is_above_them():
    assert drawn(Quantile(0.01, 0.5), [np.ones((3, 3), np.float32)]).pixel == just_above(1)


def test_sigma_is_mean_plus_k_standard_deviations_also_far_from_zero():
    for shift in (0, 1000):
        maps = [m + np.float32(shift) for m in MAPS]
        values = np.concatenate(maps, axis=None).astype(float)
        assert drawn(Sigma(0.01, 3.0), maps).pixel == pytest.approx(values.mean() + 3 * values.std(), rel=1e-6)


def test_false_alarms_is_the_order_statistic_that_keeps_the_promise():
    scores = [float(i) for i in RANDOM.permutation(99)]
    threshold = drawn(FalseAlarms(0.01, 0.1), [chain()] * 99, scores)
    assert threshold.image == just_above(89)  # the 90th smallest of 99
    assert threshold.note == ""
    assert threshold.decision_score(chain(), 5.0) == 5.0


def test_false_alarms_says_how_many_images_support_the_rate():
    threshold = drawn(FalseAlarms(0.01, 0.01), [chain()] * 9, list(map(float, range(9))))
    assert threshold.image == just_above(8)
    assert threshold.note == (
        "a false alarm rate of 0.01 needs 99 good images; found 9, which cannot guarantee a rate below 0.1"
    )
    assert drawn(FalseAlarms(0.01, 0.01), [chain()] * 99, list(map(float, range(99)))).note == ""


def test_a_new_normal_image_is_a_false_alarm_no_more_often_than_promised():
    alarms = []
    for _ in range(400):
        scores = RANDOM.exponential(size=50)
        strategy = FalseAlarms(0.5, 0.1)
        for score in scores[:49]:
            strategy.update(np.zeros((1, 1), np.float32), float(score))
        alarms.append(scores[49] >= strategy.compute().image)
    assert np.mean(alarms) == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize(("percentile", "expected"), [(0, 1.0), (25, 2.0), (30, 2.2), (95, 4.8), (100, 5.0)])
def test_train_percentile_is_interpolated_and_what_exceeds_it_is_abnormal(percentile, expected):
    threshold = drawn(TrainPercentile(0.01, percentile), [chain()] * 5, [5.0, 1.0, 4.0, 2.0, 3.0])
    assert threshold.image == just_above(expected)
    assert (threshold.decided_by, threshold.normals) == ("score", 5)
    assert threshold.decision_score(chain(), 7.0) == 7.0
    assert threshold.pixel == just_above(9)  # all regions score the same


def test_train_percentile_rejects_three_of_four_of_its_own_images_and_says_so():
    scores = [float(score) for score in RANDOM.normal(size=100).astype(np.float32)]
    threshold = drawn(TrainPercentile(0.01, 25), [chain()] * 100, scores)
    assert sum(score >= threshold.image for score in scores) == 75
    assert threshold.note == (
        "percentile 25 of the scores of 100 training images: about 75 % of normal images are rejected by construction"
    )
    held_out = drawn(TrainPercentile(0.01, 95, "held_out"), [chain()] * 100, scores)
    assert held_out.note.startswith("percentile 95 of the scores of 100 good images: about 5 %")


def test_an_image_is_abnormal_where_a_region_of_the_minimum_area_survives():
    threshold = Threshold("area", "component", 6.5, 6.5, 0.03, 1)
    assert threshold.decision_score(chain(), score=0.0) == 7 >= threshold.image
    assert Threshold("area", "component", 6.5, 6.5, 0.04, 1).decision_score(chain(), score=99.0) == 6 < threshold.image


def test_the_minimum_area_is_at_least_a_pixel():
    assert pixels(0.001, np.zeros((256, 256), np.float32)) == 66
    assert pixels(0.001, np.zeros((1, 1), np.float32)) == 1


def test_held_out_scores_of_one_value_are_normal():
    assert just_above(0.0) > 0
    assert not math.isinf(just_above(1e38))


def test_the_line_of_the_method_stays_where_it_is_and_decides_by_regions():
    threshold = drawn(Own(0.03, 7.0))
    assert (threshold.pixel, threshold.image, threshold.normals) == (7.0, 7.0, 7)
    assert threshold.decision_score(chain(), 0.0) >= threshold.image  # three pixels: 9, 8, 7
    assert threshold._replace(minimum_area=0.04).decision_score(chain(), 0.0) < threshold.image
    with pytest.raises(UserError, match="a method without a threshold of its own"):
        Own(0.03, None)


@pytest.mark.parametrize("score", [1.0, -3.0, 0.0, 1e-6, 1e30, -1e-30])
def test_the_line_lies_above_what_another_batch_makes_of_the_same_image(score):
    line = just_above(score)
    assert line > score * (1 + 1e-5)
    assert line > score * (1 - 1e-5)
    assert line <= score + 2e-4 * abs(score) + 1e-37
    assert line == np.float32(line)


@pytest.mark.parametrize("value", [0.0, 0.25, 1e6, -2.0])
def test_maps_without_variance_are_normal_at_the_line_of_sigma(value):
    flat = np.full((8, 8), value, np.float32)
    threshold = drawn(Sigma(0.01, 3), [flat, flat])
    again = flat + np.float32(1e-6 * abs(value))  # in another batch
    for image in (flat, again):
        assert threshold.decision_score(image, 0.0) < threshold.image
    assert threshold.decision_score(flat + np.float32(0.01 * abs(value) + 1e-6), 0.0) >= threshold.image


def test_a_threshold_just_above_zero_is_explained():
    zeros = drawn(FalseAlarms(0.01, 0.5), [np.zeros((3, 3), np.float32)], [0.0])
    assert zeros.lines() == [
        "1.17549e-38 is the number just above 0, which is what good images score: every image that scores at all is "
        "called abnormal; has the method learnt anything?"
    ]
    (note, zero) = drawn(FalseAlarms(0.01, 0.01), [np.zeros((3, 3), np.float32)], [0.0]).lines()
    assert note.startswith("a false alarm rate of 0.01 needs 99 good images")
    assert zero.startswith("1.17549e-38 is the number just above 0")
    for score in (1e-30, 1.0, -1.0):
        assert drawn(FalseAlarms(0.01, 0.5), [np.ones((3, 3), np.float32)], [score]).lines() == []


def test_a_line_of_the_method_promises_nothing():
    assert "cannot guarantee a false alarm rate below 1 in 10" in guarantee("area", 9)
    assert guarantee("own", 9) == guarantee("own", 1)
    assert "promises no rate" in guarantee("own", 9)
