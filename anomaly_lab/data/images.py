"""Decoding of a photo to a uint8 image at the working size."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import Field, PositiveInt
from torch import Tensor

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Placement
from anomaly_lab.data.formats import MAX_PIXELS, Photo, name_of, read_photo
from anomaly_lab.data.placement import Resize, fit, place, place_in_white

SMALL = 2  # times smaller than the working image, in which a photo that keeps its pixels is hardly seen
FAR = 4  # times smaller or larger than the median of all photos
LEAST = 8  # px of a region; below, its numbers are meant as shares
LONG = 2  # times longer, for its width, than the median


@dataclass(frozen=True)
class Decoding:
    """How a photo becomes a working image: everything that decides its pixels.

    `value_range`: the values of 16-bit and floating-point files that become black and white; None: the range of the
    type, or of the data if the type has none, with a warning. `region`: the inspected part of every photo, as x, y,
    width, height in px, as shares of the sides of the photo (decimal numbers up to 1.0), or as a mask image file in
    which it is white. Files that declare more than `max_pixels` are refused before they are decoded.
    """

    image_size: PositiveInt
    channels: Literal[1, 3]
    resize: Resize = "pad"
    value_range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    region: Annotated[list[int] | list[float], Field(min_length=4, max_length=4)] | str | None = None
    max_pixels: PositiveInt = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise UserError(f"data.value_range: expected [black,white], black below white, found {self.value_range}")

    def read(self, photo: Photo) -> tuple[np.ndarray, Placement]:
        """The uint8 working image (channels, image_size, image_size) of a photo, and its placement.

        Raises UserError if the photo cannot be read or does not contain the region.
        """
        pixels = read_photo(photo, self.channels, self.value_range, self.max_pixels)
        placement = self._place(name_of(photo), pixels)
        return fit(pixels, placement, self.image_size), placement

    def size(self, path: Path) -> tuple[int, int]:
        """Height and width of a photo. Raises UserError as `read` does."""
        return self._place(str(path), read_photo(path, self.channels, self.value_range, self.max_pixels)).photo

    def _place(self, name: str, photo: np.ndarray) -> Placement:
        height, width = photo.shape[:2]
        if self.region is None:
            return place(height, width, self.image_size, self.resize)
        if isinstance(self.region, str):
            file = Path(self.region).expanduser()
            if not file.exists():
                raise UserError(
                    f"data.region: expected x,y,width,height (in px, or as shares up to 1.0) or a mask image, found no "
                    f"such file: {self.region}"
                )
            placement = place_in_white(file, file.stat().st_mtime_ns, self.image_size, self.resize, self.max_pixels)
            if placement.photo != (height, width):
                raise UserError(
                    f"{name}: expected a photo of the size of data.region ({file}), {placement.photo[1]} x "
                    f"{placement.photo[0]} px, found {width} x {height}"
                )
            return placement
        in_px = all(isinstance(number, int) for number in self.region)
        sides = (1, 1, 1, 1) if in_px else (width, height, width, height)
        x, y, region_width, region_height = (round(n * side) for n, side in zip(self.region, sides, strict=True))
        if 0 < min(region_width, region_height) < min(LEAST, width, height):
            raise UserError(
                f"{name}: expected data.region (x,y,width,height) of at least {LEAST} x {LEAST} px, found "
                f"{self.region}, {region_width} x {region_height} px; shares are decimal numbers: 0.0,0.0,1.0,1.0 is "
                "the whole photo"
            )
        inside = 0 <= x < x + region_width <= width and 0 <= y < y + region_height <= height
        if not inside:
            raise UserError(
                f"{name}: expected data.region (x,y,width,height, in px or as shares up to 1.0) inside the photo of "
                f"{width} x {height} px, found {self.region}"
            )
        return place(height, width, self.image_size, self.resize, (y, x, region_height, region_width))


def in_unit_range(images: UInt8[Tensor, "*rest"] | Float[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
    """Gray levels from 0 to 1; numbers of a table, which are no gray levels, as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def hardly_seen(sizes: Mapping[Path, tuple[int, int]], decoding: Decoding) -> str:
    """A remark on photos that are mostly border, because they keep their pixels; "" for none."""
    if decoding.resize != "shrink" or decoding.region is not None or not sizes:
        return ""
    side = float(np.median([max(size) for size in sizes.values()]))
    if SMALL * side > decoding.image_size:
        return ""
    return (
        f"photos of {side:.0f} px keep their pixels in the middle of {decoding.image_size} px (data.resize=shrink), "
        "the rest repeats their border; data.resize=pad enlarges them"
    )


def unlike_the_others(sizes: Mapping[Path, tuple[int, int]]) -> str:
    """A remark on photos of a very different size or shape than the others, "" for none; `sizes`: height and width."""
    if not sizes:
        return ""
    short, long = (np.array([end(size) for size in sizes.values()], dtype=float) for end in (min, max))
    smaller, shape = short / np.median(short), long / short / np.median(long / short)
    odd = np.maximum(smaller, 1 / smaller) > FAR
    odd |= np.maximum(shape, 1 / shape) > LONG
    if not odd.any():
        return ""
    path, (height, width) = list(sizes.items())[int(odd.argmax())]
    rows, columns = np.median(np.array(list(sizes.values())), axis=0)
    return (
        f"of a very different size or shape than the others (median {columns:.0f} x {rows:.0f} px): {odd.sum()} of "
        f"{len(sizes)} photos, such as {path} ({width} x {height} px); remove what does not belong to them"
    )
