"""Views: every number follows from a key; crops against an independent library, colours against theirs."""

import colorsys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from anomaly_lab.data.noise import row_keys
from anomaly_lab.functional.views import Views, crop, flipped

PLAIN = Views(crop=1.0, jitter=0.0, hue=0.0, gray=0.0, blur=0.0)
FULL = Views(crop=0.2, jitter=0.4, hue=0.1, gray=0.2, blur=0.5)


def images(count=8, channels=3, side=16):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def keys(count=8, epoch=0):
    return row_keys(0, epoch, torch.arange(count))


def test_without_changes_a_view_is_the_image_but_for_its_shape():
    """An area of one may still be cut higher than wide; numbers in the middle of their ranges cut nothing."""
    half = torch.full((8, 1, 1, 1), 0.5)
    torch.testing.assert_close(crop(images(), (half, half, half, half), (1.0, 1.0)), images(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_follows_from_its_key_alone(channels):
    given = images(channels=channels)
    views = FULL(given, keys())
    assert views.shape == given.shape
    assert 0 <= views.min() <= views.max() <= 1
    order = torch.tensor([5, 1, 7])
    torch.testing.assert_close(FULL(given[order], keys()[order]), views[order], rtol=0, atol=1e-6)
    assert (FULL(given, keys(epoch=1)) - views).abs().amax(dim=(1, 2, 3)).min() > 0.01


def test_a_crop_is_a_part_of_the_image_enlarged():
    """Of a ramp from left to right and from top to bottom: the values are those at the places it shows."""
    side = 64
    ramp = (torch.arange(side) + 0.5) / side
    pair = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side)])[None]
    number = torch.rand(4, 20, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    cropped = crop(pair.expand(20, -1, -1, -1), tuple(number), (0.3, 0.3))
    left, right = cropped[:, 0, 0, 1], cropped[:, 0, 0, -2]
    top, bottom = cropped[:, 1, 1, 0], cropped[:, 1, -2, 0]
    width, height = (right - left) / (side - 3) * side, (bottom - top) / (side - 3) * side
    torch.testing.assert_close(width * height, torch.full((20,), 0.3), rtol=1e-3, atol=0)
    assert (width / height).max() <= 4 / 3 + 1e-3
    assert (width / height).min() >= 3 / 4 - 1e-3
    assert (width / height).std() > 0.05
    assert left.min() >= 0
    assert right.max() <= 1
    assert left.std() > 0.05


def test_flips_are_of_half_of_the_images():
    given = images(400)
    mirrored = flipped(given, keys(400))
    turned = (mirrored == given.flip(3)).all(dim=3).all(dim=2).all(dim=1)
    same = (mirrored == given).all(dim=3).all(dim=2).all(dim=1)
    assert (turned ^ same).all()
    assert 0.4 < turned.float().mean() < 0.6


def test_a_fifth_of_the_views_is_gray_and_a_fifth_keeps_its_colours():
    given = images(500)
    centre = images(500)  # whole, so that colours can be compared
    gray = replace(PLAIN, gray=0.2)(given, keys(500))
    spread = (gray.amax(dim=1) - gray.amin(dim=1)).amax(dim=(1, 2))
    assert 0.15 < (spread < 1e-5).float().mean() < 0.25
    cropped = PLAIN(centre, keys(500))
    kept = (replace(PLAIN, jitter=0.4)(given, keys(500)) - cropped).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert 0.15 < kept.float().mean() < 0.25


def test_four_views_in_five_are_darker_or_brighter_and_have_less_or_more_contrast():
    """By a factor that is uniform in 0.6 to 1.4; of a view in the middle of the range nothing is cut."""
    given = 0.4 + 0.1 * images(2000, channels=1)
    before, after = PLAIN(given, keys(2000)), replace(PLAIN, jitter=0.4)(given, keys(2000))
    bright = after.mean(dim=(1, 2, 3)) / before.mean(dim=(1, 2, 3))
    contrast = after.std(dim=(1, 2, 3)) / before.std(dim=(1, 2, 3)) / bright
    for factor in (bright, contrast):
        changed = factor[(factor - 1).abs() > 1e-4]
        assert len(changed) / 2000 == pytest.approx(0.8, abs=0.03)
        found = changed.quantile(torch.tensor([0, 0.25, 0.5, 0.75, 1]))
        torch.testing.assert_close(found, torch.tensor([0.6, 0.8, 1, 1.2, 1.4]), rtol=0, atol=0.03)


def test_a_turned_hue_is_that_of_the_standard_library():
    given = images(40)
    before = PLAIN(given, keys(40))
    after = replace(PLAIN, hue=0.5)(given, keys(40))
    turns = []
    for old, new in zip(before[:, :, 8, 8].tolist(), after[:, :, 8, 8].tolist(), strict=True):
        (hue, *rest), (turned, *same) = colorsys.rgb_to_hsv(*old), colorsys.rgb_to_hsv(*new)
        np.testing.assert_allclose(same, rest, atol=1e-4)
        turns.append((turned - hue + 0.5) % 1 - 0.5)
    assert 0.1 < np.std(turns) < 0.4  # uniform in half a turn either way, for four in five: .26
    assert max(map(abs, turns)) > 0.35


def test_blur_takes_the_fine_structure():
    given = images(40)
    before = PLAIN(given, keys(40))
    after = replace(PLAIN, blur=1.0)(given, keys(40))
    finer = after.std(dim=(1, 2, 3)) / before.std(dim=(1, 2, 3))
    assert finer.max() <= 1
    assert finer.median() < 0.8
    torch.testing.assert_close(functional.avg_pool2d(after, 16), functional.avg_pool2d(before, 16), rtol=0.1, atol=0.03)


@pytest.mark.parametrize("side", [32, 64])
def test_a_blur_is_as_wide_in_sides_whatever_the_size(side):
    """A point becomes a Gaussian, here of 1.05 px at 32 px, cut at twice the widest deviation in px at 32 px."""
    point = torch.zeros(1, 1, side, side)
    point[..., side // 2, side // 2] = 1
    blurred = replace(PLAIN, blur=1.0)._blurred(point, (torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 0.5)))
    away = torch.arange(side) - side // 2
    line = torch.exp(-(away**2) / (2 * (1.05 * side / 32) ** 2)) * (away.abs() <= 2 * side // 32)
    torch.testing.assert_close(blurred[0, 0], torch.outer(line, line) / line.sum() ** 2)
