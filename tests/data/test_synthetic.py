"""Made defects: the mask is what differs, they lie where the part is, and the same numbers draw the same ones."""

import numpy as np
import pytest

from anomaly_lab.data.synthetic import DEFECTS, LEAST, defective


def photo(kind, channels=3, side=64):
    random = np.random.default_rng(5)
    if kind == "flat":
        return np.full((channels, side, side), 255, np.uint8)
    return random.integers(0, 256, (channels, side, side), dtype=np.uint8)


@pytest.mark.parametrize("kind", DEFECTS)
@pytest.mark.parametrize(("content", "channels"), [("noise", 3), ("noise", 1), ("flat", 3), ("flat", 1)])
def test_the_mask_is_exactly_what_differs_and_never_empty(kind, content, channels):
    image = photo(content, channels)
    before = image.copy()
    for number in range(20):
        changed, mask = defective(image, (0, 0, 64, 64), None, kind, np.random.default_rng(number))
        assert changed.dtype == np.uint8
        assert np.array_equal(mask, (changed != image).any(axis=0))
        assert LEAST * mask.size <= mask.sum() <= 0.3 * mask.size
    assert np.array_equal(image, before)


@pytest.mark.parametrize("kind", DEFECTS)
def test_nothing_changes_in_the_padding_or_outside_the_region(kind):
    valid = np.zeros((64, 64), bool)
    valid[20:40, 10:50] = True
    seen = np.zeros((64, 64), bool)
    for number in range(30):
        _, mask = defective(photo("noise"), (16, 0, 32, 64), None, kind, np.random.default_rng(number))
        assert mask[16:48].any()
        assert not mask[:16].any()
        assert not mask[48:].any()
        _, mask = defective(photo("noise"), (16, 0, 32, 64), valid, kind, np.random.default_rng(number))
        assert mask.any()
        assert not (mask & ~valid).any()
        seen |= mask
    assert seen.sum() > valid.sum() / 6  # they are not all in one place


@pytest.mark.parametrize("kind", DEFECTS)
def test_the_same_seed_draws_the_same_defect_and_another_one_another(kind):
    image = photo("noise")
    draws = [defective(image, (0, 0, 64, 64), None, kind, np.random.default_rng(number)) for number in (1, 1, 2)]
    assert np.array_equal(draws[0][0], draws[1][0])
    assert np.array_equal(draws[0][1], draws[1][1])
    assert not np.array_equal(draws[0][1], draws[2][1])


def test_a_region_of_a_single_pixel_still_gets_a_defect():
    valid = np.zeros((16, 16), bool)
    valid[3, 4] = True
    image = photo("flat", side=16)
    changed, mask = defective(image, (0, 0, 16, 16), valid, "patch", np.random.default_rng(0))
    assert np.array_equal(mask, valid)
    assert (changed[:, 3, 4] != image[:, 3, 4]).any()


def test_defects_have_the_published_sizes():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (3, 256, 256), dtype=np.uint8)
    shares = {
        kind: [defective(image, (0, 0, 256, 256), None, kind, random)[1].mean() for _ in range(60)] for kind in DEFECTS
    }
    assert 0.019 < min(shares["patch"]) < 0.04
    assert 0.11 < max(shares["patch"]) < 0.151
    assert max(shares["scar"]) < 1.2 * 25 * 16 / 256**2
    assert min(shares["blob"]) > 0.004
    assert max(shares["blob"]) < 0.051


def test_a_patch_of_the_image_lies_elsewhere_with_other_colours():
    """On a ramp from left to right a patch of the same ramp, its colours within 20 % but for the change of place."""
    ramp = np.tile(np.linspace(60, 180, 128).astype(np.uint8), (1, 128, 1))
    for number in range(20):
        changed, mask = defective(ramp, (0, 0, 128, 128), None, "patch", np.random.default_rng(number))
        rows, columns = np.nonzero(mask)
        box = changed[0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(float)
        assert (np.diff(box[len(box) // 2]) >= 0).mean() > 0.95  # still a ramp
        assert box.min() >= 0.8 * 60
        assert box.max() <= 1.2 * 180
