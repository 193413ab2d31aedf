"""The networks of a scale of SinGAN (Shaham, Dekel, Michaeli, ICCV 2019): five convolutions over patches of 11 px."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

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
