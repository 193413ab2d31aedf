"""The autoencoder at 224 px of a set of Korean slides on MVTec AD, as published with its code.

The slides train one model on all categories, keep the comment that its code is one pixel wide where it is 11 x 11 (a
ratio of 4.9: nearly a copy of the image), and draw the line at the 25th percentile of the losses of the training
images (`TrainPercentile`), which rejects three of four normal images. They name no optimiser, loss or epochs; those
of the configuration are ours.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.methods.base.gradient import GradientMethod
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of red, green, blue


class SlidesAutoencoder(nn.Module):
    """Five convolutions down to 256 channels, five transposed ones up to a sigmoid; images of `image_size` px.

    `slides`: the innermost kernel has 4 px, as published, so that 224 px end in 256 x 11 x 11 numbers. `true_1x1`: it
    is as wide as what it sees (image_size / 16), so that the code is the single pixel that the slides speak of.
    1 394 915 weights for colour images as published, 13 191 395 with `true_1x1`.
    """

    def __init__(
        self,
        image_size: Annotated[int, Field(ge=64, multiple_of=16)],
        channels: Literal[1, 3],
        bottleneck: Literal["slides", "true_1x1"] = "slides",
    ) -> None:
        super().__init__()
        kernel = 4 if bottleneck == "slides" else image_size // 16
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 16, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(64, 128, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(128, 256, kernel),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(256, 128, kernel), nn.ReLU(),
            nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(16, channels, 4, 2, 1), nn.Sigmoid(),
        )  # fmt: skip
        self.to(memory_format=torch.channels_last)  # faster on a CPU

    def forward(self, images: Images) -> Images:
        """Reconstruct the images, in (0, 1) whatever their range."""
        return self.decoder(self.encoder(images.contiguous(memory_format=torch.channels_last)))


class SlidesCAE(GradientMethod):
    """Reconstruct; the loss of an image is its score. Adam, learning rate 1e-3, constant: ours."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image_size: Annotated[int, Field(ge=64, multiple_of=16)],
        channels: Literal[1, 3],
        optimizer: OptimizerFactory,
        tiling: Tiling,
        bottleneck: Literal["slides", "true_1x1"] = "slides",
        schedule: Schedule = "constant",
        normalisation: Literal["none", "train", "imagenet"] = "none",
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        if normalisation == "imagenet" and channels != 3:
            raise UserError(
                "method.normalisation: expected none or train for gray images, found 'imagenet'; or set data.channels=3"
            )
        self.network = SlidesAutoencoder(image_size, channels, bottleneck)
        self.normalisation = normalisation
        mean, std = IMAGENET if normalisation == "imagenet" else ((0.0,) * channels, (1.0,) * channels)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def prepare(self, images: Iterable[Batch]) -> None:
        """Take mean and deviation of every channel from the training images, where `train` asks for them."""
        if self.normalisation == "train":
            mean, std = channel_statistics(batch.image for batch in images)
            self.mean.copy_(mean)
            self.std.copy_(std)

    def normalised(self, images: Images) -> Images:
        """What the network sees and, as in the slides, is to reproduce.

        Under `train` and `imagenet` about half of it is negative, where the sigmoid cannot follow: the slides found
        both worse than none.
        """
        return (images - self.mean) / self.std

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """Mean squared difference."""
        targets = self.normalised(batch.image)
        return {"loss": (targets - self.network(targets).float()).square().mean()}

    def predict(self, images: Images) -> Prediction:
        """Score: the loss of the image, padding included. Map: the squared difference, averaged over the channels."""
        targets = self.normalised(images)
        reconstructions = self.network(targets)
        difference = (targets - reconstructions).square()
        picture = (reconstructions * self.std + self.mean).clamp(0, 1)
        return Prediction(difference.mean(dim=1, keepdim=True), difference.mean(dim=(1, 2, 3)), picture)

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The code of each image, averaged over its places, for a map of them."""
        return self.network.encoder(self.normalised(images)).mean(dim=(2, 3))


def channel_statistics(
    batches: Iterable[Float[Tensor, "_ channel height width"]],
) -> tuple[Float[Tensor, "channel 1 1"], Float[Tensor, "channel 1 1"]]:
    """Mean and standard deviation of every channel over all pixels of all images; float64 sums, float32 results.

    The deviation is at least one gray level, so that images of one colour are divided by something.
    """
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for images in batches:
        pixels = images.double()
        count += pixels[:, 0].numel()
        total = total + pixels.sum(dim=(0, 2, 3))
        squares = squares + pixels.square().sum(dim=(0, 2, 3))
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=1 / 255)
    return mean.float().view(-1, 1, 1), std.float().view(-1, 1, 1)
