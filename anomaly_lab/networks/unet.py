"""DRAEM's two networks: one rebuilds an image without defects, the other finds what was rebuilt (section 3.1, 3.2)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.networks.sspcab import SSPCAB

Maps = Float[Tensor, "batch _ height width"]
Sum = Float[Tensor, ""]


class UNet(nn.Module):
    """Pairs of convolutions down to a coarse map and up again.

    An encoder of as many stages as `widths`, each with half the places of the one before, and a decoder whose stages
    give the channels `decoded`. With `skips` each stage of the decoder also sees the map of the encoder of its size:
    the segmentation network; without, all must pass through the coarsest map: the reconstructive one.

    Args:
        seen: Channels of the images.
        given: Channels of the answer, which has no activation.
        widths: Channels of the encoder's stages.
        decoded: Channels of the decoder's stages, one fewer.
        skips: Whether the decoder sees the encoder's maps.
        block: `sspcab`: the second convolution of the last stage is an SSPCAB (Ristea et al., CVPR 2022).

    """

    def __init__(
        self, seen: int, given: int, widths: list[int], decoded: list[int], skips: bool, block: str = "none"
    ) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(double(a, b, b) for a, b in zip([seen, *widths], widths, strict=False))
        self.enlarged, self.decoder = nn.ModuleList(), nn.ModuleList()
        before = widths[-1]
        for width, beside in zip(decoded, widths[-2::-1], strict=True):
            seen, middle = (width + beside, width) if skips else (before, before)
            self.enlarged.append(convolution(before, middle))
            self.decoder.append(double(seen, middle, width))
            before = width
        self.skips = skips
        self.attention = None
        if block == "sspcab":
            self.attention = SSPCAB(before)
            self.decoder[-1] = convolution(seen, before)
        self.output = nn.Conv2d(before, given, 3, padding=1)
        self.apply(drawn)

    def forward(self, images: Float[Tensor, "batch _ height width"]) -> tuple[Maps, Sum]:
        """The answer at every pixel, and the loss of the SSPCAB, 0 without."""
        maps: list[Tensor] = []
        for number, layers in enumerate(self.encoder):
            maps.append(layers(functional.max_pool2d(maps[-1], 2) if number else images))
        values, loss = maps[-1], images.new_zeros(())
        for enlarged, layers, beside in zip(self.enlarged, self.decoder, maps[-2::-1], strict=True):
            # The grid of the encoder's map, which is twice as fine where the sides are even.
            values = functional.interpolate(values, beside.shape[2:], mode="bilinear", align_corners=True)
            values = enlarged(values)
            values = layers(torch.cat([values, beside], dim=1) if self.skips else values)
        if self.attention is not None:
            values, loss = self.attention(values)
        return self.output(values), loss


def reconstructive(channels: int, width: int, block: str = "none") -> UNet:
    """DRAEM's first network, 69 million weights at the published width of 128."""
    factors = [1, 2, 4, 8, 8]
    return UNet(channels, channels, [width * f for f in factors], [width * f for f in (4, 2, 1, 1)], False, block)


def discriminative(channels: int, width: int, block: str = "none") -> UNet:
    """DRAEM's second network, which sees image and reconstruction: 28 million weights at the published width of 64."""
    factors = [1, 2, 4, 8, 8, 8]
    return UNet(2 * channels, 2, [width * f for f in factors], [width * f for f in (8, 4, 2, 1, 1)], True, block)


def convolution(seen: int, given: int) -> nn.Sequential:
    """A convolution of 3 px, batch norm, and what is positive of it."""
    return nn.Sequential(nn.Conv2d(seen, given, 3, padding=1), nn.BatchNorm2d(given), nn.ReLU(inplace=True))


def double(seen: int, middle: int, given: int) -> nn.Sequential:
    """Two of them."""
    return nn.Sequential(convolution(seen, middle), convolution(middle, given))


def drawn(module: nn.Module) -> None:
    """The authors' initial weights: N(0, 0.02) of convolutions, N(1, 0.02) of batch norms."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0, 0.02)
    if isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, 0.02)
