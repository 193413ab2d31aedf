"""What training shows a method: patches that are drawn anew in every epoch, or every image, whole.

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
from anomaly_lab.data.patches import Kind, PatchPlan, draw_plan, render, shown
from anomaly_lab.data.store import Store


class Rows(NamedTuple):
    """The rows of an epoch's plan that one process takes of a batch; on the host."""

    epoch: int
    number: Int[Tensor, " row"]  # in the epoch, whatever the batch and the process
    plan: PatchPlan


class RowLoader:
    """The rows of an epoch, one batch over all processes at a time, of which each process takes its share.

    Rows are numbers, so there are no workers. Batches are cut before they are shared: processes never differ in the
    number of steps (that deadlocks), and the same seed gives the same batches whatever the number of processes. The
    state is one number, so a run resumes inside an epoch.
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

    def rows(self, number: Int[Tensor, " row"]) -> Rows:
        """The rows of these numbers."""
        return Rows(self.epoch, number, self.plan.take(number))

    def state_dict(self) -> dict[str, int]:
        """How many batches were handed out."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that were handed out; a finished epoch starts anew."""
        self.done = state["done"] % len(self)


@dataclass(frozen=True)
class Feed(ABC):
    """What an epoch shows of the training images; all of it follows from the seed and the epoch."""

    boxes: Int[np.ndarray, "image 4"]  # where each photo lies in its image: top, left, height, width in pixels
    image_size: int  # px, side of an image
    augmentation: Augmentation
    batch_size: int  # over all processes
    seed: int

    @property
    @abstractmethod
    def side(self) -> int:
        """Pixels of a side of what the method sees."""

    @abstractmethod
    def plan(self, epoch: int) -> PatchPlan:
        """The rows of an epoch."""

    @abstractmethod
    def loader(self, epoch: int, rank: int = 0, world_size: int = 1) -> RowLoader:
        """The batches of an epoch that one of several processes takes.

        Raises UserError where they cannot be shared.
        """

    def render(self, rows: Rows, store: Store, device: torch.device) -> Batch:
        """The images of some rows, in [0, 1] on the device."""
        index = rows.plan.image.to(device, non_blocking=True)
        number = rows.number.to(device, non_blocking=True)
        return Batch(self._images(rows.plan, store, device), (), torch.zeros_like(index), index, (), number)

    def shown(self, rows: Rows, device: torch.device) -> Bool[Tensor, "row 1 side side"] | None:
        """The pixels of each row that show its photo: neither padding nor a repeated border. None: all of them."""
        return shown(rows.plan, self.side, self.boxes, device)

    def _images(self, plan: PatchPlan, store: Store, device: torch.device) -> Images:
        images, place = store.take(plan.image)
        return render(images, plan._replace(image=place), self.side, self.augmentation.reach(), device)


@dataclass(frozen=True)
class PatchFeed(Feed):
    """`patches` an epoch, of images drawn at random: crops of textures, whole objects that are turned and shifted.

    The last batch is left out where it is not full. Without `redraw` every epoch shows the same patches.
    """

    kind: Kind
    patch_size: int
    patches: int
    redraw: bool = True

    @property
    def side(self) -> int:
        """That of a patch."""
        return self.patch_size

    def plan(self, epoch: int) -> PatchPlan:
        """The patches of an epoch."""
        random = np.random.default_rng([self.seed, epoch if self.redraw else 0])
        return draw_plan(
            random, self.kind, self.patches, self.boxes, self.image_size, self.patch_size, self.augmentation
        )

    def loader(self, epoch: int, rank: int = 0, world_size: int = 1) -> RowLoader:
        """Batches of one size, shared equally.

        Raises UserError where the size is no multiple of the number of processes.
        """
        size = min(self.batch_size, self.patches)
        if size % world_size:
            raise UserError(
                f"data.batch_size: expected a multiple of the {world_size} processes that share it, found {size}"
            )
        full = torch.arange(self.patches - self.patches % size)
        return RowLoader(epoch, self.plan(epoch), full.split(size), rank, world_size)

    def shown(self, rows: Rows, device: torch.device) -> Bool[Tensor, "row 1 side side"] | None:
        """All of a texture's crop, which lies inside its photo."""
        return None if self.kind == "texture" else super().shown(rows, device)


@dataclass(frozen=True)
class ImageFeed(Feed):
    """Every training image once an epoch, whole, in an order drawn for the epoch if `shuffled`.

    Batches differ in size by at most one image, and none is left out.
    """

    shuffled: bool

    @property
    def side(self) -> int:
        """That of an image."""
        return self.image_size

    def plan(self, epoch: int) -> PatchPlan:
        """The images of an epoch, varied as objects are."""
        random, count = np.random.default_rng([self.seed, epoch]), len(self.boxes)
        order = random.permutation(count) if self.shuffled else np.arange(count)
        plan = draw_plan(random, "object", count, self.boxes, self.image_size, self.image_size, self.augmentation)
        return plan._replace(image=torch.from_numpy(order))

    def loader(self, epoch: int, rank: int = 0, world_size: int = 1) -> RowLoader:
        """Batches that are shared as equally as their sizes allow.

        Raises UserError where there are fewer images than processes.
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
        return images[place].to(device, non_blocking=True).float() / 255
