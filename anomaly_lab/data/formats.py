"""Decoding of an image file of any format, or of an image in memory, to uint8 gray or RGB.

The format is recognised by the content, never by the suffix. OpenCV decodes PNG and JPEG (twice as fast as Pillow, to
the same bits), tifffile the types that only TIFF can hold, Pillow everything else. Colour becomes gray by Pillow's
formula (ITU-R 601) with every decoder.
"""

import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

from anomaly_lab.core.errors import UserError

MAX_PIXELS = 200_000_000
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF")  # MPO, the JPEG of phones, comes with JPEG
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
GRAY_MODES = ("1", "L", "LA", "La")
ORIENTATION = 0x0112  # the tag of EXIF and TIFF
CHANNELS = {"MINISBLACK": 1, "MINISWHITE": 1, "RGB": 3, "SEPARATED": 4}  # of a TIFF, without alpha
BLOCK = 2**18  # values scaled at once, so that no float copy of a whole photo is made

Photo = Path | Image.Image | np.ndarray  # a file, or a decoded image

_said: set[str] = set()
_saying = threading.Lock()
_loading = threading.Lock()
_opening = threading.Lock()
_decoding = ContextVar("_decoding", default=False)


class Pixels(NamedTuple):
    """The pixels of a file, upright and without alpha."""

    values: np.ndarray  # (height, width) gray or (height, width, 3) RGB; uint8, or a wider type, not yet scaled
    pages: int = 1
    bits: int | None = None  # per sample, if fewer than those of the type


