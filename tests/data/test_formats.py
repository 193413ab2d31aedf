"""Files of every format, made here by Pillow, tifffile and OpenCV, against the exact pixels that went in."""

import io
import struct
import threading
import warnings
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from anomaly_lab.core.errors import UserError
from anomaly_lab.data import formats, pixels
from anomaly_lab.data.formats import Header, header_of, read_alpha, read_photo, read_pixels, to_gray
from anomaly_lab.data.pixels import say_once, unused_range

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (24, 32, 3), np.uint8)
GRAY = np.asarray(Image.fromarray(RGB).convert("L"))
WIDE = RANDOM.integers(0, 65536, (24, 32, 3), np.uint16)
SCALED = np.rint(WIDE / 257).astype(np.uint8)
SHARES = RANDOM.random((24, 32))


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch):
    monkeypatch.setattr(pixels, "_said", set())
    unused_range()


def encoded(image, kind, **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def written(path, pixels, **settings):
    tifffile.imwrite(path, pixels, **settings)
    return path


def saved(path, data):
    path.write_bytes(data)
    return path


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, bits, colour, rows, extra=b""):
    """A PNG of a kind that neither Pillow nor OpenCV writes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + extra + chunk(b"IEND", b"")


UPRIGHT = {  # what each orientation of EXIF asks for; 0: no tag
    0: lambda a: a, 1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}  # fmt: skip
BY_PILLOW = {  # the modes that a container holds, the settings that it is saved with
    "PNG": (("1", "L", "LA", "P", "RGB", "RGBA"), ({},)),
    "JPEG": (("L", "RGB", "CMYK"), ({"quality": 30}, {"progressive": True}, {"subsampling": 0, "quality": 95})),
    "BMP": (("1", "L", "P", "RGB"), ({},)),
    "WEBP": (("RGB", "RGBA"), ({"lossless": True, "exact": True},)),
    "GIF": (("L", "P"), ({},)),
    "TIFF": (
        ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"),
        ({}, *({"compression": name} for name in ("tiff_lzw", "packbits", "tiff_adobe_deflate"))),
    ),
}
WITHOUT_TAGS = ("BMP", "GIF")
SIZES = st.tuples(st.integers(1, 33), st.integers(1, 33))
NAMES = st.sampled_from(("a", "a.png", "a.jpg", "a.tif"))  # the content decides


@st.composite
def files_of_pillow(draw):
    """An image of any mode, its container and settings, its orientation."""
    kind = draw(st.sampled_from(sorted(BY_PILLOW)))
    modes, ways = BY_PILLOW[kind]
    random = np.random.default_rng(draw(st.integers(0, 9)))
    image = Image.fromarray(random.integers(0, 256, (*draw(SIZES), 4), np.uint8)).convert(draw(st.sampled_from(modes)))
    orientation = 0 if kind in WITHOUT_TAGS else draw(st.sampled_from(sorted(UPRIGHT)))
    return image, kind, draw(st.sampled_from(ways)), orientation


@given(made=files_of_pillow(), name=NAMES)
@settings(max_examples=120)
def test_photos_of_8_bits_come_upright_with_the_values_of_pillow(tmp_path, made, name):
    image, kind, way, orientation = made
    exif = image.getexif()
    exif[0x0112] = orientation
    path = saved(tmp_path / name, encoded(image, kind, **way, **({"exif": exif} if orientation else {})))
    if kind == "JPEG":
        image = Image.open(path)
    gray = image.convert("L") if image.mode in {"1", "L", "LA"} else image.convert("RGB").convert("L")
    turn = UPRIGHT[orientation]
    assert np.array_equal(read_photo(path, 3), turn(np.asarray(image.convert("RGB"))))
    assert np.array_equal(read_photo(path, 1)[:, :, 0], turn(np.asarray(gray)))
    alpha = turn(np.asarray(image)[..., -1]) if image.mode in {"LA", "RGBA"} else None
    assert np.array_equal(read_alpha(path), alpha)


COLOURS = {  # channels, how a TIFF declares them
    "gray": (1, {"photometric": "minisblack"}),
    "white is zero": (1, {"photometric": "miniswhite"}),
    "gray, alpha": (2, {"photometric": "minisblack", "extrasamples": [2]}),
    "RGB": (3, {"photometric": "rgb"}),
    "RGBA": (4, {"photometric": "rgb", "extrasamples": [2]}),
}
ARRANGEMENTS = (
    *({}, {"planarconfig": "separate"}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}),
    *({"tile": (16, 16)}, {"byteorder": ">"}, {"bigtiff": True}),
)
RANGES = {  # the values that become black and white
    "uint8": (0, 255), "uint16": (0, 65535), "int8": (-128, 127), "int16": (-32768, 32767),
    "float16": (0, 1), "float32": (0, 1), "float64": (0, 1),
}  # fmt: skip


@st.composite
def wide_pixels(draw):
    """Values of any type and the colours that they stand for."""
    dtype, colours = draw(st.sampled_from(sorted(RANGES))), draw(st.sampled_from(sorted(COLOURS)))
    random = np.random.default_rng(draw(st.integers(0, 9)))
    low, high = RANGES[dtype]
    shape = (*draw(SIZES), COLOURS[colours][0])
    values = random.random(shape) if high == 1 else random.integers(low, high + 1, shape)
    return values.astype(dtype), colours


def in_8_bits(values, colours):
    """What is expected of values: scaled, rounded, without alpha."""
    black, white = RANGES[values.dtype.name]
    shares = (values.astype(float) - black) / (white - black)
    scaled = np.rint(255 * (1 - shares if colours == "white is zero" else shares)).astype(np.uint8)
    return scaled[:, :, :3] if scaled.shape[2] > 2 else scaled[:, :, :1].repeat(3, axis=2)


def assert_reads(path, expected):
    assert np.array_equal(read_photo(path, 3), expected)
    assert np.array_equal(read_photo(path, 1)[:, :, 0], np.asarray(Image.fromarray(expected.copy()).convert("L")))


@given(made=wide_pixels(), way=st.sampled_from(ARRANGEMENTS), orientation=st.sampled_from(sorted(UPRIGHT)), name=NAMES)
@settings(max_examples=120)
def test_tiffs_of_any_type_and_arrangement_come_upright_and_scaled(tmp_path, made, way, orientation, name):
    values, colours = made
    channels, declared = COLOURS[colours]
    assume(colours != "white is zero" or values.dtype.kind == "u")
    assume("predictor" not in way or values.dtype.kind != "f")  # needs imagecodecs
    assume("planarconfig" not in way or channels > 2)
    stored = values.transpose(2, 0, 1) if "planarconfig" in way else values if channels > 1 else values[:, :, 0]
    tags = [(0x0112, "H", 1, orientation, True)] if orientation else []
    planar = {"planarconfig": "contig"} if channels > 1 else {}
    path = written(tmp_path / name, stored, **declared, **{**planar, **way}, extratags=tags)
    assert_reads(path, UPRIGHT[orientation](in_8_bits(values, colours)))


@given(size=SIZES, channels=st.integers(1, 4), orientation=st.sampled_from(sorted(UPRIGHT)), seed=st.integers(0, 9))
def test_pngs_of_16_bits_come_upright_and_scaled(tmp_path, size, channels, orientation, seed):
    values = np.random.default_rng(seed).integers(0, 65536, (*size, channels), np.uint16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = chunk(b"eXIf", exif.tobytes()[6:]) if orientation else b""  # it stands behind the pixels
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = [row.astype(">u2").tobytes() for row in values]
    path = saved(tmp_path / "a.png", png(size[1], size[0], 16, colour, rows, turned))
    assert_reads(path, UPRIGHT[orientation](in_8_bits(values, "")))


@pytest.mark.parametrize("bits", [8, 16])
def test_cmyk_tiff(tmp_path, bits):
    pixels = (RGB if bits == 8 else WIDE)[:, :, [0, 1, 2, 0]]
    inks = Image.fromarray((RGB if bits == 8 else SCALED)[:, :, [0, 1, 2, 0]].copy(), "CMYK")
    path = written(tmp_path / "cmyk.tif", pixels, photometric="separated")
    assert np.array_equal(read_photo(path, 3), np.asarray(inks.convert("RGB")))


def test_fax(tmp_path):
    path = saved(tmp_path / "a.tif", encoded(Image.fromarray(GRAY > 128), "TIFF", compression="group4"))
    assert np.array_equal(read_photo(path, 1)[:, :, 0] > 0, GRAY > 128)


def test_tiff_of_16_bits_whose_compression_only_pillow_knows_comes_upright(tmp_path):
    wide = Image.fromarray(RGB[:, :, 0] * np.uint16(257))
    path = saved(tmp_path / "a.tif", encoded(wide, "TIFF", compression="tiff_lzw", tiffinfo={0x0112: 6}))
    assert np.array_equal(read_photo(path, 1)[:, :, 0], np.rot90(RGB[:, :, 0], -1))


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


def test_a_palette_with_transparency_shows_the_colours_that_are_stored(tmp_path):
    image = Image.fromarray(RGB).quantize(16)
    path = saved(tmp_path / "a.png", encoded(image, "PNG", transparency=bytes(range(0, 160, 10))))
    assert np.array_equal(read_photo(path, 3), np.asarray(image.convert("RGB")))
    assert read_alpha(path).shape == (24, 32)
    assert read_alpha(saved(tmp_path / "b.png", encoded(image, "PNG"))) is None
    assert read_alpha(saved(tmp_path / "c.png", b"no image")) is None


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gray_of_few_bits_spans_black_to_white(tmp_path, bits):
    rows = RANDOM.integers(0, 256, (8, 16 * bits // 8), np.uint8)
    path = saved(tmp_path / "a.png", png(16, 8, bits, 0, [row.tobytes() for row in rows]))
    values = np.unpackbits(rows, axis=1).reshape(8, 16, bits) @ (2 ** np.arange(bits)[::-1])
    assert np.array_equal(read_photo(path, 1)[:, :, 0], values * (255 // (2**bits - 1)))


def test_16_bits_of_png_are_scaled_in_colour_too(tmp_path):
    assert cv2.imwrite(str(tmp_path / "rgb.png"), WIDE[:, :, ::-1])
    assert cv2.imwrite(str(tmp_path / "gray.png"), WIDE[:, :, 0])
    assert np.array_equal(read_pixels(tmp_path / "rgb.png").values, WIDE)
    assert np.array_equal(read_photo(tmp_path / "rgb.png", 3), SCALED)
    assert np.array_equal(read_photo(tmp_path / "rgb.png", 1)[:, :, 0], to_gray(SCALED))
    assert np.array_equal(read_photo(tmp_path / "gray.png", 1)[:, :, 0], SCALED[:, :, 0])
    assert np.array_equal(read_photo(tmp_path / "gray.png", 3), SCALED[:, :, :1].repeat(3, axis=2))


@pytest.mark.parametrize("dtype", [np.uint32, np.int32])
def test_integers_of_32_bits_are_scaled_by_their_own_range_and_that_is_said(tmp_path, dtype):
    values = (WIDE[:, :, 0].astype(np.int64) + 70_000).astype(dtype)
    path = written(tmp_path / "a.tif", values)
    with pytest.warns(UserWarning, match=r"a.tif: values from 7\d+ to 13\d+ .*set data.value_range=\[BLACK,WHITE\]"):
        photo = read_photo(path, 1)
    low, high = int(values.min()), int(values.max())
    assert np.array_equal(photo[:, :, 0], np.rint((values.astype(float) - low) * (255 / (high - low))))


def test_other_floats_are_scaled_by_their_own_range_and_that_is_said_once(tmp_path):
    paths = [written(tmp_path / f"{i}.tif", (SHARES * 300 - 40).astype(np.float32)) for i in range(2)]
    with pytest.warns(UserWarning, match=r"0.tif: values from -3\d\.\d+ to 2\d+\.\d+ \(float32\)") as said:
        photos = [read_photo(path, 1) for path in paths]
    assert len(said) == 1
    assert all((photo.min(), photo.max()) == (0, 255) for photo in photos)


def test_floats_of_one_value_are_black(tmp_path):
    with pytest.warns(UserWarning, match=r"values from 7 to 7"):
        assert not read_photo(written(tmp_path / "a.tif", np.full((4, 4), 7, np.float32)), 1).any()


@pytest.mark.parametrize("value_range", [None, [0.0, 2.0]])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(tmp_path, value, value_range):
    values = SHARES.astype(np.float32)
    values[3, 4] = value
    with pytest.raises(UserError, match=r"a.tif: expected values that are numbers, found NaN or infinity"):
        read_photo(written(tmp_path / "a.tif", values), 1, value_range)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32, np.float32, np.float64])
def test_value_range_decides_and_what_lies_outside_is_said_once(tmp_path, dtype):
    values = np.array([[0, 1000, 1500], [2000, 3000, 4095]], dtype)
    path = written(tmp_path / "a.tif", values)
    outside = r"a.tif: 50 % of the values lie outside data.value_range, 1000 to 2000, and become black or white"
    with pytest.warns(UserWarning, match=outside) as said:
        photos = [read_photo(path, 1, [1000.0, 2000.0])[:, :, 0] for _ in range(2)]
    assert len(said) == 1
    assert photos[0].tolist() == photos[1].tolist() == [[0, 0, 128], [255, 255, 255]]
    assert read_photo(path, 1, [0.0, 4095.0])[:, :, 0].tolist() == [[0, 62, 93], [125, 187, 255]]


def marked(value, dtype=np.float32):
    values = SHARES.astype(dtype)
    values[3, 4:6] = value
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((8, 8), 1e30, np.float32), r"expected the values of a photo, found 1e\+30 to 1e\+30"),
        (marked(-3.4e38), r"found -3.4e\+38 to .*mark missing data, set data.value_range"),
        (marked([1e308, -1e308], np.float64), r"found -1e\+308 to 1e\+308"),
        (np.array([[2**53 + 3, 2**62]], np.int64), r"found 9\.0\d+e\+15 to 4\.6\d+e\+18"),
        (np.array([[0, 2**64 - 1]], np.uint64), r"found 0 to 1\.8\d+e\+19"),
        (marked(-9999), r"found -9999 in 2 pixels and .*set data.value_range="),
        (marked(32767), r"found 32767 in 2 pixels"),
    ],
)
def test_marks_of_missing_data_are_refused_and_the_file_named(tmp_path, values, message):
    path = written(tmp_path / "a.tif", values)
    with pytest.raises(UserError, match=f"a.tif: .*{message}"):
        read_photo(path, 1)


def test_a_value_range_reads_any_number_and_one_without_room_is_refused(tmp_path):
    path = written(tmp_path / "a.tif", np.array([[0.5, 1e308], [-1e308, 1]], np.float64))
    with pytest.warns(UserWarning, match="50 % of the values lie outside"):
        assert read_photo(path, 1, [0.0, 1.0])[:, :, 0].tolist() == [[128, 255], [0, 255]]
    for value_range in ([-1e308, 1e308], [0.0, 1e-320], [1.0, 1.0]):
        with pytest.raises(UserError, match="a.tif: expected black and white that floating-point numbers tell apart"):
            read_photo(path, 1, value_range)


@pytest.mark.parametrize(
    ("values", "largest", "wanted"),
    [
        (np.array([[7, 4095]], np.uint16), 4095, "0,4095"),
        (np.array([[7, 1001]], np.uint16), 1001, "0,1023"),
        (np.array([[7, 4095]], np.int16), 4095, "0,4095"),
        (np.array([[-900, 3000]], np.int16), 3000, "-4096,4095"),
        (np.array([[0, 0.06]], np.float32), 0.06, "0,0.0625"),
        (np.array([[0, 60_000]], np.uint16), 0, ""),
        (np.array([[-30_000, 30_000]], np.int16), 0, ""),
        (np.array([[0, 0]], np.uint16), 0, ""),
    ],
)
def test_a_small_part_of_the_range_of_the_type_is_remarked_with_the_range_to_set(tmp_path, values, largest, wanted):
    for number in range(2):
        read_photo(written(tmp_path / f"{number}.tif", values // 2 if number else values), 1)
    remark = unused_range()
    assert (f"the largest value of the {values.dtype} photos is {largest:g}," in remark) == bool(wanted)
    assert remark.endswith(f"set data.value_range={wanted}" if wanted else "")
    assert unused_range() == ""


def netpbm(values, white, plain=False):
    """A PGM or PPM; plain numbers with a comment among them."""
    kind = b"P" + str((3 if values.ndim == 3 else 2) + (0 if plain else 3)).encode()
    header = b"%s %d %d %d\n" % (kind, values.shape[1], values.shape[0], white)
    if plain:
        return header + b"# a comment 7\n" + b"\n".join(b"%d" % number for number in values.reshape(-1))
    return header + values.astype(">u2" if white > 255 else "u1").tobytes()


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("white", [256, 1023, 4095, 65535])
def test_pgm_and_ppm_of_more_than_8_bits_span_black_to_the_white_that_they_declare(tmp_path, white, plain):
    for values in (WIDE // (65536 // (white + 1)), WIDE[:, :, 0] // (2 * 65536 // (white + 1))):  # the second is dark
        path = saved(tmp_path / "a.pgm", netpbm(values, white, plain))
        assert np.array_equal(read_pixels(path).values, values)
        expected = np.rint(values * (255 / white)).astype(np.uint8)
        expected = expected if values.ndim == 3 else expected[:, :, None].repeat(3, axis=2)
        assert_reads(path, expected)
        with Image.open(path) as image:
            assert np.array_equal(read_photo(image, 3), expected)
        doubled = read_photo(path, 3, [0.0, 2.0 * white])  # the stored values, not those that Pillow makes of them
        assert np.array_equal(doubled[:, :, :1], np.rint(values.reshape(24, 32, -1)[:, :, :1] * (127.5 / white)))
    with Image.open(path) as image:
        image.load()  # Pillow has scaled it to 16 bits
        assert np.abs(read_photo(image, 3).astype(int) - expected).max() <= 1


def test_a_dark_pgm_is_remarked_and_8_bits_of_netpbm_stay_as_they_are(tmp_path):
    read_photo(saved(tmp_path / "a.pgm", netpbm(WIDE[:, :, 0] // 16, 65535)), 1)
    assert unused_range().endswith("set data.value_range=0,4095")
    assert np.array_equal(read_photo(saved(tmp_path / "a.ppm", netpbm(RGB, 255)), 3), RGB)
    assert np.array_equal(read_photo(saved(tmp_path / "a.pgm", netpbm(GRAY, 255, plain=True)), 1)[:, :, 0], GRAY)
    expected = np.rint((GRAY // 3) * (255 / 85))
    assert np.array_equal(read_photo(saved(tmp_path / "a.pgm", netpbm(GRAY // 3, 85)), 1)[:, :, 0], expected)
    for kind, bits in ((b"P4 32 24\n", np.packbits(GRAY < 128, axis=1).tobytes()), (b"P1 32 24\n", None)):
        data = kind + (bits or b" ".join(b"%d" % bit for bit in (GRAY < 128).reshape(-1)))
        assert np.array_equal(read_photo(saved(tmp_path / "a.pbm", data), 1)[:, :, 0] > 0, GRAY >= 128)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (netpbm(WIDE, 65535)[:-1], "the file is truncated"),
        (netpbm(WIDE[:, :, 0] // 16, 4095)[:-1], "the file is truncated"),
        (b"P2 2 2 4095\n1 2 3", "the file is truncated"),
        (b"P2 2 1 4095\n1 4096", r"damaged data \(a value of 4096, the largest of the file is 4095\)"),
        (b"P5 2 1 4095\n\1\2\xff\xff", r"damaged data .a value of 65535, the largest of the file is 4095"),
        (b"P2 2 1 4095\n1 70000", "."), (b"P2 2 1 4095\n1 x", "."), (b"P2 2 1 4095\n1 -3", "."),
    ],
)  # fmt: skip
def test_damaged_pgm_and_ppm_are_named(tmp_path, data, reason):
    with pytest.raises(UserError, match=f"a.pgm: expected a readable image, found: {reason}"):
        read_photo(saved(tmp_path / "a.pgm", data), 1)


@pytest.mark.parametrize(
    ("values", "do"),
    [
        (GRAY.astype(np.float32), "divide by the value of white"),
        (GRAY.astype(np.int32), "found int32 from .*pass uint8 or uint16"),
        (WIDE[:, :, 0].astype(np.int32), "pass uint8 or uint16"),
        (GRAY.astype(np.uint16), "pass 8-bit values as uint8"),
        (GRAY // 128, "multiply by 255"),
    ],
)
def test_images_in_memory_that_do_not_span_their_type_are_refused(tmp_path, values, do):
    """An image that Pillow has opened is read as its file is."""
    for image in (Image.fromarray(values), values):
        with pytest.raises(UserError, match=f"image: expected .*{do}" if image is not values else "image: expected"):
            read_photo(image, 1)
    expected = np.rint(np.clip(values / 255.0, 0, 1) * 255)
    if values.dtype != np.uint8:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert np.array_equal(read_photo(Image.fromarray(values), 1, [0.0, 255.0])[:, :, 0], expected)
            path = saved(tmp_path / "a.tif", encoded(Image.fromarray(values), "TIFF"))
            with Image.open(path) as image:
                assert np.array_equal(read_photo(image, 1), read_photo(path, 1))
    whole = {np.dtype(np.float32): np.float32(GRAY / 255), np.dtype(np.uint16): GRAY * np.uint16(257)}
    right = Image.fromarray(whole.get(values.dtype, GRAY))
    assert np.array_equal(read_photo(right, 1)[:, :, 0], GRAY)


def test_scaling_is_done_in_blocks(tmp_path, monkeypatch):
    path = written(tmp_path / "a.tif", WIDE, photometric="rgb")
    monkeypatch.setattr(pixels, "BLOCK", 100)
    assert np.array_equal(read_photo(path, 3), SCALED)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_lzw_that_tifffile_cannot_decompress_is_left_to_others(tmp_path, dtype):
    pixels = WIDE if dtype == np.uint16 else (RGB / np.float32(255)).astype(np.float32)
    for stored in (pixels, pixels[:, :, 0]):
        bgr = stored[:, :, ::-1] if stored.ndim == 3 else stored
        assert cv2.imwrite(str(tmp_path / "a.tif"), bgr, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
        assert np.array_equal(read_pixels(tmp_path / "a.tif").values, stored)


def test_what_nobody_decompresses_says_what_to_do(tmp_path, monkeypatch):
    assert cv2.imwrite(str(tmp_path / "a.tif"), WIDE, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    monkeypatch.setattr("anomaly_lab.data.tiff.with_opencv", lambda data, flags: None)
    with pytest.raises(UserError, match=r"a.tif: expected a TIFF that can be decompressed, found LZW of 16 bits; save"):
        read_photo(tmp_path / "a.tif", 3)
    assert cv2.imwrite(str(tmp_path / "b.tif"), WIDE[:, :, 0], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    assert np.array_equal(read_photo(tmp_path / "b.tif", 1)[:, :, 0], SCALED[:, :, 0])  # by Pillow


def test_channels_that_are_no_colours_are_refused(tmp_path):
    many = RANDOM.integers(0, 256, (24, 32, 5), np.uint8)
    path = written(tmp_path / "a.tif", many, photometric="minisblack", planarconfig="contig")
    with pytest.raises(UserError, match=r"a.tif: expected gray, RGB or CMYK, .*found 5 channels \(MINISBLACK, uint8\)"):
        read_photo(path, 3)
    complex_numbers = written(tmp_path / "b.tif", SHARES.astype(np.complex64))
    with pytest.raises(UserError, match=r"b.tif: expected gray, RGB or CMYK, .*complex64"):
        read_photo(complex_numbers, 3)


def test_of_several_pages_the_first_is_read_and_that_is_said_once(tmp_path):
    pages = np.stack([WIDE, WIDE[::-1], WIDE[:, ::-1]])
    paths = [written(tmp_path / f"{i}.tif", pages, photometric="rgb") for i in range(2)]
    with pytest.warns(UserWarning, match=r"0.tif: expected one image, found 3 pages; only the first of each") as said:
        photos = [read_photo(path, 3) for path in paths]
    assert len(said) == 1
    assert all(np.array_equal(photo, SCALED) for photo in photos)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_moving_images_the_first_is_read(tmp_path, kind):
    frames = [Image.fromarray(GRAY), Image.fromarray(255 - GRAY)]
    settings = {"lossless": True} if kind == "WEBP" else {}
    path = saved(tmp_path / "a", encoded(frames[0], kind, save_all=True, append_images=frames[1:], **settings))
    with pytest.warns(UserWarning, match=r"found 2 pages"):
        assert np.array_equal(read_photo(path, 1)[:, :, 0], GRAY)


def test_the_preview_in_a_phones_jpeg_is_no_page(tmp_path):
    image = Image.fromarray(RGB)
    path = saved(tmp_path / "a.jpg", encoded(image, "MPO", save_all=True, append_images=[image]))
    assert read_photo(path, 3).shape == (24, 32, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF"])
def test_the_size_is_refused_before_anything_is_decoded(tmp_path, kind):
    data = encoded(Image.fromarray(RGB if kind != "GIF" else GRAY), kind)
    path = saved(tmp_path / "a.png", data)
    with pytest.raises(UserError, match=r"a.png: expected at most 767 pixels \(data.max_pixels\), found 32 x 24$"):
        read_photo(path, 3, max_pixels=767)
    assert read_photo(path, 3, max_pixels=768).shape == (24, 32, 3)


def test_giant_declared_sizes_are_refused_whatever_follows(tmp_path):
    path = saved(tmp_path / "giant.png", png(200_000, 200_000, 8, 2, []))
    with pytest.raises(
        UserError, match=r"expected at most 200000000 pixels \(data.max_pixels\), found 200000 x 200000"
    ):
        read_photo(path, 3)
    wide = written(tmp_path / "giant.tif", WIDE, photometric="rgb")
    with pytest.raises(UserError, match=r"giant.tif: expected at most 100 pixels"):
        read_photo(wide, 3, max_pixels=100)


def test_pillows_own_limit_does_not_fire_first(tmp_path):
    """Pillow warns above 89 and refuses above 179 megapixels; one bit a pixel keeps the file small."""
    path = saved(tmp_path / "large.png", encoded(Image.new("1", (13_500, 13_500)), "PNG"))
    with pytest.raises(UserError, match=r"expected at most 180000000 pixels"):
        read_photo(path, 1, max_pixels=180_000_000)
    assert read_photo(path, 1).shape == (13_500, 13_500, 1)


def tiff(pixels, **settings):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **settings)
    return buffer.getvalue()


WHOLE = {
    **{kind: encoded(Image.fromarray(RGB), kind) for kind in ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")},
    "JPEG, progressive": encoded(Image.fromarray(RGB), "JPEG", progressive=True),
    "TIFF, LZW": encoded(Image.fromarray(RGB), "TIFF", compression="tiff_lzw"),
    "TIFF, 16 bits": tiff(WIDE, photometric="rgb", compression="zlib"),
}
BEHIND_THE_PIXELS = {"GIF": 4, "TIFF": 30, "TIFF, LZW": 30}  # what a file ends with and holds no pixels


@given(kind=st.sampled_from(sorted(WHOLE)), share=st.floats(0, 1), left=st.none() | st.integers(1, 30))
@settings(max_examples=200)
def test_truncated_files_are_refused_wherever_they_end(tmp_path, kind, share, left):
    """Anywhere, and every second time within the last bytes that count."""
    needed = len(WHOLE[kind]) - BEHIND_THE_PIXELS.get(kind, 0)
    length = max(1, int(share * (needed - 1)) if left is None else needed - left)
    path = saved(tmp_path / "cut.png", WHOLE[kind][:length])
    with pytest.raises(UserError, match=r"cut.png: expected a readable image, found: [^\n]+$"):
        read_photo(path, 3)


def test_strips_beyond_the_end_are_refused(tmp_path):
    path = written(tmp_path / "a.tif", WIDE, photometric="rgb", rowsperstrip=4)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match=r"a.tif: expected a readable image, found: the file is truncated"):
        read_photo(path, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_a_wrong_checksum_is_refused(tmp_path, mode):
    data = bytearray(encoded(Image.fromarray(RGB).convert(mode), "PNG"))
    start = data.index(b"IDAT")
    (length,) = struct.unpack_from(">I", data, start - 4)
    data[start + 4 + length] ^= 0xFF
    with pytest.raises(UserError, match=r"a.png: .*damaged data \(the checksum of its part IDAT is wrong\)"):
        read_photo(saved(tmp_path / "a.png", bytes(data)), 3)


def test_damaged_pixels_are_refused(tmp_path):
    data = bytearray(encoded(Image.fromarray(RGB), "PNG"))
    data[data.index(b"IDAT") + 40] ^= 0xFF
    with pytest.raises(UserError, match=r"a.png: expected a readable image, found: "):
        read_photo(saved(tmp_path / "a.png", bytes(data)), 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_that_are_damaged_inside_are_refused(tmp_path, mode, progressive):
    """Decoders that go on show gray or shifted blocks, and libjpeg's warning names no file.

    Of CMYK that is not progressive, zeros in the middle pass unnoticed for half of such noises; not for this one.
    """
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)).convert(mode)
    whole = encoded(noise, "JPEG", progressive=progressive)
    middle = len(whole) // 2
    read_photo(saved(tmp_path / "a.jpg", whole), 3)
    for damaged in (
        whole[:middle] + b"\xff\xd9",
        whole[: middle - 40] + b"\0" * 80 + whole[middle + 40 :],
        whole[:middle] + b"\xff\xc4" + whole[middle:],
    ):
        with pytest.raises(UserError, match="a.jpg: expected a readable image"):
            read_photo(saved(tmp_path / "a.jpg", damaged), 3)


SMOOTH = np.rint(cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (96, 128, 3), np.uint8), (0, 0), 2)).astype(
    np.uint8
)


def with_segments(kind, compression):
    """A TIFF in several strips, or in tiles."""
    if kind == "tiles":
        return tiff(SMOOTH, photometric="rgb", compression="zlib", tile=(32, 32))
    image = Image.fromarray(SMOOTH).convert(kind)
    return encoded(image, "TIFF", compression=compression, **({"tiffinfo": {278: 32}} if compression != "jpeg" else {}))


@pytest.mark.parametrize(
    ("kind", "compression"),
    [
        *(("RGB", name) for name in ("tiff_deflate", "tiff_adobe_deflate", "jpeg")), ("L", "jpeg"), ("CMYK", "jpeg"),
        ("L", "tiff_deflate"), ("tiles", ""),
    ],
)  # fmt: skip
def test_tiffs_that_are_damaged_inside_are_refused(tmp_path, kind, compression):
    """libtiff passes over a wrong checksum of Deflate, and over what libjpeg says of a JPEG inside."""
    whole = with_segments(kind, compression)
    expected = np.asarray(Image.open(io.BytesIO(whole)).convert("RGB"))
    assert np.array_equal(read_photo(saved(tmp_path / "a.tif", whole), 3), expected)
    with tifffile.TiffFile(io.BytesIO(whole)) as pages:
        start, length = pages.pages[0].dataoffsets[-1], pages.pages[0].databytecounts[-1]
    for at, damage in ((start + length // 2, b"\0" * 40), (start + length // 2, bytes(range(7, 47)))):
        with pytest.raises(UserError, match="a.tif: expected a readable image, found: ."):
            read_photo(saved(tmp_path / "a.tif", whole[:at] + damage + whole[at + len(damage) :]), 3)
    if compression != "jpeg":
        last = start + length - 1
        wrong = whole[:last] + bytes([whole[last] ^ 1]) + whole[last + 1 :]  # the pixels are whole, or only seem so
        with pytest.raises(UserError, match=r"a.tif: .*(incorrect data check|decoder error)"):
            read_photo(saved(tmp_path / "a.tif", wrong), 3)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("columns", "rows"), [(32, 24), (3, 1), (1, 3), (13, 9)])
def test_pngs_that_hold_too_few_rows_are_refused(tmp_path, monkeypatch, interlaced, columns, rows):
    """The stream of such a file is whole, and its checksums are right; Pillow leaves the rest black."""
    values = np.random.default_rng(0).integers(0, 256, (rows, columns), np.uint8)
    passes = [values[y::down, x::right] for x, y, right, down in formats.ADAM7] if interlaced else [values]
    pixels = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)

    def file(pixels):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, int(interlaced)))
        parts = zlib.compress(pixels)
        halves = chunk(b"IDAT", parts[:9]) + chunk(b"IDAT", parts[9:])
        return saved(tmp_path / "a.png", b"\x89PNG\r\n\x1a\n" + header + halves + chunk(b"IEND", b""))

    for decoder in (formats.with_opencv, lambda data, flags: None):
        monkeypatch.setattr(formats, "with_opencv", decoder)
        assert np.array_equal(read_photo(file(pixels), 1)[:, :, 0], values)
        for left in (len(pixels) - 1, len(pixels) // 2):
            with pytest.raises(UserError, match=rf"a.png: .*truncated \(it holds {left} of {len(pixels)} bytes of pix"):
                read_photo(file(pixels[:left]), 1)


def test_folders_texts_and_empty_files_are_named(tmp_path):
    (tmp_path / "folder.png").mkdir()
    saved(tmp_path / "empty.tif", b"")
    saved(tmp_path / "text.png", b"this is no image")
    for name, found in (("folder.png", "a folder"), ("empty.tif", "empty file"), ("text.png", "no image .*this is no")):
        with pytest.raises(UserError, match=rf"{name}: expected a readable image, found: {found}"):
            read_photo(tmp_path / name, 3)
    with pytest.raises(UserError, match=r"none.png: expected an image, found no such file"):
        read_photo(tmp_path / "none.png", 3)


def test_bytes_behind_a_whole_file_do_no_harm(tmp_path):
    for kind in ("PNG", "JPEG"):
        data = encoded(Image.fromarray(RGB), kind)
        plain = read_photo(saved(tmp_path / "a", data), 3)
        for behind in (b"\0" * 100, b"what a camera adds"):
            assert np.array_equal(read_photo(saved(tmp_path / "b", data + behind), 3), plain)


def test_the_program_does_not_depend_on_what_opencv_can_read(tmp_path, monkeypatch):
    """Where OpenCV refuses a file that is whole, Pillow decodes it to the same pixels."""
    monkeypatch.setattr(formats, "with_opencv", lambda data, flags: None)
    for kind in ("PNG", "JPEG"):
        path = saved(tmp_path / "a", encoded(Image.fromarray(RGB), kind))
        assert np.array_equal(read_photo(path, 3), np.asarray(Image.open(path)))


def test_opencvs_own_limits_are_no_crash(monkeypatch):
    def refuse(*_):
        raise cv2.error("too large")

    monkeypatch.setattr(cv2, "imdecode", refuse)
    assert pixels.with_opencv(b"x", cv2.IMREAD_COLOR) is None


def test_a_warning_comes_once_whatever_the_threads():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=say_once, args=("a", f"text {i}")) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        say_once("b", "other")
    assert len(said) == 2


def test_gray_follows_itu_r_601():
    assert to_gray(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)).tolist() == [[76, 150, 29]]
    assert to_gray(np.array([[[1.0, 0, 0]]])).tolist() == [[0.299]]


@pytest.mark.parametrize(
    ("kind", "header"),
    [
        ("gray.png", ("PNG", "gray", "8 bits")),
        ("gray16.png", ("PNG", "gray", "16 bits")),
        ("colour16.png", ("PNG", "colour", "16 bits")),
        ("gray.jpg", ("JPEG", "gray", "8 bits")),
        ("colour.jpg", ("JPEG", "colour", "8 bits")),
        ("colour.bmp", ("BMP", "colour", "8 bits")),
        ("gray16.pgm", ("PPM", "gray", "16 bits")),
        ("colour16.ppm", ("PPM", "colour", "16 bits")),
        ("gray.pgm", ("PPM", "gray", "8 bits")),
        ("gray.tif", ("TIFF", "gray", "8 bits")),
        ("gray16.tif", ("TIFF", "gray", "16 bits")),
        ("colour16.tif", ("TIFF", "colour", "16 bits")),
        ("float.tif", ("TIFF", "gray", "floating point")),
    ],
)
def test_the_header_says_format_colour_and_depth_as_the_pixels_do(tmp_path, kind, header):
    colour, wide = kind.startswith("colour"), "16" in kind
    values = WIDE if wide else RGB
    values = SHARES.astype(np.float32) if kind.startswith("float") else values if colour else values[:, :, 0]
    if kind.endswith(".tif"):
        path = written(tmp_path / kind, values, photometric="rgb" if colour else "minisblack")
    else:
        path = tmp_path / kind
        assert cv2.imwrite(str(path), values)
    assert header_of(path) == Header(*header)
    decoded = read_pixels(path).values
    assert (decoded.ndim == 3) == (header[1] == "colour")
    assert f"{8 * decoded.dtype.itemsize} bits" == header[2] or decoded.dtype.kind == "f"


@pytest.mark.parametrize("value_range", [[0, 100], [0, 255], [50, 60]])
def test_a_range_of_values_does_nothing_to_8_bits_and_that_is_said(tmp_path, value_range):
    paths = [saved(tmp_path / f"{i}.png", encoded(Image.fromarray(GRAY), "PNG")) for i in range(2)]
    told = "0.png: has 8 bits and is used as it is; data.value_range concerns wider files alone"
    with pytest.warns(UserWarning, match=told) as warned:
        found = [read_photo(path, 1, value_range)[:, :, 0] for path in paths]
    assert len(warned) == 1
    assert all((values == GRAY).all() for values in found)
    read_photo(paths[0], 1)
    wide = saved(tmp_path / "wide.png", encoded(Image.fromarray(np.full((8, 8), 55, np.uint16)), "PNG"))
    read_photo(wide, 1, value_range)
