"""The algebra of regions over levels, and the levels themselves."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional

from anomaly_lab.functional.pyramid import combine, pyramid


def random_levels(levels, side, seed):
    random = torch.Generator().manual_seed(seed)
    sides = [-(-side // 2**i) for i in range(levels)]
    return [1 + torch.randn(2, 1, s, s, generator=random) for s in sides]


@pytest.mark.parametrize("side", [32, 27])
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_a_threshold_of_the_map_is_the_union_of_the_intersections_of_neighbouring_regions(levels, side):
    maps = random_levels(levels, side, seed=levels)
    said = combine(maps, (side, side))
    for line in (0.5, 1.0, 1.5):
        regions = [
            functional.interpolate(m, scale_factor=2.0**i, mode="bilinear")[..., :side, :side] >= line
            for i, m in enumerate(maps)
        ]
        expected = torch.zeros_like(regions[0]) if levels > 1 else regions[0]
        for fine, coarse in pairwise(regions):
            expected |= fine & coarse
        assert torch.equal(said >= line, expected)
        assert 0 < expected.float().mean() < 1


def test_levels_that_agree_are_the_map():
    row = torch.linspace(-3, 3, 40).view(1, 1, 1, 40)
    constant = [torch.full((1, 1, 40 // 2**i, 40 // 2**i), 0.7) for i in range(4)]
    assert combine(constant, (40, 40)).unique().tolist() == [pytest.approx(0.7)]
    one = row.expand(1, 1, 40, 40)
    assert torch.equal(combine([one], (40, 40)), one)


def test_two_by_two_means_and_odd_sides():
    images = torch.arange(25.0).view(1, 1, 5, 5) / 25
    second, third = pyramid(images, 3)[1:]
    assert second.shape[-2:] == (3, 3)
    assert third.shape[-2:] == (2, 2)
    assert second[0, 0, 0, 0] == pytest.approx((0 + 1 + 5 + 6) / 4 / 25)
    assert second[0, 0, 2, 2] == pytest.approx(24 / 25)  # the corner, four times
    assert second[0, 0, 0, 2] == pytest.approx((4 + 9) / 2 / 25)
