"""Decoding, placing and the way back."""

import numpy as np
import pytest
from PIL import Image

from anomaly_lab.data.images import (
    Decoding,
    fit,
    place,
    read_mask,
    read_photo,
    to_photo,
)  # fmt: skip
from anomaly_lab.errors import UserError

GRADIENT = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_rgb_palette_and_alpha_decode_to_the_same_values(tmp_path, channels):
    gray = Image.fromarray(GRADIENT)
    forms = {"gray": gray, "rgb": gray.convert("RGB"), "palette": gray.convert("P"), "alpha": gray.convert("RGBA")}
    for name, image in forms.items():
        path = tmp_path / f"{name}.png"
        image.save(path)
        photo = read_photo(path, channels)
        assert photo.shape == (16, 16, channels)
        assert photo.dtype == np.uint8
        assert (photo == GRADIENT[:, :, None]).all(), name


def test_16_bit_is_scaled_and_not_clipped(tmp_path):
    Image.fromarray(GRADIENT.astype(np.uint16) * 257).save(tmp_path / "wide.png")
    assert (read_photo(tmp_path / "wide.png", 1)[:, :, 0] == GRADIENT).all()


def test_exif_rotation_is_applied(tmp_path):
    image = Image.fromarray(np.zeros((10, 20, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_photo(tmp_path / "turned.jpg", 3).shape == (20, 10, 3)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n cut off"])
def test_unreadable_files_are_named(tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(UserError, match=r"bad.png: expected a readable image"):
        read_photo(tmp_path / "bad.png", 3)


def test_truncated_files_are_named(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cut.png: expected a readable image, found: .*truncated"):
        read_photo(tmp_path / "cut.png", 3)
    with pytest.raises(UserError, match=r"none.png: expected an image, found no such file"):
        read_photo(tmp_path / "none.png", 3)


@pytest.mark.parametrize(
    ("resize", "source", "target"),
    [
        ("stretch", (0, 0, 50, 100), (0, 0, 64, 64)),
        ("pad", (0, 0, 50, 100), (16, 0, 32, 64)),
        ("crop", (0, 25, 50, 50), (0, 0, 64, 64)),
    ],
)
def test_placement_of_a_photo_that_is_not_square(resize, source, target):
    assert place(50, 100, 64, resize) == ((50, 100), source, target)


def test_padding_repeats_the_border():
    photo = np.full((32, 64, 3), 7, np.uint8)
    photo[0], photo[-1] = 50, 90
    image = fit(photo, place(32, 64, 64, "pad"), 64)
    assert image.shape == (3, 64, 64)
    assert (image[:, :16] == 50).all()
    assert (image[:, 48:] == 90).all()


@pytest.mark.parametrize("resize", ["pad", "stretch"])
def test_a_map_comes_back_to_where_it_was_seen(resize):
    placement = place(100, 200, 64, resize)
    photo = np.zeros((100, 200, 1), np.uint8)
    photo[60:80, 140:180] = 255
    anomaly_map = to_photo(fit(photo, placement, 64)[0].astype(np.float32), placement)
    assert anomaly_map.shape == (100, 200)
    y, x = np.nonzero(anomaly_map > 127)
    assert (abs(y.mean() - 69.5) < 1, abs(x.mean() - 159.5) < 1) == (True, True)


def test_padding_does_not_come_back():
    placement = place(32, 64, 64, "pad")
    anomaly_map = np.full((64, 64), 1e6, np.float32)
    anomaly_map[16:48] = 1
    assert (to_photo(anomaly_map, placement) == 1).all()


def test_what_crop_cut_away_carries_the_lowest_score():
    placement = place(50, 100, 64, "crop")
    anomaly_map = np.full((64, 64), 3, np.float32)
    anomaly_map[0, 0] = -2
    back = to_photo(anomaly_map, placement)
    assert back.shape == (50, 100)
    assert (back[:, :25] == back.min()).all()
    assert (back[1:, 27:75] > back.min()).all()


def test_working_image_is_the_photo_itself_where_the_size_agrees(tmp_path):
    Image.fromarray(GRADIENT).save(tmp_path / "a.png")
    image, placement = Decoding(16, 1).read(tmp_path / "a.png")
    assert (image[0] == GRADIENT).all()
    assert (to_photo(image[0].astype(np.float32), placement) == GRADIENT).all()


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
