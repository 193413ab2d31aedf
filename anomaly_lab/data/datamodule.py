"""The data of a run: patches or whole images for training, whole images for threshold and test."""

import os
from collections.abc import Iterator
from contextlib import closing
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Int
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from anomaly_lab.core.console import printable, say, tracked
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.parallel import prefetch
from anomaly_lab.core.types import Batch
from anomaly_lab.data.augmentation import Augmentation
from anomaly_lab.data.cache import default_folder
from anomaly_lab.data.corruption import Corruption
from anomaly_lab.data.feeds import Feed, ImageFeed, PatchFeed, RowLoader, Rows
from anomaly_lab.data.images import Decoding, hardly_seen, in_unit_range, unlike_the_others
from anomaly_lab.data.labelled import Amount, in_words, known
from anomaly_lab.data.masks import Marks, marked_although_good, mostly_marked, not_turned, read_mask
from anomaly_lab.data.noise import row_keys
from anomaly_lab.data.patches import Kind
from anomaly_lab.data.pixels import unused_range
from anomaly_lab.data.placement import content
from anomaly_lab.data.samples import Sample, Splits, choose, hold_out
from anomaly_lab.data.seen import Seen
from anomaly_lab.data.store import Cache, Masks, Store, on_device, open_masks, open_store, stopped

Knowledge = Literal["unsupervised", "weakly_supervised", "supervised"]  # what a method may learn from
HELD_OUT = -1  # in place of an epoch: held-out images have the same synthetic defects in every validation


