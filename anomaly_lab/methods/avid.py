"""AVID: Sabokrou, Pourreza, Fayyaz, Entezari, Fathy, Gall, Adeli: Adversarial Visual Irregularity Detection, ACCV 2018.

A U-Net, the inpainter I, removes noise from good images, and with it, later, whatever is not usual; a detector D learns
to tell patches of good images from those that I made. A pixel is abnormal where I changes it and D does not take its
patch for good. Nobody uses it today; it is here because the tables of its time name it. Published are videos alone.

From the paper, of which we read summaries, and the code of the authors. Where we differ:

- I is the generator of pix2pix, down to one pixel; the authors' U-Net halves the side four times.
- D is a trunk of convolutions that halve the side to 16 px, then 13 x 13 patches of a third of the side, whatever the
  size of the image. The authors' has 11 x 11, of images of 224 px only.
- D sees single images, as in the code of the authors; an implementation by others gives it pairs with the noisy image.
- D descends the cross entropy of the paper; the code has squares. I also descends the absolute difference from the
  image without noise, with the weight that pix2pix gives it. The code has it switched off, and leaves I to D alone.
- The map is |x - I(x)| (1 - D(x)), whose thresholds generalise the two published ones. The code asks D about I(x).
- There is no noise at test, where the code has it, too. Nor is it cut off at black and white: that lowers the contrast,
  and I would raise that of images without noise.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.types import Images, Prediction
from anomaly_lab.methods.base.adversarial import AdversarialMethod, Turn, residual_map, unsigned
from anomaly_lab.methods.base.method import Scalar
from anomaly_lab.networks.dcgan import ImageSize, batch_statistics, cross_entropy, initialise, trunk
from anomaly_lab.networks.pix2pix import UNet

SIDE = 16  # px, of the map before the last convolutions of the detector


class Detector(nn.Module):
    """Images in [-1, 1] to the logits of 13 x 13 overlapping patches, that of a good image."""

    def __init__(self, image_size: ImageSize, channels: Literal[1, 3], width: int) -> None:
        super().__init__()
        wide = width * image_size // (2 * SIDE)
        self.features = nn.Sequential(
            trunk(image_size, channels, width, SIDE),
            nn.Conv2d(wide, 2 * wide, 4, bias=False), nn.BatchNorm2d(2 * wide), nn.LeakyReLU(0.2, inplace=True),
        )  # fmt: skip
        self.head = nn.Conv2d(2 * wide, 1, 1, bias=False)

    def forward(self, images: Images) -> Float[Tensor, "batch 1 13 13"]:
        """The logits."""
        return self.head(self.features(images))


class AVID(AdversarialMethod):
    """What the inpainter changes, where the detector does not take the image for good.

    `noise`: its standard deviation in images of [0, 1]. A turn changes its own network alone, the running statistics of
    batch norm included.
    """

    leaders = ("inpainter",)
    image_size: ImageSize
    channels: Literal[1, 3]

    def __init__(
        self,
        image_size: ImageSize,
        channels: Literal[1, 3],
        width: PositiveInt = 32,
        noise: NonNegativeFloat = 0.4,
        contextual_weight: NonNegativeFloat = 100.0,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.image_size, self.channels = image_size, channels
        self.noise, self.contextual_weight = noise, contextual_weight
        self.inpainter, self.detector = UNet(image_size, channels, width), Detector(image_size, channels, width)
        for network in (self.inpainter, self.detector):
            initialise(network)
            network.to(memory_format=torch.channels_last)  # faster on a CPU, and in half precision on a GPU

    def signed(self, images: Images) -> Images:
        """From [0, 1] to [-1, 1], in the memory format of the weights."""
        return super().signed(images).contiguous(memory_format=torch.channels_last)

    def noisy(self, images: Images, random: torch.Generator, alone: bool = False) -> Images:
        """Images in [-1, 1] with noise, which goes beyond black and white."""
        noise = self.random_rows(torch.randn, len(images), *images.shape[1:], random=random, alone=alone)
        return images + 2 * self.noise * noise

    def turns(self, images: Images, stage: int, step: int, random: torch.Generator) -> Iterator[Turn]:
        """The detector, then the inpainter, from the same noise."""
        inpainted = self.inpainter(self.noisy(images, random)).float()
        real = cross_entropy(self.detector(images).flatten(), True)
        fake = cross_entropy(self.detector(inpainted.detach()).flatten(), False)
        yield Turn("detector", real + fake, {"real": real, "fake": fake})
        with batch_statistics(self.detector):
            parts = self.inpainter_losses(images, inpainted)
        yield Turn("inpainter", self.inpainter_loss(parts), parts)

    def inpainter_losses(self, images: Images, inpainted: Images) -> dict[str, Scalar]:
        """How well what was made passes for good, and its mean absolute difference from the image."""
        adversarial = cross_entropy(self.detector(inpainted).flatten(), True)
        return {"adversarial": adversarial, "contextual": (images - inpainted.float()).abs().mean()}

    def inpainter_loss(self, parts: dict[str, Scalar]) -> Scalar:
        """The weighted sum."""
        return parts["adversarial"] + self.contextual_weight * parts["contextual"]

    def validation_losses(self, images: Images, stage: int, random: torch.Generator) -> dict[str, Scalar]:
        """The loss of the inpainter."""
        parts = self.inpainter_losses(images, self.inpainter(self.noisy(images, random, alone=True)))
        return {"loss": self.inpainter_loss(parts)}

    def predict(self, images: Images) -> Prediction:
        """Map: the absolute difference in [-1, 1], averaged over the channels, times 1 - D(x)."""
        images = self.signed(images)
        inpainted = self.inpainter(images)
        abnormal = (-self.detector(images).float()).sigmoid()
        anomaly_map = residual_map(images, inpainted, "l1") * enlarged(abnormal, self.image_size)
        return Prediction(anomaly_map, None, unsigned(inpainted))

    def samples(self, images: Images) -> Images | None:
        """What the inpainter makes of them, in [0, 1]."""
        return self.predict(images).reconstruction

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The features of the detector, averaged over the patches."""
        return self.detector.features(self.signed(images)).mean(dim=(2, 3))


def enlarged(patches: Float[Tensor, "batch 1 13 13"], image_size: int) -> Float[Tensor, "batch 1 height width"]:
    """A number at each pixel: bilinear between the centres of the patches, the nearest patch's outside of them.

    The centres lie a sixteenth of the side apart, the first ones two sixteenths from the borders.
    """
    edged = functional.pad(patches, (2, 2, 2, 2), mode="replicate")  # centres from border to border
    return functional.interpolate(edged, (image_size, image_size), mode="bilinear", align_corners=True)
