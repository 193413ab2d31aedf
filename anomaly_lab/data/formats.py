"""Decoding of an image file of any format, or of an image in memory, to uint8 gray or RGB.

The format is recognised by the content, never by the suffix. simplejpeg decodes JPEG, because it refuses damaged data,
OpenCV PNG, because Pillow halves the 16 bits of colour (8 bits come 1.2 to 1.3 times as fast, and the same), tifffile
the types that only TIFF can hold, NumPy PGM and PPM of more than 8 bits, Pillow everything else. Colour becomes gray by
Pillow's formula (ITU-R 601) with every decoder.
"""

import errno
import math
import struct
import threading
import zlib
from pathlib import Path
from typing import IO, BinaryIO, Literal, NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.PpmImagePlugin import PpmImageFile

from anomaly_lab.core.errors import UserError
from anomaly_lab.data import tiff
from anomaly_lab.data.names import UNREADABLE
from anomaly_lab.data.pixels import (
    GRAY_MODES,
    ORIENTATION,
    Pixels,
    check_size,
    opened,
    say_once,
    to_8_bits,
    upright,
    with_opencv,
    with_pillow,
)

MAX_PIXELS = 200_000_000
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000")  # MPO, the JPEG of phones, comes with JPEG
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # PNG, 8.2

Photo = Path | Image.Image | np.ndarray  # a file, or a decoded image

_loading = threading.Lock()


