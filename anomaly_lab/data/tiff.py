"""Decoding of TIFF: tifffile for the types that only TIFF can hold, Pillow for 8 bits, OpenCV for the rest."""

import logging
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import simplejpeg
import tifffile
from PIL import Image, UnidentifiedImageError

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.pixels import (
    ORIENTATION,
    Pixels,
    check_size,
    opened,
    to_8_bits,
    upright,
    with_opencv,
    with_pillow,
)

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
CHANNELS = {"MINISBLACK": 1, "MINISWHITE": 1, "RGB": 3, "SEPARATED": 4}  # without alpha
PIECE = 2**20  # bytes that are unpacked at once
JPEG = {1: "GRAY", 3: "RGB", 4: "CMYK"}  # what simplejpeg decodes so many channels to

_decoding = ContextVar("_decoding", default=False)


def decode_tiff(path: Path, file: BinaryIO, max_pixels: int) -> Pixels:
    """Decode the first page: 8 bits by Pillow, which knows all colours and compressions, other types by tifffile.

    Files that tifffile cannot decompress are left to OpenCV and Pillow if these keep the values.
    """
    with _silent_tifffile(), tifffile.TiffFile(file) as tiff:
        pages = len(tiff.pages)
        if pages > 1:
            pages = sum(not getattr(page, "is_reduced", False) for page in tiff.pages)  # previews are not pages
        page = tiff.pages.first
        check_size(path, page.imagewidth, page.imagelength, max_pixels)
        end = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)
        if end > tiff.filehandle.size:
            raise OSError(f"the file is truncated (its pixels end at byte {end} of {tiff.filehandle.size})")
        values = _tiff_of_8_bits(file) if page.dtype in (np.uint8, np.bool_) else None
        if values is not None:
            _check_segments(tiff, page)
        if values is None:
            values = _wide_tiff(path, file, page)
        return Pixels(values, pages, 2**page.bitspersample - 1)


def header_of_tiff(file: BinaryIO) -> tuple[bool, np.dtype]:
    """Whether the first page is gray, and the type of its values."""
    with _silent_tifffile(), tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        return CHANNELS.get(getattr(page.photometric, "name", "")) == 1, np.dtype(page.dtype)


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


def _tiff_of_8_bits(file: BinaryIO) -> np.ndarray | None:
    file.seek(0)
    try:
        with opened(file, ("TIFF",)) as image:
            return with_pillow(image)
    except UnidentifiedImageError:
        return None


def unpacked(parts: Iterable[bytes], most: int) -> int:
    """The bytes that parts of one Deflate stream unpack to, counted up to `most` and kept a piece at a time.

    Raises zlib.error for a damaged stream.
    """
    stream, count = zlib.decompressobj(), 0
    for part in parts:
        rest = part
        while rest and count < most:
            count += len(stream.decompress(rest, PIECE))
            rest = stream.unconsumed_tail
    return count


def _check_segments(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> None:
    """Raise an error for damaged strips and tiles of Deflate and JPEG, which libtiff passes over.

    Deflate has a checksum, which libtiff reads only if a strip is short; of JPEG it shows what libjpeg makes of it.
    """
    kind = getattr(page.compression, "name", "")
    if kind not in {"DEFLATE", "ADOBE_DEFLATE", "JPEG"} or page.fillorder != 1:
        return
    if kind == "JPEG" and page.samplesperpixel not in JPEG:
        return
    tables = page.jpegtables[:-2] if page.jpegtables else b""  # without the mark of the end
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        tiff.filehandle.seek(start)
        data = tiff.filehandle.read(count)
        if count and kind == "JPEG":
            simplejpeg.decode_jpeg(tables + data[2:] if tables else data, JPEG[page.samplesperpixel], strict=True)
        elif count:
            unpacked([data], page.nbytes + 1)


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
        values = upright(values, int(tag.value) if tag else 1)
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        values = _decompressed(path, file, page)
    values = values[:, :, :colours] if values.ndim == 3 else values
    if photometric == "MINISWHITE" and values.dtype.kind == "u":
        values = values.dtype.type(2**page.bitspersample - 1) - values
    if photometric == "SEPARATED":
        full = [0.0, 2.0**page.bitspersample - 1] if values.dtype.kind == "u" else None  # ink: no gray level is lost
        inks = to_8_bits(path, Pixels(values), full)
        return np.asarray(Image.fromarray(inks, "CMYK").convert("RGB"))
    return values[:, :, 0] if values.ndim == 3 and colours == 1 else values


def _decompressed(path: Path, file: BinaryIO, page: tifffile.TiffPage) -> np.ndarray:
    """Decode a page that tifffile cannot decompress, upright. Raises UserError if OpenCV and Pillow cannot either."""
    file.seek(0)
    assert page.dtype is not None
    whole_bytes = page.bitspersample == 8 * page.dtype.itemsize
    if whole_bytes and page.samplesperpixel in {1, 3, 4} and page.axes != "SYX":
        values = with_opencv(file.read(), cv2.IMREAD_UNCHANGED)
        if values is not None and values.dtype == page.dtype and values.size == page.size:
            if values.ndim == 3:
                values = np.concatenate([values[:, :, 2::-1], values[:, :, 3:]], axis=2)  # from BGR
            return values
    if page.samplesperpixel == 1 and page.dtype in (np.uint16, np.int16, np.float32):
        file.seek(0)
        with opened(file, ("TIFF",)) as image:
            values = with_pillow(image)
        if values.ndim == 2:
            return values.astype(page.dtype)
    compression = getattr(page.compression, "name", str(page.compression))
    raise UserError(
        f"{path}: expected a TIFF that can be decompressed, found {compression} of {page.bitspersample} bits; save it "
        "without compression, or pip install imagecodecs"
    )
