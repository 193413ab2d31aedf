"""The generator of pix2pix, a U-Net down to one pixel: Isola, Zhu, Zhou, Efros, CVPR 2017."""

from typing import Literal

import torch
from torch import nn
from torch.nn.functional import leaky_relu, relu

from anomaly_lab.core.types import Images
from anomaly_lab.networks.dcgan import ImageSize


class UNet(nn.Module):
    """Images in [-1, 1] to reconstructions in (-1, 1): down to one pixel and up again, joined at every level.

    The generator without dropout: log2(image_size) levels, the channels double up to 8 * width. (In the code
    of pix2pix a skip carries what has passed the LeakyReLU, which works in place: the same, a ReLU follows.)
    """

    def __init__(self, image_size: ImageSize, channels: Literal[1, 3], width: int) -> None:
        super().__init__()
        levels = image_size.bit_length() - 1
        widths = [width * min(2**level, 8) for level in range(levels)]
        self.down = nn.ModuleList([nn.Conv2d(channels, widths[0], 4, 2, 1, bias=False)])
        for level in range(1, levels):
            convolution = nn.Conv2d(widths[level - 1], widths[level], 4, 2, 1, bias=False)
            innermost = level == levels - 1
            self.down.append(convolution if innermost else nn.Sequential(convolution, nn.BatchNorm2d(widths[level])))
        self.up = nn.ModuleList()  # from the innermost to the outermost
        for level in reversed(range(1, levels)):
            joined = widths[level] * (1 if level == levels - 1 else 2)
            self.up.append(
                nn.Sequential(
                    nn.ConvTranspose2d(joined, widths[level - 1], 4, 2, 1, bias=False),
                    nn.BatchNorm2d(widths[level - 1]),
                )
            )
        self.output = nn.ConvTranspose2d(2 * widths[0], channels, 4, 2, 1)
        assert self.output.bias is not None
        nn.init.zeros_(self.output.bias)  # as the authors' initialisation of every convolution

    def forward(self, images: Images) -> Images:
        """The reconstructions."""
        inner = self.down[0](images)
        skips = []
        for down in self.down[1:]:
            skips.append(leaky_relu(inner, 0.2))
            inner = down(skips[-1])
        for up, skip in zip(self.up, reversed(skips), strict=True):
            inner = torch.cat([skip, up(relu(inner))], dim=1)
        return self.output(relu(inner)).tanh()