def read_photo(
    photo: Photo, channels: Literal[1, 3], value_range: list[float] | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decode a file or an image in memory to uint8 (height, width, channels), upright; 1 channel is gray, 3 are RGB.

    Alpha is ignored, in palettes too: a transparent pixel has its stored colour. 8-bit files are used as they are, with
    a warning if there is a `value_range`. Wider ones are scaled so that `value_range` (black, white), of the stored
    values, becomes 0 to 255, rounded; values outside become black or white, with a warning. Without `value_range` the
    range is that of the type for 16 bits (of PGM and PPM 0 to the white that the file declares), 0 to 1 for floating
    point within it, and otherwise that of the values of the file, with a warning. Of several pages the first is read.
    Every warning appears once per run.

    Raises UserError naming the file if it is missing, not an image, damaged or truncated, declares more than
    `max_pixels`, contains NaN, or, without `value_range`, marks missing data by values far from all others; and for an
    image in memory that `in_memory` does not accept, or that was not opened from a file and is not scaled as its type
    demands.
    """
    pixels = read_pixels(photo, max_pixels) if isinstance(photo, Path) else in_memory(photo, max_pixels)
    values = pixels.values
    made = isinstance(photo, np.ndarray) or (isinstance(photo, Image.Image) and photo.format is None)
    if made and value_range is None:  # what comes from a file is scaled as the file
        _check_scale(values)
    if values.dtype != np.uint8:
        values = to_8_bits(name_of(photo), pixels, value_range)
    elif value_range is not None and isinstance(photo, Path):
        say_once("narrow", f"{photo}: has 8 bits and is used as it is; data.value_range concerns wider files alone")
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
        check_size(name, image.shape[1], image.shape[0], max_pixels)
        values = image if image.ndim == 2 else image[:, :, :3] if image.shape[2] > 2 else image[:, :, 0]
        return Pixels(np.ascontiguousarray(values))
    if 0 in image.size:
        raise UserError(f"{name}: expected an image with pixels, found {image.width} x {image.height}")
    check_size(name, *image.size, max_pixels)
    try:
        with _loading:  # Pillow reads a file lazily, and two threads may load the same image
            if isinstance(image, PpmImageFile) and image.fp and image.tile and (white := _white_of_netpbm(image)) > 255:
                return Pixels(_wide_netpbm(image.fp, image), white=white)
            values = with_pillow(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except Exception as error:  # decoders raise any exception on broken files
        raise UserError(f"{name}: expected a readable image, found: {' '.join(str(error).split())}") from error
    return Pixels(values.astype(np.uint16) if image.format == "PPM" and image.mode == "I" else values)


def _check_scale(values: np.ndarray) -> None:
    """Refuse values that do not span black to white of their type: they were divided or cast on the way."""
    low, high, dtype = values.min(), values.max(), values.dtype
    if dtype.kind == "f" and np.isfinite([low, high]).all() and not 0 <= low <= high <= 1:
        do = "divide by the value of white"
    elif dtype == np.uint8 and low < high == 1:
        do = "multiply by 255 before the cast to uint8"
    elif dtype.itemsize == 2 and dtype.kind in "iu" and 0 <= low <= high <= 255 and high > 0:
        do = "pass 8-bit values as uint8"
    elif dtype == np.int32:
        do = "pass uint8 or uint16"
    else:
        return
    raise UserError(
        f"image: expected floating point in [0, 1], uint8 in 0 ... 255 or 16 bits of the whole range, found {dtype} "
        f"from {low:g} to {high:g}; {do}, or train with data.value_range=BLACK,WHITE"
    )


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


def read_alpha(path: Path) -> np.ndarray | None:
    """The alpha channel of a file, uint8 (height, width), upright; None if it has none or Pillow cannot read it."""
    try:
        with opened(path, FORMATS) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(image.convert("RGBA"))[:, :, 3] if image.has_transparency_data else None
    except (OSError, ValueError):
        return None


class Header(NamedTuple):
    """What the header of an image file says."""

    format: str  # PNG, JPEG, ...; PGM is PPM, too
    colour: str  # "gray" or "colour"
    depth: str  # "8 bits" (or less), "16 bits", "floating point"


def header_of(path: Path) -> Header:
    """The header of a file that can be read; no pixel is decoded."""
    with path.open("rb") as file:
        begun = file.read(25)
        file.seek(0)
        if begun[:4] in tiff.MAGIC:
            gray, dtype = tiff.header_of_tiff(file)
            depth = "floating point" if dtype.kind == "f" else f"{8 * dtype.itemsize} bits"
            return Header("TIFF", "gray" if gray else "colour", depth)
        with opened(file, FORMATS) as image:
            name = "JPEG" if image.format == "MPO" else str(image.format)
            gray = image.mode in GRAY_MODES or image.mode[:1] in {"I", "F"}
            wide = image.mode.startswith("I") or (name == "PNG" and begun[24] == 16)
            wide |= name == "PPM" and _white_of_netpbm(image) > 255
            depth = "floating point" if image.mode == "F" else "16 bits" if wide else "8 bits"
            return Header(name, "gray" if gray else "colour", depth)


def orientation_of(path: Path) -> int:
    """The orientation that the header of a file declares, 1 to 8; 1 if it declares none or Pillow cannot read it."""
    try:
        with opened(path, FORMATS) as image:
            tag = Image.Image.getexif(image).get(ORIENTATION, 1)  # that of PNG would decode the pixels
    except (OSError, ValueError, SyntaxError):
        return 1
    return tag if tag in range(1, 9) else 1


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return "a name that is too long"
    if path.is_dir():
        return "a folder"
    if path.is_file() and path.stat().st_size == 0:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        with path.open("rb") as file:
            return f"no image (it begins with {file.read(12)!r})"
    reason = " ".join(str(error).split())
    return f"damaged data ({type(error).__name__})" if isinstance(error, LookupError) or not reason else reason


def _decode(path: Path, file: BinaryIO, max_pixels: int) -> Pixels:
    magic = file.read(4)
    file.seek(0)
    if magic in tiff.MAGIC and path.suffix.lower() in UNREADABLE:
        raise UserError(
            f"{path}: expected an image, found a raw photo, of which only a preview would be read; convert it"
        )
    if magic in tiff.MAGIC:
        return tiff.decode_tiff(path, file, max_pixels)
    with opened(file, FORMATS) as image:  # reads the header only
        check_size(path, *image.size, max_pixels)
        values = None
        if image.format in {"PNG", "JPEG", "MPO"}:
            values = _png_or_jpeg(file, image)
        elif image.format == "PPM" and (white := _white_of_netpbm(image)) > 255:
            return Pixels(_wide_netpbm(file, image), white=white)
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # the JPEG of a phone ends with previews
        return Pixels(with_pillow(image) if values is None else values, pages)


def _png_or_jpeg(file: BinaryIO, image: Image.Image) -> np.ndarray | None:
    """Decode a PNG or JPEG whose header Pillow has read; None for files that Pillow has to decode.

    OpenCV and Pillow pass over damaged JPEG data, and fill what is missing with gray; simplejpeg refuses them.
    """
    file.seek(0)
    data = file.read()
    if image.format != "PNG":
        colours = "CMYK" if image.mode == "CMYK" else "GRAY" if image.mode in GRAY_MODES else "RGB"
        values = simplejpeg.decode_jpeg(data, colours, strict=True)
        if colours == "CMYK":
            return None
        return upright(values[:, :, 0] if colours == "GRAY" else values, image.getexif().get(ORIENTATION, 1))
    chunks = _png_chunks(data)
    wide = data[24] == 16  # bits per sample; Pillow would drop the lower 8 of colour
    values = with_opencv(data, cv2.IMREAD_UNCHANGED if wide else _flags(image))
    if values is None:
        _check_png(data, chunks)  # Pillow does not look at the checksums
        return None
    if wide and values.ndim == 3:
        values = values[:, :, 2::-1]  # from BGR or BGRA
    declared = {"exif", "Raw profile type exif", "xmp"} & set(image.info) or any(
        kind == b"eXIf" for kind, _, _ in chunks
    )
    return upright(values, image.getexif().get(ORIENTATION, 1) if declared else 1)


def _white_of_netpbm(image: ImageFile.ImageFile) -> int:
    """The value of white that the header of a PGM or PPM declares; of bits and floats something below 256."""
    arguments = image.tile[0].args
    return arguments[1] if isinstance(arguments, tuple) else 65535 if arguments == "I;16B" else 255


def _wide_netpbm(file: IO[bytes], image: ImageFile.ImageFile) -> np.ndarray:
    """Decode a PGM or PPM of more than 8 bits to uint16 as it is stored: Pillow would scale it, colour to 8 bits."""
    decoder, _, offset, _ = image.tile[0]
    shape = (image.height, image.width, 3) if image.mode == "RGB" else (image.height, image.width)
    count = math.prod(shape)
    file.seek(offset)
    if decoder == "ppm_plain":
        lines = (line.partition(b"#")[0] for line in file)
        values = np.array(b" ".join(lines).split()[:count], np.uint16)
    else:
        data = file.read(2 * count)
        values = np.frombuffer(data, ">u2", len(data) // 2).astype(np.uint16)
    if len(values) < count:
        raise OSError("the file is truncated")
    if values.max() > (white := _white_of_netpbm(image)):
        raise OSError(f"damaged data (a value of {values.max()}, the largest of the file is {white})")
    return values.reshape(shape)


def _flags(image: Image.Image) -> int:
    return cv2.IMREAD_IGNORE_ORIENTATION | (cv2.IMREAD_GRAYSCALE if image.mode in GRAY_MODES else cv2.IMREAD_COLOR_RGB)


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
    """Raise OSError for a wrong checksum or missing rows, which Pillow leaves black."""
    for kind, start, length in chunks:
        stored = int.from_bytes(data[start + length : start + length + 4])
        if zlib.crc32(memoryview(data)[start - 4 : start + length]) != stored:
            raise OSError(f"damaged data (the checksum of its part {kind.decode('latin-1')} is wrong)")
    width, height, bits, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits *= {2: 3, 4: 2, 6: 4}.get(colour, 1)
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = ((-(-(width - x) // right), -(-(height - y) // down)) for x, y, right, down in passes)
    needed = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0)
    packed = (data[start : start + length] for kind, start, length in chunks if kind == b"IDAT")
    found = tiff.unpacked(packed, needed)
    if found < needed:
        raise OSError(f"the file is truncated (it holds {found} of {needed} bytes of pixels)")
