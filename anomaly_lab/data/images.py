"""One file or image -> one uint8 image at the working size, and the way back from a map to the photo."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import cv2
import numpy as np
from pydantic import Field, PositiveInt

from anomaly_lab.data.formats import MAX_PIXELS, Photo, name_of, read_alpha, read_photo, read_pixels, to_gray
from anomaly_lab.errors import UserError

Resize = Literal["pad", "stretch", "crop"]
Box = tuple[int, int, int, int]  # top, left, height, width in pixels


@dataclass(frozen=True)
class Decoding:
    """How a photo becomes a working image: everything that decides its pixels.

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
    max_pixels: PositiveInt = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise UserError(f"data.value_range: expected [black,white], black below white, found {self.value_range}")

    def read(self, photo: Photo) -> tuple[np.ndarray, "Placement"]:
        """Decode a photo to its uint8 working image (channels, image_size, image_size) and say how it was placed.

        Raises UserError where it cannot be read or lacks the region.
        """
        pixels = read_photo(photo, self.channels, self.value_range, self.max_pixels)
        placement = self._place(name_of(photo), pixels)
        return fit(pixels, placement, self.image_size), placement

    def size(self, path: Path) -> tuple[int, int]:
        """Height and width of a file's photo; raises UserError where it cannot be read or lacks the region."""
        return self._place(str(path), read_photo(path, self.channels, self.value_range, self.max_pixels)).photo

    def _place(self, name: str, photo: np.ndarray) -> "Placement":
        height, width = photo.shape[:2]
        if self.region is None:
            return place(height, width, self.image_size, self.resize)
        if isinstance(self.region, str):
            file = Path(self.region).expanduser()
            changed = file.stat().st_mtime_ns if file.is_file() else 0
            placement = place_in_white(file, changed, self.image_size, self.resize, self.max_pixels)
            if placement.photo != (height, width):
                raise UserError(
                    f"{name}: expected a photo of the size of data.region ({file}), {placement.photo[1]} x "
                    f"{placement.photo[0]} px, found {width} x {height}"
                )
            return placement
        x, y, region_width, region_height = self.region
        inside = 0 <= x < x + region_width <= width and 0 <= y < y + region_height <= height
        if not inside:
            raise UserError(
                f"{name}: expected data.region (x,y,width,height) inside the photo of {width} x {height} px, "
                f"found {self.region}"
            )
        return place(height, width, self.image_size, self.resize, (y, x, region_height, region_width))


class Placement(NamedTuple):
    """How a photo of any shape was put into the square working image."""

    photo: tuple[int, int]  # height and width of the photo
    source: Box  # the part of the photo that is shown
    target: Box  # where this part lies in the working image; the rest is padding
    region: Box | None = None  # the part of the photo that is inspected at all; None: all of it
    white: np.ndarray | None = None  # bool, of the region's size: its pixels that are inspected; None: all of them
    valid: np.ndarray | None = None  # bool, of the working image's size: pixels that show white ones

    def shown(self) -> np.ndarray | None:
        """`white` within `source`."""
        if self.white is None or self.region is None:
            return None
        top, left, height, width = self.source
        top, left = top - self.region[0], left - self.region[1]
        return self.white[top : top + height, left : left + width]


