"""Wide residual networks: Zagoruyko and Komodakis, BMVC 2016."""

from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from anomaly_lab.networks.resnet import MeanFeatures, strided

Maps = Float[Tensor, "batch _ _ _"]


class WideResNet(MeanFeatures):
    """Images of any size to a vector of 64 `width` features: the mean of the last map.

    `depth` counts the convolutions of 3 x 3 and one linear layer behind them, which is not in here: six for each block
    in each of three groups, and four. Groups have 16, 32 and 64 times `width` channels; the second and the third halve
    the side. Batch norm and ReLU stand before every convolution but the first.
    """

    def __init__(self, depth: Literal[10, 16, 22, 28, 34, 40], width: PositiveInt, channels: Literal[1, 3]) -> None:
        widths = [16, 16 * width, 32 * width, 64 * width]
        groups = []
        for stride, (inputs, outputs) in zip((1, 2, 2), pairwise(widths), strict=True):
            groups += [Block(inputs, outputs, stride), *(Block(outputs, outputs, 1) for _ in range((depth - 10) // 6))]
        last = nn.BatchNorm2d(widths[-1]), nn.ReLU(inplace=True)
        super().__init__([nn.Conv2d(channels, 16, 3, padding=1, bias=False), *groups, *last], widths[-1])


class Block(nn.Module):
    """Two convolutions beside a shortcut; a shortcut that changes the shape is a convolution of the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.activated = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        )
        changes = inputs != outputs or stride != 1
        self.shortcut = nn.Sequential(*strided(inputs, outputs, stride)) if changes else None

    def forward(self, maps: Maps) -> Maps:
        """What the block makes of the maps."""
        activated = self.activated(maps)
        return self.branch(activated) + (maps if self.shortcut is None else self.shortcut(activated))
