"""Rows of a table under random projections, as GOAD has them (Bergman and Hoshen, ICLR 2020, section 4)."""

import torch
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from anomaly_lab.core.types import Images
from anomaly_lab.networks.standardise import Standardise

SLOPE = 0.2  # of the leaky ReLU at a negative number


class ProjectedRows(nn.Module):
    """Standardised rows (row, column, 1, 1) times `count` random matrices of `size` columns, to `features` each.

    The numbers of a matrix are normal with deviation 1 and follow from `seed`. One network answers for all projections:
    `hidden` layers of `features` units with leaky ReLU, then one more layer, all without bias: `netC5` of the authors'
    code, with its initial weights. Their `netC1` of small tables has no hidden layer. Then the features are linear in
    rows whose mean is zero, so that the means of all projections, by which GOAD scores, are zero too: not here.
    """

    matrices: Tensor

    def __init__(
        self,
        channels: PositiveInt,
        count: PositiveInt,
        size: PositiveInt,
        features: PositiveInt,
        hidden: PositiveInt = 4,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        self.count, self.features = count, features
        self.standardise = Standardise(channels)
        random = torch.Generator().manual_seed(seed)
        self.register_buffer("matrices", torch.randn(count, channels, size, generator=random))
        layers: list[nn.Module] = [layer_of(size, features, bias=False)]
        for _ in range(hidden):
            layers += [nn.LeakyReLU(SLOPE), layer_of(features, features, bias=False)]
        self.network = nn.Sequential(*layers)

    def head(self) -> nn.Module:
        """What guesses the projection from the features."""
        return nn.Sequential(nn.LeakyReLU(SLOPE), layer_of(self.features, self.count))

    def forward(self, rows: Images) -> Float[Tensor, "projection row feature"]:
        """The features of every row under every projection."""
        return self.network(self.standardise(rows) @ self.matrices)


def layer_of(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A layer with the initial weights of the authors."""
    layer = nn.Linear(inputs, outputs, bias)
    nn.init.xavier_normal_(layer.weight, gain=2**0.5)
    return layer
