"""Which pixels of a mask are marked, in any encoding of masks that people use."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.masks import Marks, mostly_marked, not_turned, read_mask, read_white

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


NUMBERS = np.zeros((400, 400), np.uint8)  # 50 squares with the numbers 1 to 50
for square in range(50):
    row, column = 50 * (square // 8) + 5, 50 * (square % 8) + 5
    NUMBERS[row : row + 25, column : column + 25] = square + 1
TOUCHING = np.zeros((200, 200), np.uint8)  # rows of parts that touch, of 5 px upwards
TOUCHING[10:190, 10:190] = 1 + np.add.outer(np.arange(180) // 5 * 7, np.arange(180) // 6) % 83


@pytest.mark.parametrize(
    "values",
    [
        NUMBERS, np.where(NUMBERS == 7, 0, NUMBERS), 5 * NUMBERS, np.where(NUMBERS, 204 + NUMBERS, 0),
        (6 * NUMBERS.clip(0, 40).astype(int) + 5 * (NUMBERS > 0)).astype(np.uint8), TOUCHING, 3 * TOUCHING,
        np.where(NUMBERS, NUMBERS.astype(np.uint16) * 900, 0).astype(np.uint16),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["png", "tif", "jpg"])
def test_every_number_of_a_lossless_mask_is_marked(tmp_path, values, kind):
    """A PNG that is called JPEG is one."""
    path = tmp_path / f"mask.{kind}"
    Image.fromarray(values.astype(values.dtype)).save(path, "TIFF" if kind == "tif" else "PNG")
    assert np.array_equal(read_white(path, 10**6), values > 0)


@pytest.mark.parametrize("quality", [98, 95, 75, 40])
@pytest.mark.parametrize("grays", [(30, 255), (20, 255), (30, 100, 255), (40, 50, 60), (255, 255)])
@pytest.mark.parametrize("name", ["mask.jpg", "mask.png"])
def test_separate_gray_levels_of_a_jpeg_are_all_marked(tmp_path, quality, grays, name):
    """Whatever the file is called; the areas are 10 x 10 px and more."""
    values = np.zeros((160, 200), np.uint8)
    for number, gray in enumerate(grays):
        values[12 + 40 * number : 35 + 40 * number, 20:130] = gray
        values[20 + 40 * number : 30 + 40 * number, 155:165] = gray
    Image.fromarray(values).save(tmp_path / name, "JPEG", quality=quality)
    white = read_white(tmp_path / name, 10**6)
    assert white[values > 0].mean() > 0.98
    assert np.count_nonzero(white & (values == 0)) < 0.04 * np.count_nonzero(values)
    if len(set(grays)) == 1:
        assert np.array_equal(white, values > 0)


@pytest.mark.parametrize(("size", "how"), [((300, 240), cv2.INTER_LINEAR), ((60, 48), cv2.INTER_AREA)])
def test_resized_masks_are_marked_above_the_middle(tmp_path, size, how):
    resized = cv2.resize(np.uint8(255) * MARKED, size, interpolation=how)
    cv2.imwrite(str(tmp_path / "mask.png"), resized)
    assert np.array_equal(read_white(tmp_path / "mask.png", 10**6), resized > 127.5)


@pytest.mark.parametrize("size", [(16, 16), (12, 16)])
@pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(10))
def test_masks_of_photos_that_exif_turns_are_named_where_sizes_do_not_tell(tmp_path, size, kind, orientation):
    """A mask of another size than the photo is refused, so that its position is known."""
    tagged, plain = tmp_path / f"a.{kind}", tmp_path / "mask.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros(size, np.uint8)).save(tagged, exif=exif)
    turned = orientation in ({2, 3, 4, 5, 6, 7, 8} if size == (16, 16) else {2, 3, 4})
    mask = np.zeros(size if orientation not in {5, 6, 7, 8} else size[::-1], bool)
    mask[2:4, 3:5] = True
    Image.fromarray(mask).save(plain)
    remark = not_turned({plain: Marks.of(mask, tagged, plain), tmp_path / "b.png": Marks.of(mask, plain, plain)})
    if turned:
        assert remark.startswith(f"1 of 2 photos with masks are turned by their EXIF, and their masks, such as {plain}")
    else:
        assert remark is None
    assert not Marks.of(mask, tagged, tagged).unturned
    assert not Marks.of(mask, tmp_path / "nothing", plain).unturned


def marks(*masks):
    return {Path(f"{number}.png"): Marks.of(np.array(mask, bool)) for number, mask in enumerate(masks)}


HOLE, HALF = np.pad(np.zeros((4, 4)), 2, constant_values=1), np.repeat([[1.0], [0]], [5, 3], axis=0).repeat(8, axis=1)
SMALL = 1 - HOLE.clip(0, 1)
SMALL[2:4] = 0  # a quarter of the photo and less


def test_masks_that_look_inverted_are_named():
    inverted = "if black marks the defects there, they are inverted, and pixel metrics say nothing"
    most = mostly_marked(marks(SMALL, HALF, HOLE))
    assert most == f"2 of 3 masks mark most of their photo, such as 1.png; {inverted}"
    for others in (1, 3, 99):
        one = mostly_marked(marks(*[SMALL] * others, HOLE))
        assert one == (
            f"1 of {others + 1} masks mark most of their photo and its whole border, such as {others}.png; {inverted}"
        )
    assert mostly_marked(marks(*[SMALL] * 3, *[1 - SMALL] * 3)).startswith("3 of 6 masks mark most of their photo")


def test_photos_that_are_mostly_defective_among_others_are_not_named():
    whole = np.ones((8, 8))
    for masks in ([], [SMALL], [SMALL] * 2 + [HALF], [SMALL] * 3 + [whole, HALF, HALF.T], [np.eye(8)] * 4):
        assert mostly_marked(marks(*masks)) is None


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "mask.png")
    with pytest.raises(UserError, match="mask.png: expected an image file, found something else"):
        read_white(tmp_path / "mask.png", 10**6)
    with pytest.raises(UserError, match="none.png: expected an image, found no such file"):
        read_white(tmp_path / "none.png", 10**6)
