"""Pixel metrics against scikit-learn, closed forms, MVTec's algorithm and a loop over all thresholds."""

import copy
import doctest
import pickle
import warnings
from datetime import timedelta
from functools import partial, reduce
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import label
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from torchmetrics import Metric

from anomaly_lab.metrics import PixelMetrics
from anomaly_lab.metrics.histogram import LEVELS
from tests.warm import in_processes

MODES = ("histogram", "exact")
NAMES = ("auroc", "aupr", "f1max", "aupro")
LARGEST, LEAST = float(np.finfo(np.float32).max), 1.401298464324817e-45


def compute(maps, masks, pro_limit=0.3, **settings):
    metrics = PixelMetrics(pro_limit, **settings)
    metrics.update(maps, masks)
    return metrics.compute()


def two_regions():
    """10 x 10 pixels, a region of one pixel and one of 3 x 3."""
    mask = np.zeros((10, 10), bool)
    mask[1, 1] = True
    mask[5:8, 5:8] = True
    return mask


def images(count=4, side=72, seed=0):
    """Maps of noise, brighter where the defects are; the last image is normal."""
    random = np.random.default_rng(seed)
    masks = [np.zeros((side, side), bool) for _ in range(count)]
    for mask in masks[:-1]:
        for y, x, size in random.integers(1, side // 4, (3, 3)) * (2, 3, 1):
            mask[y : y + size, x : x + size] = True
    return [(random.normal(size=mask.shape) + 1.5 * mask).astype(np.float32) for mask in masks], masks


def pooled(maps, masks, connectivity=8):
    """Ranks of all scores, labels, and what each pixel adds to the mean overlap."""
    maps = [np.asarray(m.float() if isinstance(m, torch.Tensor) else m) for m in maps]
    maps, masks = ([part.reshape(part.shape[-2:]) for part in map(np.asarray, parts)] for parts in (maps, masks))
    masks = [mask != 0 for mask in masks]
    labelled = [label(mask, np.ones((3, 3)) if connectivity == 8 else None) for mask in masks]
    regions = sum(count for _, count in labelled)
    shares = [(1 / np.bincount(region.ravel()).clip(1))[region] * (region > 0) for region, _ in labelled]
    scores, labels, share = (np.concatenate([part.ravel() for part in parts]) for parts in (maps, masks, shares))
    return scores, labels, share / max(regions, 1), regions


def slow_reference(maps, masks, pro_limit=0.3, connectivity=8):
    """Every distinct score is a threshold; nothing is sorted or added up."""
    scores, labels, share, regions = pooled(maps, masks, connectivity)
    points = [(0.0, 0.0, 0.0, 1.0, 0.0)]
    for threshold in sorted(set(scores.tolist()), reverse=True):
        found = scores >= threshold
        true, false = (found & labels).sum(), (found & ~labels).sum()
        f1 = 2 * true / (found.sum() + labels.sum())
        points.append((false / (~labels).sum(), true / labels.sum(), share[found].sum(), true / found.sum(), f1))
    auroc = aupr = aupro = 0.0
    for (x0, y0, p0, _, _), (x1, y1, p1, precision, _) in pairwise(points):
        auroc += (x1 - x0) * (y0 + y1) / 2
        aupr += (y1 - y0) * precision
        if x0 < pro_limit and x1 > x0:
            end = min(x1, pro_limit)
            aupro += (end - x0) * (p0 + p0 + (p1 - p0) * (end - x0) / (x1 - x0)) / 2 / pro_limit
    return {"auroc": auroc, "aupr": aupr, "f1max": max(f1 for *_, f1 in points), "aupro": aupro, "regions": regions}


def reference(maps, masks, pro_limit=0.3, connectivity=8):
    """The same values by scikit-learn and by the script that comes with MVTec AD: sort, add up, integrate."""
    scores, labels, share, regions = pooled(maps, masks, connectivity)
    levels = np.unique(scores, return_inverse=True)[1]
    precision, recall, _ = precision_recall_curve(labels, levels)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    order = np.argsort(-levels, kind="stable")
    last = np.append(np.diff(levels[order]) != 0, True)
    rate = np.append(0, np.cumsum(~labels[order])[last] / (~labels).sum())
    overlap = np.append(0, np.cumsum(share[order])[last])
    beyond = np.searchsorted(rate, pro_limit, side="right")
    end = np.interp(pro_limit, rate[beyond - 1 : beyond + 1], overlap[beyond - 1 : beyond + 1])
    aupro = np.trapezoid(np.append(overlap[:beyond], end), np.append(rate[:beyond], pro_limit)) / pro_limit
    return {
        "auroc": roc_auc_score(labels, levels), "aupr": average_precision_score(labels, levels), "f1max": f1.max(),
        "aupro": aupro, "regions": regions,
    }  # fmt: skip


def assert_close(values, expected, error=1e-12, f1_error=None):
    """Values near the expected ones, inside bounds that hold them and the truth, threshold or not."""
    for name in NAMES:
        low, high = values["bounds"][name]
        allowed = error if f1_error is None or name in ("auroc", "aupro") else f1_error
        assert values[name] == pytest.approx(expected[name], abs=allowed, nan_ok=True), name
        if not np.isnan(expected[name]):
            assert low <= values[name] <= high, name
            assert low - 1e-12 <= expected[name] <= high + 1e-12, name
            if error <= 1e-9:
                assert high - low <= error, name
    assert values["regions"] == expected["regions"]


def assert_threshold_attains(values, maps, masks):
    scores, labels, _, _ = pooled(maps, masks)
    found = scores >= values["f1max_threshold"]
    f1 = 2 * (found & labels).sum() / (found.sum() + labels.sum())
    assert f1 == pytest.approx(values["f1max"], abs=1e-12)


def contents(metrics):
    return [column.tolist() for column in metrics.ranking()]


def merged(parts):
    """What `sync` makes of the processes' states, without processes."""
    for part in parts:
        part._sync_dist(lambda tensor, group: [tensor])
    whole = parts[0].clone()
    whole.blocks = torch.cat([part.blocks for part in parts])
    for name in ("regions", "images", "good_pixels"):
        setattr(whole, name, torch.stack([getattr(part, name) for part in parts]).sum(0))
    whole.low_bits = reduce(torch.bitwise_or, [part.low_bits for part in parts])
    whole.largest = torch.stack([part.largest for part in parts]).max()
    whole.beyond_levels = torch.stack([part.beyond_levels for part in parts]).sum()
    return whole


@pytest.mark.parametrize("mode", MODES)
def test_equals_mvtecs_algorithm_and_scikit_learn_on_random_maps(mode):
    random = np.random.default_rng(0)
    masks = [random.random((40, 50)) < 0.1, np.zeros((30, 20), bool), random.random((25, 25)) < 0.02]
    levels = [random.normal(size=mask.shape) + mask for mask in masks]
    for maps in (
        [m.astype(np.float32) for m in levels],
        [np.round(m).astype(np.float32) for m in levels],  # ties
        [np.exp(6 * m).astype(np.float32) for m in levels],  # heavy tail
    ):
        values = compute(maps, masks, mode=mode)
        assert_close(values, reference(maps, masks))
        assert_threshold_attains(values, maps, masks)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("found", "aupro", "whole", "auroc"), [("large", 0.575, 0.75, 0.95), ("small", 0.575, 0.75, 0.55)]
)
def test_one_region_found_of_two(found, aupro, whole, auroc, mode):
    mask, anomaly_map = two_regions(), np.zeros((10, 10), np.float32)
    anomaly_map[(slice(5, 8), slice(5, 8)) if found == "large" else (1, 1)] = 1
    values = compute([anomaly_map], [mask], mode=mode)
    assert values["aupro"] == pytest.approx(aupro, abs=1e-12)
    assert values["auroc"] == pytest.approx(auroc, abs=1e-12)
    assert values["regions"] == 2
    assert compute([anomaly_map], [mask], 1.0, mode=mode)["aupro"] == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("sign", "limit", "expected"), [(1, 0.3, 1.0), (-1, 0.3, 0.0), (0, 0.3, 0.15), (0, 1.0, 0.5)])
