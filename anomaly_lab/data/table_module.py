"""The data of a run on a table of numbers: a row is an image of one pixel with a channel for each column."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from pydantic import PositiveInt
from torch import Tensor

from anomaly_lab.core.console import printable, say
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Placement
from anomaly_lab.data.datamodule import DataModule
from anomaly_lab.data.images import Decoding
from anomaly_lab.data.names import as_typed
from anomaly_lab.data.number_table import LARGEST, Numbers, numbers
from anomaly_lab.data.samples import Sample
from anomaly_lab.data.store import Decoded

PIXEL = (0, 0, 1, 1)
SMALLEST = 1e-30  # deviation of a column, whose inverse must be a number of float32, as must the square of LARGEST
PLACEMENT = Placement((1, 1), PIXEL, PIXEL, None)
Values = Float[Tensor, "row column 1 1"]


@dataclass(frozen=True)
class Columns:
    """What is read of the rows of a table: the arguments of `number_table`, and how many columns there are."""

    label: str
    channels: PositiveInt
    leave_out: Sequence[str] = field(default_factory=tuple)
    image_size: PositiveInt = 1


class RowBatches:
    """Batches of rows in order; several processes take turns batch by batch."""

    def __init__(self, samples: list[Sample], values: Values, batch_size: int, rank: int, world_size: int) -> None:
        self.samples, self.values = samples, values
        self._batches = torch.arange(len(samples)).split(batch_size)[rank::world_size]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for index in self._batches:
            label = torch.tensor([self.samples[row].label for row in index.tolist()])
            unmarked = (torch.zeros(1, 1, 1, dtype=torch.bool),) * len(index)
            yield Batch(self.values[index], unmarked, label, index, (PLACEMENT,) * len(index))


class TableModule(DataModule):
    """Rows without the mean of those that are learnt from, in float32; a method scales the columns itself.

    The mean is taken away in float64, so that a date in seconds keeps its digits. There are no patches, no augmentation
    and no masks. Everything else is as for photos.
    """

    noun = "rows"

    def __init__(self, decoding: Columns, **rest: Any) -> None:
        super().__init__(decoding=Decoding(image_size=1, channels=1), **rest)  # of photos, of which there are none
        self.read = decoding
        self._mean: Float64[np.ndarray, " column"] | None = None

    def setup(self, stage: str) -> None:
        """Look up the rows.

        Raises UserError for a single row to learn from, for a column that has one value, to the digits of float32, in
        all rows that are learnt from, and for a row so far from these that its square is no number of float32.
        """
        if stage != "fit" or self.store is not None:
            return
        for remark in self.remarks:
            say(f"data: {printable(remark)}")
        rows = self._rows(self.train_samples)
        if len(rows) == 1:
            raise UserError(
                f"{self.train_samples[0].path}: expected at least 2 good rows to learn from, beside those held out for "
                "the threshold, found 1; give the table more of them"
            )
        deviation = rows.std(axis=0)
        if (same := (rows == rows[0]).all(axis=0) | (deviation < SMALLEST)).any():
            place = int(same.argmax())
            column = self.columns[place]
            raise UserError(
                f"{self.train_samples[0].path}, column {column}: expected different values in the {len(rows)} rows "
                f"that are learnt from, found {rows[0, place]:g} in all; leave it out: "
                f"{as_typed([column], 'data.leave_out')}"
            )
        self._mean = rows.mean(axis=0)
        everyone = [*self.train_samples, *self.held_out_samples, *self.test_samples]
        far = abs(self._rows(everyone) - self._mean) > LARGEST * np.where(deviation > 0, deviation, 1)
        if far.any():
            number, place = np.argwhere(far)[0].tolist()
            found, column = self._rows(everyone)[number, place], self.columns[place]
            raise UserError(
                f"{everyone[number].path}, line {everyone[number].line}, column {column}: expected a number within "
                f"{LARGEST:g} standard deviations ({deviation[place]:.3g}) of those that are learnt from, found "
                f"{found:g}; change it, or remove the row"
            )
        values = self._values(self.train_samples)
        self.store = Decoded(values, self.train_samples, [PIXEL] * len(values), [(1, 1)] * len(values))

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns of numbers."""
        return self._table.columns

    def seen(self) -> dict[str, object]:
        """Nothing of single rows."""
        return {}

    def _images(self, samples: list[Sample], rank: int = 0, world_size: int = 1) -> RowBatches:
        return RowBatches(samples, self._values(samples), self._share(len(samples), world_size), rank, world_size)

    def _values(self, samples: list[Sample]) -> Values:
        assert self._mean is not None
        return torch.from_numpy((self._rows(samples) - self._mean).astype(np.float32))[..., None, None]

    def _rows(self, samples: list[Sample]) -> Float64[np.ndarray, "row column"]:
        table = self._table
        row = {line: number for number, line in enumerate(table.lines)}
        return np.frombuffer(table.values).reshape(len(table.lines), -1)[[row[sample.line] for sample in samples]]

    @property
    def _table(self) -> Numbers:
        return numbers(str(self.all_samples[0].path), self.read.label, tuple(self.read.leave_out))
