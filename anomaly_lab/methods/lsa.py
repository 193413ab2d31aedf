"""LSA: Abati, Porrello, Calderara, Cucchiara: Latent Space Autoregression for Novelty Detection, CVPR 2019.

An autoencoder fails to rebuild what it has not seen, and an estimator of the density of its codes is surprised by it;
both are scored. Layers, loss and score are those of the authors' code, which tests networks and does not train them.

It is history: made for small pictures of one class and for video, and named by few tables of MNIST and CIFAR-10 since.
Of defects it has no published figures.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.methods.base.gradient import GradientMethod
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.autoregression import Codes, Estimator, negative_log_likelihood
from anomaly_lab.networks.dcgan import refuse_one_image

ImageSize = Literal[28, 32, 64, 128, 256]  # px
Maps = Float[Tensor, "batch _ _ _"]

ROUNDING = 1e-5  # limits that differ by less than this share of the upper one coincide


class Residual(nn.Module):
    """Two convolutions beside a shortcut, each with batch norm; LeakyReLUs of 0.01 between them and on the sum."""

    def __init__(self, first: nn.Module, shortcut: nn.Module, channels: int) -> None:
        super().__init__()
        second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.branch = nn.Sequential(first, *_normalised(channels), second, nn.BatchNorm2d(channels))
        self.shortcut = shortcut
        self.activation = nn.LeakyReLU(inplace=True)

    def forward(self, maps: Maps) -> Maps:
        """What the block makes of the maps."""
        return self.activation(self.branch(maps) + self.shortcut(maps))


def down(inputs: int, outputs: int) -> Residual:
    """A block that halves the side.

    Its shortcut is the authors' convolution of 1 px at stride 2, as pooling and a convolution: in one, with weights in
    `channels_last`, PyTorch 2.15 writes beyond its memory on a CPU for 3 channels of 128 px.
    """
    first = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
    skip = nn.AvgPool2d(1, 2), nn.Conv2d(inputs, outputs, 1, bias=False)
    return Residual(first, nn.Sequential(*skip, nn.BatchNorm2d(outputs)), outputs)


def up(inputs: int, outputs: int) -> Residual:
    """A block that doubles the side."""
    first = nn.ConvTranspose2d(inputs, outputs, 5, 2, 2, 1, bias=False)
    skip = nn.ConvTranspose2d(inputs, outputs, 1, 2, 0, 1, bias=False)
    return Residual(first, nn.Sequential(skip, nn.BatchNorm2d(outputs)), outputs)


def same(channels: int) -> Residual:
    """A block that keeps side and channels."""
    return Residual(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.Identity(), channels)


def encoder(image_size: ImageSize, channels: int, latent_size: int) -> nn.Sequential:
    """Images to the logits of codes: at 28 px the authors' network for MNIST, at 32 px that for CIFAR-10.

    Above, blocks of 16 channels halve the side down to 32 px, where the latter goes on.
    """
    halvings, (width, side, dense) = _halvings(image_size), _innermost(image_size)
    if image_size == 28:
        blocks = [down(channels, 32), down(32, 64)]
    else:
        first = [down(*pair) for pair in pairwise([channels, *[16] * (halvings - 1), 32])]
        plain = [nn.Conv2d(channels, 32, 3, bias=False), nn.LeakyReLU(inplace=True)]
        blocks = [*(first if halvings else plain), same(32), down(32, 64), down(64, 128), down(128, 256)]
    inner = [nn.Linear(width * side**2, dense), *_normalised(dense, nn.BatchNorm1d), nn.Linear(dense, latent_size)]
    return nn.Sequential(*blocks, nn.Flatten(), *inner)


def decoder(image_size: ImageSize, channels: int, latent_size: int) -> nn.Sequential:
    """Codes to images, no activation at the end: the mirror of the encoder, but for 16 channels before the image."""
    halvings, (width, side, dense) = _halvings(image_size), _innermost(image_size)
    if image_size == 28:
        blocks = [up(64, 32), up(32, 16)]
    else:
        last = [up(*pair) for pair in pairwise([32, *[16] * halvings])]
        blocks = [up(256, 128), up(128, 64), up(64, 32), same(32), *last]
    features = width * side**2
    inner = [nn.Linear(latent_size, dense), *_normalised(dense, nn.BatchNorm1d)]
    inner += [nn.Linear(dense, features), *_normalised(features, nn.BatchNorm1d), nn.Unflatten(1, (width, side, side))]
    return nn.Sequential(*inner, *blocks, nn.Conv2d(32 if image_size == 32 else 16, channels, 1, bias=False))


def _halvings(image_size: ImageSize) -> int:
    return (image_size // 64).bit_length()  # to 32 px


def _innermost(image_size: ImageSize) -> tuple[int, int, int]:
    """Channels and side of the innermost map, and the numbers between it and the code."""
    return (64, 7, 64) if image_size == 28 else (256, 4, 256)


def _normalised(
    width: int, norm: type[nn.BatchNorm1d] | type[nn.BatchNorm2d] = nn.BatchNorm2d
) -> tuple[nn.Module, nn.Module]:
    return norm(width), nn.LeakyReLU(inplace=True)


class LSA(GradientMethod):
    """Reconstruct an image from a code in (0, 1), and learn how likely the code is.

    The loss of an image is the squared difference, summed over its values, and `likelihood_weight` times the negative
    log-likelihood of its code. They are sums, as published: divided by the number of values, the gradients
    of the estimator would be below the epsilon of Adam. Each number of the code falls into one of `bins`, of which the
    estimator gives the probabilities (`networks/autoregression.py`, layers of `hidden` channels); it tells the encoder
    where to move only through the numbers that it sees.

    - `score`: `novelty`, the sum of both parts, each from 0 at its smallest to 1 at its largest on the held-out normal
      images (equations 9 and 10; 2 minus the authors' score, which is large for normal images); `likelihood`, the
      second part alone, in nats; `map`. Where the limits coincide, as of one image, a part is divided by its limit.
    - Map: the squared difference (the paper has none).

    Decisions here: networks above 32 px; a probability is not clipped (in the code of the authors at 2e-16).

    Raises UserError for a batch of one image, which batch norm cannot normalise.
    """

    low: Tensor
    spread: Tensor

    def __init__(
        self,
        tiling: Tiling,
        optimizer: OptimizerFactory,
        image_size: ImageSize,
        channels: Literal[1, 3],
        latent_size: PositiveInt = 64,
        bins: PositiveInt = 100,
        hidden: PositiveInt = 32,
        likelihood_weight: NonNegativeFloat = 1.0,
        score: Literal["novelty", "likelihood", "map"] = "novelty",
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        self.encoder = encoder(image_size, channels, latent_size).to(memory_format=torch.channels_last)
        self.decoder = decoder(image_size, channels, latent_size).to(memory_format=torch.channels_last)
        self.estimator = Estimator(latent_size, bins, hidden)
        self.likelihood_weight, self.score = likelihood_weight, score
        # Of the squared difference and of the negative log-likelihood: until they are known the score is their sum.
        self.register_buffer("low", torch.zeros(2))
        self.register_buffer("spread", torch.ones(2))

    def encode(self, images: Images) -> Codes:
        """The code of each image, in full precision."""
        return self.encoder(images.contiguous(memory_format=torch.channels_last)).float().sigmoid()

    def parts(self, images: Images) -> tuple[Images, Float[Tensor, "2 batch"]]:
        """The reconstructions, and squared difference and negative log-likelihood of each image."""
        codes = self.encode(images)
        reconstructions = self.decoder(codes).float()
        squared = (images - reconstructions).square().flatten(1).sum(dim=1)
        return reconstructions, torch.stack([squared, negative_log_likelihood(codes, self.estimator(codes))])

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """Their sum and both parts, means over the batch."""
        refuse_one_image(self, len(batch.image))
        squared, surprise = self.parts(batch.image)[1].mean(dim=1)
        return {"loss": squared + self.likelihood_weight * surprise, "squared": squared, "likelihood": surprise}

    def calibrate(self, normals: Iterable[Batch]) -> None:
        """The limits of both parts on the held-out images, or on their windows."""
        found = [self.parts(self.tiling.training_like(batch.image))[1] for batch in normals]
        if found:
            low, high = torch.cat(found, dim=1).aminmax(dim=1)
            apart = high - low > ROUNDING * high
            self.low.copy_(low)
            self.spread.copy_(torch.where(apart, high - low, high).clamp(min=ROUNDING))

    def novelty(self, parts: Float[Tensor, "2 batch"]) -> Float[Tensor, " batch"]:
        """The sum of both parts, each relative to its limits."""
        return ((parts - self.low[:, None]) / self.spread[:, None]).sum(dim=0)

    def predict(self, images: Images) -> Prediction:
        """The squared difference, averaged over the channels; the score of the configuration."""
        reconstructions, parts = self.parts(images)
        anomaly_map = (images - reconstructions).square().mean(dim=1, keepdim=True)
        score = {"novelty": self.novelty(parts), "likelihood": parts[1], "map": None}[self.score]
        return Prediction(anomaly_map, score, reconstructions.clamp(0, 1))

    def embed(self, images: Images) -> Codes:
        """The code of each image."""
        return self.encode(images)
