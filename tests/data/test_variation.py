"""Small changes of good photos: how much they change, and where."""

import pytest
import torch

from anomaly_lab.data.noise import row_keys
from anomaly_lab.data.variation import LIGHT, NOISE, VARIATIONS, varied

SIDE = 100


@pytest.fixture
def images():
    """Photos of gray levels with a border that is no part of them."""
    random = torch.Generator().manual_seed(0)
    levels = torch.randint(60, 190, (40, 3, SIDE, SIDE), generator=random)
    return levels.float() / 255


@pytest.fixture
def inside(images):
    inside = torch.zeros(len(images), 1, SIDE, SIDE, dtype=torch.bool)
    inside[:, :, 10:90, 20:95] = True
    return inside


@pytest.mark.parametrize("variation", VARIATIONS)
def test_only_the_photo_changes_in_whole_gray_levels_and_alike_in_every_batch(images, inside, variation):
    keys = row_keys(0, 0, torch.arange(len(images)))
    changed = varied(variation, images, keys, inside)
    assert torch.equal(changed[~inside.expand_as(images)], images[~inside.expand_as(images)])
    assert torch.equal((changed * 255).round() / 255, changed)
    assert (changed != images).flatten(1).any(1).float().mean() > 0.9
    assert torch.equal(varied(variation, images[7:9], keys[7:9], inside[7:9]), changed[7:9])


def test_a_shift_moves_by_up_to_two_percent_and_repeats_the_border(images, inside):
    changed = varied("shift", images, row_keys(0, 0, torch.arange(len(images))), inside)
    found = set()
    for image, moved in zip(images, changed, strict=True):
        middle = moved[:, 40:60, 40:60]
        places = [(y, x) for y in range(-3, 4) for x in range(-3, 4)
                  if torch.equal(image[:, 40 + y : 60 + y, 40 + x : 60 + x], middle)]  # fmt: skip
        ((y, x),) = places
        found |= {("y", y), ("x", x)}
        rows = (torch.arange(10, 90) + y).clamp(10, 89)
        columns = (torch.arange(20, 95) + x).clamp(20, 94)
        assert torch.equal(moved[:, 10:90, 20:95], image[:, rows][:, :, columns])
    assert found == {(axis, step) for axis in "yx" for step in range(-2, 3)}


def test_a_shift_is_a_share_of_either_side(images):
    narrow = images[..., :50]
    changed = varied("shift", narrow, row_keys(0, 0, torch.arange(len(images))), torch.ones_like(narrow[:, :1]) > 0)
    steps = {x for image, moved in zip(narrow, changed, strict=True) for y in range(-2, 3) for x in range(-2, 3)
             if torch.equal(image[:, 40 + y : 60 + y, 20 + x : 30 + x], moved[:, 40:60, 20:30])}  # fmt: skip
    assert steps == {-1, 0, 1}


@pytest.mark.parametrize("variation", VARIATIONS)
def test_changed_photos_stay_within_the_gray_levels_and_nothing_inside_is_no_change(images, inside, variation):
    keys = row_keys(0, 0, torch.arange(len(images)))
    for level in (0, 1):
        changed = varied(variation, torch.full_like(images, level), keys, inside)
        assert changed.min() >= 0
        assert changed.max() <= 1
    assert torch.equal(varied(variation, images, keys, inside & False), images)


def test_light_is_a_factor_and_noise_has_its_deviation(images, inside):
    assert (LIGHT, NOISE) == (0.1, 2 / 255)
    keys = row_keys(3, 0, torch.arange(len(images)))
    at = inside.expand_as(images)
    factor = (varied("light", images, keys, inside) / images).where(at, torch.nan).flatten(1)
    middle = factor.nanmean(1)
    assert (middle - 1).abs().max() <= LIGHT
    assert middle.std() == pytest.approx(LIGHT / 3**0.5, rel=0.25)  # uniform
    assert (factor - middle[:, None]).abs().nan_to_num().max() < 0.5 / 60 + 1e-3  # rounding to a gray level
    noise = varied("noise", images, keys, inside) - images
    assert (noise[:, 0] != noise[:, 1])[inside[:, 0]].float().mean() > 0.5  # each channel its own
    noise = noise[at]
    assert noise.mean().abs() < 1e-4
    assert noise.std() == pytest.approx((NOISE**2 + (1 / 255) ** 2 / 12) ** 0.5, rel=0.01)
