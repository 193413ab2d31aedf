"""Decoding, placing and the way back."""

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Placement
from anomaly_lab.data.images import Decoding, hardly_seen, unlike_the_others
from anomaly_lab.data.placement import content, fit, fit_mask, place, to_photo

GRADIENT = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    ("resize", "source", "target"),
    [
        ("stretch", (0, 0, 50, 100), (0, 0, 64, 64)),
        ("pad", (0, 0, 50, 100), (16, 0, 32, 64)),
        ("shrink", (0, 0, 50, 100), (16, 0, 32, 64)),
        ("crop", (0, 25, 50, 50), (0, 0, 64, 64)),
    ],
)
def test_placement_of_a_photo_that_is_not_square(resize, source, target):
    assert place(50, 100, 64, resize) == Placement((50, 100), source, target)


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


@pytest.mark.parametrize(("height", "width", "side"), [(28, 28, 32), (27, 20, 32), (32, 9, 32), (1, 1, 4)])
def test_small_photos_keep_their_pixels_there_and_back(height, width, side):
    """With zeros around a photo whose border is black, as the papers pad MNIST."""
    photo = np.zeros((height, width, 1), np.uint8)
    photo[2:-2, 2:-2] = np.random.default_rng(0).integers(0, 256, photo[2:-2, 2:-2].shape)
    placement = place(height, width, side, "shrink")
    image = fit(photo, placement, side)
    rows, columns = side - height, side - width
    around = (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)
    assert np.array_equal(image[0], np.pad(photo[:, :, 0], around))
    assert np.array_equal(to_photo(image[0].astype(np.float32), placement), photo[:, :, 0])
    shown = content((placement,), torch.from_numpy(image)[None].float())
    counted = height * width if shown is None else int(shown.sum())
    assert counted == height * width


def test_small_photos_in_a_large_image_are_told():
    sizes = {Path(f"{i}.png"): (28, 20) for i in range(3)}
    said = hardly_seen(sizes, Decoding(64, 3, "shrink"))
    assert said.startswith("photos of 28 px keep their pixels in the middle of 64 px (data.resize=shrink)")
    for decoding in (Decoding(32, 3, "shrink"), Decoding(64, 3), Decoding(64, 3, "shrink", region=[0, 0, 9, 9])):
        assert not hardly_seen(sizes, decoding)
    assert not hardly_seen({}, Decoding(64, 3, "shrink"))


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


def test_decoding_passes_on_what_it_says(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 4095], [2048, 1024]], np.uint16))
    image, _ = Decoding(2, 1, value_range=[0.0, 4095.0]).read(tmp_path / "a.tif")
    assert image.tolist() == [[[0, 255], [128, 64]]]
    for method in ("read", "size"):
        with pytest.raises(UserError, match=r"a.tif: expected at most 3 pixels \(data.max_pixels\), found 2 x 2"):
            getattr(Decoding(2, 1, max_pixels=3), method)(tmp_path / "a.tif")
    with pytest.raises(
        UserError, match=r"data.value_range: expected \[black,white\], black below white, found \[5.0, 5.0"
    ):
        Decoding(2, 1, value_range=[5.0, 5.0])


COLOURS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def test_a_region_is_all_that_is_shown(tmp_path, write):
    path = write(tmp_path / "a.png", COLOURS[:, :, ::-1])
    decoding = Decoding(16, 3, region=[20, 10, 16, 16])
    image, placement = decoding.read(path)
    assert np.array_equal(image, COLOURS[10:26, 20:36].transpose(2, 0, 1))
    assert placement == Placement((40, 60), (10, 20, 16, 16), (0, 0, 16, 16), (10, 20, 16, 16))
    assert decoding.size(path) == (40, 60)
    back = to_photo(np.full((16, 16), 3, np.float32), placement)
    assert back.shape == (40, 60)


@pytest.mark.parametrize(
    ("resize", "source", "target"),
    [
        ("stretch", (10, 20, 16, 32), (0, 0, 64, 64)),
        ("pad", (10, 20, 16, 32), (16, 0, 32, 64)),
        ("shrink", (10, 20, 16, 32), (24, 16, 16, 32)),
        ("crop", (10, 28, 16, 16), (0, 0, 64, 64)),
    ],
)
def test_resize_works_inside_the_region(tmp_path, write, resize, source, target):
    path = write(tmp_path / "a.png", COLOURS)
    _, placement = Decoding(64, 3, resize, region=[20, 10, 32, 16]).read(path)
    assert placement == Placement((40, 60), source, target, (10, 20, 16, 32))


def test_the_region_counts_in_the_upright_photo(tmp_path):
    image = Image.fromarray(COLOURS)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    shown, placement = Decoding(8, 3, region=[30, 50, 8, 8]).read(tmp_path / "a.png")
    assert placement.photo == (60, 40)
    assert np.array_equal(shown, np.rot90(COLOURS, -1)[50:58, 30:38].transpose(2, 0, 1))


