"""What FCDD takes for abnormal (Liznerski et al., ICLR 2021): images with confetti, and foreign photos."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from anomaly_lab.core.types import Images
from anomaly_lab.data.corruption import KINDS, Corrupted, Kind, Masks, Region, region_of, visible
from anomaly_lab.data.noise import Keys, Plane, derive, offsets, scalars, smooth_step, uniform
from anomaly_lab.data.textures import ForeignTextures

SMALLEST, LARGEST = 8 / 240, 54 / 240  # sides of a piece, in sides of the image: 8 to 54 px of 240
EDGE = 4.7 * 5 / 240  # over which it fades in, as steep in the middle as a blur of 5 px
# For the first, second, ... piece of a kind: the probability that an image has fewer.
FEWER = ((0.0, 0.72, 0.91, 0.98), (0.0, 0.85, 0.97))
STREAM = len(KINDS) + 2  # of random numbers, after those of other corruptions, their mixture and `NaturalPatch`


@dataclass(frozen=True)
class Confetti:
    """Rectangles with soft edges that darken an image or, as often, lighten it.

    One to four are of a random colour, one to three change all channels by the full range. As published their numbers
    are those of independent pixels (1.04 and 0.69 expected), and one of each kind at least. Sides are 3 to 22 % of
    those of the image, a rectangle is turned by up to 45 degrees, and where two overlap both count.

    The authors only darken, unless that shows less than lightening; they draw few more pieces in one image of a
    hundred, and blur pixels where the edges here are computed.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"blob"})  # one colour with a smooth edge, too

    def __call__(self, images: Images, keys: Keys, inside: Masks | None = None) -> Corrupted:
        """Defects and their masks, as `Corruption` describes them."""
        region, keys = region_of(images, inside), derive(keys, STREAM)
        (sign,) = scalars(derive(keys, 0), 1)
        change = torch.zeros_like(images)
        for kind, chances in enumerate(FEWER):
            (drawn,) = scalars(derive(keys, 17 + kind), 1)
            for number, fewer in enumerate(chances):
                stream = derive(keys, 1 + 8 * kind + number)
                there = (drawn >= fewer).float()
                colour = uniform(derive(stream, 1), images.shape[1])[..., None, None] if kind == 0 else 1.0
                change = change + colour * (there * piece(images, derive(stream, 0), region))[:, None]
        change = torch.where(sign[:, None] < 0.5, -change, change)
        return visible(images, images + change, region.inside)


def piece(images: Images, keys: Keys, region: Region) -> Plane:
    """How far every pixel belongs to a rectangle, 0 to 1."""
    high, wide, y, x, turns = scalars(keys, 5)
    centre = region.top + y * region.height, region.left + x * region.width
    down, right = offsets(images.shape[2], images.shape[3], *centre, turns / 4 - 0.125)
    covered = torch.ones_like(down)
    for distance, share, side in ((down, high, region.height), (right, wide, region.width)):
        half = (SMALLEST + (LARGEST - SMALLEST) * share) / 2
        covered = covered * smooth_step((0.5 + (half - distance.abs() / side) / EDGE).clamp(0, 1))
    return covered


@dataclass(frozen=True)
class ForeignPhoto:
    """The image is replaced by a foreign photo, or by what else `textures` gives (outlier exposure)."""

    textures: ForeignTextures = field(default_factory=ForeignTextures)
    kinds: ClassVar[frozenset[Kind]] = frozenset()  # nothing is painted into the image

    def __call__(self, images: Images, keys: Keys, inside: Masks | None = None) -> Corrupted:
        """Other images and where they differ, as `Corruption` describes them."""
        foreign = self.textures(derive(keys, STREAM + 1), images)
        return visible(images, foreign.clone(), region_of(images, inside).inside)
