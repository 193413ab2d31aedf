"""The LeNets of Deep SVDD, in which nothing has a bias, and the decoders that they are pretrained with.

With a bias, in the last layer or in a batch norm, all images could be mapped to the centre whatever they show.
"""

from itertools import pairwise
from typing import Literal

from torch import nn

ImageSize = Literal[28, 32, 64, 128, 256]  # px


def widths(image_size: ImageSize) -> tuple[int, ...]:
    """The channels of the convolutions, each of which halves the side: published for 28 px (MNIST) and 32 (CIFAR-10).

    Above, our own: twice as many convolutions for 128 px, down to 2 x 2 places; one fewer for 64 and one more for 256.
    """
    if image_size <= 32:
        return (8, 4) if image_size == 28 else (32, 64, 128)
    return (32, 32, 32, 64, 64, 128, 128)[-(image_size.bit_length() - 2) :]


def latent_size(image_size: ImageSize) -> int:
    """The numbers of a code."""
    return 32 if image_size == 28 else 128


def encoder(image_size: ImageSize, channels: int) -> nn.Sequential:
    """Images to codes: 7272 weights for gray images of 28 px, 520 544 for colour ones of 32 px."""
    plan = widths(image_size)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise([channels, *plan]):
        layers += [nn.Conv2d(inputs, outputs, 5, padding=2, bias=False), *_activated(outputs), nn.MaxPool2d(2)]
    features = plan[-1] * (image_size >> len(plan)) ** 2
    return _initialised([*layers, nn.Flatten(), nn.Linear(features, latent_size(image_size), bias=False)], image_size)


def decoder(image_size: ImageSize, channels: int) -> nn.Sequential:
    """Codes to images in (0, 1): 1200 weights for gray images of 28 px, 284 000 for colour ones of 32 px."""
    plan, latent = widths(image_size), latent_size(image_size)
    if image_size == 28:
        layers = [
            nn.Unflatten(1, (latent // 16, 4, 4)), nn.LeakyReLU(), nn.Upsample(scale_factor=2),
            _transposed(latent // 16, 4), *_activated(4), nn.Upsample(scale_factor=2),
            _transposed(4, 8, padding=3), *_activated(8), nn.Upsample(scale_factor=2),
            _transposed(8, channels),
        ]  # fmt: skip
        return _initialised([*layers, nn.Sigmoid()], image_size)
    side = image_size >> len(plan)
    norm = nn.BatchNorm1d(latent, eps=1e-4, affine=False)
    layers = [norm, nn.Unflatten(1, (latent // side**2, side, side)), nn.LeakyReLU()]
    for inputs, outputs in pairwise([latent // side**2, *reversed(plan)]):
        layers += [_transposed(inputs, outputs), *_activated(outputs), nn.Upsample(scale_factor=2)]
    return _initialised([*layers, _transposed(plan[0], channels), nn.Sigmoid()], image_size)


def _transposed(inputs: int, outputs: int, padding: int = 2) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 5, padding=padding, bias=False)


def _activated(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(width, eps=1e-4, affine=False), nn.LeakyReLU()


def _initialised(layers: list[nn.Module], image_size: ImageSize) -> nn.Sequential:
    """As the authors: PyTorch's own weights at 28 px, else those of Glorot and Bengio for all convolutions."""
    for layer in layers:
        if image_size > 28 and isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight, nn.init.calculate_gain("leaky_relu"))
    return nn.Sequential(*layers)
