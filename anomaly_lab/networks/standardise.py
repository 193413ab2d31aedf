"""Columns of a table on one scale."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from anomaly_lab.core.types import Images
from anomaly_lab.functional.moments import Moments

Rows = Float[Tensor, "row column"]


class Standardise(nn.Module):
    """Rows (row, column, 1, 1) to vectors whose columns have mean 0 and deviation 1 over the training rows."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: PositiveInt) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def learn(self, rows: Iterable[Tensor]) -> None:
        """Find both from batches (row, column, 1, 1) of training rows."""
        moments = Moments()
        for batch in rows:
            moments.add(batch)
        if moments.count:
            self.mean.copy_(moments.mean)
            self.deviation.copy_(moments.deviation)

    def forward(self, rows: Images) -> Rows:
        """The vectors, in float32."""
        return (rows.float().flatten(1) - self.mean) / self.deviation