def test_perfect_inverted_and_constant_maps(sign, limit, expected, mode):
    mask = two_regions()
    values = compute([sign * mask.astype(np.float32)], [mask], limit, mode=mode)
    assert values["aupro"] == pytest.approx(expected, abs=1e-12)
    assert values["auroc"] == pytest.approx((sign + 1) / 2, abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_false_alarms_above_all_defects(mode):
    mask = two_regions()
    anomaly_map = mask.astype(np.float32)
    anomaly_map[9, :9] = 2  # 9 of 90 normal pixels
    assert compute([anomaly_map], [mask], mode=mode)["aupro"] == pytest.approx(2 / 3, abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_four_pixels_as_in_the_textbook(mode):
    values = compute([np.array([[0.1, 0.4, 0.35, 0.8]], np.float32)], [np.array([[0, 0, 1, 1]])], mode=mode)
    assert values["auroc"] == pytest.approx(0.75, abs=1e-12)
    assert values["aupr"] == pytest.approx(5 / 6, abs=1e-12)
    assert values["f1max"] == pytest.approx(0.8, abs=1e-12)
    assert values["f1max_threshold"] == np.float32(0.35)


MAPS, MASKS = images()
NOISE = torch.from_numpy(np.stack(MAPS))
TENSORS = torch.from_numpy(np.stack(MASKS))
CORNER = np.zeros((6, 6), bool)
CORNER[0, 0] = True
DIAGONAL = np.diag([False, True, True, False, False, True])
GRADIENT = np.arange(36, dtype=np.float32).reshape(6, 6) % 7
NAN = float("nan")
BINNED = 2e-5  # less than one pixel of these small sets


def with_pixels(**scores):
    maps = [anomaly_map.copy() for anomaly_map in MAPS]
    for place, score in scores.items():
        maps["abcd".index(place[0])].flat[int(place[1:])] = score
    return maps


EDGE_CASES = {
    "no defect pixel": (MAPS, [mask & False for mask in MASKS], dict.fromkeys(NAMES, NAN) | {"regions": 0}),
    "all defect": (
        MAPS, [mask | True for mask in MASKS], {"auroc": NAN, "aupr": 1, "f1max": 1, "aupro": NAN, "regions": 4}
    ),
    "constant scores": (
        [np.full((10, 10), 0.3, np.float32)], [two_regions()],
        {"auroc": 0.5, "aupr": 0.1, "f1max": 2 / 11, "aupro": 0.15, "regions": 2},
    ),
    "one NaN": (with_pixels(c9=np.nan), MASKS, r"found 1 NaN in image 2 of the batch"),
    "NaN of both signs": (with_pixels(a5=np.nan, b7=-np.nan, b8=np.nan), MASKS, r"found 1 NaN in image 0 of the batch"),
    "three NaN": (with_pixels(d1=np.nan, d2=np.nan, d3=-np.nan), MASKS, r"found 3 NaN in image 3 of the batch"),
    "+inf and -inf": (with_pixels(a0=np.inf, b1=-np.inf, c2=np.inf, d3=-np.inf), MASKS, BINNED),
    "infinite defects": (
        [np.where(mask, np.inf, m).astype(np.float32) for m, mask in zip(MAPS, MASKS, strict=True)], MASKS, 1e-12
    ),
    "infinitely low defects": (
        [np.where(mask, -np.inf, m).astype(np.float32) for m, mask in zip(MAPS, MASKS, strict=True)], MASKS, 1e-12
    ),
    "one 1e30": (with_pixels(d0=1e30), MASKS, BINNED),
    "the largest float": ([np.where(mask, LARGEST, -LARGEST).astype(np.float32) for mask in MASKS], MASKS, 1e-12),
    "8 levels": ([np.round(m).clip(-3, 4) for m in MAPS], MASKS, 1e-12),
    "float16": (NOISE.half(), TENSORS, 1e-12),
    "bfloat16": (NOISE.bfloat16(), TENSORS, 1e-12),
    "float16 arrays": ([m.astype(np.float16) for m in MAPS], MASKS, 1e-12),
    "20 + 10 s": ([20 + 10 * m for m in MAPS], MASKS, BINNED),
    "1000 + 0.01 s": ([1000 + np.float32(0.01) * m for m in MAPS], MASKS, 1e-12),
    "exp(6 s)": ([np.exp(6 * m) for m in MAPS], MASKS, BINNED),
    "one pixel in the corner": (
        [CORNER.astype(np.float32)], [CORNER], {"auroc": 1, "aupr": 1, "f1max": 1, "aupro": 1, "regions": 1}
    ),
    "mask twice the map": (MAPS, [*MASKS[:3], np.kron(MASKS[3], np.ones((2, 2), bool))], r"image 3 .*\(144, 144\)"),
    "masks of 0 and 255": (MAPS, [mask.astype(np.uint8) * 255 for mask in MASKS], BINNED),
    "one batch with channels": (NOISE[:, None], TENSORS[:, None], BINNED),
    "corner contact": ([GRADIENT], [DIAGONAL], 1e-12),
    "corner contact, 4": ([GRADIENT], [DIAGONAL], 1e-12),
    "empty batch": (NOISE[:0], TENSORS[:0], dict.fromkeys(NAMES, NAN) | {"regions": 0}),
    "empty sequence": ([], [], dict.fromkeys(NAMES, NAN) | {"regions": 0}),
    "no update": (None, None, dict.fromkeys(NAMES, NAN) | {"regions": 0}),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", EDGE_CASES)
def test_edge_cases(case, mode):
    maps, masks, expected = EDGE_CASES[case]
    metrics = PixelMetrics(mode=mode, connectivity=4 if case.endswith("4") else 8, tolerance=1)
    if isinstance(expected, str):
        metrics.update(MAPS[:2], MASKS[:2])
        before = contents(metrics), metrics.compute()
        with pytest.raises(ValueError, match=expected):
            metrics.update(maps, masks)
        assert (contents(metrics), metrics.compute()) == before
        metrics.update(MAPS[2:], MASKS[2:])
        assert metrics.compute() == compute(MAPS, MASKS, mode=mode, tolerance=1)
        return
    if maps is not None:
        metrics.update(maps, masks)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = metrics.compute()
    undefined = isinstance(expected, dict) and np.isnan(expected["auroc"])
    texts = [str(warning.message) for warning in caught if "before the ``update``" not in str(warning.message)]
    assert len(texts) == undefined
    assert all("need normal and defective pixels" in text for text in texts)
    if isinstance(expected, dict):
        assert_close(values, expected)
        return
    error = min(expected, 1e-9) if mode == "exact" else expected
    assert_close(values, reference(maps, masks, connectivity=metrics.connectivity), error, 5 * error)
    assert_threshold_attains(values, maps, masks)
    if case.startswith("corner"):
        assert values["regions"] == {4: 3, 8: 2}[metrics.connectivity]


HALVES = st.sampled_from([x.item() for x in np.arange(2**16, dtype=np.uint16).view(np.float16) if x == x])
SCORES = st.sampled_from([0.0, -0.0, np.inf, -np.inf, LEAST, -LEAST, 1.0, -1.0, 1e-40, LARGEST, -LARGEST]) | st.floats(
    allow_nan=False, width=32
)
LIMITS = st.sampled_from((0.05, 0.3, 1.0))


@st.composite
def batches(draw, elements=SCORES, dtype=np.float32):
    """Up to three images of sizes of their own; the first has a defect pixel and a normal one."""
    shapes = [(draw(st.integers(1, 5)), draw(st.integers(2, 6))) for _ in range(draw(st.integers(1, 3)))]
    masks = [draw(arrays(bool, shape)) for shape in shapes]
    masks[0].flat[0], masks[0].flat[-1] = True, False
    return [draw(arrays(dtype, shape, elements=elements)) for shape in shapes], masks


@given(batch=batches(), limit=LIMITS, connectivity=st.sampled_from((4, 8)))
@settings(max_examples=50)
def test_the_loop_over_all_thresholds_agrees_with_scikit_learn_and_mvtec(batch, limit, connectivity):
    slow, fast = slow_reference(*batch, limit, connectivity), reference(*batch, limit, connectivity)
    assert slow == pytest.approx(fast, abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
@given(batch=batches(), limit=LIMITS, connectivity=st.sampled_from((4, 8)))
@settings(max_examples=60)
def test_equals_the_loop_over_all_thresholds(mode, batch, limit, connectivity):
    values = compute(*batch, limit, connectivity=connectivity, mode=mode)
    assert_close(values, slow_reference(*batch, limit, connectivity))
    assert_threshold_attains(values, *batch)


@pytest.mark.parametrize("mode", MODES)
@given(batch=batches(HALVES, np.float16), tensors=st.booleans())
@settings(max_examples=50)
def test_float16_equals_the_loop_over_all_thresholds(mode, batch, tensors):
    maps, masks = batch
    values = compute([torch.from_numpy(m) for m in maps] if tensors else maps, masks, mode=mode)
    assert_close(values, slow_reference(maps, masks))


@given(batch=batches(st.floats(-1e30, 1e30), np.float64), limit=LIMITS)
@settings(max_examples=50)
def test_exact_mode_ranks_float64_as_it_is(batch, limit):
    maps, masks = batch
    maps[0].flat[0], maps[0].flat[-1] = 1 + 1e-12, 1
    assert_close(compute(maps, masks, limit, mode="exact"), slow_reference(maps, masks, limit))


@pytest.mark.parametrize("mode", MODES)
def test_float64_beyond_float32_is_infinite_and_no_warning(mode):
    maps, masks = [np.array([[1e300, 1.0, -1e300]])], [np.array([[True, False, False]])]
    assert compute(maps, masks, mode=mode)["auroc"] == 1


@pytest.mark.parametrize(("offset", "step"), [(1e9, 0.01), (1.0, 1e-12), (1e300, 1e290), (0.0, 1e-320)])
def test_bounds_hold_where_float32_cannot_tell_float64_apart(offset, step):
    mask = np.zeros((8, 8), bool)
    mask[2:5, 2:5] = True
    for maps, auroc in ((offset + step * mask, 1.0), (offset - step * mask, 0.0), (offset + 0.0 * mask, 0.5)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = compute([maps], [mask])
        exact_bounds = compute([maps], [mask], mode="exact")["bounds"]
        for name in NAMES:
            exact, (low, high) = exact_bounds[name], values["bounds"][name]
            assert low <= exact[0]
            assert exact[1] <= high
            assert low <= values[name] <= high
        assert compute([maps], [mask], mode="exact")["auroc"] == auroc
        assert (maps >= values["f1max_threshold"]).any()


@pytest.mark.parametrize("mode", MODES)
def test_no_value_lies_above_1(mode):
    random = np.random.default_rng(0)
    for side in (37, 64, 101):
        mask = np.zeros((side, side), bool)
        mask[2:9, 2:9] = mask[20:29, 20:33] = True
        values = compute([random.random((side, side)) + mask], [mask], mode=mode)
        assert values["auroc"] == values["aupr"] == values["f1max"] == 1
        assert 1 - 1e-15 <= values["aupro"] <= 1
        assert all(values["bounds"][name][1] <= 1 for name in NAMES)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spread", [0, 1])
def test_the_state_survives_saving(mode, spread):
    """Few levels and many: the hash table and the bins."""
    random = np.random.default_rng(1)
    maps, masks = (random.random((3, 90, 90)) * 8).astype(np.float32), random.random((3, 90, 90)) < 0.1
    maps = maps if spread else np.floor(maps)
    first, second, fresh = (PixelMetrics(mode=mode, tolerance=1) for _ in range(3))
    assert not first.state_dict()
    for metrics in (first, second):
        metrics.persistent(True)
    first.update(maps[:2], masks[:2])
    saved = copy.deepcopy(first.state_dict())
    first.update(maps[2:], masks[2:])
    second.load_state_dict(saved)
    second.update(maps[2:], masks[2:])
    assert second.compute() == first.compute()
    fresh.persistent(True)
    fresh.load_state_dict(second.state_dict())
    assert fresh.compute() == first.compute()


def filler(kind):
    """More distinct scores than are told apart one by one, and a mask of them."""
    random = np.random.default_rng(0)
    if kind == "smooth":
        scores = random.permutation(np.linspace(-3, 3, 17000, dtype=np.float32))
    elif kind == "any bits":
        scores = random.integers(0, 2**32, 20000, dtype=np.uint32).view(np.float32)
    elif kind == "float16":
        halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
        scores = random.permutation(halves[~np.isnan(halves)])[:20000].astype(np.float32)
    else:
        scores = np.arange(-9000, 9000, dtype=np.float32) * np.float32(LEAST)
    scores = scores[~np.isnan(scores)][None]
    return scores, random.random(scores.shape) < 0.05


FILLERS = {kind: filler(kind) for kind in ("smooth", "any bits", "float16", "denormal")}


@pytest.mark.parametrize("kind", FILLERS)
@given(batch=batches(), limit=LIMITS)
@settings(max_examples=12)
def test_bounds_hold_when_scores_share_bins(kind, batch, limit):
    (scores, mask), (maps, masks) = FILLERS[kind], batch
    metrics = PixelMetrics(limit, tolerance=1)
    metrics.update([*maps, scores], [*masks, mask])
    assert metrics.histogram.keys is None
    values = metrics.compute()
    assert_close(values, reference([*maps, scores], [*masks, mask], limit), 1)
    assert_threshold_attains(values, [*maps, scores], [*masks, mask])


@given(batch=batches(HALVES, np.float16), limit=LIMITS)
@settings(max_examples=25)
def test_float16_is_exact_beyond_the_levels_that_are_told_apart(batch, limit):
    (scores, mask), (maps, masks) = FILLERS["float16"], batch
    metrics = PixelMetrics(limit)
    metrics.update([*maps, scores], [*masks, mask])
    assert metrics.histogram.keys is None
    values = metrics.compute()
    assert_close(values, reference([*maps, scores], [*masks, mask], limit))
    assert_threshold_attains(values, [*maps, scores], [*masks, mask])


def test_a_threshold_in_the_bin_of_minus_infinity_is_a_number():
    scores = np.linspace(1, 2, 17000, dtype=np.float32)[None]
    mask = np.zeros(scores.shape, bool)
    scores[0, :9000], mask[0, :9000] = -np.inf, True
    maps, masks = [scores, np.linspace(3, 4, 17000, dtype=np.float32)[None]], [mask, np.zeros((1, 17000), bool)]
    values = compute(maps, masks, tolerance=1)
    assert values["f1max_threshold"] == -np.inf
    assert_threshold_attains(values, maps, masks)


def test_a_threshold_in_the_bin_above_zero_leaves_zero_out():
    scores = np.linspace(-2, -1, 17000, dtype=np.float32)[None]
    scores[0, :100], scores[0, 100:200] = 0, LEAST
    mask = np.zeros(scores.shape, bool)
    mask[0, 100:200] = True
    values = compute([scores], [mask])
    assert values["f1max"] == 1
    assert_threshold_attains(values, [scores], [mask])


def shifted(kind):
    maps, masks = images(9, 48, seed=3)
    if kind == "levels":
        return [np.round(m) for m in maps], masks
    if kind == "float16":
        return [m.astype(np.float16) for m in maps], masks
    if kind == "wide":
        return [np.exp(8 * m) * np.float32(-1) ** i for i, m in enumerate(maps)], masks
    return maps, masks


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["continuous", "levels", "float16", "wide"])
def test_order_batches_and_processes_change_no_bit(kind, mode):
    maps, masks = shifted(kind)
    whole = PixelMetrics(mode=mode, tolerance=1)
    whole.update(maps, masks)
    expected, random = (contents(whole), repr(whole.compute())), np.random.default_rng(0)
    for size in (1, 3, 8):
        metrics, order = PixelMetrics(mode=mode, tolerance=1), random.permutation(len(maps))
        for start in range(0, len(maps), size):
            chosen = order[start : start + size]
            metrics.update([maps[i] for i in chosen], [masks[i] for i in chosen])
        assert (contents(metrics), repr(metrics.compute())) == expected
    for world in (1, 2, 3, 8, 10):
        if mode == "exact":
            break
        parts = [PixelMetrics(tolerance=1) for _ in range(world)]
        for rank, part in enumerate(parts):
            part.update(maps[rank::world], masks[rank::world])
        metrics = merged(parts)
        assert (contents(metrics), repr(metrics.compute())) == expected


def _worlds(cases, mode, folder, rank):
    """What each of three processes finds in worlds of 1, 2 and 3, twice, and what it keeps."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message="The ``compute`` method")  # of torchmetrics, where it has no image
    found = {}
    for world in range(rank + 1, 4):
        store = f"file://{folder}/{mode}{world}"
        dist.init_process_group("gloo", store, timedelta(seconds=20), world_size=world, rank=rank)
        for name, (maps, masks, shared) in cases.items():
            metrics = PixelMetrics(mode=mode, tolerance=1)
            for i in range(rank, len(maps), world) if shared else range(0 if rank else len(maps)):
                metrics.update(maps[i : i + 1], masks[i : i + 1])
            first = repr(metrics.compute())
            left = len(metrics.blocks) + int(metrics.low_bits) + int(metrics.beyond_levels)
            metrics._computed = None
            found[world, name] = first, repr(metrics.compute()), left
        dist.barrier()
        dist.destroy_process_group()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_gloo_processes_compute_the_same_bits(mode, tmp_path):
    maps, masks = images(5, 48, seed=5)
    coarse = [np.round(m, 1) for m in maps]
    crowd = images(2, 136, seed=6)
    cases = {
        "continuous": (maps, masks, True),
        "levels": (coarse, masks, True),
        "float16": ([m.astype(np.float16) for m in maps], masks, True),
        "many scores on one process only": ([crowd[0][0], *coarse], [crowd[1][0], *masks], True),
        "fewer images than processes": (*crowd, True),
        "all images on the first process": (coarse, masks, False),
    }
    assert len(np.unique(crowd[0][0])) > LEVELS > len(np.unique(np.concatenate(coarse)))
    expected = {name: repr(compute(*case[:2], mode=mode, tolerance=1)) for name, case in cases.items()}
    answers = in_processes(3, partial(_worlds, cases, mode, tmp_path), tmp_path)
    assert [len(found) for found in answers] == [18, 12, 6]
    for found in answers:
        for (world, name), values in found.items():
            assert values == (expected[name], expected[name], 0), (world, name)


@pytest.mark.parametrize("mode", MODES)
def test_reset_forgets_all_images(mode):
    metrics = PixelMetrics(mode=mode, tolerance=1)
    metrics.update(MAPS, MASKS)
    metrics.reset()
    metrics.update(MAPS[:2], MASKS[:2])
    assert metrics.compute() == compute(MAPS[:2], MASKS[:2], mode=mode, tolerance=1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "copy",
    [lambda metrics: pickle.loads(pickle.dumps(metrics)), PixelMetrics.clone, lambda metrics: metrics.to("cpu")],
    ids=["pickle", "clone", "to"],
)
@pytest.mark.parametrize("maps", [MAPS, [np.round(m) for m in MAPS]], ids=["continuous", "levels"])
def test_copies_go_on_counting_in_the_middle(copy, mode, maps):
    metrics = PixelMetrics(mode=mode, tolerance=1, connectivity=4)
    metrics.update(maps[:3], MASKS[:3])
    before = metrics.compute()
    other = copy(metrics)
    other.update(maps[3:], MASKS[3:])
    assert other.compute() == compute(maps, MASKS, mode=mode, tolerance=1, connectivity=4)
    if other is not metrics:
        assert metrics.compute() == before


@pytest.mark.parametrize("mode", MODES)
def test_forward_returns_the_values_of_the_batch_and_counts_it(mode):
    metrics = PixelMetrics(mode=mode, tolerance=1)
    for i in (0, 2):
        values = metrics(MAPS[i : i + 2], MASKS[i : i + 2])
        assert values == compute(MAPS[i : i + 2], MASKS[i : i + 2], mode=mode, tolerance=1)
    assert metrics.compute() == compute(MAPS, MASKS, mode=mode, tolerance=1)


@pytest.mark.parametrize("mode", MODES)
def test_sequences_of_different_sizes_equal_the_pooled_pixels(mode):
    scores, mask = MAPS[0][:71], MASKS[0][:71]
    pieces = [(slice(0, 71), slice(0, 30)), (slice(0, 40), slice(30, 72)), (slice(40, 71), slice(30, 72))]
    maps, masks = [scores[piece] for piece in pieces], [mask[piece] for piece in pieces]
    values = compute(maps, masks, mode=mode, tolerance=1)
    assert_close(values, reference(maps, masks))
    whole = compute([scores], [mask], mode=mode, tolerance=1)
    assert {name: values[name] for name in NAMES[:3]} == {name: whole[name] for name in NAMES[:3]}
    tensors = compute([torch.from_numpy(m)[None] for m in maps], [torch.from_numpy(m)[None] for m in masks], mode=mode)
    assert tensors == values


@pytest.mark.parametrize("mode", MODES)
def test_maps_that_need_gradients_or_lie_crosswise_in_memory_count_too(mode):
    maps = NOISE.clone().requires_grad_()
    expected = compute(MAPS, MASKS, mode=mode, tolerance=1)
    assert compute(maps, TENSORS, mode=mode, tolerance=1) == expected
    assert compute(list(maps), list(TENSORS), mode=mode, tolerance=1) == expected
    crosswise = [np.asfortranarray(m) for m in MAPS], [np.asfortranarray(m) for m in MASKS]
    assert compute(*crosswise, mode=mode, tolerance=1) == expected


@pytest.mark.parametrize("mode", MODES)
def test_maps_and_masks_stay_as_they_are(mode):
    maps, masks = [m.copy() for m in MAPS], [mask.astype(np.uint8) * 255 for mask in MASKS]
    metrics = PixelMetrics(mode=mode, tolerance=1)
    metrics.update(maps, masks)
    expected = compute(MAPS, MASKS, mode=mode, tolerance=1)
    assert all(np.array_equal(a, b) for a, b in zip(maps, MAPS, strict=True))
    for anomaly_map, mask in zip(maps, masks, strict=True):
        anomaly_map[:], mask[:] = 0, 255
    assert metrics.compute() == expected


def test_is_a_metric_whose_example_runs():
    assert issubclass(PixelMetrics, Metric)
    runner = doctest.DocTestRunner()
    examples = [test for test in doctest.DocTestFinder().find(PixelMetrics, "PixelMetrics", globs={}) if test.examples]
    for test in examples:
        runner.run(test)
    assert examples
    assert runner.failures == 0


@pytest.mark.parametrize("kind", ["continuous", "levels"])
def test_memory_does_not_grow_with_the_images(kind):
    def size(metrics):
        held = [value for value in vars(metrics.histogram).values() if isinstance(value, np.ndarray)]
        states = [len(value) for value in metrics.metric_state.values() if isinstance(value, list)]
        return sum(array.nbytes for array in held), sum(states)

    metrics, sizes = PixelMetrics(), []
    for seed in range(30):
        maps, masks = images(1, 100, seed)
        metrics.update([np.round(maps[0])] if kind == "levels" else maps, masks)
        sizes.append(size(metrics))
    assert sizes[2] == sizes[29]
    assert sizes[29] < (29 * 2**20, 1)
    pickled = len(pickle.dumps(metrics))
    metrics.update(*images(1, 100, 31))
    assert len(pickle.dumps(metrics)) < max(pickled + 1000, 29 * 2**20)


def crowded():
    """A crowd of scores in one bin: outliers of all magnitudes have made bins wide."""
    random = np.random.default_rng(0)
    scores = random.integers(0, 2**32, 40000, dtype=np.uint32).view(np.float32)
    scores = scores[~np.isnan(scores)]
    crowd = (np.float32(1) + random.integers(0, 2**13, 10000) * np.float32(2**-23)).astype(np.float32)
    mask = np.zeros((1, len(scores) + len(crowd)), bool)
    mask[0, -5000:] = True
    return [np.concatenate([scores, crowd])[None]], [mask]


def test_wide_bounds_warn_and_exact_mode_has_none():
    maps, masks = crowded()
    with pytest.warns(UserWarning, match=r"lies between .* wider than 0\.0001.*mode=\"exact\"") as caught:
        values = compute(maps, masks)
    assert len(caught) == 1
    assert_close(values, reference(maps, masks), 1)
    assert_close(compute(maps, masks, mode="exact"), reference(maps, masks), 1e-9)
    compute(maps, masks, tolerance=1)


def test_errors_on_a_million_continuous_scores_are_as_small_as_promised():
    maps, masks = images(16, 256, seed=2)
    values = compute(maps, masks, tolerance=1)
    assert_close(values, reference(maps, masks), 5e-6, 5e-5)


@pytest.mark.parametrize(
    "settings", [{"pro_limit": 0}, {"pro_limit": 1.1}, {"pro_limit": -0.3}, {"pro_limit": float("nan")}]
)
def test_a_limit_outside_0_and_1_is_refused(settings):
    with pytest.raises(ValueError, match=r"pro_limit: expected a rate in \(0, 1\]"):
        PixelMetrics(**settings)


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        ([np.zeros((8, 8), np.float32)], [np.zeros((4, 4), bool)], r"image 0 .*one size.*\(8, 8\) and \(4, 4\)"),
        ([np.zeros((4, 4), int)], [np.zeros((4, 4), bool)], "floating point, found int64"),
        ([np.zeros((4, 4), np.float32)] * 2, [np.zeros((4, 4), bool)], "as many masks as maps"),
        ([np.zeros((3, 4, 4), np.float32)], [np.zeros((3, 4, 4), bool)], "image 0 .*one size"),
    ],
)
def test_what_does_not_fit_is_refused(maps, masks, message):
    metrics = PixelMetrics()
    with pytest.raises(ValueError, match=message):
        metrics.update(maps, masks)
    assert not len(metrics.histogram.blocks().code)
