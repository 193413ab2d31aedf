"""Statistics of training images: state, merge over processes and checkpoint, declared once.

Each gives the same bits whatever the order of the images, their batches and the number of processes.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anomaly_lab.core.distributed import sum_of_all_processes
from anomaly_lab.methods.base.reservoir import FOLD, Reservoir

GRID = 2**12  # steps per unit to which rows are rounded before they are added
LARGEST = 64.0  # rows on the grid below this size: sums of MOST rows and of their products are exact in float64
MOST = 2**17
BLOCK = 2**24  # distances that a search computes at once: 64 MiB
SPARE = 4  # candidates more than neighbours, because a fast distance can confuse near ties


class Statistic(nn.Module, ABC):
    """What training images leave behind. Buffers hold the fitted state; their size may follow from the data."""

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
    """Mean and sample covariance at each of `places` places, of one row of `features` numbers per place and image.

    Rows are rounded to multiples of 2^-12. Rows below 64 in size and their products are then added without any
    rounding in float64, up to 2^17 images, so neither order nor grouping changes a bit.
    """

    mean: Tensor  # float64 (place, feature)
    covariance: Tensor  # float64 (place, feature, feature), divided by images - 1

    def __init__(self, places: int, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(places, features, dtype=torch.float64))
        self.register_buffer("covariance", torch.zeros(places, features, features, dtype=torch.float64))
        self._count = 0
        self._sum: Tensor | None = None
        self._products: Tensor | None = None

    def update(self, rows: Float[Tensor, "row feature"], image: int) -> None:
        """Add a row per place. Raises ValueError for a number that is not below 64 in size."""
        exact = (rows.double() * GRID).round() / GRID
        if not bool((exact.abs() < LARGEST).all()):
            raise ValueError(f"expected features below {LARGEST:g} in size, found {exact.abs().max().item():g}")
        products = exact[:, :, None] * exact[:, None, :]
        self._sum = exact if self._sum is None else self._sum.add_(exact)
        self._products = products if self._products is None else self._products.add_(products)
        self._count += 1

    def fit(self) -> None:
        """Mean and covariance over the images of all processes. Raises ValueError for fewer than two, or over 2^17."""
        total = torch.zeros_like(self.mean) if self._sum is None else self._sum.to(self.mean)
        products = torch.zeros_like(self.covariance) if self._products is None else self._products.to(self.covariance)
        count = int(sum_of_all_processes(torch.tensor(self._count)))
        if not 2 <= count <= MOST:
            raise ValueError(f"expected 2 to {MOST} training images, found {count}")
        total, products = sum_of_all_processes(total), sum_of_all_processes(products)
        self.mean.copy_(total / count)
        outer = total[:, :, None] * (total[:, None, :] / count)
        self.covariance.copy_((products - outer) / (count - 1))
        self._sum, self._products, self._count = None, None, 0

    def memory(self, images: int) -> int:
        """Sums, products, the state and a product that is being added."""
        return 8 * (2 * self.mean.numel() + 3 * self.covariance.numel())


class MemoryBank(Statistic):
    """Rows of the training images, at most `capacity` of them: a uniform sample that follows from `seed`."""

    bank: Tensor  # (entry, feature), in the order of the images

    def __init__(self, features: int, capacity: int, seed: int = 0) -> None:
        super().__init__()
        self.register_buffer("bank", torch.zeros(0, features))
        self._sample = Reservoir(capacity, seed)

    def update(self, rows: Float[Tensor, "row feature"], image: int) -> None:
        """Show the rows of an image to the sample."""
        self._sample.add(image, rows)

    def fit(self) -> None:
        """Keep the sample of what all processes saw. Raises RuntimeError where no row was seen."""
        self.bank = self._sample.rows().to(self.bank)
        self._sample.clear()

    def memory(self, images: int) -> int:
        """The sample while it is thinned out."""
        return FOLD * self._sample.capacity * self.bank.shape[1] * 4

    def nearest(
        self, queries: Float[Tensor, "query feature"], neighbours: int = 1
    ) -> tuple[Float[Tensor, "query neighbour"], Int[Tensor, "query neighbour"]]:
        """Euclidean distances to the nearest entries, ascending, and the numbers of these entries.

        Blocks of products find a few candidates, whose distances are then computed again from their differences; the
        memory does not grow with queries times entries. Raises ValueError for more neighbours than entries.
        """
        if neighbours > len(self.bank):
            raise ValueError(f"expected at most {len(self.bank)} neighbours, the size of the bank, found {neighbours}")
        count = min(neighbours + SPARE, len(self.bank))
        size = max(1, BLOCK // max(1, min(len(self.bank), 2**14)))
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
        numbers = numbers.sort(dim=1).values  # ties go to the first entry
        exact = (queries[:, None] - self.bank[numbers]).norm(dim=2)
        order = exact.sort(dim=1, stable=True)
        return order.values[:, :neighbours], numbers.gather(1, order.indices[:, :neighbours])