def read_photo(
    photo: Photo, channels: Literal[1, 3], value_range: list[float] | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decode a file or an image in memory to uint8 (height, width, channels), upright; 1 channel is gray, 3 are RGB.

    Alpha is ignored, in palettes too: a transparent pixel has its stored colour. 8-bit files are used as they are.
    Wider ones are scaled so that `value_range` (black, white) becomes 0 to 255, rounded; values outside become black or
    white, with a warning. Without `value_range` the range is that of the type for 16 bits, 0 to 1 for floating point
    within it, and otherwise that of the values of the file, with a warning. Of several pages the first is read. Every
    warning appears once per run.

    Raises UserError naming the file if it is missing, not an image, damaged or truncated, declares more than
    `max_pixels` or contains NaN; and for an image in memory that `in_memory` does not accept.
    """
    pixels = read_pixels(photo, max_pixels) if isinstance(photo, Path) else in_memory(photo, max_pixels)
    values = pixels.values
    if values.dtype != np.uint8:
        values = to_8_bits(name_of(photo), pixels, value_range)
    if channels == 1:
        return (values if values.ndim == 2 else to_gray(values))[:, :, None]
    return cv2.cvtColor(values, cv2.COLOR_GRAY2RGB) if values.ndim == 2 else values


def read_pixels(path: Path, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode a file; the values keep their stored type.

    Raises UserError as `read_photo` does.
    """
    try:
        with path.open("rb") as file:
            pixels = _decode(path, file, max_pixels)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: expected an image, found no such file") from None
    except Exception as error:  # decoders raise any exception on broken files
        raise UserError(f"{path}: expected a readable image, found: {_reason(path, error)}") from error
    if pixels.pages > 1:
        say_once(
            "pages", f"{path}: expected one image, found {pixels.pages} pages; only the first of each file is read"
        )
    return pixels


def in_memory(image: Image.Image | np.ndarray, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The pixels of an image in memory, as if read from its file; the image is not changed.

    Arrays are (height, width) or (height, width, channel) with 1 channel (gray) or 3 (RGB, not OpenCV's BGR), and
    optionally alpha, which is ignored; uint8, uint16, int16 or floating point. Pillow images are rotated by their EXIF.
    Raises UserError for all others.
    """
    name = name_of(image)
    if isinstance(image, np.ndarray):
        kinds = "uint8, uint16, int16 or floating point"
        if image.dtype.kind != "f" and image.dtype not in (np.uint8, np.uint16, np.int16):
            raise UserError(f"{name}: expected an array of {kinds}, found {image.dtype}")
        if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in {1, 2, 3, 4})) or image.size == 0:
            raise UserError(
                f"{name}: expected an array (height, width) or (height, width, channel) with 1 to 4 channels, "
                f"found {image.shape}"
            )
        _check_size(name, image.shape[1], image.shape[0], max_pixels)
        values = image if image.ndim == 2 else image[:, :, :3] if image.shape[2] > 2 else image[:, :, 0]
        return Pixels(np.ascontiguousarray(values))
    _check_size(name, *image.size, max_pixels)
    try:
        with _loading:  # Pillow reads a file lazily, and two threads may load the same image
            upright = ImageOps.exif_transpose(image)
    except Exception as error:  # decoders raise any exception on broken files
        raise UserError(f"{name}: expected a readable image, found: {' '.join(str(error).split())}") from error
    return Pixels(_with_pillow(upright))


def name_of(photo: Photo) -> str:
    """The name of a photo in messages: its file if it has one, else `image`."""
    if isinstance(photo, Path):
        return str(photo)
    return str(getattr(photo, "filename", "") or "image")


def to_gray(colour: np.ndarray) -> np.ndarray:
    """RGB (height, width, 3) to gray (height, width) by ITU-R 601: uint8 as Pillow rounds it, other types as float."""
    if colour.dtype == np.uint8:
        return np.asarray(Image.fromarray(colour).convert("L"))
    return colour @ np.array([0.299, 0.587, 0.114])


@contextmanager
def _opened(file: Path | BinaryIO, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """Open an image without Pillow's own pixel limit, which would precede `max_pixels`; reads only the header."""
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


@contextmanager
def _silent_tifffile() -> Iterator[None]:
    """Silence tifffile in this thread: our own error names what is wrong with a file."""
    logging.getLogger("tifffile").addFilter(_is_foreign)
    token = _decoding.set(True)
    try:
        yield
    finally:
        _decoding.reset(token)


def _is_foreign(record: logging.LogRecord) -> bool:
    return not _decoding.get()


def say_once(what: str, text: str) -> None:
    """Warn, once per run for each `what`."""
    with _saying:
        new = what not in _said
        _said.add(what)
    if new:
        warnings.warn(text, stacklevel=3)


def read_alpha(path: Path) -> np.ndarray | None:
    """The alpha channel of a file, uint8 (height, width), upright; None if it has none or Pillow cannot read it."""
    try:
        with _opened(path, FORMATS) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(image.convert("RGBA"))[:, :, 3] if image.has_transparency_data else None
    except (OSError, ValueError):
        return None


def _reason(path: Path, error: Exception) -> str:
    if path.is_dir():
        return "a folder"
    if path.is_file() and path.stat().st_size == 0:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        with path.open("rb") as file:
            return f"no image (it begins with {file.read(12)!r})"
    return " ".join(str(error).split()) or type(error).__name__


def _decode(path: Path, file: BinaryIO, max_pixels: int) -> Pixels:
    magic = file.read(4)
    file.seek(0)
    if magic in TIFF:
        return _decode_tiff(path, file, max_pixels)
    with _opened(file, FORMATS) as image:  # reads the header only
        _check_size(path, *image.size, max_pixels)
        values = None
        if image.format in {"PNG", "JPEG", "MPO"} and image.mode != "CMYK":
            values = _with_opencv(file, image)
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # the JPEG of a phone ends with previews
        return Pixels(_with_pillow(image) if values is None else values, pages)


def _check_size(path: Path | str, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise UserError(f"{path}: expected at most {max_pixels} pixels (data.max_pixels), found {width} x {height}")


def _with_opencv(file: BinaryIO, image: Image.Image) -> np.ndarray | None:
    """Decode a PNG or JPEG whose header Pillow has read; None for files that Pillow has to judge.

    Some versions of OpenCV fill the missing part of a truncated file with gray, so truncated files are not passed on.
    """
    file.seek(0)
    data = file.read()
    if image.format != "PNG":
        if not data.rstrip(b"\0").endswith(b"\xff\xd9"):
            return None
        values = _opencv(data, _flags(image))
        return None if values is None else _upright(values, image.getexif().get(ORIENTATION, 1))
    chunks = _png_chunks(data)
    wide = data[24] == 16  # bits per sample; Pillow would drop the lower 8 of colour
    values = _opencv(data, cv2.IMREAD_UNCHANGED if wide else _flags(image))
    if values is None:
        _check_png(data, chunks)  # Pillow does not look at the checksums
        return None
    if wide and values.ndim == 3:
        values = values[:, :, 2::-1]  # from BGR or BGRA
    declared = {"exif", "Raw profile type exif", "xmp"} & set(image.info) or any(
        kind == b"eXIf" for kind, _, _ in chunks
    )
    return _upright(values, image.getexif().get(ORIENTATION, 1) if declared else 1)


def _flags(image: Image.Image) -> int:
    return cv2.IMREAD_IGNORE_ORIENTATION | (cv2.IMREAD_GRAYSCALE if image.mode in GRAY_MODES else cv2.IMREAD_COLOR_RGB)


def _opencv(data: bytes, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _png_chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """The chunks of a PNG: kind, offset and length of the data. Raises OSError if the file is truncated."""
    chunks = []
    kind, position = b"", 8
    while kind != b"IEND":
        if position + 12 > len(data):
            raise OSError("the file is truncated")
        length, kind = struct.unpack_from(">I4s", data, position)
        chunks.append((kind, position + 8, length))
        position += 12 + length
    if position > len(data):
        raise OSError("the file is truncated")
    return chunks


def _check_png(data: bytes, chunks: list[tuple[bytes, int, int]]) -> None:
    for kind, start, length in chunks:
        stored = int.from_bytes(data[start + length : start + length + 4])
        if zlib.crc32(memoryview(data)[start - 4 : start + length]) != stored:
            raise OSError(f"damaged data (the checksum of its part {kind.decode('latin-1')} is wrong)")


def _with_pillow(image: Image.Image) -> np.ndarray:
    ImageOps.exif_transpose(image, in_place=True)
    image.info.pop("transparency", None)  # alpha is ignored; Pillow would warn if it cannot convert it
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)
    return np.asarray(image.convert("L" if image.mode in GRAY_MODES else "RGB"))


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate and mirror an image by its EXIF or TIFF orientation; invalid numbers change nothing."""
    if orientation in {5, 6, 7, 8}:
        values = values.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        values = values[::-1]
    if orientation in {2, 3, 6, 7}:
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


def _decode_tiff(path: Path, file: BinaryIO, max_pixels: int) -> Pixels:
    """Decode the first page: 8 bits by Pillow, which knows all colours and compressions, other types by tifffile.

    Files that tifffile cannot decompress are left to OpenCV and Pillow if these keep the values.
    """
    with _silent_tifffile(), tifffile.TiffFile(file) as tiff:
        pages = len(tiff.pages)
        if pages > 1:
            pages = sum(not getattr(page, "is_reduced", False) for page in tiff.pages)  # previews are not pages
        page = tiff.pages.first
        _check_size(path, page.imagewidth, page.imagelength, max_pixels)
        end = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)
        if end > tiff.filehandle.size:
            raise OSError(f"the file is truncated (its pixels end at byte {end} of {tiff.filehandle.size})")
        values = _tiff_of_8_bits(file) if page.dtype in (np.uint8, np.bool_) else None
        if values is None:
            values = _wide_tiff(path, file, page)
        return Pixels(values, pages, page.bitspersample)


def _tiff_of_8_bits(file: BinaryIO) -> np.ndarray | None:
    file.seek(0)
    try:
        with _opened(file, ("TIFF",)) as image:
            return _with_pillow(image)
    except UnidentifiedImageError:
        return None


def _wide_tiff(path: Path, file: BinaryIO, page: tifffile.TiffPage) -> np.ndarray:
    """The page as gray or RGB in the type of its samples."""
    photometric = getattr(page.photometric, "name", str(page.photometric))
    colours = CHANNELS.get(photometric, 0)
    numbers = page.dtype is not None and page.dtype.kind in "uif"
    if page.samplesperpixel not in {colours, colours + 1} or page.axes not in {"YX", "YXS", "SYX"} or not numbers:
        raise UserError(
            f"{path}: expected gray, RGB or CMYK, with or without alpha, found {page.samplesperpixel} channels "
            f"({photometric}, {page.dtype})"
        )
    try:
        values = page.asarray()
        values = values.transpose(1, 2, 0) if page.axes == "SYX" else values
        tag = page.tags.get(ORIENTATION)
        values = _upright(values, int(tag.value) if tag else 1)
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        values = _decompressed(path, file, page)
    values = values[:, :, :colours] if values.ndim == 3 else values
    if photometric == "MINISWHITE" and values.dtype.kind == "u":
        values = values.dtype.type(2**page.bitspersample - 1) - values
    if photometric == "SEPARATED":
        inks = to_8_bits(path, Pixels(values, 1, page.bitspersample), None)
        return np.asarray(Image.fromarray(inks, "CMYK").convert("RGB"))
    return values[:, :, 0] if values.ndim == 3 and colours == 1 else values


def _decompressed(path: Path, file: BinaryIO, page: tifffile.TiffPage) -> np.ndarray:
    """Decode a page that tifffile cannot decompress, upright. Raises UserError if OpenCV and Pillow cannot either."""
    file.seek(0)
    assert page.dtype is not None
    whole_bytes = page.bitspersample == 8 * page.dtype.itemsize
    if whole_bytes and page.samplesperpixel in {1, 3, 4} and page.axes != "SYX":
        values = _opencv(file.read(), cv2.IMREAD_UNCHANGED)
        if values is not None and values.dtype == page.dtype and values.size == page.size:
            if values.ndim == 3:
                values = np.concatenate([values[:, :, 2::-1], values[:, :, 3:]], axis=2)  # from BGR
            return values
    if page.samplesperpixel == 1 and page.dtype in (np.uint16, np.int16, np.float32):
        file.seek(0)
        with _opened(file, ("TIFF",)) as image:
            values = _with_pillow(image)
        if values.ndim == 2:
            return values.astype(page.dtype)
    compression = getattr(page.compression, "name", str(page.compression))
    raise UserError(
        f"{path}: expected a TIFF that can be decompressed, found {compression} of {page.bitspersample} bits; save it "
        "without compression, or pip install imagecodecs"
    )


def to_8_bits(path: Path | str, pixels: Pixels, value_range: list[float] | None) -> np.ndarray:
    """Scale values of a wider type to uint8 as `read_photo` describes; `path` is for messages."""
    values = pixels.values
    black, white = _default_range(path, pixels) if value_range is None else value_range
    flat = np.ascontiguousarray(values).reshape(-1)
    scaled = np.empty(flat.shape, np.uint8)
    outside = 0
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK].astype(np.float64)
        if not np.isfinite(block).all():
            raise UserError(f"{path}: expected values that are numbers, found NaN or infinity")
        outside += int(np.count_nonzero((block < black) | (block > white)))
        scaled[start : start + BLOCK] = np.clip(np.rint((block - black) * (255 / (white - black))), 0, 255)
    if outside:
        say_once(
            "outside",
            f"{path}: {100 * outside / len(flat):.2g} % of the values lie outside data.value_range, {black:g} to "
            f"{white:g}, and become black or white",
        )
    return scaled.reshape(values.shape)


def _default_range(path: Path | str, pixels: Pixels) -> tuple[float, float]:
    """The values that become black and white without `data.value_range`."""
    values = pixels.values
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return 0, 2 ** (pixels.bits or 8 * values.dtype.itemsize) - 1
    if values.dtype.kind == "i" and values.dtype.itemsize <= 2:
        return np.iinfo(values.dtype).min, np.iinfo(values.dtype).max
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise UserError(f"{path}: expected values that are numbers, found NaN or infinity")
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return 0, 1
    say_once(
        "range",
        f"{path}: values from {low:g} to {high:g} ({values.dtype}) become black to white, and each such file is scaled "
        "by its own values; set data.value_range=[BLACK,WHITE] to make them comparable",
    )
    return low, high if high > low else low + 1
