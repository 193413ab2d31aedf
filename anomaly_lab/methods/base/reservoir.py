"""A sample of the training data that fits into memory and does not depend on who saw what, when."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Shaped
from torch import Tensor

from anomaly_lab.core.distributed import of_all_processes

Rows = Shaped[Tensor, "row ..."]
FOLD = 3


class Part(NamedTuple):
    """Rows of one image that are still in the sample."""

    image: int
    draw: Float64[np.ndarray, " row"]
    place: Int[np.ndarray, " row"]  # of the row in its image
    rows: Rows


class Reservoir:
    """At most `capacity` of the rows it was shown, a uniform sample of them.

    Every row has a number in [0, 1) that follows from the seed, its image and its place in the image, and the rows with
    the smallest numbers stay (bottom-k sampling). So the sample is the same whatever the order of the images, their
    batches and the number of processes, and samples of several processes merge into the sample of the whole. At most
    three times the capacity lies in memory (`FOLD`): rows are thrown out once there are twice as many, into new memory.
    Where several processes bring their samples together, each holds as many of them for a moment.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self.capacity = capacity
        self.seed = seed
        self._kept: list[Part] = []
        self._count = 0

    def add(self, image: int, rows: Rows) -> None:
        """Show the rows of a training image, given by its number, all at once."""
        draw = np.random.default_rng([self.seed, image]).random(len(rows))
        self._kept.append(Part(image, draw, np.arange(len(rows)), rows.detach().cpu()))
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
        self._kept.sort(key=lambda part: part.image, reverse=True)
        first = self._kept[-1].rows
        rows, start = first.new_empty((sum(len(part.draw) for part in self._kept), *first.shape[1:])), 0
        while self._kept:  # given back one by one: the sample does not lie in memory twice
            part = self._kept.pop().rows
            rows[start : start + len(part)] = part
            start += len(part)
        self.clear()
        return rows

    def clear(self) -> None:
        """Give the memory back."""
        self._kept, self._count = [], 0

    def _thin_out(self) -> None:
        if not self._kept:
            return
        draw, place = (np.concatenate([getattr(part, name) for part in self._kept]) for name in ("draw", "place"))
        image = np.concatenate([np.full(len(part.draw), part.image) for part in self._kept])
        stays = np.zeros(len(draw), dtype=bool)
        stays[np.lexsort((place, image, draw))[: self.capacity]] = True
        ends = np.cumsum([len(part.draw) for part in self._kept])[:-1]
        parts = zip(self._kept, np.split(stays, ends), strict=True)
        self._kept = [
            part if keep.all() else Part(part.image, part.draw[keep], part.place[keep], part.rows[keep])
            for part, keep in parts
            if keep.any()
        ]
        self._count = int(stays.sum())
