"""Where the data of a run comes from: patches for training, whole images for thresholds and tests."""

from collections.abc import Iterator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from rich.progress import track

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.parallel import prefetch
from anomaly_lab.core.types import Batch
from anomaly_lab.data.augmentation import Augmentation
from anomaly_lab.data.cache import default_folder
from anomaly_lab.data.images import Decoding, read_mask
from anomaly_lab.data.patches import (
    ImagesOnceLoader,
    Kind,
    PatchLoader,
    PatchPlan,
    WholeImages,
    draw_plan,
    render,
)
from anomaly_lab.data.samples import Sample, Splits, hold_out
from anomaly_lab.data.store import Cache, Store, open_store, report_skipped


class ImageLoader:
    """Whole images in order, a batch at a time, decoded by threads a few images ahead.

    Images are uint8 at the working size (the datamodule scales them on the device), masks have the size of
    their photo. Several processes take turns batch by batch: no image is repeated to make their shares equal, so that
    no metric counts one twice, and batches are the same whatever the number of processes.
    """

    def __init__(
        self,
        samples: list[Sample],
        decoding: Decoding,
        batch_size: int,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.samples = samples
        self.decoding = decoding
        self.batch_size = batch_size
        self.workers = workers
        batches = [range(len(samples))[start : start + batch_size] for start in range(0, len(samples), batch_size)]
        self._batches = batches[rank::world_size]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        with closing(prefetch(self._read, chain.from_iterable(self._batches), self.workers)) as images:
            for batch in self._batches:
                yield collate(list(islice(images, len(batch))))

    def _read(self, index: int) -> Batch:
        sample = self.samples[index]
        image, placement = self.decoding.read(sample.path)
        mask = torch.from_numpy(read_mask(sample.mask_path, placement.photo))[None]
        label, position = torch.tensor([sample.label]), torch.tensor([index])
        return Batch(torch.from_numpy(image)[None], (mask,), label, position, (placement,))


def collate(items: list[Batch]) -> Batch:
    """Join batches of images of one size."""
    image, label, index = (torch.cat([getattr(item, name) for item in items]) for name in ("image", "label", "index"))
    masks = tuple(mask for item in items for mask in item.mask)
    return Batch(image, masks, label, index, tuple(place for item in items for place in item.placement))


class DataModule(pl.LightningDataModule):
    """Splits off the held-out normal images, then serves patches of the rest and whole images of the others.

    Held-out images are chosen before anything is augmented; the validation loss sees only them, and so do thresholds
    (but for `threshold_images: training`, which a strategy asks for).
    """

    def __init__(
        self,
        splits: Splits,
        augmentation: Augmentation,
        kind: Kind,
        decoding: Decoding,
        patch_size: PositiveInt,
        sees: Literal["patches", "images"],
        patches: PositiveInt,
        redraw: bool,
        batch_size: PositiveInt,
        test_batch_size: PositiveInt,
        workers: NonNegativeInt,
        cache: Cache,
        cache_dir: str | None,
        on_error: Literal["stop", "skip"],
        held_out: Annotated[float, Field(gt=0, lt=1)],
        split_seed: NonNegativeInt,
        seed: NonNegativeInt,
        threshold_images: Literal["held_out", "training"] = "held_out",
    ) -> None:
        super().__init__()
        self.train_samples, self.held_out_samples = hold_out(splits.train, held_out, split_seed)
        self.test_samples = splits.test
        self.augmentation = augmentation
        self.kind: Kind = kind
        self.decoding = decoding
        self.patch_size = patch_size
        self.images_once = sees == "images"
        self.patches = patches
        self.redraw = redraw
        self.batch_size = batch_size
        self.test_batch_size = test_batch_size
        self.workers = workers
        self.cache: Cache = cache
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_folder()
        self.on_error: Literal["stop", "skip"] = on_error
        self.seed = seed
        self.threshold_images: Literal["held_out", "training"] = threshold_images
        self.store: Store | None = None
        self.boxes = np.tile([0, 0, decoding.image_size, decoding.image_size], (len(self.train_samples), 1))

    def setup(self, stage: str) -> None:
        """Decode the training images once, and read all others through before hours are spent.

        Raises UserError naming the file that cannot be read, or the mask that is empty or of another size.
        """
        if stage != "fit" or self.store is not None:
            return
        self.held_out_samples = self._readable(self.held_out_samples)
        self.test_samples = self._readable(self.test_samples)
        device = self.trainer.strategy.root_device if self.trainer else None
        self.store = open_store(
            self.train_samples, self.decoding, self.workers, self.cache, self.cache_dir, self.on_error, device
        )
        self.train_samples = self.store.samples
        self.boxes = np.array(self.store.boxes)

    def _readable(self, samples: list[Sample]) -> list[Sample]:
        """Read images through; those that cannot be read end the run, or are named and left out (`on_error`)."""

        def trouble(sample: Sample) -> UserError | None:
            try:
                read_mask(sample.mask_path, self.decoding.size(sample.path))
            except UserError as error:
                return error
            return None

        with closing(prefetch(trouble, samples, self.workers)) as answers:
            found = list(track(answers, "checking", len(samples), transient=True))
        errors = [error for error in found if error is not None]
        if errors and self.on_error == "stop":
            raise errors[0]
        report_skipped([str(error) for error in errors], len(samples))
        return [sample for sample, error in zip(samples, found, strict=True) if error is None]

    def plan(self, epoch: int) -> PatchPlan:
        """The patches of an epoch: they follow from the seed and, unless `redraw` is off, from the epoch."""
        return draw_plan(
            np.random.default_rng([self.seed, epoch if self.redraw else 0]),
            self.kind,
            self.patches,
            self.boxes,
            self.decoding.image_size,
            self.patch_size,
            self.augmentation,
        )

    def train_dataloader(self) -> PatchLoader | ImagesOnceLoader:
        """What the epoch that is about to start shows; the trainer asks anew every epoch."""
        assert self.trainer is not None
        if self.images_once:
            count = len(self.train_samples)
            return ImagesOnceLoader(count, self.test_batch_size, self.trainer.global_rank, self.trainer.world_size)
        plan = self.plan(self.trainer.current_epoch)
        return PatchLoader(plan, self.batch_size, self.trainer.global_rank, self.trainer.world_size)

    def whole_training_images(self, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """The training images as they are, a batch at a time, on the host; of several processes, the share of one."""
        assert self.store is not None
        for index in torch.arange(len(self.train_samples))[rank::world_size].split(self.test_batch_size):
            images, rows = self.store.take(index)
            yield Batch(images[rows].cpu().float() / 255, (), torch.zeros_like(index), index, ())

    def held_out_images(self, device: torch.device) -> Iterator[Batch]:
        """The held-out normal images, whole, unaugmented and in [0, 1] on a device, a batch at a time."""
        for batch in self.val_dataloader():
            yield batch._replace(image=batch.image.to(device).float() / 255)

    def val_dataloader(self) -> ImageLoader:
        """The held-out normal images, whole and unaugmented."""
        return self._images(self.held_out_samples)

    def predict_dataloader(self) -> ImageLoader:
        """The normal images that set the threshold after training, whole and unaugmented: as a rule the held-out."""
        return self._images(self.train_samples if self.threshold_images == "training" else self.held_out_samples)

    def test_dataloader(self) -> ImageLoader:
        """The test images with their masks; processes take turns, batch by batch.

        Raises UserError where there are more processes than test images.
        """
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return self._images(self.test_samples, rank, world_size)

    def transfer_batch_to_device(
        self, batch: PatchPlan | WholeImages | Batch, device: torch.device, dataloader_idx: int
    ) -> PatchPlan | WholeImages | Batch:
        """Rows of a plan stay on the host, where they say what to cut."""
        if isinstance(batch, PatchPlan | WholeImages):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: PatchPlan | WholeImages | Batch, dataloader_idx: int) -> Batch:
        """On the device: rows of a plan become patches or images, uint8 images become [0, 1]."""
        if isinstance(batch, PatchPlan | WholeImages):
            assert self.store is not None
            assert self.trainer is not None
            device = self.trainer.strategy.root_device
            images, rows = self.store.take(batch.image)
            if isinstance(batch, WholeImages):
                image = images[rows].to(device, non_blocking=True).float() / 255
            else:
                image = render(images, batch._replace(image=rows), self.patch_size, self.augmentation.reach(), device)
            index = batch.image.to(device, non_blocking=True)
            return Batch(image, (), torch.zeros_like(index), index, ())
        return batch._replace(image=batch.image.float() / 255)

    def _images(self, samples: list[Sample], rank: int = 0, world_size: int = 1) -> ImageLoader:
        if samples and len(samples) < world_size:
            raise UserError(f"trainer.devices: expected at most {len(samples)}, one for each image, found {world_size}")
        # Fewer batches than processes: smaller ones, because a process without any would not meet the others.
        batch_size = min(self.test_batch_size, max(1, len(samples) // world_size))
        return ImageLoader(samples, self.decoding, batch_size, self.workers, rank, world_size)
