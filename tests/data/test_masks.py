"""Which pixels of a mask are marked, in any encoding of masks that people use."""

import os

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.masks import mostly_marked, read_mask, read_white

GRADIENT = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
REGIONS = np.zeros((96, 120), np.uint8)  # two kinds of defects that touch, and a stroke of one pixel
REGIONS[10:30, 10:40] = 1
REGIONS[25:40, 30:50] = 2
REGIONS[70, 5:30] = 1
cv2.circle(REGIONS, (80, 60), 15, 2, -1)
MARKED = REGIONS > 0
CLEAR, WHITE, RED, BLACK = (255, 255, 255, 0), (255, 255, 255, 255), (255, 0, 0, 255), (0, 0, 0, 255)


def saved(path, *colours, dtype=np.uint8, **options):
    Image.fromarray(np.array(colours, dtype)[REGIONS]).save(path, **options)
    return read_white(path, 10**6)


def test_masks_are_bool_and_must_have_the_size_of_the_photo(tmp_path):
    Image.fromarray((GRADIENT > 200).astype(np.uint8) * 255).save(tmp_path / "mask.png")
    assert (read_mask(tmp_path / "mask.png", (16, 16)) == (GRADIENT > 200)).all()
    assert not read_mask(None, (3, 4)).any()
    with pytest.raises(UserError, match=r"mask.png: expected a mask of the size of its image, 8 x 8, found 16 x 16"):
        read_mask(tmp_path / "mask.png", (8, 8))


@pytest.mark.parametrize("white", [1, 128, 255])
def test_masks_may_mark_defects_with_any_value(tmp_path, write, white):
    pixels = np.zeros((16, 16), np.uint8)
    pixels[3:5, 3:9] = white
    assert read_mask(write(tmp_path / "mask.png", pixels), (16, 16)).sum() == 12


def test_a_mask_that_marks_nothing_is_refused(tmp_path, write):
    with pytest.raises(UserError, match=r"mask.png: expected the defect marked in white, found an empty mask"):
        read_mask(write(tmp_path / "mask.png", np.zeros((16, 16), np.uint8)), (16, 16))


def test_masks_of_16_bits_and_of_float_mark_what_is_not_zero(tmp_path):
    marked = GRADIENT > 200
    for dtype in (np.uint16, np.float32):
        tifffile.imwrite(tmp_path / "mask.tif", marked.astype(dtype))
        assert (read_mask(tmp_path / "mask.tif", (16, 16)) == marked).all()


def test_masks_may_be_drawn_as_what_is_not_transparent(tmp_path):
    alpha = (GRADIENT > 200).astype(np.uint8) * 255
    Image.fromarray(np.dstack([np.zeros((16, 16, 3), np.uint8), alpha])).save(tmp_path / "mask.png")
    assert (read_mask(tmp_path / "mask.png", (16, 16)) == (GRADIENT > 200)).all()


def test_masks_in_colour_are_judged_by_their_brightness(tmp_path):
    Image.fromarray(np.array([[[0, 0, 255], [255, 255, 0]]], np.uint8)).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", (1, 2)).tolist() == [[False, True]]


@pytest.mark.parametrize(
    "colours",
    [
        (0, 1, 2), (0, 2, 1), (0, 100, 255), (0, 255, 20), (1, 2, 3), (0, 1, 255), (200, 255, 100),
        ((0, 0, 0), (255, 0, 0), (255, 255, 255)), ((0, 0, 0), (0, 0, 40), (255, 255, 255)),
        ((255, 255, 255), (255, 0, 0), (0, 0, 255)), (CLEAR, WHITE, RED), (CLEAR, BLACK, BLACK), (CLEAR, RED, BLACK),
        ((0, 0, 0, 0), WHITE, (0, 0, 0, 120)), (BLACK, WHITE, RED), ((0, 0, 0, 255), (0, 0, 0, 0), (0, 0, 0, 0)),
    ],
)  # fmt: skip
def test_all_but_the_background_is_marked(tmp_path, colours):
    if colours[0] == BLACK and colours[1][3] == 0:  # strokes that are erased from a black plane: the opaque is marked
        assert np.array_equal(saved(tmp_path / "mask.png", *colours), ~MARKED)
    else:
        assert np.array_equal(saved(tmp_path / "mask.png", *colours), MARKED)


def test_numbers_of_16_bits_and_of_many_regions_are_marked(tmp_path):
    assert np.array_equal(saved(tmp_path / "mask.png", 0, 1, 3, dtype=np.uint16), MARKED)
    many = np.zeros((96, 120), np.uint16)
    for number in range(40):
        many[2 * number + 4, 10:90] = number + 1
    Image.fromarray(many).save(tmp_path / "many.png")
    assert np.array_equal(read_white(tmp_path / "many.png", 10**6), many > 0)


def test_a_transparent_margin_is_no_stroke(tmp_path):
    pixels = np.zeros((*REGIONS.shape, 4), np.uint8)
    pixels[5:, 5:, 3] = 255
    pixels[MARKED] = WHITE
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    assert np.array_equal(read_white(tmp_path / "mask.png", 10**6), MARKED)


@pytest.mark.parametrize("quality", [95, 75, 50, 20])
def test_soft_borders_are_marked_above_the_middle(tmp_path, quality):
    """The noise of JPEG, also once it is stored as PNG, marks nothing; two grays stay two marked grays."""
    white = saved(tmp_path / "mask.jpg", 0, 255, 255, quality=quality)
    stored = Image.open(tmp_path / "mask.jpg")
    assert np.array_equal(white, np.asarray(stored) > 127.5)
    stored.save(tmp_path / "mask.png")
    assert np.array_equal(read_white(tmp_path / "mask.png", 10**6), white)
    grays = saved(tmp_path / "mask.jpg", 0, 100, 255, quality=quality)
    assert np.count_nonzero(grays != MARKED) < 0.03 * np.count_nonzero(MARKED)


@pytest.mark.parametrize(("size", "how"), [((300, 240), cv2.INTER_LINEAR), ((60, 48), cv2.INTER_AREA)])
def test_resized_masks_are_marked_above_the_middle(tmp_path, size, how):
    resized = cv2.resize(np.uint8(255) * MARKED, size, interpolation=how)
    cv2.imwrite(str(tmp_path / "mask.png"), resized)
    assert np.array_equal(read_white(tmp_path / "mask.png", 10**6), resized > 127.5)


def test_masks_that_mark_most_of_nearly_every_photo_are_named():
    assert mostly_marked([0.9] * 9 + [0.1]).startswith("9 of 10 masks mark most of their photo; if black marks")
    assert mostly_marked([0.7]) is not None
    for shares in ([], [0.1], [0.9] * 8 + [0.1] * 2, [0.5]):
        assert mostly_marked(shares) is None


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "mask.png")
    with pytest.raises(UserError, match="mask.png: expected an image file, found something else"):
        read_white(tmp_path / "mask.png", 10**6)
    with pytest.raises(UserError, match="none.png: expected an image file, found none"):
        read_white(tmp_path / "none.png", 10**6)