@runtime_checkable
class Loader(Protocol):
    """Batches of whole images, or of rows, in the order of their samples."""

    samples: list[Sample]

    def __len__(self) -> int:
        """The number of batches of this process."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """The batches."""
        ...


class ImageLoader:
    """Batches of whole images in order, decoded by threads a few images ahead.

    Images are uint8 at the working size (the datamodule scales them on the device); masks have the size of their
    photo. Several processes take turns batch by batch. No image is repeated to make their shares equal, so no metric
    counts an image twice, and the batches are the same for any number of processes.
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
    """The training feed, and loaders of the held-out normal images and of the test images.

    With `good_photos` the run knows only so many of the good training photos, held-out ones among them; `seed` chooses
    them. Held-out images are split off before any augmentation. Only they enter the validation loss and, unless the
    threshold rule wants `threshold_images="training"`, the threshold. With `labelled_abnormal` the training batches
    have defective images too, label 1, as often as any other; `split_seed` chooses them. With `fold` they have those of
    all `folds` but one, which is the test. Everything else that looks at training images sees the good ones alone.
    With `masks`, `defect` of a training batch is what the masks of defective images mark, too. Of an image without a
    mask nothing is marked, whatever is painted.

    `sees`, `passes`, `augmented` and `masks` are class attributes of the method. `patches` of an epoch, or as many as
    there are training images, come in batches of `batch_size`. So do whole images, in a new order every epoch; with a
    fixed number of `passes` they come in order, in batches of `test_batch_size`. A `corruption` adds synthetic defects
    to training and validation images, on the device.
    """

    noun: ClassVar[str] = "images"  # what an example is

    def __init__(
        self,
        splits: Splits,
        augmentation: Augmentation,
        kind: Kind,
        decoding: Decoding,
        patch_size: PositiveInt,
        sees: Literal["patches", "images"],
        patches: PositiveInt | None,
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
        passes: PositiveInt | None = None,
        augmented: bool = True,
        masks: bool = False,
        corruption: Corruption | None = None,
        good_photos: PositiveInt | None = None,
        labelled_abnormal: Amount | None = None,
        fold: NonNegativeInt | None = None,
        folds: Annotated[int, Field(ge=2)] = 5,
    ) -> None:
        super().__init__()
        part = None if fold is None else (fold, folds)
        seen = known(splits, None, seed, labelled_abnormal, part, split_seed)
        chosen = choose(seen.train, good_photos, seed)
        self.train_samples, self.held_out_samples = hold_out(chosen, held_out, split_seed)
        self.train_samples += seen.labelled
        self.labelled = len(seen.labelled)  # of the training samples, the last ones
        self.protocol: Knowledge = "weakly_supervised" if seen.labelled else "unsupervised"
        if fold is not None:
            self.protocol = "supervised"
        self.test_samples = seen.test
        self.all_samples = (*splits.train, *splits.test)  # with those that `good_photos` leaves out
        few = f"{len(chosen)} of {len(seen.train)} good photos are used, chosen by seed={seed} (data.good_photos)"
        self.remarks = (*seen.remarks, few) if len(chosen) < len(seen.train) else seen.remarks
        self.learns_masks = masks and any(sample.mask_path for sample in seen.labelled)
        if seen.labelled and fold is None:
            self.remarks += (in_words(seen.labelled, len(seen.test), masks),)
        folders = {sample.path.parent.absolute() for sample in (*splits.train, *splits.test)}
        self.data_folder = Path(os.path.commonpath(folders))
        self.good_masks, self.pool = splits.good_masks, splits.pool
        self.augmentation = augmentation if augmented else Augmentation()
        self.kind: Kind = kind
        self.decoding = decoding
        self.patch_size = patch_size
        self.sees: Literal["patches", "images"] = sees
        self.passes = passes
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
        self.corruption = corruption
        self.store: Store | None = None
        self.masks: Masks | None = None  # None: training batches mark nothing
        self.sizes: dict[Path, tuple[int, int]] = {}  # height and width in px of every photo that can be read
        self.unreadable: list[str] = []  # why the others cannot be

    def setup(self, stage: str) -> None:
        """Decode the training images once, and check that all other images can be read, before hours are spent.

        Prints what the layout could not tell or left out, and whether the masks look inverted. Raises UserError naming
        a file that cannot be read, or a mask that is empty or of another size.
        """
        if stage != "fit":
            return
        if self.store is not None:  # the trainer, which is made after the images are decoded, asks again
            self.store = self._placed(self.store)
            return
        for remark in self.remarks:
            say(f"data: {printable(remark)}")
        if remark := marked_although_good(self.good_masks, self.workers):
            say(f"data: {printable(remark)}")
        photos = [*self.train_samples, *self.held_out_samples, *self.test_samples]
        self.held_out_samples = self._readable(self.held_out_samples)
        if not self.held_out_samples:
            if not any(map(self._can_be_read, self.train_samples)):  # the reason is not in which photo is held out
                raise UserError(
                    f"expected good photos that can be read, found none of {len(photos) - len(self.test_samples)}: "
                    f"{self.unreadable[0]}"
                )
            raise UserError(
                "data.held_out: expected a photo to set the threshold with that can be read, found none: "
                f"{self.unreadable[0]}; remove what cannot be read, or set a larger data.held_out"
            )
        self.test_samples = self._readable(self.test_samples)
        checked = len(self.unreadable)
        if self.learns_masks:
            good, labelled = self.good, self.train_samples[len(self.good) :]
            self.train_samples = good + self._readable(labelled)
        kept = self.cache, self.cache_dir, self.on_error, self.data_folder, self.pool
        self.store = self._placed(open_store(self.train_samples, self.decoding, self.workers, *kept))
        self.train_samples = self.store.samples
        self.labelled = sum(sample.label == 1 for sample in self.train_samples)
        if self.protocol != "unsupervised" and not self.labelled:
            key = "data.fold" if self.protocol == "supervised" else "data.labelled_abnormal"
            reason = [*self.store.unreadable, *self.unreadable[checked:]][-1]
            raise UserError(
                f"{key}: expected a defective photo that can be read, found none: {reason}; replace it, or leave the "
                "key out"
            )
        if self.learns_masks:
            self.masks = open_masks(self.train_samples, self.decoding, self.workers)
        self.sizes |= zip((sample.path for sample in self.train_samples), self.store.sizes, strict=True)
        self.unreadable += self.store.unreadable
        if self.unreadable:
            say(f"data: left out, because they cannot be read: {len(self.unreadable)} of {len(photos)} photos")
        for reason in self.unreadable:
            say(f"  {printable(reason)}")
        for remark in (unlike_the_others(self.sizes), hardly_seen(self.sizes, self.decoding), unused_range()):
            if remark:
                say(f"data: {printable(remark)}")

    def _placed(self, store: Store) -> Store:
        return store if self.trainer is None else on_device(store, self.trainer.strategy.root_device, self.cache)

    def _readable(self, samples: list[Sample]) -> list[Sample]:
        """The samples that can be read; others end the run, or are noted and left out (`on_error`)."""

        def look(sample: Sample) -> UserError | tuple[tuple[int, int], Marks]:
            """The error, or the size of the photo and what of it is marked."""
            try:
                size = self.decoding.size(sample.path)
                return size, Marks.of(read_mask(sample.mask_path, size), sample.path, sample.mask_path)
            except UserError as error:
                return error

        good, marks = [], {}
        with closing(tracked(prefetch(look, samples, self.workers), "checking", len(samples))) as answers:
            for sample, answer in zip(samples, answers, strict=True):
                if not isinstance(answer, UserError):
                    good.append(sample)
                    self.sizes[sample.path] = answer[0]
                    marks |= {sample.mask_path: answer[1]} if sample.mask_path else {}
                elif self.on_error == "stop":
                    raise stopped(answer)
                else:
                    self.unreadable.append(str(answer))
        for remark in (mostly_marked(marks), not_turned(marks)):
            if remark:
                say(f"data: {printable(remark)}")
        return good

    def _can_be_read(self, sample: Sample) -> bool:
        try:
            self.decoding.size(sample.path)
        except UserError:
            return False
        return True

    def seen(self) -> dict[str, Any]:
        """What a run keeps of its photos; available once they are decoded."""
        return Seen.of(self.train_samples, self.test_samples, self.decoding, self.workers).to_json()

    @property
    def good(self) -> list[Sample]:
        """The good training images, which come first."""
        return self.train_samples[: len(self.train_samples) - self.labelled]

    @cached_property
    def feed(self) -> Feed:
        """The training feed; available once the images are decoded."""
        assert self.store is not None
        boxes, side = np.array(self.store.boxes), self.decoding.image_size
        if self.sees == "patches":
            common = boxes, side, self.augmentation, self.batch_size, self.seed
            return PatchFeed(*common, self.kind, self.patch_size, self.patches or len(boxes), self.redraw)
        shuffled = self.passes is None
        batch_size = self.batch_size if shuffled else self.test_batch_size
        return ImageFeed(boxes, side, self.augmentation, batch_size, self.seed, shuffled)

    def train_dataloader(self) -> RowLoader:
        """The batches of the coming epoch; the trainer reloads them every epoch."""
        assert self.trainer is not None
        return self.feed.loader(self.trainer.current_epoch, self.trainer.global_rank, self.trainer.world_size)

    def whole_training_images(
        self, rank: int = 0, world_size: int = 1, device: torch.device | None = None
    ) -> Iterator[Batch]:
        """Batches of the good training images, whole, unaugmented and in [0, 1]; the share of one process.

        They are on `device`, or on the host without one.
        """
        assert self.store is not None
        for index in torch.arange(len(self.good))[rank::world_size].split(self.test_batch_size):
            images, rows = self.store.take(index)
            image, on_device = in_unit_range(images[rows].to(device or "cpu")), index.to(device or "cpu")
            yield Batch(image, (), torch.zeros_like(on_device), on_device, ())

    def held_out_images(self, device: torch.device) -> Iterator[Batch]:
        """Batches of the held-out normal images, whole, unaugmented and in [0, 1] on a device."""
        for batch in self.val_dataloader():
            yield self.moved(batch, device)

    def val_dataloader(self) -> Loader:
        """The held-out normal images, whole and unaugmented."""
        return self._images(self.held_out_samples)

    def predict_dataloader(self) -> Loader:
        """The normal images that set the threshold, whole and unaugmented: usually the held-out ones."""
        return self._images(self.good if self.threshold_images == "training" else self.held_out_samples)

    def test_dataloader(self) -> Loader:
        """The test images with their masks; processes take turns, batch by batch.

        Raises UserError if there are more processes than test images.
        """
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return self._images(self.test_samples, rank, world_size)

    def transfer_batch_to_device(self, batch: Rows | Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Render rows of the feed or move whole images; add synthetic defects in training and validation."""
        if isinstance(batch, Rows):
            return self.rendered(batch, device)
        assert self.trainer is not None
        batch = self.moved(batch, device)
        if not (self.trainer.validating or self.trainer.sanity_checking):
            return batch
        if self.masks is not None:
            batch = batch._replace(defect=torch.zeros_like(batch.image[:, :1], dtype=torch.bool))
        if self.corruption is None:
            return batch
        return self._corrupted(batch, HELD_OUT, batch.index, content(batch.placement, batch.image))

    def rendered(self, rows: Rows, device: torch.device) -> Batch:
        """The training batch of some rows of the feed, on the device."""
        assert self.store is not None
        batch = self.feed.render(rows, self.store, device)
        if self.labelled:
            batch = batch._replace(label=(batch.index >= len(self.train_samples) - self.labelled).long())
        if self.masks is not None:
            batch = batch._replace(defect=self.feed.marked(rows, self.masks, device))
        if self.corruption is None:
            return batch
        assert batch.row is not None
        return self._corrupted(batch, rows.epoch, batch.row, self.feed.shown(rows, device))

    def moved(self, batch: Batch, device: torch.device) -> Batch:
        """A batch of whole uint8 images, moved to the device and scaled to [0, 1], with its masks."""
        batch = super().transfer_batch_to_device(batch, device, 0)
        return batch._replace(image=in_unit_range(batch.image))

    def _corrupted(
        self, batch: Batch, epoch: int, row: Int[Tensor, " batch"], inside: Bool[Tensor, "batch 1 height width"] | None
    ) -> Batch:
        assert self.corruption is not None
        image, defect = self.corruption(batch.image, row_keys(self.seed, epoch, row), inside)
        if self.labelled:
            known = torch.zeros_like(defect) if batch.defect is None else batch.defect
            whole = (batch.label == 1) & ~known.flatten(1).any(dim=1)  # nobody knows what else of them is defective
            defect = (defect | known) & ~whole[:, None, None, None]
        return batch._replace(image=image, clean=batch.image, defect=defect)

    def _images(self, samples: list[Sample], rank: int = 0, world_size: int = 1) -> Loader:
        batch_size = self._share(len(samples), world_size)
        return ImageLoader(samples, self.decoding, batch_size, self.workers, rank, world_size)

    def _share(self, count: int, world_size: int) -> int:
        """The size of a batch of so many images in order, of which every process gets one at least."""
        if count and count < world_size:
            raise UserError(f"trainer.devices: expected at most {count}, one for each image, found {world_size}")
        # Fewer batches than processes: smaller ones, because a process without any would not meet the others.
        return min(self.test_batch_size, max(1, count // world_size))


def data_of(trainer: pl.Trainer) -> DataModule:
    """The datamodule of a trainer."""
    return trainer.datamodule  # type: ignore[attr-defined]
