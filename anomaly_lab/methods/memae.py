"""MemAE: Gong, Liu, Le, Saha, Mansour, Venkatesh, van den Hengel: Memorizing Normality to Detect Anomaly, ICCV 2019.

An autoencoder reproduces defects, too, when its code has room for them. Here the decoder sees nothing of the image but
a few vectors of a memory that was learnt from good images; what cannot be put together from these leaves a residual.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from anomaly_lab.core.errors import UserError
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


def levels(plan: list[Stage], skips: int) -> list[list[Stage]]:
    """The encoder, cut before its last `skips` halvings: what each part ends with is asked of a memory."""
    halving = [number for number, (_, _, stride) in enumerate(plan) if stride == 2]
    return [plan[start:end] for start, end in pairwise([0, *halving[len(halving) - skips :], len(plan)])]


def encoder(channels: int, plan: list[Stage]) -> nn.Sequential:
    """Convolutions, behind each batch norm and a LeakyReLU."""
    layers: list[nn.Module] = []
    for width, kernel, stride in plan:
        layers += [nn.Conv2d(channels, width, kernel, stride, 1, bias=False), *_normalised(width)]
        channels = width
    return nn.Sequential(*layers)


def decoder(channels: int, plan: list[Stage], joined: bool, last: bool) -> nn.Sequential:
    """The mirror of an encoder, with transposed convolutions.

    `joined`: it sees what a deeper decoder made and, beside it, what was read. `last`: it ends with the image.
    """
    layers: list[nn.Module] = []
    outputs = [channels, *(width for width, _, _ in plan)]
    for number, (width, kernel, stride) in reversed(list(enumerate(plan))):
        inputs = 2 * width if joined and not layers else width
        odd = int(kernel == 3 and stride == 2)  # it halves an even side, and its mirror is one pixel short
        ends = last and number == 0
        layer = nn.ConvTranspose2d(inputs, outputs[number], kernel, stride, 1, odd, bias=ends)
        layers += [layer, *(() if ends else _normalised(outputs[number]))]
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

    `block` and `skips` are those of DAAD (Hou et al., ICCV 2021), without its discriminator: a query is a block of so
    many places squared, and the maps of as many scales above the innermost reach the decoder too, each through a memory
    of its own. Small blocks put everything together, large ones nothing. Entropy and state are means over the memories.

    Raises UserError for blocks larger than the innermost map.
    """

    version: ClassVar = 2  # 1: a query that nothing answers had no gradient

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
        block: Literal[1, 2, 4, 8] = 1,
        skips: Literal[0, 1, 2] = 0,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        side = 2 if image_size == 32 else 8  # of the innermost map
        if block > side:
            raise UserError(f"method.block: expected at most {side} for images of {image_size} px, found {block}")
        self.places = (side // block) ** 2  # of an image, each of which asks the innermost memory
        parts = levels(stages(image_size), skips)
        widths = [channels, *(part[-1][0] for part in parts)]
        self.encoder, self.decoder, self.memories = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for number, part in enumerate(parts):
            self.encoder.append(encoder(widths[number], part))
            self.decoder.append(decoder(widths[number], part, joined=number < skips, last=number == 0))
            self.memories.append(Memory(slots, widths[number + 1], shrinkage / slots, similarity, temperature, block))
        for network in (self.encoder, self.decoder):
            initialise(network)
            network.to(memory_format=torch.channels_last)  # faster on a CPU, and in half precision on a GPU
        self.slots, self.entropy_weight, self.score = slots, entropy_weight, score

    def prepare(self, images: Iterable[Batch]) -> None:
        """Say where the memory is as large as the data: looks at no more images than it takes to know.

        An image of which patches are cut counts as one, and its variations do not count.
        """
        seen = 0
        for batch in images:
            seen += len(batch.image)
            if seen * self.places > self.slots:
                return
        self.say(
            f"memae: {self.slots} slots, and {seen} training images of {self.places} places each: the memory can hold "
            "every place of every image, and then selects nothing; lower method.slots"
        )

    def answer(self, images: Images) -> tuple[Images, list[Reading]]:
        """The reconstructions, not clipped, of images in [0, 1], and what was read for them, the innermost last."""
        readings = [memory(maps) for memory, maps in zip(self.memories, self.encoded(images), strict=True)]
        maps = readings[-1].maps
        for level, reading in zip(self.decoder[::-1], readings[::-1], strict=True):
            maps = level(maps if reading is readings[-1] else torch.cat([maps, reading.maps], dim=1))
        return (maps.float() + 1) / 2, readings

    def encoded(self, images: Images) -> list[Float[Tensor, "batch _ _ _"]]:
        """The maps that are asked of the memories, the innermost last."""
        found = [(2 * images - 1).contiguous(memory_format=torch.channels_last)]
        for level in self.encoder:
            found.append(level(found[-1]))
        return found[1:]

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """Squared difference in [-1, 1] and entropy (equations 9 and 10), and the state of the memory."""
        reconstructions, readings = self.answer(batch.image)
        squared = 4 * (batch.image - reconstructions).square().mean()
        states = [(entropy(read.weights), read.empty, used(read.weights)) for read in readings]
        spread, empty, slots = (torch.stack(values).mean() for values in zip(*states, strict=True))
        state = {"squared": squared, "entropy": spread, "empty_queries": empty, "used_slots": slots}
        return {"loss": squared + self.entropy_weight * spread, **state}

    def predict(self, images: Images) -> Prediction:
        """The squared difference at each pixel, averaged over the channels, and its mean where that is the score."""
        reconstructions, _ = self.answer(images)
        anomaly_map = (images - reconstructions).square().mean(dim=1, keepdim=True)
        score = anomaly_map.mean(dim=(1, 2, 3)) if self.score == "mean" else None
        return Prediction(anomaly_map, score, reconstructions.clamp(0, 1))

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """What the encoder makes of each image, averaged over its places."""
        return self.encoded(images)[-1].mean(dim=(2, 3))
