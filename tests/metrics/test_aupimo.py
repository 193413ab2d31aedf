"""AUPIMO against closed forms and a slow loop over images, thresholds and rates."""

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly_lab.metrics import PixelMetrics
from anomaly_lab.metrics.aupimo import PerImageOverlap
from anomaly_lab.metrics.ranking import share

MODES = ("histogram", "exact")
SIDE = 110  # ten good images of it have 121 000 pixels: 1.2 of them are a rate of 1e-5, 12 are 1e-4


def compute(maps, masks, mode="histogram", parts=None, **limits):
    """`parts`: cut each image into so many strips."""
    metrics = PixelMetrics(mode=mode, tolerance=1, **limits)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        if parts:
            metrics.update(np.array_split(anomaly_map, parts), np.array_split(mask, parts), one_image=True)
        else:
            metrics.update([anomaly_map], [mask])
    return metrics.compute()


def slow_reference(maps, masks, lower=1e-5, upper=1e-4):
    """For every rate the best overlap that a threshold of at most this rate has, for one image after the other."""
    good = [anomaly_map for anomaly_map, mask in zip(maps, masks, strict=True) if not mask.any()]
    thresholds = [math.inf, *sorted({float(score) for anomaly_map in maps for score in anomaly_map.flat})]
    rates = {t: float(np.mean([(anomaly_map >= t).mean() for anomaly_map in good])) for t in thresholds}
    steps = [lower, *sorted({rate for rate in rates.values() if lower < rate < upper}), upper]
    values = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        if mask.any():
            overlap = {t: (anomaly_map[mask] >= t).mean() for t in thresholds}
            best = [max(overlap[t] for t in thresholds if rates[t] <= step + 1e-12) for step in steps[:-1]]
            area = sum(y * math.log(x1 / x0) for y, (x0, x1) in zip(best, pairwise(steps), strict=True))
            values.append(area / math.log(upper / lower))
    return float(np.mean(values))


def images(good=10, defective=3, side=SIDE, seed=0, strength=3.5):
    random = np.random.default_rng(seed)
    masks = [np.zeros((side, side), bool) for _ in range(good + defective)]
    for i, mask in enumerate(masks[:defective]):
        mask[3 : 9 + 5 * i, 10:30] = mask[60:62, 50:52] = True
    return [(random.normal(size=mask.shape) + strength * mask).astype(np.float32) for mask in masks], masks


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, 0.0), (0, 0.0)])
def test_perfect_inverted_and_constant_maps(sign, expected, mode):
    _, masks = images()
    assert compute([sign * mask.astype(np.float32) for mask in masks], masks, mode)["aupimo"] == expected


@pytest.mark.parametrize("mode", MODES)
def test_a_closed_form(mode):
    """Of 10 000 good pixels k reach a half of the defects: the rate of these is k / 10 000."""
    good, image, mask = np.zeros((100, 100), np.float32), np.zeros((2, 5), np.float32), np.zeros((2, 5), bool)
    good[0, :3] = 2
    mask[0, :4], image[0, :2], image[0, 2:4] = True, 3, 1.5
    for limits, expected in (((1e-4, 1e-3), 0.5 + 0.5 * math.log10(10 / 3)), ((1e-5, 1e-4), 0.5), ((3e-4, 1), 1.0)):
        values = compute([good, image], [good < 0, mask], mode, pimo_limits=limits)
        assert values["aupimo"] == pytest.approx(expected, abs=1e-12)
        assert values["good_pixels"] == 10_000


@pytest.mark.parametrize("mode", MODES)
def test_defect_pixels_of_very_many_scores_all_count(mode):
    good = np.linspace(0, 1, 1000, dtype=np.float32)[None]
    good[0, :5] = 9  # a rate of 0.005, above all defects
    image = np.linspace(2, 3, 20_000, dtype=np.float32)[None]
    values = compute([good, image], [good < 0, image > 0], mode, pimo_limits=(1e-3, 1e-1))
    assert values["aupimo"] == pytest.approx(math.log(0.1 / 0.005) / math.log(100), abs=1e-9)


def test_of_scores_in_an_unknown_order_the_value_is_the_middle():
    tenth, whole = share(np.array([10, 1]))
    groups = PerImageOverlap(np.stack([tenth, 9 * tenth]), np.stack([whole, 0 * whole]), np.zeros(2, bool), (1, 1))
    assert groups.aupimo(0.01, 1) == pytest.approx((0.75, 0.5, 1.0))  # the rate of the defect pixels: 0 to 0.1


@pytest.mark.parametrize("mode", MODES)
def test_noise_finds_nothing(mode):
    maps, masks = images(strength=0)
    assert 0 <= compute(maps, masks, mode)["aupimo"] < 0.02


