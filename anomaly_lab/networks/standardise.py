"""Columns of a table on one scale."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from anomaly_lab.core.types import Images

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
        seen = [batch.flatten(1).double().cpu() for batch in rows]
        if seen:
            deviation, mean = torch.std_mean(torch.cat(seen), dim=0, correction=0)
            self.mean.copy_(mean)
            self.deviation.copy_(torch.where(deviation > 0, deviation, 1))

    def forward(self, rows: Images) -> Rows:
        """The vectors, in float32."""
        return (rows.float().flatten(1) - self.mean) / self.deviation
