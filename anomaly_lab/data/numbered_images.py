"""Photos of anything, or textures, in an endless order that follows from a seed: what teachers are distilled on."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from anomaly_lab.core.console import say
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.parallel import prefetch
from anomaly_lab.data.formats import read_photo
from anomaly_lab.data.noise import procedural_texture, row_keys
from anomaly_lab.data.placement import fit, place

Images = Float[Tensor, "batch 3 height width"]
Batch = list[Tensor]  # the numbers of the images and, of photos, uint8 images
THREADS = 4


@dataclass(frozen=True)
class Source:
    """The images of a distillation by their numbers: a number is the same image whenever it is asked for."""

    paths: list[Path]  # none: procedural textures
    side: int  # px
    patch: int | None  # px; a random part of the photo is shown, such that the whole would have 4 to 16 patches a side
    seed: int
    left_out: set[Path] = field(default_factory=set)  # photos that could not be read

    def photo(self, number: int) -> UInt8[np.ndarray, "3 side side"]:
        """The image of a number. Each photo comes once, in random order, before any comes again.

        A photo that cannot be read is named, and the next one takes its place. Raises UserError where none can be read.
        """
        count = len(self.paths)
        epoch, first = divmod(number, count)
        random = np.random.default_rng((self.seed, number))
        for attempt in range(count):
            path = self.paths[order(count, self.seed, epoch)[(first + attempt) % count]]
            try:
                photo = read_photo(path, 3)
            except UserError as error:
                if path not in self.left_out:
                    say(f"left out: {error}")
                self.left_out.add(path)
                continue
            height, width = photo.shape[:2]
            if self.patch is None:
                return fit(photo, place(height, width, self.side, "stretch"), self.side)
            short = random.integers(4 * self.patch, 16 * self.patch, endpoint=True)
            part = max(1, min(round(min(height, width) * self.side / short), height, width))
            top, left = random.integers(height - part + 1), random.integers(width - part + 1)
            region = (int(top), int(left), part, part)
            return fit(photo, place(height, width, self.side, "stretch", region), self.side)
        raise UserError(f"images: expected photos, found none of {count} that can be read")

    def batch(self, numbers: Int[Tensor, " batch"], images: list[Tensor]) -> Images:
        """Images in [0, 1] on the device: the photos that were read, or textures."""
        if images:
            return images[0].float() / 255
        return procedural_texture(row_keys(self.seed, 0, numbers), 3, self.side, self.side)


@cache
def order(count: int, seed: int, epoch: int) -> Int[np.ndarray, " photo"]:
    """The order of the photos in a pass."""
    return np.random.default_rng((seed, epoch, count)).permutation(count)


class Batches:
    """Batches of consecutive numbers, read ahead by threads."""

    def __init__(self, source: Source, start: int, count: int, batch_size: int) -> None:
        self.source, self.start, self.count, self.batch_size = source, start, count, batch_size

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        numbers = torch.arange(self.start * self.batch_size, (self.start + self.count) * self.batch_size)
        if not self.source.paths:
            yield from ([part] for part in numbers.split(self.batch_size))
            return
        with closing(prefetch(self.source.photo, numbers.tolist(), THREADS)) as photos:
            for part in numbers.split(self.batch_size):
                yield [part, torch.from_numpy(np.stack([next(photos) for _ in part]))]
