"""Training data of an epoch: random patches, or every image whole.

A feed turns an epoch into rows of numbers (`loader`), and rows into images on the device (`render`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images
from anomaly_lab.data.augmentation import Augmentation
from anomaly_lab.data.images import in_unit_range
from anomaly_lab.data.patches import Kind, PatchPlan, draw_plan, render, shown
from anomaly_lab.data.store import Masks, Store


class Rows(NamedTuple):
    """The rows of a batch that one process renders; on the host."""

    epoch: int
    number: Int[Tensor, " row"]  # row numbers in the epoch, independent of batch and process
    plan: PatchPlan


class RowLoader:
    """The rows of an epoch, batch by batch; each process takes its share of every batch.

    Rows are numbers, so there are no workers. Batches are cut before they are shared: all processes take the same
    number of steps (else they deadlock), and the same seed gives the same batches for any number of processes. The
    state is one number, so a run can resume inside an epoch.
    """

    def __init__(
        self,
        epoch: int,
        plan: PatchPlan,
        batches: Sequence[Int[Tensor, " _"]],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.epoch = epoch
        self.plan = plan
        self.batches = batches
        self.batch_size = len(batches[0])  # over all processes
        self.rank = rank
        self.world_size = world_size
        self.done = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Rows]:
        for batch in range(self.done, len(self)):
            self.done = batch + 1
            yield self.rows(self.batches[batch][self.rank :: self.world_size])
        self.done = 0

    def size(self, batch: int) -> int:
        """How many rows a batch has, over all processes."""
        return len(self.batches[batch])

    def rows(self, number: Int[Tensor, " row"]) -> Rows:
        """The rows with these numbers."""
        return Rows(self.epoch, number, self.plan.take(number))

    def state_dict(self) -> dict[str, int]:
        """The number of batches yielded so far."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the batches that were yielded; a finished epoch starts from the beginning."""
        self.done = state["done"] % len(self)


@dataclass(frozen=True)
class Feed(ABC):
    """The training data of each epoch, determined by the seed and the epoch."""

    boxes: Int[np.ndarray, "image 4"]  # where each photo lies in its image: top, left, height, width in pixels
    image_size: int  # px, side of an image
    augmentation: Augmentation
    batch_size: int  # over all processes
    seed: int

    @property
    @abstractmethod
    def side(self) -> int:
        """Side in px of the images that the method sees."""

    @abstractmethod
    def plan(self, epoch: int) -> PatchPlan:
        """The rows of an epoch."""

    @abstractmethod
    def loader(self, epoch: int, rank: int = 0, world_size: int = 1) -> RowLoader:
        """The batches of an epoch for one of several processes.

        Raises UserError if they cannot be shared.
        """

    def render(self, rows: Rows, store: Store, device: torch.device) -> Batch:
        """The images of these rows, in [0, 1] on the device."""
        index = rows.plan.image.to(device, non_blocking=True)
        number = rows.number.to(device, non_blocking=True)
        return Batch(self._images(rows.plan, store, device), (), torch.zeros_like(index), index, (), number)

    def shown(self, rows: Rows, device: torch.device) -> Bool[Tensor, "row 1 side side"] | None:
        """The pixels of each row that show its photo, not padding or a repeated border. None: all of them."""
        return shown(rows.plan, self.side, self.boxes, device)

    def marked(self, rows: Rows, masks: Masks, device: torch.device) -> Bool[Tensor, "row 1 side side"]:
        """The defects of each row, from the mask of its photo, which is moved as the photo is."""
        place = masks.place[rows.plan.image]
        which = (place >= 0).nonzero()[:, 0]
        marked = torch.zeros((len(place), 1, self.side, self.side), dtype=torch.bool, device=device)
        if len(which):
            plan = rows.plan.take(which)._replace(image=place[which])
            plan = plan._replace(brightness=torch.zeros(len(which)), contrast=torch.ones(len(which)))
            moved = render(masks.images, plan, self.side, self.augmentation.reach(), device)
            marked[which.to(device)] = moved > 0.5
        return marked

    def _images(self, plan: PatchPlan, store: Store, device: torch.device) -> Images:
        images, place = store.take(plan.image)
        return render(images, plan._replace(image=place), self.side, self.augmentation.reach(), device)


@dataclass(frozen=True)
class PatchFeed(Feed):
    """`patches` per epoch from random images: crops of textures, or whole objects, rotated and shifted.

    The last batch is dropped if it is not full. Without `redraw` every epoch has the same patches.
    """

    kind: Kind
    patch_size: int
    patches: int
    redraw: bool = True

    @property
    def side(self) -> int:
        """Side of a patch in px."""
        return self.patch_size

    def plan(self, epoch: int) -> PatchPlan:
        """The patches of an epoch."""
        random = np.random.default_rng([self.seed, epoch if self.redraw else 0])
        return draw_plan(
            random, self.kind, self.patches, self.boxes, self.image_size, self.patch_size, self.augmentation
        )

    def loader(self, epoch: int, rank: int = 0, world_size: int = 1) -> RowLoader:
        """Batches of one size, shared equally.

        Raises UserError if the size is not a multiple of the number of processes.
        """
        size = min(self.batch_size, self.patches)
        if size % world_size:
            raise UserError(
                f"data.batch_size: expected a multiple of the {world_size} processes that share it, found {size}"
            )
        full = torch.arange(self.patches - self.patches % size)
        return RowLoader(epoch, self.plan(epoch), full.split(size), rank, world_size)

    def shown(self, rows: Rows, device: torch.device) -> Bool[Tensor, "row 1 side side"] | None:
        """None for textures, whose crops lie inside their photos."""
        return None if self.kind == "texture" else super().shown(rows, device)


@dataclass(frozen=True)
class ImageFeed(Feed):
    """Every training image once per epoch, whole, in random order if `shuffled`.

    Batch sizes differ by at most one image, and no image is left out.
    """

    shuffled: bool

    @property
    def side(self) -> int:
        """Side of an image in px."""
        return self.image_size

    def plan(self, epoch: int) -> PatchPlan:
        """The images of an epoch, augmented as objects are."""
        random, count = np.random.default_rng([self.seed, epoch]), len(self.boxes)
        order = random.permutation(count) if self.shuffled else np.arange(count)
        plan = draw_plan(random, "object", count, self.boxes, self.image_size, self.image_size, self.augmentation)
        return plan._replace(image=torch.from_numpy(order))

    def loader(self, epoch: int, rank: int = 0, world_size: int = 1) -> RowLoader:
        """Batches that are shared as equally as their sizes allow.

        Raises UserError if there are fewer images than processes.
        """
        count = len(self.boxes)
        if count < world_size:
            raise UserError(
                f"trainer.devices: expected at most {count}, the number of training images, found {world_size}"
            )
        batches = torch.arange(count).tensor_split(max(1, count // max(self.batch_size, world_size)))
        return RowLoader(epoch, self.plan(epoch), batches, rank, world_size)

    def _images(self, plan: PatchPlan, store: Store, device: torch.device) -> Images:
        if self.augmentation != Augmentation():
            return super()._images(plan, store, device)
        images, place = store.take(plan.image)
        return in_unit_range(images[place].to(device, non_blocking=True))
