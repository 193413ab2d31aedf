"""Statistics of training images: state, merge over processes and checkpoint, declared once.

Each gives the same bits whatever the order of the images, their batches and the number of processes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from anomaly_lab.core.console import say, tracked
from anomaly_lab.core.distributed import is_first_process, of_all_processes, sum_of_all_processes
from anomaly_lab.core.errors import UserError
from anomaly_lab.functional.farthest_points import farthest_points
from anomaly_lab.functional.nearest_rows import PreparedRows, nearest_rows
from anomaly_lab.functional.principal_directions import DIRECTIONS
from anomaly_lab.methods.base.reservoir import FOLD, Reservoir

STEPS = 2**18  # from 0 to the largest value
EXACT = 2**17  # products of two numbers of steps, of which the sum is exact in float64
WAITING = 2**24  # values that wait to be added at once: 64 MiB
PART = 2**19  # numbers that are computed at once: 4 MiB, which stay in the cache of a processor
MOST = 2**26  # rows of which sums of products fit into 64 bits
NOTED = 36 + 4 * DIRECTIONS  # bytes of a row: its draw and its place, and what the selection keeps of it
NOT_FINITE = "method.backbone: expected finite features, found NaN or infinity; are its weights whole?"


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
    a bit. `places` says how many rows an image has; None: any number of them, which count alike. Rows are kept as they
    are while they take less memory than sums of their products.
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
        steps = (rows.float().contiguous() / self.step).round_()
        self._waiting.append(steps[:, None] if self.places else steps[None])
        if sum(part.numel() for part in self._waiting) >= (self._kept() if self._sum is None else WAITING):
            self._add()

    def _kept(self) -> int:
        """Numbers that wait, at most, until sums of their products need no more memory: these have 64 bits."""
        return WAITING + 2 * (self.places or 1) * self.features**2

    def _add(self) -> None:
        """Replace the rows that wait by their sums."""
        places, device = self.places or 1, self._waiting[0].device
        if self._sum is None or self._products is None:
            self._sum = torch.zeros(places, self.features, dtype=torch.int64, device=device)
            self._products = torch.zeros(places, self.features, self.features, dtype=torch.int64, device=device)
        for here in self._parts():
            total, products = self._sums(here)
            self._sum[here] += total.long()
            self._products[here] += products.long()
        self._count += sum(part.shape[1] for part in self._waiting)
        self._waiting = []

    def _parts(self) -> list[slice]:
        """Places that are computed at once."""
        places, size = self.places or 1, max(1, PART // self.features**2)
        return [slice(start, min(start + size, places)) for start in range(0, places, size)]

    def _sums(self, here: slice) -> tuple[Tensor, Tensor]:
        """Of the rows that wait, in float64 where it is exact: integers below 2^53, added in any order."""
        parts = [part[here] for part in self._waiting]
        size = len(parts[0]), sum(part.shape[1] for part in parts), self.features
        rows = torch.cat(parts, dim=1, out=torch.empty(size, dtype=torch.float64, device=parts[0].device))
        exact = torch.float64 if size[1] <= EXACT else torch.int64
        blocks = rows.split(min(EXACT, max(1, 4 * PART // (len(rows) * self.features))), dim=1)
        total, products = (each.to(exact) for each in (blocks[0].sum(dim=1), torch.bmm(blocks[0].mT, blocks[0])))
        for block in blocks[1:]:
            total += block.sum(dim=1).to(exact)
            products += torch.bmm(block.mT, block).to(exact)
        return total, products

    def moments(self) -> tuple[Float64[Tensor, "place feature"], Float64[Tensor, "place feature feature"]]:
        """Mean and covariance of what all processes saw; collective. Forgets and raises as `moments_by_part` does."""
        _, mean, covariance = zip(*self.moments_by_part(), strict=True)
        return torch.cat(mean), torch.cat(covariance)

    def moments_by_part(
        self,
    ) -> Iterator[tuple[slice, Float64[Tensor, "place feature"], Float64[Tensor, "place feature feature"]]]:
        """Numbers, mean and covariance of some places at a time, of what all processes saw; then it is forgotten.

        Collective. The covariance of a single row is zero. Raises ValueError where no row was seen, for too many to be
        added exactly, and for a value that is too large; UserError for one that is not finite.
        """
        count = sum(of_all_processes([self._count + sum(part.shape[1] for part in self._waiting)]))
        largest = of_all_processes([0.0 if self._most is None else self._most.item()])
        if not all(map(math.isfinite, largest)):
            raise UserError(NOT_FINITE)
        if wrong := [value for value in largest if value >= self.step * STEPS]:
            raise ValueError(f"expected features below {self.step * STEPS:g} in size, found {wrong[0]:g}")
        if not 1 <= count <= MOST:
            raise ValueError(f"expected 1 to {MOST} rows, found {count}")
        device = torch.device("cpu") if self.mean.device.type == "mps" else self.mean.device
        for here in self._parts():
            if self._waiting:
                total, products = self._sums(here)
            else:
                size = here.stop - here.start, self.features
                total = torch.zeros(size, dtype=torch.int64, device=device)
                products = torch.zeros(*size, self.features, dtype=torch.int64, device=device)
            if self._sum is not None and self._products is not None:
                total, products = total.long() + self._sum[here], products.long() + self._products[here]
            exact = torch.float64 if count <= EXACT else torch.int64  # the same in all processes
            sums = sum_of_all_processes(total.to(exact)).double()
            covariance = sum_of_all_processes(products.to(exact)).double()
            covariance.baddbmm_(sums[:, :, None], sums[:, None, :], alpha=-1 / count)
            yield here, sums * (self.step / count), covariance.mul_(self.step**2 / max(1, count - 1))
        self.clear()

    def fit(self) -> None:
        """Fill the buffers with the moments, in float32. Raises ValueError as `moments_by_part` does."""
        places = self.places or 1
        self.mean = self.mean.new_zeros(places, self.features)
        self.covariance = self.covariance.new_zeros(places, self.features, self.features)
        for here, mean, covariance in self.moments_by_part():
            self.mean[here], self.covariance[here] = mean, covariance

    def memory(self, images: int) -> int:
        """Rows that wait, or sums of products beside them; the covariance; what is computed at once."""
        numbers = (self.places or 1) * self.features**2
        waiting = min(images * (self.places or WAITING) * self.features, self._kept())
        sums = 8 * numbers * (waiting == self._kept())
        return 4 * waiting + sums + 4 * numbers + 8 * waiting // len(self._parts()) + 8 * 8 * PART


class MemoryBank(Statistic):
    """Rows of the training images, at most `capacity` of them: a uniform sample that follows from `seed`.

    Of these a `ratio` is kept that covers the others: the greedy coreset (`farthest_points`), which begins with a row
    drawn by the seed. `rows` of one image, if it is given, makes the estimate of the memory better.
    """

    bank: Tensor  # (entry, feature), in the order of the images or of the selection; before the fit a row of zeros

    def __init__(
        self,
        features: PositiveInt,
        capacity: PositiveInt,
        seed: int = 0,
        rows: int | None = None,
        ratio: Annotated[float, Field(gt=0, le=1)] = 1.0,
    ) -> None:
        super().__init__()
        self.register_buffer("bank", torch.zeros(1, features))
        self.rows = rows
        self.ratio = ratio
        self._sample = Reservoir(capacity, seed)
        self._prepared: PreparedRows | None = None  # of the bank, for the search

    def update(self, rows: Float[Tensor, "row feature"], image: int) -> None:
        """Show the rows of an image to the sample."""
        self._sample.add(image, rows)

    def sample(self) -> Float[Tensor, "entry feature"]:
        """The sample of what all processes saw, on the host, in the order of the images; collective.

        Afterwards it is forgotten. Raises RuntimeError where no row was seen, UserError for rows that are not finite.
        """
        rows = self._sample.rows()
        low, high = rows.aminmax(dim=0)
        if not (low.isfinite() & high.isfinite()).all():
            raise UserError(NOT_FINITE)
        if len(rows) > 1 and torch.equal(low, high) and is_first_process():
            say(f"remark: all {len(rows):,} feature vectors of the training images are the same; are the photos?")
        return rows

    def fit(self) -> None:
        """Keep the sample, or the coreset of it. Raises as `sample` does."""
        rows = self.sample()
        if self.ratio < 1:
            rows = rows[self._coreset(rows)]
        self.bank = rows.to(self.bank)

    def _coreset(self, rows: Tensor) -> Tensor:
        """The numbers of the rows that are kept; the first process selects for all."""
        chosen: list[Tensor] = []
        if is_first_process():
            count = max(1, int(self.ratio * len(rows)))
            first = int(np.random.default_rng(self._sample.seed).integers(len(rows)))
            picks, _ = farthest_points(
                rows.numpy(), count, first, lambda parts: tracked((part for part in parts), "coreset", len(parts))
            )
            chosen = [torch.from_numpy(picks)]
        return of_all_processes(chosen)[0]

    def memory(self, images: int) -> int:
        """The sample, several times while it is thinned out, and what is noted of each row."""
        capacity = self._sample.capacity
        kept = capacity if self.rows is None else min(images * self.rows, capacity)
        return kept * (self.row_memory if kept == capacity else 4 * self.bank.shape[1] + NOTED)

    @property
    def row_memory(self) -> int:
        """The bytes of a row, at most."""
        return 4 * self.bank.shape[1] * FOLD + NOTED

    def left_out(self, images: int) -> str:
        """A line for people where so many images have more rows than the sample; else empty."""
        rows, capacity = images * (self.rows or 0), self._sample.capacity
        key = "method.max_images" if self.rows == 1 else "method.max_vectors"
        before = " before the selection" if self.ratio < 1 else ""
        sampled = f"of {rows:,} feature vectors a uniform sample of {capacity:,} is kept{before} ({key}={capacity})"
        return sampled if rows > capacity else ""

    def nearest(
        self, queries: Float[Tensor, "query feature"], neighbours: int = 1
    ) -> tuple[Float[Tensor, "query neighbour"], Int[Tensor, "query neighbour"]]:
        """The nearest entries (`nearest_rows`); of single ones, on a processor, by a search that is prepared once."""
        exporting, host = torch.compiler.is_exporting(), queries.device.type == self.bank.device.type == "cpu"
        if neighbours > 1 or exporting or not host or {queries.dtype, self.bank.dtype} != {torch.float32}:
            return nearest_rows(queries, self.bank, neighbours)
        if self._prepared is None or self._prepared.entries is not self.bank:
            self._prepared = PreparedRows(self.bank)
        distances, numbers = self._prepared.nearest(queries)
        return distances[:, None], numbers[:, None]

    def _load_from_state_dict(self, *rest: Any) -> None:
        self._prepared = None
        super()._load_from_state_dict(*rest)
