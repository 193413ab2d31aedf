"""The scales of SinGAN (Shaham, Dekel, Michaeli, ICCV 2019) and their networks: five convolutions, patches of 11 px."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.errors import UserError

Images = Float[Tensor, "batch channel height width"]
BORDER = 5  # px, that the convolutions take from each side


def patch_layers(inputs: int, outputs: int, width: int) -> nn.Sequential:
    """Five 3 x 3 convolutions without padding, between them batch norm and leaky ReLU."""
    layers: list[nn.Module] = []
    for before in (inputs, width, width, width):
        layers += [nn.Conv2d(before, width, 3), nn.BatchNorm2d(width), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(width, outputs, 3))


class Generator(nn.Module):
    """Adds to an image what its scale has to add."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layers = patch_layers(channels, channels, width)

    def forward(self, images: Images, noisy: Images) -> Images:
        """From the images without and with noise; changes a value by less than 1. Beyond the border the noise is 0."""
        return images + torch.tanh(self.layers(functional.pad(noisy, [BORDER] * 4)))


def sides_of(image_size: int, coarsest: int, scales: int) -> list[int]:
    """From the coarsest scale to the side of the images, each by the same factor, in whole pixels.

    Raises UserError for images smaller than the coarsest scale, and for more scales than there are sides.
    """
    if image_size < coarsest:
        raise UserError(
            f"data.patch_size: expected at least {coarsest} px, the coarsest scale (method.coarsest), found "
            f"{image_size} px"
        )
    steps = max(scales - 1, 1)
    sides = [round(image_size * (coarsest / image_size) ** (step / steps)) for step in range(scales)][::-1]
    if len(set(sides)) < scales:
        raise UserError(
            f"method.scales: expected fewer, so that all sides from {coarsest} px (method.coarsest) to {image_size} px "
            f"differ, found {scales}"
        )
    return sides


def resized(images: Images, side: int) -> Float[Tensor, "batch channel side side"]:
    """Bicubic, and smoothed where it becomes smaller."""
    return functional.interpolate(images, (side, side), mode="bicubic", antialias=True)
