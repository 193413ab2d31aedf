"""A normalizing flow on pixels: Kirichenko, Izmailov and Wilson, Why Normalizing Flows Fail, NeurIPS 2020.

A flow learns the density of whole small images, in the manner of RealNVP (Dinh, Sohl-Dickstein and Bengio, 2017). The
paper shows that such a flow learns how neighbouring pixels depend on one another, so that other, smoother objects are
often likelier than what it was trained on. It is here to be measured, not to inspect parts: experiments/why_flows_fail.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, cast

import torch
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.data.noise import batch_keys, uniform
from anomaly_lab.methods.base.gradient import GradientMethod
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.flow import Coupling, Flow, convolutions

Maps = Float[Tensor, "batch _ _ _"]
Plane = Float[Tensor, "batch _ _"]
ALPHA = 0.05  # black is as far from 0, and white from 1, where the logit is infinite
LEVELS = 256  # gray levels of a pixel


class PixelFlow(GradientMethod):
    """Two scales of six coupling steps, on images of 32 px.

    Gray levels become real numbers: noise from 0 to 1 levels is added in training, drawn anew in every epoch from the
    row of an image; in `predict` half a level. The logit spreads them. At each scale 2 x 2 px become channels, and the
    steps change them; after each but the last scale half of the channels are latent values already.

    The score is the negative log-likelihood in bits per dimension (one dimension is one channel of one pixel); 8 bits
    are what a uniform guess costs. There is no lower bound, and no upper one: black images may reach 1e10.

    The map is the same number pixel by pixel, and its mean is the score. What the steps and latent values of a scale
    contribute at a place is spread evenly over its pixels, 2 x 2 at the first scale and 4 x 4 at the second. So nothing
    is added or left out, but a defect is seen no finer than that, and latent values of the second scale depend on
    pixels around their place.

    Where we differ from the paper: it has checkerboard masks besides those of channels, and residual networks with
    weight normalisation in its steps; here they are the steps of FastFlow, with two convolutions.

    Args:
        tiling: The whole image.
        optimizer: Of all weights.
        image_size: A multiple of 2 to the number of scales.
        channels: Of the images.
        scales: How often 2 x 2 px become channels.
        steps: Of each scale.
        clamp: The largest logarithm of a scale factor of a step.
        hidden_ratio: Channels between the two convolutions of a step, as a factor of those that it sees.
        schedule: Of the learning rate.
        seed: Of the noise.

    Raises:
        UserError: The image cannot be halved so often.

    """

    version: ClassVar = 1
    sees: ClassVar = "images"
    augmented: ClassVar = False

    def __init__(
        self,
        tiling: Tiling,
        optimizer: OptimizerFactory,
        image_size: PositiveInt,
        channels: Literal[1, 3],
        scales: PositiveInt,
        steps: PositiveInt,
        clamp: PositiveFloat,
        hidden_ratio: PositiveFloat,
        schedule: Schedule = "constant",
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        if image_size % 2**scales:
            raise UserError(
                f"data.image_size: expected a multiple of {2**scales} px (2 to the power of method.scales), "
                f"found {image_size}"
            )
        self.seed = seed
        subnet = convolutions(3, hidden_ratio)
        self.flows = nn.ModuleList(
            Flow(*(Coupling(channels * 2 ** (scale + 2), subnet, clamp, "permutation") for _ in range(steps)))
            for scale in range(scales)
        )

    def latents(self, values: Maps) -> list[tuple[Maps, Plane]]:
        """Of each scale its latent values, and the log-determinant of its steps at every place."""
        found = []
        for number, flow in enumerate(self.flows, start=1):
            values, change = flow(functional.pixel_unshuffle(values, 2))
            latent, values = values.chunk(2, dim=1) if number < len(self.flows) else (values, values[:, :0])
            found.append((latent, change))
        return found

    def inverse(self, latents: Sequence[Maps]) -> Maps:
        """The values of which `latents` makes these, scale by scale."""
        values = latents[-1][:, :0]
        for latent, flow in zip(reversed(latents), reversed(self.flows), strict=True):
            values = functional.pixel_shuffle(cast(Flow, flow).inverse(torch.cat([latent, values], dim=1)), 2)
        return values

    def bits(self, images: Images, noise: Images | float) -> Float[Tensor, "batch 1 height width"]:
        """The negative log-likelihood at every pixel, in bits per channel; `noise` is in gray levels, from 0 to 1."""
        inner = ALPHA + (1 - 2 * ALPHA) * ((LEVELS - 1) * images + noise) / LEVELS
        spread = math.log(1 - 2 * ALPHA) - inner.log() - (1 - inner).log()
        log_likelihood = spread.sum(dim=1, keepdim=True)
        for latent, change in self.latents(inner.logit()):
            place = change - (latent.square() + math.log(2 * math.pi)).sum(dim=1) / 2
            side = images.shape[-1] // latent.shape[-1]
            even = functional.interpolate(place[:, None] / side**2, images.shape[-2:], mode="nearest")
            log_likelihood = log_likelihood + even
        return math.log2(LEVELS) - log_likelihood / (images.shape[1] * math.log(2))

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """Bits per dimension of the images with noise. The noise of a held-out image is always the same."""
        keys = batch_keys(self.seed, self.current_epoch, batch)
        noise = uniform(keys, batch.image[0].numel()).view_as(batch.image)
        return {"loss": self.bits(batch.image, noise.to(batch.image)).mean()}

    def predict(self, images: Images) -> Prediction:
        """Bits per dimension, pixel by pixel and of the whole image, half a gray level above its lower end."""
        anomaly_map = self.bits(images, 0.5)
        return Prediction(anomaly_map, anomaly_map.mean(dim=(1, 2, 3)), None)

    def samples(self, images: Images) -> Images:
        """Images drawn from the flow, always the same."""
        random = torch.Generator().manual_seed(self.seed)
        drawn = [torch.randn(latent.shape, generator=random).to(images) for latent, _ in self.latents(images)]
        unit = (self.inverse(drawn).sigmoid() - ALPHA) / (1 - 2 * ALPHA)
        return ((LEVELS * unit - 0.5) / (LEVELS - 1)).clamp(0, 1)
