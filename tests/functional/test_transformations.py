"""Flips, shifts and turns: 72 different ones, in the published order, by an independent library."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from anomaly_lab.core.errors import UserError
from anomaly_lab.functional.transformations import combinations, refuse_repeated, transformed, undone, versions

ALL = ("flip", "shift_x", "shift_y", "turn")


@pytest.fixture
def image():
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_there_are_72_and_only_the_first_does_nothing(image):
    states = combinations(ALL)
    assert states.shape == (72, 4)
    assert states[:5].tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 0, 3], [0, 0, 1, 0]]
    copies = transformed(image.repeat(72, 1, 1, 1), ALL, states)
    assert len(torch.unique(copies, dim=0)) == 72
    assert torch.equal(copies[0], image[0])


def test_a_kind_is_there_once():
    refuse_repeated(ALL)
    with pytest.raises(
        UserError, match=r"method.kinds: expected each of flip, shift_x, shift_y, turn once at most, fo"
    ):
        refuse_repeated(["turn", "flip", "turn"])


def test_four_turns_are_none(image):
    turned = image
    for _ in range(4):
        turned = versions(turned, "turn")[1]
    assert torch.equal(turned, image)
    assert not torch.equal(versions(image, "turn")[1], image)


@pytest.mark.parametrize(("kind", "axis"), [("shift_x", 3), ("shift_y", 2)])
def test_shifts_are_those_of_scipy(image, kind, axis):
    """Whose `reflect` is what Keras, and so the authors, fill with: d c b a | a b c d | d c b a."""
    for number, pixels in ((1, -4), (2, 4)):
        offsets = [0] * 4
        offsets[axis] = pixels
        expected = ndimage.shift(image.double().numpy(), offsets, order=0, mode="reflect")
        np.testing.assert_array_equal(versions(image, kind)[number], expected.astype(np.float32))


def test_each_image_has_its_own_states(image):
    pair = torch.cat([image, 1 - image])
    both = transformed(pair, ("flip", "turn"), torch.tensor([[1, 0], [0, 3]]))
    assert torch.equal(both[0], pair[0].flip(2))
    assert torch.equal(both[1], pair[1].rot90(3, (1, 2)))


@pytest.mark.parametrize("kinds", [("flip", "turn"), ("turn", "flip")])
def test_flips_and_turns_are_undone_in_whatever_order(image, kinds):
    states, copies = combinations(kinds), image.repeat(8, 1, 1, 1)
    assert torch.equal(undone(transformed(copies, kinds, states), kinds, states), copies)


def test_shifts_are_undone_but_for_what_left_the_image(image):
    states, copies = combinations(ALL), image.repeat(72, 1, 1, 1)
    back = undone(transformed(copies, ALL, states), ALL, states)
    assert torch.equal(back[..., 4:-4, 4:-4], copies[..., 4:-4, 4:-4])
    lost = undone(transformed(image, ("shift_x",), torch.tensor([[2]])), ("shift_x",), torch.tensor([[2]]))
    expected = ndimage.shift(
        ndimage.shift(image[0, 0], (0, 4), order=0, mode="reflect"), (0, -4), order=0, mode="reflect"
    )
    np.testing.assert_array_equal(lost[0, 0], expected)


def test_a_flat_image_stays_as_it_is():
    flat = torch.full((72, 1, 8, 8), 0.3)
    assert torch.equal(transformed(flat, ALL, combinations(ALL)), flat)
