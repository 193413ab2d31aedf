"""The networks of a bidirectional GAN, EGBAD's: layers and constants of the authors' code for MNIST (28 px)."""

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Images = Float[Tensor, "batch channel height width"]
Codes = Float[Tensor, "batch latent"]
PerImage = Float[Tensor, " batch"]
ImageSize = Literal[28, 32, 64, 128, 256]  # px; 7 or 8 px are left after a whole number of halvings


def halvings(image_size: ImageSize) -> int:
    """How often a side is halved: twice as published, up to 8 px for larger images."""
    return (image_size // 7).bit_length() - 1


class Encoder(nn.Module):
    """Images in [-1, 1] to codes without an activation at their end; 1 347 656 weights at 28 px and 1 channel."""

    def __init__(self, image_size: ImageSize, channels: Literal[1, 3], latent_size: int, width: int) -> None:
        super().__init__()
        times = halvings(image_size)
        widths = [width, 2 * width, *[4 * width] * (times - 1)]
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(0.1, inplace=True)]
        for inputs, outputs in pairwise(widths):
            layers += [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(inputs, outputs, 3, 2), *_normalised(outputs)]
        side = image_size >> times
        self.network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * side**2, latent_size))
        self.apply(_initialise)

    def forward(self, images: Images) -> Codes:
        """One code per image."""
        return self.network(images)


class Generator(nn.Module):
    """Codes to images in (-1, 1); 6 781 505 weights at 28 px, 1 channel and 200 latent numbers."""

    def __init__(self, image_size: ImageSize, channels: Literal[1, 3], latent_size: int, width: int) -> None:
        super().__init__()
        times, wide = halvings(image_size), 2 * width
        side = image_size >> times
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([latent_size, 16 * width, wide * side**2]):
            layers += [nn.Linear(inputs, outputs), _batch_norm(nn.BatchNorm1d, outputs), nn.ReLU(inplace=True)]
        layers.append(nn.Unflatten(1, (wide, side, side)))
        for inputs, outputs in pairwise([*[wide] * (times - 1), width]):
            layers += [_up(inputs, outputs), _batch_norm(nn.BatchNorm2d, outputs), nn.ReLU(inplace=True)]
        self.network = nn.Sequential(*layers, _up(width, channels), nn.Tanh())
        self.apply(_initialise)

    def forward(self, codes: Codes) -> Images:
        """One image per code."""
        return self.network(codes)


class Discriminator(nn.Module):
    """Tell pairs of a photo and its code from pairs of a generated image and the code that it came from.

    3 907 329 weights at 28 px, 1 channel and 200 latent numbers.
    """

    def __init__(self, image_size: ImageSize, channels: Literal[1, 3], latent_size: int, width: int) -> None:
        super().__init__()
        times = halvings(image_size)
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), *_leaky_dropout()]
        for _ in range(times - 1):
            layers += [nn.Conv2d(width, width, 4, 2, 1), _batch_norm(nn.BatchNorm2d, width), *_leaky_dropout()]
        self.of_image = nn.Sequential(*layers, nn.Flatten())
        self.of_code = nn.Sequential(nn.Linear(latent_size, 8 * width), *_leaky_dropout())
        joined = width * (image_size >> times) ** 2 + 8 * width
        self.of_pair = nn.Sequential(nn.Linear(joined, 16 * width), *_leaky_dropout())
        self.decision = nn.Linear(16 * width, 1)
        self.apply(_initialise)

    def features(self, images: Images, codes: Codes) -> Float[Tensor, "batch feature"]:
        """What it knows of a pair before it decides."""
        return self.of_pair(torch.cat([self.of_image(images), self.of_code(codes)], dim=1))

    def forward(self, images: Images, codes: Codes) -> PerImage:
        """Logits of the image being a photo."""
        return self.decision(self.features(images, codes))[:, 0]


def _up(inputs: int, outputs: int) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)


def _batch_norm(kind: type[nn.BatchNorm1d | nn.BatchNorm2d], width: int) -> nn.Module:
    return kind(width, eps=1e-3, momentum=0.01)  # TensorFlow's constants


def _normalised(width: int) -> tuple[nn.Module, nn.Module]:
    return _batch_norm(nn.BatchNorm2d, width), nn.LeakyReLU(0.1, inplace=True)


def _leaky_dropout() -> tuple[nn.Module, nn.Module]:
    return nn.LeakyReLU(0.1, inplace=True), nn.Dropout(0.5)


def _initialise(module: nn.Module) -> None:
    """Normal weights of deviation 0.02, no bias."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
