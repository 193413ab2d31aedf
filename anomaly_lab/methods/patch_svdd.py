"""Patch SVDD: Yi and Yoon, ACCV 2020 (arXiv 2006.16067).

A small network gives each patch a code: that of a patch which lies a little beside it must be near, and from the codes
of two neighbours it must be possible to say on which side the other lies. The map is the distance of the patches of an
image from the nearest patches of good images. It learns from good photos alone, without ImageNet, and was a row of most
tables of 2020 to 2022; a memory of pretrained features (`patchcore`) has better figures.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.distributed import is_first_process
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.data.noise import Keys, batch_keys, derive, normal, uniform
from anomaly_lab.methods.base.gradient import GradientMethod
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.statistics import MemoryBank
from anomaly_lab.methods.base.tiling import Tiling

Stride = Literal[2, 4, 8, 16, 32]
Patches = Float[Tensor, "patch channel side side"]
Codes = Float[Tensor, "patch code"]
Maps = Float[Tensor, "batch code _ _"]
Offsets = Int[Tensor, "pair 2"]  # down and to the right, px
Pairs = Int[Tensor, " pair"]  # numbers of images, or keys
Draws = Float[Tensor, "pair _"]  # in [0, 1)

SIDES = SMALL, LARGE = 32, 64  # px, of the patches
CODE = 64  # numbers of a code
NOISE = 0.02  # deviation of what is added to patches whose direction is asked for, of colours and of pixels


class Encoder(nn.Module):
    """Codes in (-1, 1) of patches of 32 px, and from those of its quarters the code of a patch of 64 px (section 3.3).

    No layer pads, and only the first has a stride, of 2: the codes of all patches of an image are one pass over it.
    Weights start as He et al. draw them. With PyTorch's, which the authors have, hardly anything of the image is left
    after eight layers: all patches have nearly the same code, and it takes long to leave that.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (channels, 32, 64, 128, 128, 64, 32, 32, CODE)
        layers: list[nn.Module] = []
        for pair in pairwise(widths):
            layers += [nn.Conv2d(*pair, 3, 1 if layers else 2), nn.LeakyReLU(0.1)]
        self.small = nn.Sequential(*layers[:-1], nn.Tanh())
        self.large = nn.Sequential(nn.Conv2d(CODE, 128, 2), nn.LeakyReLU(0.1), nn.Conv2d(128, CODE, 1), nn.Tanh())
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight, a=0.1)
                nn.init.zeros_(layer.bias)

    def forward(self, patches: Patches) -> Codes:
        """The codes of patches, of 32 or of 64 px."""
        parts = patches.shape[-1] // SMALL
        quarters = patches.unflatten(3, (parts, SMALL)).unflatten(2, (parts, SMALL)).permute(0, 2, 4, 1, 3, 5)
        codes = self.small(quarters.flatten(0, 2)).view(len(patches), parts, parts, CODE).permute(0, 3, 1, 2)
        return (self.large(codes) if parts > 1 else codes).flatten(1).float()

    def dense(self, images: Images, small_stride: int, large_stride: int) -> tuple[Maps, Maps]:
        """The codes of all patches of images, 32 and 64 px large, one every so many px, as if each was cut out."""
        codes = self.small(images)  # of a patch every 2 px
        small, large = (codes[..., :: stride // 2, :: stride // 2] for stride in (small_stride, large_stride))
        first = self.large[0]
        assert isinstance(first, nn.Conv2d)
        large = functional.conv2d(large, first.weight, first.bias, dilation=SMALL // large_stride)
        large = self.large[1:](large)
        rows, columns = (count(side, SMALL, small_stride) for side in images.shape[2:])
        more_rows, more_columns = (count(side, LARGE, large_stride) for side in images.shape[2:])
        return small[..., :rows, :columns], large[..., :more_rows, :more_columns]


class PatchSVDD(GradientMethod):
    """The two encoders of the paper, and for each a memory of the codes of the training images.

    - `pairs`: drawn of each image in a step, for each loss and size of patch. The published step has 64 pairs of any
      images, an epoch a hundred of each image.
    - `svdd_weight`: lambda (equation 6), in the authors' example 1e-3; the paper chooses it for each category.
    - Pairs lie where both patches are whole inside the image. The authors' code moves the second one into it, which
      changes its direction.
    - The classifiers end in an ordinary layer. The authors divide the weights of the last by their norm where no
      gradient is computed: it never learns.
    - `max_vectors`: the memory is a uniform sample of so many codes; the authors keep all of them.
    - At the last rows and columns, where no patch of the strides reaches, the map repeats what is beside them. There
      are none at 256 px and these strides.

    A network with random weights, which only the memory makes a detector, is what the training must beat: the control
    `untrained`. The score is the maximum of the map.

    Raises UserError for images below 127 px, in which two neighbours of 64 px find no room.
    """

    version: ClassVar = 1
    sees: ClassVar = "images"
    augmented: ClassVar = False
    control_untrained: ClassVar = True

    mean: Tensor

    def __init__(
        self,
        tiling: Tiling,
        optimizer: OptimizerFactory,
        image_size: PositiveInt,
        channels: Literal[1, 3],
        pairs: PositiveInt = 4,
        svdd_weight: NonNegativeFloat = 1e-3,
        small_stride: Stride = 4,
        large_stride: Stride = 16,
        max_vectors: PositiveInt = 100_000,
        schedule: Schedule = "constant",
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        if image_size < 2 * LARGE - 1:
            raise UserError(
                f"data.image_size: expected at least {2 * LARGE - 1} px, so that two patches of {LARGE} px find room "
                f"beside each other, found {image_size}"
            )
        self.encoder = Encoder(channels)
        self.classifiers = nn.ModuleDict({str(side): classifier() for side in SIDES})
        self.pairs, self.svdd_weight, self.seed = pairs, svdd_weight, seed
        self.small_stride, self.large_stride = small_stride, large_stride
        small, large = count(image_size, SMALL, small_stride), count(image_size, LARGE, large_stride)
        self.small_bank = MemoryBank(CODE, max_vectors, seed, small**2)
        self.large_bank = MemoryBank(CODE, max_vectors, seed, large**2)
        self.register_buffer("mean", torch.zeros(channels, image_size, image_size))

    def prepare(self, images: Iterable[Batch]) -> None:
        """The mean of the training images, pixel by pixel."""
        total, seen = torch.zeros((), dtype=torch.float64), 0
        for batch in images:
            total, seen = batch.image.double().sum(dim=0) + total, seen + len(batch.image)
        self.mean.copy_(total / seen)

    def centred(self, images: Images) -> Images:
        """The images without the mean image, which is resized to images of another size."""
        mean, shape = self.mean[None], images.shape[-2:]
        return images - (mean if mean.shape[-2:] == shape else functional.interpolate(mean, shape, mode="bilinear"))

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """Equation 6: the losses of directions, 2.079 by chance, and lambda times those of distances; their parts."""
        keys = batch_keys(self.seed, self.current_epoch, batch)
        pair = torch.arange(len(keys) * self.pairs, device=keys.device)
        number = pair // self.pairs  # of the image
        keys = derive(keys[number], pair % self.pairs)
        shown = self.centred(batch.image)
        directions = {f"direction_{side}": self.direction(shown, number, derive(keys, side), side) for side in SIDES}
        distances = {f"distance_{side}": self.distance(shown, number, derive(keys, side + 1), side) for side in SIDES}
        loss, far = (torch.stack(list(parts.values())).sum() for parts in (directions, distances))
        return {"loss": loss + self.svdd_weight * far, **directions, **distances}

    def direction(self, images: Images, number: Pairs, keys: Pairs, side: int) -> Scalar:
        """The cross entropy of the direction in which the second patch lies (section 3.2)."""
        direction, *corners = beside(uniform(keys, 5), side, images.shape[-2:])
        patches = [
            noisy(cut(images, number, corner, side), derive(keys, place)) for place, corner in enumerate(corners)
        ]
        one, other = self.encoder(torch.cat(patches)).chunk(2)
        return functional.cross_entropy(self.classifiers[str(side)](one - other).float(), direction)

    def distance(self, images: Images, number: Pairs, keys: Pairs, side: int) -> Scalar:
        """The mean distance of the codes of patches that almost coincide (section 3.1)."""
        corners = close(uniform(keys, 3), side, images.shape[-2:])
        one, other = self.encoder(torch.cat([cut(images, number, corner, side) for corner in corners])).chunk(2)
        return (one - other).norm(dim=1).mean()

    def conclude(self, images: Iterable[Batch]) -> None:
        """The memory of the codes of the training images, one by one; the first process looks for all."""
        seen = 0
        for batch in images:
            seen += len(batch.image)
            for image, number in zip(batch.image.split(1), batch.index.tolist(), strict=True):
                for codes, bank in self.codes(image) if is_first_process() else []:
                    bank.update(codes[0].flatten(1).T, number)
        for bank in (self.small_bank, self.large_bank):
            bank.fit()
            if line := bank.left_out(seen):
                self.say(line)

    def codes(self, images: Images) -> list[tuple[Maps, MemoryBank]]:
        """The codes of all patches, and the memory of each size."""
        maps = self.encoder.dense(self.centred(images), self.small_stride, self.large_stride)
        return list(zip(maps, (self.small_bank, self.large_bank), strict=True))

    def predict(self, images: Images) -> Prediction:
        """The distance from the nearest code, spread over its patch, multiplied over both sizes (section 3.4)."""
        planes = []
        for codes, bank in self.codes(images):
            distance, _ = bank.nearest(codes.flatten(2).mT.flatten(0, 1))
            planes.append(distance.reshape(-1, 1, *codes.shape[2:]))
        (small, large), shape = planes, images.shape[-2:]
        anomaly_map = spread(small, SMALL, self.small_stride, shape) * spread(large, LARGE, self.large_stride, shape)
        return Prediction(anomaly_map, anomaly_map.amax(dim=(1, 2, 3)), None)

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The mean codes of both sizes."""
        return torch.cat([codes.mean(dim=(2, 3)) for codes, _ in self.codes(images)], dim=1)

    def memory(self, images: int) -> int:
        """What both memories hold."""
        return self.small_bank.memory(images) + self.large_bank.memory(images)


def classifier() -> nn.Module:
    """The difference of two codes to the logits of eight directions (section 3.2)."""
    widths = (CODE, 128, 128)
    hidden = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.LeakyReLU(0.1))]
    return nn.Sequential(*hidden, nn.Linear(128, 8))


def count(length: int, side: int, stride: int) -> int:
    """How many patches lie along an axis."""
    return (length - side) // stride + 1


def around(numbers: Pairs, reach: int) -> Offsets:
    """The places of a square of 2 reach + 1 without its centre, row by row from the top left, as offsets from it."""
    side = 2 * reach + 1
    numbers = numbers + (numbers >= side * side // 2)
    return torch.stack([numbers // side - reach, numbers % side - reach], dim=1)


def placed(offset: Offsets, draws: Draws, side: int, room: torch.Size) -> tuple[Offsets, Offsets]:
    """The corners of two patches at this offset, drawn from all places of the image where both are inside."""
    places = [length - side + 1 - offset[:, axis].abs() for axis, length in enumerate(room)]
    first = (draws * torch.stack(places, dim=1)).long() + (-offset).clamp_min(0)
    return first, first + offset


def beside(draws: Draws, side: int, room: torch.Size) -> tuple[Pairs, Offsets, Offsets]:
    """A direction of eight, and two patches of which the second lies there (section 3.2), by 5 draws a pair."""
    direction = (8 * draws[:, 0]).long()
    away = 3 * side // 4 + (side // 4 * draws[:, 1:3]).long()
    return direction, *placed(around(direction, 1) * away, draws[:, 3:], side, room)


def close(draws: Draws, side: int, room: torch.Size) -> tuple[Offsets, Offsets]:
    """Two patches a 32nd of their side apart, at most, along either axis (section 3.1), by 3 draws a pair."""
    reach = side // 32
    number = (((2 * reach + 1) ** 2 - 1) * draws[:, 0]).long()
    return placed(around(number, reach), draws[:, 1:], side, room)


def cut(images: Images, number: Pairs, corner: Offsets, side: int) -> Patches:
    """The patch at a corner of each of these images, given by their numbers."""
    span = torch.arange(side, device=corner.device)
    rows, columns = corner[:, 0, None] + span, corner[:, 1, None] + span
    found = images[number[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return found.movedim(3, 1).contiguous()


def noisy(patches: Patches, keys: Keys) -> Patches:
    """The patches with another colour and noise."""
    shift = normal(derive(keys, 0), patches.shape[1])[:, :, None, None]
    return patches + NOISE * (shift + normal(derive(keys, 1), patches[0].numel()).view_as(patches))


def spread(
    distances: Float[Tensor, "batch 1 map_height map_width"], side: int, stride: int, shape: torch.Size
) -> Float[Tensor, "batch 1 height width"]:
    """The mean, at every pixel of images of this shape, over the patches that lie over it."""
    ones, together = torch.ones_like(distances[:1]), distances
    for window in (torch.ones(1, 1, side, 1), torch.ones(1, 1, 1, side)):
        strides = (stride, 1) if window.shape[2] > 1 else (1, stride)
        together, ones = (functional.conv_transpose2d(x, window.to(x), stride=strides) for x in (together, ones))
    bottom, right = (whole - reached for whole, reached in zip(shape, together.shape[2:], strict=True))
    return functional.pad(together / ones, (0, right, 0, bottom), mode="replicate")
