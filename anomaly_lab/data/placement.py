"""The placement of a photo in its square working image, and the way back from a map to the photo."""

from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Box, Images, Placement
from anomaly_lab.data.masks import read_white

Resize = Literal["pad", "shrink", "stretch", "crop"]


def place(height: int, width: int, image_size: int, resize: Resize, region: Box | None = None) -> Placement:
    """The placement of a photo, or of a `region` of it, in a working image of `image_size` x `image_size`.

    `pad` keeps the aspect ratio and the whole photo; so does `shrink`, but a photo that fits keeps its pixels, in the
    middle. `crop` keeps the aspect ratio and the central square, `stretch` the whole photo but not the aspect ratio.
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
    if resize == "shrink":
        scale = min(scale, 1.0)
    inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (image_size - inner_height) // 2, (image_size - inner_width) // 2
    return Placement(photo, whole, (top, left, inner_height, inner_width), region)


@lru_cache(maxsize=4)
def place_in_white(file: Path, changed: int, image_size: int, resize: Resize, max_pixels: int) -> Placement:
    """The placement of the box around the white part of a mask image; the same for all photos of a run.

    `changed` is the modification time of the file: it invalidates the cached result when the mask is edited. Raises
    UserError if no white pixel remains.
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
    """Resize the inspected part of a photo into a uint8 working image (channels, image_size, image_size).

    Padding repeats the border: black bars would be learnt as edges. Pixels outside the mask image get the mean colour
    of those inside: nothing can be learnt from them.
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


def fit_mask(
    mask: Bool[np.ndarray, "photo_height photo_width"], placement: Placement, image_size: int
) -> UInt8[np.ndarray, "1 image_size image_size"]:
    """The mask of a photo, resized and padded as the photo is: 255 wherever a marked, inspected pixel has a share."""
    if placement.white is not None and placement.region is not None:
        top, left, height, width = placement.region
        inspected = np.zeros_like(mask)
        inspected[top : top + height, left : left + width] = placement.white
        mask = mask & inspected
    fitted = fit(mask[:, :, None].astype(np.uint8) * 255, placement._replace(white=None), image_size)
    return np.where(fitted > 0, np.uint8(255), np.uint8(0))


def content(placement: tuple[Placement, ...], images: Images) -> Bool[Tensor, "batch 1 height width"] | None:
    """The pixels of the working images that show the inspected part of the photo; None: all of them."""
    height, width = images.shape[-2:]
    if all(place.target == (0, 0, height, width) and place.valid is None for place in placement):
        return None
    valid = torch.zeros((len(images), 1, height, width), dtype=torch.bool, device=images.device)
    for pixels, place in zip(valid, placement, strict=True):
        top, left, inner_height, inner_width = place.target
        pixels[:, top : top + inner_height, left : left + inner_width] = True
        if place.valid is not None:
            pixels &= torch.from_numpy(place.valid).to(images.device)
    return valid


def to_photo(anomaly_map: np.ndarray, placement: Placement) -> np.ndarray:
    """Resize a float32 map from the working size to the size of the photo, bilinearly, without the padding.

    Pixels that `crop` cut away get the lowest value of the map: a defect there is missed. So do pixels outside the
    region, which metrics leave out.
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
    """The bilinear mean of the valid pixels around each white pixel; all other pixels get the lowest valid value."""
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
