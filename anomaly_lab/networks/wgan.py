"""What the residual networks of f-AnoGAN are made of: blocks, norms and weights of the improved Wasserstein GAN.

Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville: Improved Training of Wasserstein GANs, NeurIPS 2017; as in the code of
f-AnoGAN, which is based on that of this paper.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

Maps = Float[Tensor, "batch channel height width"]
Norm = Callable[[int], nn.Module]  # of so many channels


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions after norm and ReLU, added to a 1 x 1 convolution; doubles or halves the side.

    Upwards both branches repeat every pixel before their first convolution, downwards they average 2 x 2 pixels at
    their end.
    """

    def __init__(self, inputs: int, outputs: int, direction: Literal["up", "down"], norm: Norm) -> None:
        super().__init__()
        up = direction == "up"
        middle = outputs if up else inputs
        before = nn.Upsample(scale_factor=2, mode="nearest") if up else nn.Identity()
        after = nn.Identity() if up else nn.AvgPool2d(2)
        self.residual = nn.Sequential(
            norm(inputs), nn.ReLU(inplace=True), before,
            uniform(nn.Conv2d(inputs, middle, 3, padding=1, bias=False), 4),
            norm(middle), nn.ReLU(inplace=True), uniform(nn.Conv2d(middle, outputs, 3, padding=1), 4), after,
        )  # fmt: skip
        self.shortcut = nn.Sequential(before, after, uniform(nn.Conv2d(inputs, outputs, 1), 2))

    def forward(self, maps: Maps) -> Float[Tensor, "batch outputs _ _"]:
        """Add both branches."""
        return self.shortcut(maps) + self.residual(maps)


def trunk(image_size: int, channels: int, width: int, norm: Norm) -> nn.Sequential:
    """Images to a vector each: a block per halving of the side, down to 4 px."""
    return nn.Sequential(
        uniform(nn.Conv2d(channels, width, 3, padding=1), 2),
        *[ResidualBlock(inputs, outputs, "down", norm) for inputs, outputs in pairwise(widths(image_size, width))],
        nn.Flatten(),
    )


def widths(image_size: int, width: int) -> list[int]:
    """Channels at every side from the image down to 4 px: doubled from side to side, up to 8 times `width`."""
    halvings = (image_size // 4).bit_length() - 1
    return [min(2**halving, 8) * width for halving in range(halvings + 1)]


def batch_norm(channels: int) -> nn.Module:
    """With TensorFlow's constants, as in the authors' code."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def layer_norm(channels: int) -> nn.Module:
    """Over channels and pixels of an image, scaled by channel."""
    return nn.GroupNorm(1, channels, eps=1e-5)


def uniform(convolution: nn.Conv2d, gain: int) -> nn.Conv2d:
    """Uniform weights of variance gain / (inputs + outputs): 4 before a ReLU, else 2; no bias."""
    area = convolution.kernel_size[0] ** 2
    bound = (3 * gain / (area * (convolution.in_channels + convolution.out_channels))) ** 0.5
    nn.init.uniform_(convolution.weight, -bound, bound)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


def glorot(linear: nn.Linear) -> nn.Linear:
    """Uniform weights of variance 2 / (inputs + outputs), no bias."""
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