def test_a_region_in_shares_of_the_sides(tmp_path, write):
    """The central crop of 224 px out of 256 px: whatever the size of the photo."""
    for side, box in ((256, [16, 16, 224, 224]), (1024, [64, 64, 896, 896])):
        path = write(
            tmp_path / f"{side}.png", np.random.default_rng(0).integers(256, size=(side, side, 3), dtype=np.uint8)
        )
        image, placement = Decoding(56, 3, region=[0.0625, 0.0625, 0.875, 0.875]).read(path)
        expected, place = Decoding(56, 3, region=box).read(path)
        assert np.array_equal(image, expected)
        assert placement == place
    assert Decoding(56, 3, region=[0, 0, 1.0, 1]).read(path)[1].region == (0, 0, 1024, 1024)


@pytest.mark.parametrize(
    "region",
    [
        [0, 0, 61, 40], [-1, 0, 10, 10], [50, 30, 10, 11], [5, 5, 0, 10], [5, 5, 10, -3],
        [0.5, 0, 0.6, 1], [0, 0, 1.01, 1], [20.5, 10, 16, 16], [-0.1, 0, 0.5, 0.5], [0.1, 0.1, 0.0, 0.5],
    ],
)  # fmt: skip
def test_a_region_outside_the_photo_is_refused(tmp_path, write, region):
    path = write(tmp_path / "a.png", COLOURS)
    for method in ("read", "size"):
        with pytest.raises(
            UserError,
            match=r"a.png: expected data.region \(x,y,width,height, in px or as .*1.0\) inside .* 60 x 40 px, found",
        ):
            getattr(Decoding(16, 3, region=region), method)(path)


@pytest.mark.parametrize("region", [[0, 0, 1, 1], [0, 0, 1, 40], [1, 1, 7, 30], [0.0, 0.0, 0.01, 0.5]])
def test_a_region_of_a_few_pixels_is_refused_with_the_way_to_write_shares(tmp_path, write, region):
    path = write(tmp_path / "a.png", COLOURS)
    message = r"a.png: expected data.region .* at least 8 x 8 px, .*, [17] x \d+ px; .* 0.0,0.0,1.0,1.0 is the whole"
    with pytest.raises(UserError, match=message):
        Decoding(16, 3, region=region).read(path)
    tiny = write(tmp_path / "b.png", COLOURS[:4, :4])
    for whole in ([0, 0, 4, 4], [0.0, 0.0, 1.0, 1.0]):
        assert Decoding(16, 3, region=whole).read(tiny)[1].region == (0, 0, 4, 4)


def disc(tmp_path, write, name="region.png"):
    mask = np.zeros((40, 60), np.uint8)
    cv2.circle(mask, (30, 20), 12, 255, -1)
    return str(write(tmp_path / name, mask)), mask > 0


def test_a_mask_image_shows_its_white_part_and_the_mean_colour_of_it(tmp_path, write):
    region, white = disc(tmp_path, write)
    path = write(tmp_path / "a.png", COLOURS[:, :, ::-1])
    image, placement = Decoding(25, 3, region=region).read(path)
    box, inside = COLOURS[8:33, 18:43], white[8:33, 18:43]
    expected = np.where(inside[:, :, None], box, np.rint(box[inside].mean(axis=0)).astype(np.uint8))
    assert np.array_equal(image, expected.transpose(2, 0, 1))
    assert placement[:4] == ((40, 60), (8, 18, 25, 25), (0, 0, 25, 25), (8, 18, 25, 25))
    assert np.array_equal(placement.white, inside)
    assert np.array_equal(placement.valid, inside)


def test_what_lies_outside_the_mask_cannot_change_the_working_image(tmp_path, write):
    region, white = disc(tmp_path, write)
    other = np.where(white[:, :, None], COLOURS, 255 - COLOURS)
    first, second = (
        Decoding(16, 3, region=region).read(write(tmp_path / f"{i}.png", photo))[0]
        for i, photo in enumerate((COLOURS, other))
    )
    assert np.array_equal(first, second)


@pytest.mark.parametrize("image_size", [7, 16, 64])
@pytest.mark.parametrize("resize", ["pad", "shrink", "stretch", "crop"])
def test_every_white_pixel_of_a_mask_is_judged_and_no_other(tmp_path, write, image_size, resize):
    region, white = disc(tmp_path, write)
    path = write(tmp_path / "a.png", COLOURS)
    _, placement = Decoding(image_size, 3, resize, region=region).read(path)
    anomaly_map = np.where(placement.valid, 5, 1e6).astype(np.float32)
    anomaly_map[tuple(np.argwhere(placement.valid)[0])] = 2
    back = to_photo(anomaly_map, placement)
    assert back.shape == (40, 60)
    assert (back.min(), back.max()) == (2, 5)
    assert (back[~white] == 2).all()
    assert (back[white] > 2).sum() >= white.sum() * 0.7


