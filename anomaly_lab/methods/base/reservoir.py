"""A sample of the training data that fits into memory and does not depend on who saw what, when."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int, Shaped
from torch import Tensor

from anomaly_lab.core.distributed import of_all_processes

Rows = Shaped[Tensor, "row ..."]
FOLD = 3
BLOCK = 2**26  # bytes of a block of rows: large enough to be given back to the system when its rows are not needed


class Part(NamedTuple):
    """Rows of one image that are still in the sample."""

    image: int
    draw: Float64[np.ndarray, " row"]
    place: Int[np.ndarray, " row"]  # of the row in its image
    rows: Shaped[np.ndarray, "row ..."]  # a piece of a block


class Reservoir:
    """At most `capacity` of the rows it was shown, a uniform sample of them.

    Every row has a number in [0, 1) that follows from the seed, its image and its place in the image, and the rows with
    the smallest numbers stay (bottom-k sampling). So the sample is the same whatever the order of the images, their
    batches and the number of processes, and samples of several processes merge into the sample of the whole. At most
    three times the capacity lies in memory (`FOLD`): rows are thrown out once there are twice as many, into new memory.
    At the end it lies there once: the blocks in which it was collected are given back one by one. Where several
    processes bring their samples together, each holds as many of them for a moment.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self.capacity = capacity
        self.seed = seed
        self._clear()

    def add(self, image: int, rows: Rows) -> None:
        """Show the rows of a training image, given by its number, all at once."""
        draw = np.random.default_rng([self.seed, image]).random(len(rows))
        self._kept.append(Part(image, draw, np.arange(len(rows)), self._stored(rows.detach().cpu().numpy())))
        self._count += len(rows)
        if self._count >= 2 * self.capacity:
            self._thin_out()

    def rows(self) -> Rows:
        """The sample of what all processes have seen, in the order of the images; afterwards it is forgotten.

        Collective: under several processes all of them must ask.

        Raises RuntimeError where no row was seen.
        """
        self._thin_out()
        self._kept = of_all_processes(self._kept)
        self._thin_out()
        if not self._kept:
            raise RuntimeError("no training image was seen")
        parts = self._kept[::-1]
        self._clear()
        order = sorted(range(len(parts)), key=lambda i: parts[i].image)
        ends = np.cumsum([len(parts[i].draw) for i in order])
        end_of = dict(zip(order, ends.tolist(), strict=True))
        rows = np.empty((int(ends[-1]), *parts[0].rows.shape[1:]), parts[0].rows.dtype)
        while parts:  # in the order in which they came: block by block
            part = parts.pop().rows
            end = end_of[len(parts)]
            rows[end - len(part) : end] = part
        return torch.from_numpy(rows)

    def _clear(self) -> None:
        self._kept: list[Part] = []
        self._count = 0  # of rows
        self._block: Shaped[np.ndarray, "row ..."] | None = None
        self._filled = 0  # rows of the block

    def _stored(self, rows: Shaped[np.ndarray, "row ..."]) -> Shaped[np.ndarray, "row ..."]:
        """A copy of rows in the present block, or in a new one where they do not fit."""
        if self._block is None or self._filled + len(rows) > len(self._block):
            size = max(1, rows.itemsize * math.prod(rows.shape[1:]))
            self._block = np.empty((max(len(rows), BLOCK // size), *rows.shape[1:]), rows.dtype)
            self._filled = 0
        start, self._filled = self._filled, self._filled + len(rows)
        self._block[start : self._filled] = rows
        return self._block[start : self._filled]

    def _thin_out(self) -> None:
        self._count = sum(len(part.draw) for part in self._kept)
        if self._count <= self.capacity:
            return
        draw, place = (np.concatenate([getattr(part, name) for part in self._kept]) for name in ("draw", "place"))
        image = np.concatenate([np.full(len(part.draw), part.image) for part in self._kept])
        stays = np.zeros(len(draw), dtype=bool)
        stays[np.lexsort((place, image, draw))[: self.capacity]] = True
        ends = np.cumsum([len(part.draw) for part in self._kept])[:-1]
        parts = zip(self._kept, np.split(stays, ends), strict=True)
        self._block = None  # what stays is copied, so that no block is held by a few rows
        self._kept = [
            Part(part.image, part.draw[keep], part.place[keep], self._stored(part.rows[keep]))
            for part, keep in parts
            if keep.any()
        ]
        self._count = self.capacity