@pytest.mark.parametrize("levels", [False, True])
def test_equals_the_slow_loop_at_the_published_rates(levels):
    maps, masks = images(side=64, good=25)  # 102 400 good pixels
    if levels:
        maps = [np.round(m, 1) for m in maps]
    kept = [np.sort(m[~mask], axis=None)[-9:] if mask.any() else np.sort(m, axis=None)[-9:] for m, mask in
            zip(maps, masks, strict=True)]  # fmt: skip
    for m, mask, top in zip(maps, masks, kept, strict=True):  # few levels for the slow loop: all below is one
        m[(m < top[0]) & ~mask] = -9
    expected = slow_reference(maps, masks)
    assert 0.1 < expected < 0.9
    for mode in MODES:
        assert compute(maps, masks, mode)["aupimo"] == pytest.approx(expected, abs=1e-12)


def test_bounds_hold_the_exact_value_among_continuous_scores():
    """More distinct scores than are told apart; several share a bin."""
    random = np.random.default_rng(0)
    for scale in (1, 1e-5):
        maps, masks = images(strength=3)
        maps = [(1 + scale * m + (random.integers(0, 2, m.shape) * 1e30)).astype(np.float32) if i == 12 and scale < 1
                else (1 + scale * m).astype(np.float32) for i, m in enumerate(maps)]  # fmt: skip
        exact, values = compute(maps, masks, "exact")["aupimo"], compute(maps, masks)
        low, high = values["bounds"]["aupimo"]
        assert low - 1e-12 <= exact <= high + 1e-12
        assert low <= values["aupimo"] <= high
        assert high - low < 2e-3
        assert values["aupimo"] == pytest.approx(exact, abs=5e-4)


def test_a_ceiling_at_which_many_pixels_end_is_told_from_the_scores_below_it():
    maps, masks = images(strength=3)
    maps = [np.minimum(m, 4) for m in maps]  # six good pixels, and a seventh of the defective ones
    exact, values = compute(maps, masks, "exact")["aupimo"], compute(maps, masks)
    low, high = values["bounds"]["aupimo"]
    assert low - 1e-12 <= exact <= high + 1e-12
    assert high - low < 2e-3
    whole = PixelMetrics(tolerance=1)
    whole.persistent(True)
    for m, mask in zip(maps, masks, strict=True):
        whole.update([m], [mask])
    again = PixelMetrics(tolerance=1)
    again.persistent(True)
    again.load_state_dict(whole.state_dict())
    assert again.compute()["bounds"] == values["bounds"]


@st.composite
def sets(draw):
    """Images of a few levels, of one size or of several, the first good, the second not."""
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    shapes = draw(st.lists(st.sampled_from(((4, 5), (2, 3), (6, 6))), min_size=2, max_size=6))
    masks = [random.random(shape) < draw(st.sampled_from((0, 0.3))) for shape in shapes]
    masks[0][:], masks[1].flat[0] = False, True
    levels = draw(st.sampled_from((3, 30)))
    return [random.integers(0, levels, shape).astype(np.float32) for shape in shapes], masks


@pytest.mark.parametrize("mode", MODES)
@given(images=sets(), limits=st.sampled_from(((0.01, 0.3), (0.1, 1.0), (1e-5, 1e-4))), parts=st.sampled_from((None, 2)))
@settings(max_examples=15)
def test_equals_the_slow_loop_with_ties_sizes_and_parts(mode, images, limits, parts):
    value = compute(*images, mode, parts, pimo_limits=limits)["aupimo"]
    assert value == pytest.approx(slow_reference(*images, *limits), abs=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_parts_of_an_image_count_as_one_and_an_image_of_a_batch_by_itself(mode):
    maps, masks = images()
    whole = compute(maps, masks, mode)
    batch = PixelMetrics(mode=mode, tolerance=1)
    batch.update(torch.from_numpy(np.stack(maps)), torch.from_numpy(np.stack(masks)))
    assert batch.compute()["aupimo"] == whole["aupimo"]
    assert compute(maps, masks, mode, parts=4)["aupimo"] == pytest.approx(whole["aupimo"], abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("first", "last"), [(0, 2), (4, 6)])
def test_one_kind_of_image_alone_has_no_value(first, last, mode):
    maps, masks = images(3, 3, 70)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no defective pixel at all
        values = compute(maps[first:last], masks[first:last], mode)
    assert math.isnan(values["aupimo"])
    assert math.isnan(values["auroc"]) == (first > 0)


@pytest.mark.parametrize("limits", [(0, 0.1), (0.1, 0.1), (0.1, 1.1), (0.2, 0.1)])
def test_limits_that_do_not_rise_are_refused(limits):
    with pytest.raises(ValueError, match="pimo_limits: expected two rising rates"):
        PixelMetrics(pimo_limits=limits)
