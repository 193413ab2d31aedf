"""Mean and deviation of the channels of many maps, without keeping them."""

import torch
from jaxtyping import Float
from torch import Tensor


class Moments:
    """Running sums over batches of maps, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self._total, self._squares = torch.zeros(()), torch.zeros(())

    def add(self, maps: Float[Tensor, "batch channel _ _"]) -> None:
        """See some more maps."""
        values = maps.double()
        self.count += values[:, 0].numel()
        self._total = self._total + values.sum(dim=(0, 2, 3))
        self._squares = self._squares + values.square().sum(dim=(0, 2, 3))

    @property
    def mean(self) -> Float[Tensor, " channel"]:
        """The mean of each channel over all places of all maps."""
        return self._total / self.count

    @property
    def deviation(self) -> Float[Tensor, " channel"]:
        """The standard deviation of each channel; 1 where all values are the same, because people divide by it."""
        variance = self._squares / self.count - self.mean.square()
        same = variance <= 1e-12 * self._squares / self.count  # rounding of the sums
        return torch.where(same, 1, variance.clamp_min(0).sqrt())
