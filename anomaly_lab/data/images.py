"""One file -> one uint8 image at the working size, and the way back from a map to the photo."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field, PositiveInt

from anomaly_lab.errors import UserError

Resize = Literal["pad", "stretch", "crop"]
Box = tuple[int, int, int, int]  # top, left, height, width in pixels


@dataclass(frozen=True)
class Decoding:
    """How a file becomes a working image: everything that decides its pixels.

    `value_range`: the values of 16-bit and floating-point files that become black and white; None: the range of the
    type, or of the data where the type has none, with a warning. `region`: the part of every photo that is inspected,
    x, y, width, height in px, or the file of a mask image in which it is white. Files that declare more than
    `max_pixels` are refused before they are decoded.
    """

    image_size: PositiveInt
    channels: Literal[1, 3]
    resize: Resize = "pad"
    value_range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    region: Annotated[list[int], Field(min_length=4, max_length=4)] | str | None = None
    max_pixels: PositiveInt = 200_000_000

    def read(self, path: Path) -> tuple[np.ndarray, "Placement"]:
        """Decode a file to its uint8 working image (channels, image_size, image_size) and say how it was placed."""
        photo = read_photo(path, self.channels)
        placement = place(photo.shape[0], photo.shape[1], self.image_size, self.resize)
        return fit(photo, placement, self.image_size), placement

    def size(self, path: Path) -> tuple[int, int]:
        """Height and width of a file's photo; raises UserError where it cannot be read."""
        height, width = read_photo(path, 1).shape[:2]
        return height, width


class Placement(NamedTuple):
    """How a photo of any shape was put into the square working image."""

    photo: tuple[int, int]  # height and width of the photo
    source: Box  # the part of the photo that is inspected
    target: Box  # where this part lies in the working image; the rest is padding


def place(height: int, width: int, image_size: int, resize: Resize) -> Placement:
    """Say where a photo goes in a working image of `image_size` x `image_size`.

    `pad` keeps the aspect ratio and all of the photo, `crop` keeps the aspect ratio and the central square,
    `stretch` keeps all of the photo and gives up the aspect ratio.
    """
    photo, whole = (height, width), (0, 0, height, width)
    if resize == "stretch":
        return Placement(photo, whole, (0, 0, image_size, image_size))
    if resize == "crop":
        side = min(photo)
        central = ((height - side) // 2, (width - side) // 2, side, side)
        return Placement(photo, central, (0, 0, image_size, image_size))
    scale = image_size / max(photo)
    inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (image_size - inner_height) // 2, (image_size - inner_width) // 2
    return Placement(photo, whole, (top, left, inner_height, inner_width))


def open_image(path: Path) -> Image.Image:
    """Open a file upright (EXIF rotation applied), or raise a `UserError` that names it."""
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise UserError(f"{path}: expected an image, found no such file") from None
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = "empty file" if path.is_file() and path.stat().st_size == 0 else str(error)
        raise UserError(f"{path}: expected a readable image, found: {reason}") from error


def read_photo(path: Path, channels: int) -> np.ndarray:
    """Decode a file to uint8 (height, width, channels), channels 1 (gray) or 3 (RGB).

    16-bit images are scaled by their type's range, 65535 -> 255, never clipped.
    """
    image = open_image(path)
    if image.mode.startswith("I"):
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 65535:
            raise UserError(f"{path}: expected 8 or 16 bits a pixel, found values {wide.min()} to {wide.max()}")
        image = Image.fromarray((wide // 257).astype(np.uint8))
    elif image.mode == "F":
        raise UserError(f"{path}: expected 8 or 16 bits a pixel, found floating point; store it with 16 bits")
    photo = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return photo[:, :, None] if channels == 1 else photo


def fit(photo: np.ndarray, placement: Placement, image_size: int) -> np.ndarray:
    """Resize the inspected part of a photo into a uint8 (channels, image_size, image_size) working image.

    Padding repeats the border: black bars would be learnt as edges.
    """
    top, left, height, width = placement.source
    part = photo[top : top + height, left : left + width]
    top, left, height, width = placement.target
    shrinks = height < part.shape[0] or width < part.shape[1]
    if part.shape[:2] != (height, width):
        part = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    below, right = image_size - top - height, image_size - left - width
    if (top, left, below, right) != (0, 0, 0, 0):
        part = cv2.copyMakeBorder(part, top, below, left, right, cv2.BORDER_REPLICATE)
    part = part.reshape(image_size, image_size, -1)  # OpenCV drops a last axis of one
    return np.ascontiguousarray(part.transpose(2, 0, 1))


def read_mask(path: Path | None, photo: tuple[int, int]) -> np.ndarray:
    """Read a defect mask as bool (height, width), True = defect; no path: nothing is defective.

    Masks are stored as 0 and 255 or as 0 and 1; grays between (JPEG) belong to the nearer end. Raises UserError
    where the mask is not of the size of its photo or marks nothing.
    """
    if path is None:
        return np.zeros(photo, dtype=bool)
    image = open_image(path)
    values = np.asarray(image.convert("L"))
    if image.has_transparency_data and values.min() == values.max():  # drawn as what is not transparent
        values = np.asarray(image.convert("RGBA"))[:, :, 3]
    if values.shape != photo:
        raise UserError(
            f"{path}: expected a mask of the size of its image, {photo[1]} x {photo[0]}, "
            f"found {values.shape[1]} x {values.shape[0]}"
        )
    if not values.any():
        raise UserError(f"{path}: expected the defect marked in white, found an empty mask")
    return values > values.max() // 2


def to_photo(anomaly_map: np.ndarray, placement: Placement) -> np.ndarray:
    """Bring a float32 map from the working size to the photo's own size, bilinearly, without the padding.

    Pixels that `crop` cut away were not judged and carry the lowest value of the map: a defect there is missed.
    """
    top, left, height, width = placement.target
    inner = anomaly_map[top : top + height, left : left + width]
    top, left, height, width = placement.source
    inspected = cv2.resize(inner, (width, height), interpolation=cv2.INTER_LINEAR)
    if placement.source == (0, 0, *placement.photo):
        return inspected
    whole = np.full(placement.photo, inspected.min(), dtype=np.float32)
    whole[top : top + height, left : left + width] = inspected
    return whole
