"""The pixels of an image file, as every decoder hands them over, and their way to 8 bits."""

import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageFile, ImageOps

from anomaly_lab.core.errors import UserError

GRAY_MODES = ("1", "L", "LA", "La")
ORIENTATION = 0x0112  # the tag of EXIF and TIFF
EXACT = 2**53  # up to here float64 holds every integer, and no sensor goes beyond
BLOCK = 2**18  # values scaled at once, so that no float copy of a whole photo is made

_said: set[str] = set()
_saying = threading.Lock()
_found: dict[str, tuple[float, float, float, float]] = {}  # by type: black, white, the least value, the largest
_opening = threading.Lock()


class Pixels(NamedTuple):
    """The pixels of a file, upright and without alpha."""

    values: np.ndarray  # (height, width) gray or (height, width, 3) RGB; uint8, or a wider type, not yet scaled
    pages: int = 1
    white: int | None = None  # of unsigned integers, if below the largest value of the type


def say_once(what: str, text: str) -> None:
    """Warn, once per run for each `what`."""
    with _saying:
        new = what not in _said
        _said.add(what)
    if new:
        warnings.warn(text, stacklevel=3)


@contextmanager
def opened(file: Path | BinaryIO, formats: tuple[str, ...]) -> Iterator[ImageFile.ImageFile]:
    """Open an image without Pillow's own pixel limit, which would precede `max_pixels`; reads only the header."""
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


def check_size(path: Path | str, width: int, height: int, max_pixels: int) -> None:
    """Raise UserError for a file that declares more than `max_pixels`."""
    if width * height > max_pixels:
        raise UserError(f"{path}: expected at most {max_pixels} pixels (data.max_pixels), found {width} x {height}")


def with_opencv(data: bytes, flags: int) -> np.ndarray | None:
    """Decode with OpenCV, colour as its flags say; None where it cannot."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def with_pillow(image: Image.Image) -> np.ndarray:
    """The pixels of an image of Pillow, upright: gray or RGB of 8 bits, wider gray in its own type."""
    ImageOps.exif_transpose(image, in_place=True)
    image.info.pop("transparency", None)  # alpha is ignored; Pillow would warn if it cannot convert it
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)
    return np.asarray(image.convert("L" if image.mode in GRAY_MODES else "RGB"))


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate and mirror an image by its EXIF or TIFF orientation; invalid numbers change nothing."""
    if orientation in {5, 6, 7, 8}:
        values = values.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        values = values[::-1]
    if orientation in {2, 3, 6, 7}:
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


def to_8_bits(path: Path | str, pixels: Pixels, value_range: list[float] | None) -> np.ndarray:
    """Scale values of a wider type to uint8 as `formats.read_photo` describes; `path` is for messages."""
    values = pixels.values
    black, white = _default_range(path, pixels) if value_range is None else map(float, value_range)
    step = 255 / (white - black) if white > black else math.inf
    if not 0 < step < math.inf:
        raise UserError(
            f"{path}: expected black and white that floating-point numbers tell apart, found {black:g} and {white:g}; "
            "set data.value_range=BLACK,WHITE"
        )
    flat = np.ascontiguousarray(values).reshape(-1)
    scaled = np.empty(flat.shape, np.uint8)
    outside = 0
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK].astype(np.float64)
        if not np.isfinite(block).all():
            raise UserError(f"{path}: expected values that are numbers, found NaN or infinity")
        outside += int(np.count_nonzero((block < black) | (block > white)))
        scaled[start : start + BLOCK] = np.rint((np.clip(block, black, white) - black) * step).clip(0, 255)
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
    low, high = values.min().item(), values.max().item()
    if values.dtype.kind in "ui" and values.dtype.itemsize <= 2:
        black, white = np.iinfo(values.dtype).min, np.iinfo(values.dtype).max
        if values.dtype.kind == "u" and pixels.white:
            white = pixels.white
        _note(str(values.dtype), black, white, low, high)
        return black, white
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{path}: expected values that are numbers, found NaN or infinity")
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        _note(str(values.dtype), 0, 1, low, high)
        return 0, 1
    if max(-low, high) > EXACT:
        raise UserError(
            f"{path}: expected the values of a photo, found {low:g} to {high:g}; if these mark missing data, set "
            "data.value_range=BLACK,WHITE"
        )
    for end in (low, high):
        rest = values != end
        least, largest = (f(values, where=rest, initial=i).item() for f, i in ((np.min, high), (np.max, low)))
        if 0 < largest - least < (high - low) / 255:
            raise UserError(
                f"{path}: expected values that share one range, found {end:g} in {np.count_nonzero(~rest)} pixels and "
                f"{least:g} to {largest:g} in all others, which would become one gray; if {end:g} marks missing data, "
                f"set data.value_range={least:g},{largest:g}"
            )
    say_once(
        "range",
        f"{path}: values from {low:g} to {high:g} ({values.dtype}) become black to white, and each such file is scaled "
        "by its own values; set data.value_range=[BLACK,WHITE] to make them comparable",
    )
    return low, high if high > low else low + 1


def _note(dtype: str, black: float, white: float, low: float, high: float) -> None:
    """Keep the least and the largest value of the files of a type, for `unused_range`."""
    with _saying:
        _, _, least, largest = _found.get(dtype, (0, 0, low, high))
        _found[dtype] = black, white, min(low, least), max(high, largest)


def unused_range() -> str:
    """A remark on the files read since the last call that use a small part of the range of their type, "" for none.

    Small: a quarter of it, or half of a type with negative values. The remark names the range to set: the least powers
    of two that hold all values, as cameras of 10, 12 and 14 bits have it.
    """
    with _saying:
        found = dict(_found)
        _found.clear()
    remarks = []
    for dtype, (black, white, low, high) in found.items():
        whole = white != 1
        top = 2.0 ** math.ceil(math.log2(max(high, -low) + whole)) - whole if high > 0 or low < 0 else 0
        bottom = -top - whole if low < 0 else 0
        if 0 < top - bottom <= (white - black) / (2 if black < 0 else 4):
            remarks.append(
                f"the largest value of the {dtype} photos is {high:g}, far below white, {white:g} (the least {low:g}, "
                f"black {black:g}): most gray levels are lost; set data.value_range={bottom:g},{top:g}"
            )
    return "; ".join(remarks)
