"""The patches of an epoch as a table of numbers, rendered on the device.

Nothing is materialised: 100 000 rows are drawn in milliseconds, and a patch is cut from its image when its batch is
needed, with one resampling.
"""

import math
from typing import Literal, NamedTuple, TypeVar, no_type_check

import kornia.enhance
import numba
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.augmentation import Augmentation

Side = TypeVar("Side", int, np.ndarray)
Kind = Literal["texture", "object"]


class PatchPlan(NamedTuple):
    """One row per patch: which part of which image it shows and how it is varied."""

    image: Int[Tensor, " patch"]  # index into the store
    center: Float[Tensor, "patch 2"]  # y, x in pixels of the source; pixel i covers i ... i + 1
    angle: Float[Tensor, " patch"]  # radians
    flip: Bool[Tensor, "patch 2"]  # vertical, horizontal
    brightness: Float[Tensor, " patch"]  # added
    contrast: Float[Tensor, " patch"]  # factor

    def take(self, rows: slice | Int[Tensor, " row"]) -> "PatchPlan":
        """The plan of these rows."""
        return PatchPlan(*(column[rows] for column in self))


def draw_plan(
    random: np.random.Generator,
    kind: Kind,
    patches: int,
    boxes: Int[np.ndarray, "image 4"],
    image_size: int,
    patch_size: int,
    augmentation: Augmentation,
) -> PatchPlan:
    """Draw the patches of an epoch, always on the CPU, so that they do not depend on the device.

    `boxes` (top, left, height, width) mark the part of each image that shows the photo; the rest is padding. Crops of a
    texture lie anywhere inside this part, rotation included: a patch contains neither fill nor padding. An object is
    shown whole, rotated and shifted about its centre; beyond the border of the image the border is repeated. Crops and
    shifts are whole pixels, so a patch that is not rotated is not blurred. Raises UserError if a texture is too small
    for a rotated patch.
    """
    angle = np.radians(random.uniform(-augmentation.rotation, augmentation.rotation, patches))
    if augmentation.quarter_turns:
        angle += math.pi / 2 * random.integers(0, 4, patches)
    where = random.uniform(0, 1, (patches, 2))
    image = random.integers(0, len(boxes), patches)
    if kind == "texture":
        needed = _whole_margin(math.ceil(patch_size * augmentation.reach() - 1e-6), patch_size)
        if needed > (room := int(boxes[:, 2:].min())):
            raise UserError(
                f"data.image_size: expected textures of at least {needed} px, so that a turned patch of {patch_size} "
                f"px lies inside, found {room}; raise data.image_size, set augmentation.rotation=0 or data.resize=crop"
            )
        turned = patch_size * (np.abs(np.cos(angle)) + np.abs(np.sin(angle)))
        side = _whole_margin(np.ceil(turned - 1e-6), patch_size)[:, None]
        corner = boxes[image, :2] + np.floor(where * (boxes[image, 2:] - side + 1))
        center = corner + side / 2
    else:
        center = image_size / 2 + np.round((2 * where - 1) * augmentation.shift * image_size)
    allowed = np.array([augmentation.vertical_flip, augmentation.horizontal_flip])
    return PatchPlan(
        image=torch.from_numpy(image),
        center=torch.from_numpy(center.astype(np.float32)),
        angle=torch.from_numpy(angle.astype(np.float32)),
        flip=torch.from_numpy(random.random((patches, 2)) < 0.5 * allowed),
        brightness=_uniform(random, 0.0, augmentation.brightness, patches),
        contrast=_uniform(random, 1.0, augmentation.contrast, patches),
    )


def _whole_margin(side: Side, patch_size: int) -> Side:
    """The side, enlarged to an even margin around the patch, so that the patch starts on a whole pixel."""
    return side + (side - patch_size) % 2


