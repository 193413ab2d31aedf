"""The histogram against counting with numpy: pages, bins, levels, merging."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anomaly_lab.metrics.histogram import LEVELS, PAGE_BITS, Blocks, ScoreHistogram, decode, encode, look
from anomaly_lab.metrics.ranking import share

LARGEST, LEAST = np.finfo(np.float32).max, np.float32(1e-45)
EXTREMES = np.array([-np.inf, -LARGEST, -1, -LEAST, -0.0, 0.0, LEAST, 1, LARGEST, np.inf], np.float32)
ANY = st.sampled_from([float(score) for score in EXTREMES]) | st.floats(allow_nan=False, width=32)


def distinct(count, low=1.0, high=2.0):
    scores = np.linspace(low, high, count, dtype=np.float32)
    assert len(np.unique(scores)) == count
    return np.random.default_rng(0).permutation(scores)


def any_bits(count):
    scores = np.random.default_rng(1).integers(0, 2**32, count, dtype=np.uint32).view(np.float32)
    return scores[~np.isnan(scores)]


def filled(*parts, bins=2**18):
    histogram = ScoreHistogram(bins)
    for scores in parts:
        histogram.low_bits |= look(scores)[1]
        histogram.largest = max(histogram.largest, int(encode(scores).max(initial=0)))
        histogram.add(scores)
    return histogram


def assert_counts(histogram, scores, bins=2**18):
    codes, blocks = encode(scores), histogram.blocks()
    if len(np.unique(codes)) > LEVELS:
        pages = len(np.unique(codes >> np.uint32(PAGE_BITS)))
        shift = np.uint32(next(shift for shift in range(32) if pages << PAGE_BITS >> shift <= bins))
        codes = codes >> shift << shift
    code, count = np.unique(codes, return_counts=True)
    assert np.array_equal(blocks.code, code)
    assert np.array_equal(blocks.counts[:, 0], count)
    assert not blocks.counts[:, 1:].any()


def assert_same(left: Blocks, right: Blocks):
    assert all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@given(scores=arrays(np.float32, st.integers(1, 30), elements=ANY))
@settings(max_examples=200)
def test_codes_have_the_order_of_the_scores_and_give_them_back(scores):
    codes = encode(scores)
    assert np.array_equal(decode(codes), scores)
    assert np.array_equal(codes[:, None] < codes, scores[:, None] < scores)
    assert np.array_equal(codes[:, None] == codes, scores[:, None] == scores)


def test_infinities_and_zero_have_pages_for_themselves():
    pages = encode(EXTREMES) >> np.uint32(PAGE_BITS)
    assert len(np.unique(pages)) == len(EXTREMES) - 1
    assert pages[4] == pages[5]


@given(scores=arrays(np.float32, st.integers(1, 30), elements=st.floats(width=32)))
@settings(max_examples=200)
def test_nan_of_any_sign_is_seen(scores):
    assert look(scores)[0] == np.isnan(scores).any()
    assert look(-scores)[0] == np.isnan(scores).any()


@given(
    parts=st.lists(arrays(np.float32, st.integers(0, 20), elements=ANY), max_size=4),
)
@settings(max_examples=100)
def test_few_scores_are_counted_one_by_one(parts):
    scores = np.concatenate([*parts, np.zeros(1, np.float32)])
    histogram = filled(*parts, np.zeros(1, np.float32))
    region = np.arange(1, len(scores) + 1, dtype=np.int32)[None]
    histogram.add_regions(scores[None], region, 0, 0, len(scores))  # each pixel a region of its own
    values, count = np.unique(scores, return_counts=True)
    blocks = histogram.blocks()
    assert np.array_equal(decode(blocks.code), values)
    shares = np.column_stack([count, count, count * 2**31, 0 * count])
    assert np.array_equal(blocks.counts[:, :4], shares)
    assert np.array_equal(blocks.counts[:, 4:6], count[:, None] * share(np.array(len(scores))))
    assert not blocks.counts[:, 6:].any()
    assert blocks.single.all()


@pytest.mark.parametrize(("count", "told_apart"), [(LEVELS, True), (LEVELS + 1, False)])
def test_levels_are_told_apart_up_to_a_number(count, told_apart):
    scores = distinct(count)
    histogram = filled(scores, scores[:100])
    assert (histogram.keys is not None) == told_apart
    assert_counts(histogram, np.concatenate([scores, scores[:100]]))


MANY = {
    "neighbouring pages": distinct(20000, 1, 3),
    "pages that are not neighbours": np.concatenate([distinct(20000), distinct(100, 1000, 1001), distinct(9, -7, -5)]),
    "a page unseen so far in the middle": np.insert(distinct(40000), 30000, [np.float32(5e10)]),
    "a page unseen so far at the end": np.append(distinct(40000), np.float32(-5e10)),
    "a page on the other side of zero": np.insert(distinct(20000, -1, 1), 19000, EXTREMES),
    "more and more pages": np.sort(np.abs(any_bits(40000))),
    "all pages at once": any_bits(40000),
    "all pages after few": np.concatenate([distinct(20000), any_bits(40000)]),
    "denormals": np.arange(-20000, 20000, dtype=np.float32) * LEAST,
    "next to the largest": (np.uint32(0x7F7FFFFF) - np.arange(20000, dtype=np.uint32)).view(np.float32),
    "ties among many": np.repeat(distinct(20000), 3),
    "places taken by others": np.concatenate(
        [distinct(20000), *(distinct(50, 2.0**power, 2.0**power * 1.1) for power in (2, 8, 32, -8, -32, 64, 3, 5))]
    ),
}


@st.composite
def many(draw):
    """Scores of one to three of these kinds, mostly too many to be told apart, in their order or any other."""
    pieces = draw(st.lists(st.sampled_from(sorted(MANY)), min_size=1, max_size=3))
    scores = [MANY[name][: draw(st.sampled_from((9, 1000, 10**6)))].astype(np.float32) for name in pieces]
    order = draw(st.none() | st.integers(0, 9))
    return np.concatenate(scores) if order is None else np.random.default_rng(order).permutation(np.concatenate(scores))


@given(scores=many(), bins=st.sampled_from((2**18, 2**16)))
def test_many_scores_are_counted_in_aligned_blocks(scores, bins):
    assert_counts(filled(scores, bins=bins), scores, bins)


@pytest.mark.parametrize("name", ["neighbouring pages", "pages that are not neighbours", "places taken by others"])
def test_few_bins_are_shared(name):
    assert_counts(filled(MANY[name], bins=2**12), MANY[name], 2**12)


@given(scores=many(), cuts=st.lists(st.floats(0, 1), max_size=6), order=st.integers(0, 9))
def test_blocks_depend_neither_on_order_nor_on_parts_nor_on_processes(scores, cuts, order):
    whole = filled(scores)
    shuffled = np.random.default_rng(order).permutation(scores)
    parts = np.split(shuffled, sorted(int(cut * len(scores)) for cut in cuts))
    assert_same(filled(*parts).blocks(), whole.blocks())
    histograms = [filled(part) for part in parts]
    merged = ScoreHistogram()
    merged.low_bits, merged.largest = whole.low_bits, whole.largest
    rows = [histogram.blocks() for histogram in histograms]
    levels = all(histogram.keys is not None for histogram in histograms)
    merged.merge(np.concatenate([r.code for r in rows]), np.concatenate([r.counts for r in rows]), levels)
    assert_same(merged.blocks(), whole.blocks())
    merged.add(scores)
    assert_same(merged.blocks(), filled(scores, scores).blocks())


@pytest.mark.parametrize(("ceiling", "is_known"), [(4.0, True), (1.0, True), (-0.5, False), (0.7, False)])
def test_the_largest_score_is_alone_where_its_block_begins_with_it(ceiling, is_known):
    """Of a negative number the block ends with it: lower ones share it."""
    random = np.random.default_rng(0)
    scores = np.minimum(random.normal(ceiling - 1, 1, 10**5).astype(np.float32), np.float32(ceiling))
    histogram = filled(scores)
    blocks = histogram.blocks()
    assert (histogram.shift > 0, blocks.single[-1], blocks.single[:-1].any()) == (True, is_known, False)
    assert not is_known or blocks.counts[-1, 0] == (scores == ceiling).sum()
    if ceiling > 0:
        higher = filled(scores, np.array([np.nextafter(np.float32(ceiling), np.float32(9))]))
        assert not higher.blocks().single[-1]  # another score lies in the block


@given(scores=many(), order=st.integers(0, 9))
@settings(max_examples=30)
def test_weights_lie_where_their_scores_lie(scores, order):
    histogram = filled(scores)
    region = np.random.default_rng(order).integers(0, 50, (2, len(scores)), dtype=np.int32)
    weight = np.zeros((len(scores), 5), np.int64)
    for row, marked in zip(region, (0, 7), strict=True):
        histogram.add_regions(np.stack([np.zeros_like(scores), scores]), row[None], 1, 0, 49, marked)
        area = np.bincount(row, minlength=50)
        shares = [(1, 2**62 // int(count) >> 31, 2**62 // int(count) % 2**31) if count else (0, 0, 0) for count in area]
        shares[0] = (0, 0, 0)  # no region
        weight[:, :3] += np.array(shares, dtype=np.int64)[row]
        weight[:, 3:] += (row > 0)[:, None] * share(np.array(marked or max(area[1:].sum(), 1)))
    code = histogram.blocks().code
    block = np.searchsorted(code, encode(scores), side="right") - 1
    expected = np.zeros((len(code), 5), np.int64)
    np.add.at(expected, block, weight)
    assert np.array_equal(histogram.blocks().counts[:, 1:6], expected)


@given(scores=many(), order=st.integers(0, 9), sizes=st.sampled_from(((7, 7), (7, 9, 7), (9, 7), (7, 0, 7, 9))))
@settings(max_examples=15)
def test_good_images_weigh_the_same_in_any_sizes_and_processes(scores, order, sizes):
    shuffled = np.random.default_rng(order).permutation(scores)
    parts = np.array_split(shuffled, len(sizes))
    whole, merged = ScoreHistogram(), ScoreHistogram()
    for part, size in zip(parts, sizes, strict=True):
        one = ScoreHistogram()
        for histogram in (one, whole):
            histogram.add(part, size)
        rows = one.blocks()
        merged.merge(rows.code, rows.counts, one.keys is not None)
    blocks = whole.blocks()
    assert_same(merged.blocks(), blocks)
    assert np.array_equal(blocks.counts[:, :6], filled(shuffled).blocks().counts[:, :6])
    block = np.searchsorted(blocks.code, encode(shuffled), side="right") - 1
    expected = np.zeros((len(blocks.code), 2), np.int64)
    each = [np.tile(share(np.array(size)) if size else np.zeros(2, np.int64), (len(part), 1))
            for part, size in zip(parts, sizes, strict=True)]  # fmt: skip
    np.add.at(expected, block, np.concatenate(each))
    assert np.array_equal(blocks.counts[:, 6:], expected)


def test_blocks_of_float16_scores_are_single():
    scores = np.arange(2**16, dtype=np.uint16).view(np.float16)
    scores = scores[~np.isnan(scores)].astype(np.float32)
    histogram = filled(scores)
    blocks = histogram.blocks()
    assert histogram.keys is None
    assert blocks.single.all()
    assert len(blocks.code) == len(np.unique(scores))


def test_only_zero_and_infinities_are_single_among_full_floats():
    scores = np.concatenate([distinct(20000), EXTREMES])
    blocks = filled(scores).blocks()
    assert blocks.single.sum() == 3
    assert blocks.single[[0, -1]].all()


def test_a_merge_of_nothing_takes_scores_afterwards():
    histogram = ScoreHistogram()
    histogram.merge(np.zeros(0, np.uint32), np.zeros((0, 8), np.int64), False)
    histogram.add(np.ones(3, np.float32))
    assert histogram.blocks().counts[:, 0].tolist() == [3]


@pytest.mark.parametrize("count", [100, 20000])
def test_a_pickled_histogram_goes_on_counting(count):
    scores = distinct(count)
    histogram = pickle.loads(pickle.dumps(filled(scores)))
    histogram.add(scores)
    assert_same(histogram.blocks(), filled(scores, scores).blocks())
