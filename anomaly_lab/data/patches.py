"""The patches of an epoch as a table of numbers, dealt to the ranks in batches and rendered on the device.

Nothing is materialised: 100 000 rows are drawn in milliseconds and every patch is cut from its image when its
batch is needed, with one resampling.
"""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeVar

import kornia.enhance
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from anomaly_lab.data.augmentation import Augmentation
from anomaly_lab.errors import UserError

Side = TypeVar("Side", int, np.ndarray)
Kind = Literal["texture", "object"]
Plan = Literal["patches", "images_once"]


class PatchPlan(NamedTuple):
    """A row a patch: which part of which image it shows and how it is varied."""

    image: Int[Tensor, " patch"]  # index into the store
    center: Float[Tensor, "patch 2"]  # y, x in pixels of the source; pixel i covers i ... i + 1
    angle: Float[Tensor, " patch"]  # radians
    flip: Bool[Tensor, "patch 2"]  # vertical, horizontal
    brightness: Float[Tensor, " patch"]  # added
    contrast: Float[Tensor, " patch"]  # factor

    def take(self, rows: slice) -> "PatchPlan":
        """The plan of some of its rows."""
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
    """Draw the patches of an epoch, on the CPU whatever the device, so that the device never changes them.

    `boxes` (top, left, height, width) say which part of each image shows the photo, the rest being padding. A texture
    is cropped anywhere such that the turned crop lies inside: neither fill nor padding enters a patch.
    An object is shown whole, turned and shifted about its centre; the border is repeated where it shows.
    Crops and shifts are whole pixels, so that a patch that is not turned is not blurred either.
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
    """A side that is larger by an even number of pixels, so that the patch starts on a whole pixel."""
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
    """Cut the patches of a plan out of the decoded images: a uint8 window each, one bilinear resampling, photometry.

    `reach` is the largest side of the upright window around a turned patch, in patch sides. Windows that touch the
    border of the image repeat it. The plan stays on the host; only the windows travel to `device`.
    """
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
    patches = functional.grid_sample(
        windows.float() / 255, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    if (plan.contrast != 1).any():
        patches = kornia.enhance.adjust_contrast(patches, plan.contrast.to(patches.device))
    if (plan.brightness != 0).any():
        patches = kornia.enhance.adjust_brightness(patches, plan.brightness.to(patches.device))
    return patches


class WholeImages(NamedTuple):
    """Rows of the other plan, `images_once`: every training image, whole and unaugmented."""

    image: Int[Tensor, " image"]  # index into the store


class ImagesOnceLoader:
    """Every image once, in order, in batches that differ by at most one image and are shared among the ranks.

    None is left out, and ranks never differ in the number of steps.

    Raises UserError where there are fewer images than processes.
    """

    def __init__(self, images: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if images < world_size:
            raise UserError(
                f"trainer.devices: expected at most {images}, the number of training images, found {world_size}"
            )
        self.batch_size = max(batch_size, world_size)
        self._batches = torch.arange(images).tensor_split(max(1, images // self.batch_size))
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[WholeImages]:
        for batch in self._batches:
            yield WholeImages(batch[self.rank :: self.world_size])


class PatchLoader:
    """One epoch's rows, a global batch at a time, of which each rank takes its share.

    Rows are numbers, so there are no workers. The batches are cut before they are shared: ranks never differ in
    the number of steps (that deadlocks) and the same seed gives the same patches whatever the number of processes.
    The last batch is left out where it is not full. The state is one number, so a run resumes inside an epoch.

    Raises UserError where the batch cannot be shared equally among the ranks.
    """

    def __init__(self, plan: PatchPlan, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.plan = plan
        self.batch_size = min(batch_size, len(plan.image))
        if self.batch_size % world_size:
            raise UserError(
                f"data.batch_size: expected a multiple of the {world_size} processes that share it, "
                f"found {self.batch_size}"
            )
        self.rank = rank
        self.world_size = world_size
        self.done = 0

    def __len__(self) -> int:
        return len(self.plan.image) // self.batch_size

    def __iter__(self) -> Iterator[PatchPlan]:
        for batch in range(self.done, len(self)):
            self.done = batch + 1
            end = self.done * self.batch_size
            yield self.plan.take(slice(end - self.batch_size + self.rank, end, self.world_size))
        self.done = 0

    def state_dict(self) -> dict[str, int]:
        """How many batches were handed out."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that were handed out; a finished epoch starts anew."""
        self.done = state["done"] % len(self)