def _uniform(random: np.random.Generator, middle: float, reach: float, count: int) -> Float[Tensor, " count"]:
    return torch.from_numpy(random.uniform(middle - reach, middle + reach, count).astype(np.float32))


def render(
    store: UInt8[Tensor, "image channel side side"],
    plan: PatchPlan,
    patch_size: int,
    reach: float = math.sqrt(2),
    device: torch.device | None = None,
) -> Float[Tensor, "patch channel patch_size patch_size"]:
    """Cut the patches of a plan out of the decoded images: one bilinear resampling, then brightness and contrast.

    Pixels outside the image repeat its border. On the CPU pixels are read directly from the store; crops, flips and
    quarter turns are exact. For an accelerator one uint8 window per patch is copied to `device` and resampled there
    (`reach` is the largest side of the upright window around a rotated patch, in patch sides; the plan stays on the
    host). Both ways agree to 1e-4, a fortieth of a gray level.
    """
    if store.device.type == "cpu" and (device is None or device.type == "cpu"):
        patches = _render_on_host(store, plan, patch_size)
    else:
        patches = _render_windows(store, plan, patch_size, reach, device)
    if (plan.contrast != 1).any():
        patches = kornia.enhance.adjust_contrast(patches, plan.contrast.to(patches.device))
    if (plan.brightness != 0).any():
        patches = kornia.enhance.adjust_brightness(patches, plan.brightness.to(patches.device))
    return patches


def _render_on_host(
    store: UInt8[Tensor, "image channel side side"], plan: PatchPlan, patch_size: int
) -> Float[Tensor, "patch channel patch_size patch_size"]:
    """Render on one thread: beside torch's own threads a second one costs more than it saves."""
    patches = torch.empty((len(plan.image), store.shape[1], patch_size, patch_size))
    images = np.ascontiguousarray(store.numpy())
    _sample(images, plan.image.numpy(), _to_source(plan, patch_size), patches.numpy())
    return patches


def _to_source(plan: PatchPlan, patch_size: int) -> Float[np.ndarray, "patch 2 3"]:
    """Affine maps from a pixel (x, y) of the patch to the source: mirrored first, then turned, then moved.

    Quarter turns, whose cosine or sine is zero but for rounding, are made exact.
    """
    angle = plan.angle.numpy().astype(np.float64)
    cos, sin = np.cos(angle), np.sin(angle)
    flip_y, flip_x = (1.0 - 2.0 * plan.flip.numpy()).T
    turn = np.array([[cos * flip_x, -sin * flip_y], [sin * flip_x, cos * flip_y]]).transpose(2, 0, 1)
    turn = np.where(np.abs(turn - np.round(turn)) < 1e-6, np.round(turn), turn)
    middle = plan.center.numpy().astype(np.float64)[:, ::-1] - 0.5
    move = middle - turn.sum(axis=2) * (patch_size - 1) / 2
    return np.concatenate([turn, move[:, :, None]], axis=2)


