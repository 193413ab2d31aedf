"""Statistics of training images: state, merge over processes and checkpoint, declared once.

Each gives the same bits whatever the order of the images, their batches and the number of processes.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from pydantic import PositiveInt
from torch import Tensor, nn

from anomaly_lab.core.distributed import of_all_processes, sum_of_all_processes
from anomaly_lab.methods.base.reservoir import FOLD, Reservoir

STEPS = 2**18  # from 0 to the largest value
EXACT = 2**17  # products of two numbers of steps, of which the sum is exact in float64
WAITING = 2**24  # values that wait to be added at once: 64 MiB
PART = 2**22  # numbers of those that are added at once: 32 MiB
MOST = 2**26  # rows of which sums of products fit into 64 bits
BLOCK = 2**24  # numbers that a search holds at once: 64 MiB
SPARE = 4  # candidates more than neighbours, because a fast distance can confuse near ties


class Statistic(nn.Module, ABC):
    """What training images leave behind.

    Buffers hold the fitted state, and their size may follow from the data: a checkpoint brings its own.
    """

    @abstractmethod
    def update(self, rows: Float[Tensor, "row feature"], image: int) -> None:
        """See the rows of a training image, all at once; `image` is its number."""

    @abstractmethod
    def fit(self) -> None:
        """Bring together what all processes saw and fill the buffers; collective."""

    @abstractmethod
    def memory(self, images: int) -> int:
        """The bytes, at most, that are kept of so many images until `fit` is done."""

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        resize_buffers(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def resize_buffers(module: nn.Module, state: dict[str, Tensor], prefix: str) -> None:
    """Give every buffer of a module the size that a checkpoint has for it."""
    for name, buffer in module.named_buffers(recurse=False):
        if (saved := state.get(prefix + name)) is not None and saved.shape != buffer.shape:
            setattr(module, name, torch.empty_like(saved, device=buffer.device))


class RunningGaussian(Statistic):
    """Mean and sample covariance of features: at each of several places, of one row per image, or pooled over all rows.

    Values are rounded to multiples of `largest` / 2^18, and their sums are integers: neither order nor grouping changes
    a bit. `places` says how many rows an image has; None: any number of them, which count alike.
    """

    mean: Tensor  # (place, feature); of one place if pooled
    covariance: Tensor  # (place, feature, feature), divided by the number of rows - 1

    def __init__(self, features: PositiveInt, places: PositiveInt | None = None, largest: float = 64.0) -> None:
        super().__init__()
        self.places = places
        self.features = features
        self.step = largest / STEPS
        self.register_buffer("mean", torch.zeros(0, features))
        self.register_buffer("covariance", torch.zeros(0, features, features))
        self.clear()

    def clear(self) -> None:
        """Forget what was seen."""
        self._waiting: list[Tensor] = []  # (place, row, feature), in steps
        self._count = 0  # of rows at a place
        self._sum: Tensor | None = None  # int64, in steps
        self._products: Tensor | None = None  # int64, in steps squared
        self._most: Tensor | None = None  # the largest value, which is looked at in the end only

    def update(self, rows: Float[Tensor, "row feature"], image: int) -> None:
        """Add the rows of an image. Raises ValueError where it has not one for every place."""
        if self.places is not None and len(rows) != self.places:
            raise ValueError(f"expected a row for each of {self.places} places, found {len(rows)} rows")
        if not len(rows):
            return
        rows = rows.detach()
        rows = rows.cpu() if rows.device.type == "mps" else rows  # Apple's has no float64
        most = rows.abs().amax()
        self._most = most if self._most is None else torch.maximum(self._most, most)
        steps = (rows.float() / self.step).round()
        self._waiting.append(steps[:, None] if self.places else steps[None])
        if sum(part.numel() for part in self._waiting) >= WAITING:
            self._add()

    def _add(self) -> None:
        """Add the rows that wait: products of so many are exact in float64, sums of these are integers."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        rows = torch.cat(waiting, dim=1)
        self._count += rows.shape[1]
        if self._sum is None or self._products is None:
            places = len(rows)
            self._sum = rows.new_zeros((places, self.features), dtype=torch.int64)
            self._products = rows.new_zeros((places, self.features, self.features), dtype=torch.int64)
        places = min(len(rows), max(1, PART // self.features**2))
        count = min(EXACT, max(1, PART // (places * self.features)))
        for start in range(0, len(rows), places):
            here = slice(start, start + places)
            for part in rows[here].split(count, dim=1):
                exact = part.double()
                self._sum[here] += exact.sum(dim=1).long()
                self._products[here] += torch.bmm(exact.mT, exact).long()

    def moments(self) -> tuple[Float64[Tensor, "place feature"], Float64[Tensor, "place feature feature"]]:
        """Mean and covariance of what all processes saw; collective, and afterwards it is forgotten.

        Raises ValueError for fewer than two rows, for too many to be added exactly, or for a value that is too large.
        """
        self._add()
        places, device = self.places or 1, self.mean.device
        device = torch.device("cpu") if device.type == "mps" else device
        nothing = torch.zeros(places, self.features, self.features, dtype=torch.int64)
        total = sum_of_all_processes((nothing[:, 0] if self._sum is None else self._sum).to(device))
        products = sum_of_all_processes((nothing if self._products is None else self._products).to(device))
        count = sum(of_all_processes([self._count]))
        largest = of_all_processes([0.0 if self._most is None else self._most.item()])
        self.clear()
        if wrong := [value for value in largest if not value < self.step * STEPS]:
            raise ValueError(f"expected features below {self.step * STEPS:g} in size, found {wrong[0]:g}")
        if not 2 <= count <= MOST:
            raise ValueError(f"expected 2 to {MOST} rows, found {count}")
        sums = total.double()
        covariance = products.double().baddbmm_(sums[:, :, None], sums[:, None, :], alpha=-1 / count)
        return sums * (self.step / count), covariance.mul_(self.step**2 / (count - 1))

    def fit(self) -> None:
        """Fill the buffers with the moments, in float32. Raises ValueError as `moments` does."""
        mean, covariance = self.moments()
        self.mean, self.covariance = mean.to(self.mean), covariance.to(self.covariance)

    def memory(self, images: int) -> int:
        """Rows that wait; sums of products here and over all processes; the covariance twice."""
        numbers = (self.places or 1) * self.features**2
        waiting = images * self.places * self.features if self.places else WAITING
        return 4 * min(waiting, WAITING) + (3 * 8 + 4) * numbers


class MemoryBank(Statistic):
    """Rows of the training images, at most `capacity` of them: a uniform sample that follows from `seed`.

    `rows` of one image, if it is given, makes the estimate of the memory better.
    """

    bank: Tensor  # (entry, feature), in the order of the images

    def __init__(self, features: PositiveInt, capacity: PositiveInt, seed: int = 0, rows: int | None = None) -> None:
        super().__init__()
        self.register_buffer("bank", torch.zeros(0, features))
        self.rows = rows
        self._sample = Reservoir(capacity, seed)

    def update(self, rows: Float[Tensor, "row feature"], image: int) -> None:
        """Show the rows of an image to the sample."""
        self._sample.add(image, rows)

    def sample(self) -> Float[Tensor, "entry feature"]:
        """The sample of what all processes saw, on the host, in the order of the images; collective.

        Afterwards it is forgotten. Raises RuntimeError where no row was seen.
        """
        rows = self._sample.rows()
        self._sample.clear()
        return rows

    def fit(self) -> None:
        """Keep the sample. Raises RuntimeError where no row was seen."""
        self.bank = self.sample().to(self.bank)

    def memory(self, images: int) -> int:
        """The sample while it is thinned out."""
        kept = self._sample.capacity if self.rows is None else min(images * self.rows, self._sample.capacity)
        return FOLD * kept * self.bank.shape[1] * 4

    def nearest(
        self, queries: Float[Tensor, "query feature"], neighbours: int = 1
    ) -> tuple[Float[Tensor, "query neighbour"], Int[Tensor, "query neighbour"]]:
        """Euclidean distances to the nearest entries, ascending, and the numbers of these entries.

        Blocks of products find a few candidates, whose distances are then computed again from their differences: the
        memory does not grow with queries times entries, and an entry is at a distance of exactly 0 from itself. Raises
        ValueError for more neighbours than entries.
        """
        if neighbours > len(self.bank):
            raise ValueError(f"expected at most {len(self.bank)} neighbours, the size of the bank, found {neighbours}")
        count = min(neighbours + SPARE, len(self.bank))
        size = max(1, BLOCK // max(2**14, count * self.bank.shape[1]))
        answers = [self._nearest(chunk, neighbours, count) for chunk in queries.split(size)]
        distances, entries = zip(*answers, strict=True)
        return torch.cat(distances), torch.cat(entries)

    def _nearest(self, queries: Tensor, neighbours: int, count: int) -> tuple[Tensor, Tensor]:
        values = queries.new_empty((len(queries), 0))
        numbers = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
        for start, block in zip(range(0, len(self.bank), 2**14), self.bank.split(2**14), strict=True):
            # Without the square of the query, which is the same for all entries.
            squares = torch.addmm(block.square().sum(dim=1), queries, block.T, alpha=-2)
            least = squares.topk(min(count, len(block)), largest=False)
            values = torch.cat([values, least.values], dim=1)
            numbers = torch.cat([numbers, least.indices + start], dim=1)
            if values.shape[1] > count:
                kept = values.topk(count, largest=False)
                values, numbers = kept.values, numbers.gather(1, kept.indices)
        numbers = numbers.sort(dim=1).values
        exact = (queries[:, None] - self.bank[numbers]).norm(dim=2)
        order = exact.sort(dim=1, stable=True)
        return order.values[:, :neighbours], numbers.gather(1, order.indices[:, :neighbours])