def place(height: int, width: int, image_size: int, resize: Resize, region: Box | None = None) -> Placement:
    """Say where a photo, or a `region` of it, goes in a working image of `image_size` x `image_size`.

    `pad` keeps the aspect ratio and all of the photo, `crop` keeps the aspect ratio and the central square,
    `stretch` keeps all of the photo and gives up the aspect ratio.
    """
    photo, whole = (height, width), region or (0, 0, height, width)
    top, left, height, width = whole
    if resize == "stretch":
        return Placement(photo, whole, (0, 0, image_size, image_size), region)
    if resize == "crop":
        side = min(height, width)
        central = (top + (height - side) // 2, left + (width - side) // 2, side, side)
        return Placement(photo, central, (0, 0, image_size, image_size), region)
    scale = image_size / max(height, width)
    inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (image_size - inner_height) // 2, (image_size - inner_width) // 2
    return Placement(photo, whole, (top, left, inner_height, inner_width), region)


@lru_cache(maxsize=4)
def place_in_white(file: Path, changed: int, image_size: int, resize: Resize, max_pixels: int) -> Placement:
    """Place the box around the white part of a mask image; all photos of a run share the answer.

    `changed` (when the file was) makes a new mask a new question.
    """
    white = read_white(file, max_pixels)
    if not white.any():
        raise UserError(f"{file}: expected data.region marked in white, found an empty mask")
    height, width = white.shape
    left, top, box_width, box_height = cv2.boundingRect(white.view(np.uint8))
    region = (top, left, box_height, box_width)
    white = np.ascontiguousarray(white[top : top + box_height, left : left + box_width])
    placement = place(height, width, image_size, resize, region)._replace(white=white)
    shown = placement.shown()
    assert shown is not None
    if not shown.any():
        raise UserError(f"{file}: expected white pixels in the central square that data.resize=crop keeps, found none")
    top, left, height, width = placement.target
    shrinks = height < shown.shape[0] or width < shown.shape[1]
    share = cv2.resize(
        shown.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    )
    valid = np.zeros((image_size, image_size), dtype=bool)
    valid[top : top + height, left : left + width] = share > 0
    return placement._replace(valid=valid)


def fit(photo: np.ndarray, placement: Placement, image_size: int) -> np.ndarray:
    """Resize the inspected part of a photo into a uint8 (channels, image_size, image_size) working image.

    Padding repeats the border: black bars would be learnt as edges. What is not inspected within the part has the mean
    colour of what is: nothing can be learnt from it.
    """
    top, left, height, width = placement.source
    part = photo[top : top + height, left : left + width]
    white = placement.shown()
    if white is not None:
        mean = cv2.mean(np.ascontiguousarray(part), white.view(np.uint8))
        part = np.where(white[:, :, None], part, np.rint(mean[: part.shape[2]]).astype(np.uint8))
    top, left, height, width = placement.target
    shrinks = height < part.shape[0] or width < part.shape[1]
    if part.shape[:2] != (height, width):
        part = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    below, right = image_size - top - height, image_size - left - width
    if (top, left, below, right) != (0, 0, 0, 0):
        part = cv2.copyMakeBorder(part, top, below, left, right, cv2.BORDER_REPLICATE)
    part = part.reshape(image_size, image_size, -1)  # OpenCV drops a last axis of one
    planes = np.empty((part.shape[2], image_size, image_size), np.uint8)
    for channel, plane in enumerate(planes):
        cv2.extractChannel(part, channel, plane)  # ten times as fast as a transposed copy
    return planes


def read_mask(path: Path | None, photo: tuple[int, int]) -> np.ndarray:
    """Read a defect mask as bool (height, width), True = defect; no path: nothing is defective.

    Masks are stored as 0 and 255 or as 0 and 1; grays between (JPEG) belong to the nearer end. Raises UserError
    where the mask is not of the size of its photo or marks nothing.
    """
    if path is None:
        return np.zeros(photo, dtype=bool)
    white = read_white(path, max(MAX_PIXELS, photo[0] * photo[1]))
    if white.shape != photo:
        raise UserError(
            f"{path}: expected a mask of the size of its image, {photo[1]} x {photo[0]}, "
            f"found {white.shape[1]} x {white.shape[0]}"
        )
    if not white.any():
        raise UserError(f"{path}: expected the defect marked in white, found an empty mask")
    return white


def read_white(path: Path, max_pixels: int) -> np.ndarray:
    """Which pixels of a mask image are marked, bool (height, width): those above half its largest value.

    A mask of one colour with an alpha channel is drawn as what is not transparent.
    """
    values = read_pixels(path, max_pixels).values  # as they are stored: a mask of 16 bits may hold 0 and 1
    values = to_gray(values) if values.ndim == 3 else values
    if values.min() == values.max():
        alpha = read_alpha(path)
        values = values if alpha is None else alpha
    return values > values.max() / 2


def to_photo(anomaly_map: np.ndarray, placement: Placement) -> np.ndarray:
    """Bring a float32 map from the working size to the photo's own size, bilinearly, without the padding.

    Pixels that `crop` cut away were not judged and carry the lowest value of the map: a defect there is missed. So do
    those outside the region; whoever measures leaves them out.
    """
    top, left, height, width = placement.target
    inner = anomaly_map[top : top + height, left : left + width]
    top, left, height, width = placement.source
    inspected = enlarge(inner, placement) if placement.valid is not None else cv2.resize(inner, (width, height))
    if placement.source == (0, 0, *placement.photo):
        return inspected
    whole = np.full(placement.photo, inspected.min(), dtype=np.float32)
    whole[top : top + height, left : left + width] = inspected
    return whole


def enlarge(inner: np.ndarray, placement: Placement) -> np.ndarray:
    """The bilinear mean of the valid pixels around each white one; all others carry the lowest valid value."""
    white = placement.shown()
    assert placement.valid is not None
    assert white is not None
    top, left, height, width = placement.target
    valid = placement.valid[top : top + height, left : left + width]
    size = (placement.source[3], placement.source[2])
    total = cv2.resize(np.where(valid, inner, 0).astype(np.float32), size)
    share = cv2.resize(valid.astype(np.float32), size)
    judged = white & (share > 0)
    return np.where(judged, total / np.where(judged, share, 1), inner[valid].min()).astype(np.float32)