def shown(
    plan: PatchPlan, patch_size: int, boxes: Int[np.ndarray, "image 4"], device: torch.device
) -> Bool[Tensor, "patch 1 patch_size patch_size"]:
    """The pixels of each patch that show its photo, not padding or a repeated border.

    `boxes` (top, left, height, width) locate each photo in its image.
    """
    matrix = torch.from_numpy(_to_source(plan, patch_size)).float().to(device)[:, :, :, None, None]
    box = torch.from_numpy(boxes[plan.image.numpy()]).float().to(device)[:, :, None, None]
    pixel = torch.arange(patch_size, device=device)
    x, y = (pixel * matrix[:, axis, 0] + pixel[:, None] * matrix[:, axis, 1] + matrix[:, axis, 2] for axis in (0, 1))
    slack = 0.5 + 1e-3  # pixel i of the source covers i - 1/2 to i + 1/2 here; the rest is rounding
    down, right = y - box[:, 0], x - box[:, 1]
    inside = (down > -slack) & (down < box[:, 2] - 1 + slack) & (right > -slack) & (right < box[:, 3] - 1 + slack)
    return inside[:, None]


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
@no_type_check
def _sample(
    store: UInt8[np.ndarray, "image channel side side"],
    index: Int[np.ndarray, " patch"],
    matrix: Float[np.ndarray, "patch 2 3"],
    out: Float[np.ndarray, "patch channel height width"],
) -> None:
    """Fill `out` bilinearly; exact if every pixel falls on a pixel of the source.

    Positions and weights of a row are computed once for all channels. The loops are plain and all numbers are 32 bits
    wide, so that the compiler vectorises them.
    """
    side, width = store.shape[-1], out.shape[-1]
    zero, last, white = np.float32(0), np.float32(side - 1), np.float32(255)
    stride, end, one = np.int32(side), np.int32(side - 2), np.int32(1)
    corner = np.empty(width, np.int32)  # of the four neighbours of a pixel, the upper left one
    right, down = np.empty(width, np.float32), np.empty(width, np.float32)  # weights of the others
    for patch in range(len(out)):
        (step_x, skew_x, move_x), (step_y, skew_y, move_y) = matrix[patch]
        planes = store[index[patch]].reshape(out.shape[1], side * side)
        for v in range(out.shape[2]):
            row_x, row_y = np.float32(skew_x * v + move_x), np.float32(skew_y * v + move_y)
            for u in range(width):
                x = min(max(np.float32(step_x) * np.float32(u) + row_x, zero), last)
                y = min(max(np.float32(step_y) * np.float32(u) + row_y, zero), last)
                left, top = min(np.int32(x), end), min(np.int32(y), end)
                corner[u] = top * stride + left
                right[u], down[u] = x - np.float32(left), y - np.float32(top)
            for channel in range(out.shape[1]):
                plane, pixels = planes[channel], out[patch, channel, v]
                for u in range(width):
                    place = np.uint32(corner[u])
                    a, b = np.float32(plane[place]), np.float32(plane[place + np.uint32(one)])
                    c = np.float32(plane[place + np.uint32(stride)])
                    d = np.float32(plane[place + np.uint32(stride + one)])
                    upper, lower = a + right[u] * (b - a), c + right[u] * (d - c)
                    pixels[u] = (upper + down[u] * (lower - upper)) / white


def _render_windows(
    store: UInt8[Tensor, "image channel side side"],
    plan: PatchPlan,
    patch_size: int,
    reach: float,
    device: torch.device | None,
) -> Float[Tensor, "patch channel patch_size patch_size"]:
    """Copy one window per patch to the device and resample all of them there."""
    image_size = store.shape[-1]
    side = min(image_size, math.ceil(patch_size * reach) + 2)
    origin = (plan.center - side / 2).round().clamp(0, image_size - side).long()
    windows = torch.stack(
        [
            store[image, :, y : y + side, x : x + side]
            for image, (y, x) in zip(plan.image.tolist(), origin.tolist(), strict=True)
        ]
    ).to(device, non_blocking=True)
    cos, sin = plan.angle.cos(), plan.angle.sin()
    flip_y, flip_x = (1.0 - 2.0 * plan.flip).unbind(1)
    scale = patch_size / side
    middle_y, middle_x = (2 * (plan.center - origin) / side - 1).unbind(1)
    matrix = torch.stack(  # from patch to window, both in -1 ... 1: mirrored first, then turned, then moved
        [
            torch.stack([cos * flip_x * scale, -sin * flip_y * scale, middle_x], dim=1),
            torch.stack([sin * flip_x * scale, cos * flip_y * scale, middle_y], dim=1),
        ],
        dim=1,
    )
    shape = [len(windows), windows.shape[1], patch_size, patch_size]
    grid = functional.affine_grid(matrix.to(windows.device), shape, align_corners=False)
    return functional.grid_sample(
        windows.float() / 255, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
