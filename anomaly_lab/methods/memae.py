"""MemAE: Gong, Liu, Le, Saha, Mansour, Venkatesh, van den Hengel: Memorizing Normality to Detect Anomaly, ICCV 2019.

An autoencoder reproduces defects, too, when its code has room for them. Here the decoder sees nothing of the image but
a few vectors of a memory that was learnt from good images; what cannot be put together from these leaves a residual.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.methods.base.gradient import GradientMethod
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.dcgan import initialise
from anomaly_lab.networks.memory import Memory, Reading, Similarity, entropy, used

ImageSize = Literal[32, 64, 128, 256, 512, 1024]  # px
Stage = tuple[int, int, int]  # a convolution: the channels that come out, kernel, stride


def stages(image_size: ImageSize) -> list[Stage]:
    """The encoder: at 32 px that of the paper for CIFAR-10, to 2 x 2 places; else the trunk of `cae`, to 8 x 8."""
    if image_size == 32:
        return [(64, 3, 2), (128, 3, 2), (128, 3, 2), (256, 3, 2)]
    halvings = (image_size // 64).bit_length()  # to 32 px
    return [(32, 4, 2)] * halvings + [(32, 3, 1), (64, 4, 2), (64, 3, 1), (128, 4, 2)]


def encoder(channels: int, plan: list[Stage]) -> nn.Sequential:
    """Convolutions, behind each batch norm and a LeakyReLU."""
    layers: list[nn.Module] = []
    for width, kernel, stride in plan:
        layers += [nn.Conv2d(channels, width, kernel, stride, 1, bias=False), *_normalised(width)]
        channels = width
    return nn.Sequential(*layers)


def decoder(channels: int, plan: list[Stage]) -> nn.Sequential:
    """The mirror, with transposed convolutions; behind the last one nothing."""
    layers: list[nn.Module] = []
    outputs = [channels, *(width for width, _, _ in plan)]
    for number, (width, kernel, stride) in reversed(list(enumerate(plan))):
        odd = int(kernel == 3 and stride == 2)  # which halves an even side but comes back to one pixel less
        layer = nn.ConvTranspose2d(width, outputs[number], kernel, stride, 1, odd, bias=number == 0)
        layers += [layer, *(_normalised(outputs[number]) if number else ())]
    return nn.Sequential(*layers)


def _normalised(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(width), nn.LeakyReLU(0.2, inplace=True)


class MemAE(GradientMethod):
    """Reconstruct from a memory of `slots` vectors, read at every place of the encoder's map.

    A slot counts where its weight is above `shrinkage` / `slots` (paper: 1 to 3; its code, for video: 5). The loss is
    the mean squared difference and `entropy_weight` times the entropy of the weights. The network sees images in
    [-1, 1], as published, so that both have the published balance; map and score are those of images in [0, 1].

    `train/used_slots` (share of the slots that a batch reads) and `train/empty_queries` (share of the places where no
    weight passes) tell whether the memory is at work: it is not where nearly all places are empty, or few slots used.

    Decisions here:

    - `similarity` and what an empty query reads: see `Memory`.
    - At 32 px the network is that of the paper for CIFAR-10; the paper's others are for digits and for video. For
      larger images it is the trunk of `cae`, whose convolutions here have no bias and batch norm behind them, as the
      paper's: the size of a query decides how sharply it selects, and N(0, 0.02) is too small without.
    - The decoder is the mirror of the encoder, with transposed convolutions and a linear end.
    - `score=mean` is the paper's for images; the default is the maximum of the smoothed map.
    """

    def __init__(
        self,
        tiling: Tiling,
        optimizer: OptimizerFactory,
        image_size: ImageSize,
        channels: Literal[1, 3],
        slots: PositiveInt,
        shrinkage: NonNegativeFloat,
        similarity: Similarity = "dot",
        temperature: PositiveFloat = 0.1,
        entropy_weight: NonNegativeFloat = 2e-4,
        score: Literal["map", "mean"] = "map",
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        plan = stages(image_size)
        self.encoder, self.decoder = encoder(channels, plan), decoder(channels, plan)
        for network in (self.encoder, self.decoder):
            initialise(network)
            network.to(memory_format=torch.channels_last)  # faster on a CPU, and in half precision on a GPU
        self.bank = Memory(slots, plan[-1][0], shrinkage / slots, similarity, temperature)
        self.places = 4 if image_size == 32 else 64  # of an image, each of which asks the memory
        self.entropy_weight, self.score = entropy_weight, score

    def prepare(self, images: Iterable[Batch]) -> None:
        """Say where the memory is as large as the data: looks at no more images than it takes to know."""
        slots, seen = len(self.bank.slots), 0
        for batch in images:
            seen += len(batch.image)
            if seen * self.places > slots:
                return
        self.say(
            f"memae: {slots} slots, and {seen} training images of {self.places} places each: the memory can hold every "
            "place of every image, and then selects nothing; lower method.slots"
        )

    def answer(self, images: Images) -> tuple[Images, Reading]:
        """The reconstructions, not clipped, of images in [0, 1], and what was read for them."""
        read = self.bank(self.encoder(signed(images)))
        return (self.decoder(read.maps).float() + 1) / 2, read

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """Squared difference in [-1, 1] and entropy (equations 9 and 10), and the state of the memory."""
        reconstructions, read = self.answer(batch.image)
        squared, spread = 4 * (batch.image - reconstructions).square().mean(), entropy(read.weights)
        loss = squared + self.entropy_weight * spread
        state = {"entropy": spread, "empty_queries": read.empty, "used_slots": used(read.weights)}
        return {"loss": loss, "squared": squared, **state}

    def predict(self, images: Images) -> Prediction:
        """The squared difference at each pixel, averaged over the channels, and its mean where that is the score."""
        reconstructions, _ = self.answer(images)
        anomaly_map = (images - reconstructions).square().mean(dim=1, keepdim=True)
        score = anomaly_map.mean(dim=(1, 2, 3)) if self.score == "mean" else None
        return Prediction(anomaly_map, score, reconstructions.clamp(0, 1))

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """What the encoder makes of each image, averaged over its places."""
        return self.encoder(signed(images)).mean(dim=(2, 3))


def signed(images: Images) -> Images:
    """From [0, 1] to [-1, 1], in the memory format of the weights."""
    return (2 * images - 1).contiguous(memory_format=torch.channels_last)