def test_all_photos_share_one_reading_of_the_mask(tmp_path, write, monkeypatch):
    region, _ = disc(tmp_path, write)
    decoding, path = Decoding(16, 3, region=region), write(tmp_path / "a.png", COLOURS)
    first, second = decoding.read(path)[1], decoding.read(path)[1]
    assert first.valid is second.valid
    assert first.white is second.white


def test_masks_of_a_region_must_fit_and_mark_something(tmp_path, write):
    region, _ = disc(tmp_path, write)
    path = write(tmp_path / "a.png", COLOURS[:30])
    with pytest.raises(
        UserError, match=r"a.png: expected a photo of the size of .*region.png\), 60 x 40 px, found 60 x 30"
    ):
        Decoding(16, 3, region=region).read(path)
    empty = str(write(tmp_path / "empty.png", np.zeros((30, 60), np.uint8)))
    with pytest.raises(UserError, match=r"empty.png: expected data.region marked in white, found an empty mask"):
        Decoding(16, 3, region=empty).read(path)
    with pytest.raises(UserError, match=r"data.region: expected .* or a mask image, found no such file: .*none.png"):
        Decoding(16, 3, region=str(tmp_path / "none.png")).read(path)
    ends = np.zeros((30, 60), np.uint8)
    ends[:, :2] = ends[:, -2:] = 255
    with pytest.raises(UserError, match=r"ends.png: expected white pixels in the central square .*, found none"):
        Decoding(16, 3, "crop", region=str(write(tmp_path / "ends.png", ends))).read(path)


def test_a_large_photo_needs_memory_for_few_copies_of_it(tmp_path):
    """24 megapixels of 16 bits in colour: 144 MB as they are stored, 72 MB with 8 bits."""
    ramp = np.arange(6000, dtype=np.uint16)[None, :, None]
    tifffile.imwrite(tmp_path / "large.tif", np.broadcast_to(ramp, (4000, 6000, 3)), photometric="rgb")
    tracemalloc.start()
    image, _ = Decoding(256, 3, value_range=[0.0, 6000.0]).read(tmp_path / "large.tif")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert image.shape == (3, 256, 256)
    assert peak < 3.2 * 144e6


def test_a_photo_of_another_size_or_shape_than_most_is_named():
    alike = {Path(f"{i}.png"): (600 + i, 800) if i % 2 else (800, 600 + i) for i in range(9)}  # upright ones are alike
    assert unlike_the_others({}) == unlike_the_others(alike) == ""
    assert unlike_the_others({**alike, Path("half.png"): (300, 400)}) == ""
    for name, size in (("thumb", (140, 190)), ("large", (3000, 4000)), ("strip", (600, 1800))):
        said = unlike_the_others({**alike, Path(f"{name}.png"): size})
        assert said.startswith("of a very different size or shape than the others (median ")
        assert f"1 of 10 photos, such as {name}.png ({size[1]} x {size[0]} px)" in said


def test_a_mask_is_placed_as_its_photo_and_keeps_every_marked_pixel():
    """Shrunk by four: a block is marked where one of its pixels is. A defect at the border goes on in the padding."""
    random = np.random.default_rng(0)
    mask = random.random((64, 128)) < 0.02
    mask[0, :7] = True
    fitted = fit_mask(mask, place(64, 128, 32, "pad"), 32)
    assert fitted.shape == (1, 32, 32)
    assert set(np.unique(fitted)) == {0, 255}
    blocks = mask.reshape(16, 4, 32, 4).any(axis=(1, 3))
    expected = np.concatenate([blocks[:1].repeat(8, 0), blocks, blocks[-1:].repeat(8, 0)])
    assert np.array_equal(fitted[0] > 0, expected)
    cropped = fit_mask(mask, place(64, 128, 16, "crop"), 16)
    assert np.array_equal(cropped[0] > 0, blocks[:, 8:24])


def test_nothing_is_marked_outside_a_region(tmp_path):
    white = np.zeros((16, 16), np.uint8)
    white[4:12, 2:14] = 255
    white[4:8, 2:6] = 0
    Image.fromarray(white).save(tmp_path / "white.png")
    Image.fromarray(GRADIENT).save(tmp_path / "photo.png")
    decoding = Decoding(12, 1, resize="stretch", region=str(tmp_path / "white.png"))
    placement = decoding.read(tmp_path / "photo.png")[1]
    fitted = fit_mask(np.ones((16, 16), bool), placement, 12)
    assert np.array_equal(fitted, fit(white[:, :, None], placement._replace(white=None), 12).clip(0, 1) * 255)
    assert not fit_mask(white == 0, placement, 12).any()
