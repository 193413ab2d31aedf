"""What GANomaly is made of: the strided trunk of the DCGAN, its N(0, 0.02), its batch norm, its loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from anomaly_lab.core.errors import UserError

Images = Float[Tensor, "batch channel height width"]
Code = Float[Tensor, "batch latent 1 1"]
ImageSize = Literal[32, 64, 128, 256]  # px; 4 px are left after a whole number of halvings

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def trunk(
    image_size: ImageSize, channels: Literal[1, 3], width: PositiveInt, side: Literal[4, 16] = 4
) -> nn.Sequential:
    """Halve the side down to `side` px and double the channels each time, beginning with `width`."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    for _ in range(halvings(image_size, side)):
        layers += [
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        width *= 2
    return nn.Sequential(*layers)


def halvings(image_size: ImageSize, side: int = 4) -> int:
    """How often the half of an image can be halved until `side` px are left."""
    return (image_size // (2 * side)).bit_length() - 1


class Encoder(nn.Module):
    """Images in [-1, 1] to codes of `latent_size` numbers, no activation at the end.

    The features are all before the last convolution, width * image_size / 8 channels of 4 x 4.
    """

    def __init__(
        self,
        image_size: ImageSize,
        channels: Literal[1, 3],
        latent_size: PositiveInt = 100,
        width: PositiveInt = 64,
    ) -> None:
        super().__init__()
        self.features = trunk(image_size, channels, width)
        self.head = nn.Conv2d(width * image_size // 8, latent_size, 4, bias=False)

    def forward(self, images: Images) -> Code:
        """The codes."""
        return self.head(self.features(images))


class Decoder(nn.Module):
    """Codes to images in (-1, 1): the mirror of the encoder with ReLU, and a tanh at the end."""

    def __init__(
        self,
        image_size: ImageSize,
        channels: Literal[1, 3],
        latent_size: PositiveInt = 100,
        width: PositiveInt = 64,
    ) -> None:
        super().__init__()
        wide = width * image_size // 8
        layers = [
            nn.ConvTranspose2d(latent_size, wide, 4, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(inplace=True),
        ]
        for _ in range(halvings(image_size)):
            layers += [
                nn.ConvTranspose2d(wide, wide // 2, 4, 2, 1, bias=False),
                nn.BatchNorm2d(wide // 2),
                nn.ReLU(inplace=True),
            ]
            wide //= 2
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(wide, channels, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, codes: Code) -> Images:
        """The images."""
        return self.layers(codes)


def initialise(network: nn.Module) -> None:
    """Draw all weights anew as the DCGAN does: convolutions N(0, 0.02), batch norm N(1, 0.02) with bias 0.

    Biases of convolutions and running statistics stay as they are, as in the code of the authors.
    """
    for module in network.modules():
        if isinstance(module, CONVOLUTIONS):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, _BatchNorm):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)


@contextmanager
def batch_statistics(*networks: nn.Module) -> Iterator[None]:
    """Let batch norm in eval mode use the mean and the variance of the batch; its running statistics stay.

    PyTorch does so where a layer has none, and then several processes do not wait for each other either.
    """
    layers = [module for network in networks for module in network.modules() if isinstance(module, _BatchNorm)]
    kept = [(layer.running_mean, layer.running_var) for layer in layers]
    for layer in layers:
        layer.running_mean = layer.running_var = None
    try:
        yield
    finally:
        for layer, (mean, variance) in zip(layers, kept, strict=True):
            layer.running_mean, layer.running_var = mean, variance


def learns_from_batches(network: nn.Module) -> bool:
    """Whether some batch norm takes its statistics from the batch at hand."""
    return any(isinstance(module, _BatchNorm) and module.training for module in network.modules())


def refuse_one_image(network: nn.Module, images: int) -> None:
    """Raise UserError for a batch of one image where batch norm takes its statistics from the batch at hand."""
    if images == 1 and learns_from_batches(network):
        raise UserError(
            "data.batch_size: expected at least 2 images for each process, because batch norm has nothing to learn "
            "from one, found 1; raise data.batch_size (and data.patches)"
        )


def cross_entropy(logits: Float[Tensor, " batch"], real: bool) -> Float[Tensor, ""]:
    """Binary cross entropy against all real or all fake, in float32, mean over the batch.

    From logits, which is the same number as from a sigmoid (the authors'), but exact where that is 0 or 1 and fit for
    half precision.
    """
    logits = logits.float()
    target = torch.ones_like(logits) if real else torch.zeros_like(logits)
    return nn.functional.binary_cross_entropy_with_logits(logits, target)
