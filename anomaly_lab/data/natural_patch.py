"""NSA's synthetic defect (Schlueter, Liu, Hou and Kainz, ECCV 2022), without solving for a blend."""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from anomaly_lab.core.types import Images
from anomaly_lab.data.corruption import KINDS, Corrupted, Kind, Masks, Region, region_of, sampled, visible
from anomaly_lab.data.noise import Keys, derive, scalars

SMALLEST, SPREAD, LARGEST = 0.03, 0.05, 0.4  # of half a side of a patch, in sides of the image
LEVELS = 4096  # entries of a table of quantiles
STREAM = len(KINDS) + 1  # of random numbers, after those of other corruptions and their mixture


@dataclass(frozen=True)
class NaturalPatch:
    """Pieces of the image itself, pasted elsewhere so that no seam shows.

    One piece, a second in half of the images, a third in a quarter. Half their sides are 0.03 of that of the image and
    a gamma-distributed rest (shape 2, scale 0.05), at most 0.4; a piece is enlarged by a factor of 0.7 to 1.3. Along
    its outline the change vanishes: what the piece differs from the image there is interpolated across it and
    taken away (a Coons patch of its four sides). The paper takes pieces of other images and solves Poisson's equation
    for the same purpose, on a processor; and it keeps pieces without enough of the object away.
    """

    most: Annotated[int, Field(ge=1, le=10)] = 3
    kinds: ClassVar[frozenset[Kind]] = frozenset({"patch", "scar"})  # both are pieces of the image

    def __call__(self, images: Images, keys: Keys, inside: Masks | None = None) -> Corrupted:
        """Defects and their masks, as `Corruption` describes them."""
        region, keys = region_of(images, inside), derive(keys, STREAM)
        changed, covered, more = images, torch.zeros_like(region.inside), torch.ones_like(region.top, dtype=torch.bool)
        for number in range(self.most):
            stream = derive(keys, number)
            (coin,) = scalars(derive(stream, 0), 1)
            more = more & (coin < 0.5) if number else more
            pasted, here = piece(changed, derive(stream, 1), region)
            here = here & more[:, None]
            changed, covered = torch.where(here, pasted, changed), covered | here
        return visible(images, changed.clone(), covered & region.inside)


def piece(images: Images, keys: Keys, region: Region) -> tuple[Images, Masks]:
    """Images with a piece over all of their pixels, and where it lies."""
    sides = quantiles(images.device)
    tall, broad, scale, *places = scalars(keys, 7)
    factor = sides[1][(scale * LEVELS).long()]
    extents = []
    for share, length, start, source, target in (
        (tall, region.height, region.top, places[0], places[1]),
        (broad, region.width, region.left, places[2], places[3]),
    ):
        size = (2 * sides[0][(share * LEVELS).long()] * length).round().clamp(min=2)
        size = torch.minimum(size, (length * factor.clamp(max=1)).floor()).clamp(min=1)
        seen = size / factor  # of the source
        extents.append((size, start + source * (length - seen), start + (target * (length - size + 1)).floor()))
    (high, from_y, to_y), (wide, from_x, to_x) = extents
    y, x = (torch.arange(side, device=images.device) + 0.5 for side in images.shape[2:])
    y, x = y[:, None], x[None]  # middles of the pixels
    first_y, last_y, first_x, last_x = to_y + 0.5, to_y + high - 0.5, to_x + 0.5, to_x + wide - 0.5

    def source(at_y: Tensor, at_x: Tensor) -> Tensor:
        return sampled(images, from_y + (at_y - to_y) / factor, from_x + (at_x - to_x) / factor, "bilinear")

    def difference(at_y: Tensor, at_x: Tensor) -> Tensor:
        """Image less piece."""
        return sampled(images, at_y, at_x, "bilinear") - source(at_y, at_x)

    down = ((y - first_y) / (high - 1).clamp(min=1))[:, None].expand(-1, -1, -1, 1)
    right = ((x - first_x) / (wide - 1).clamp(min=1))[:, None].expand(-1, -1, 1, -1)
    row, column = torch.zeros_like(first_x) + x, torch.zeros_like(first_y) + y
    upper, lower = difference(first_y, row), difference(last_y, row)
    left, other = difference(column, first_x), difference(column, last_x)
    corners = [[difference(at_y, at_x) for at_x in (first_x, last_x)] for at_y in (first_y, last_y)]
    sides_blended = upper + down * (lower - upper) + left + right * (other - left)
    above, below = (pair[0] + right * (pair[1] - pair[0]) for pair in corners)
    membrane = sides_blended - (above + down * (below - above))
    covered = (y > to_y) & (y < to_y + high) & (x > to_x) & (x < to_x + wide)
    return source(column, row) + membrane, covered[:, None]


@cache
def quantiles(device: torch.device) -> tuple[Float[Tensor, " level"], Float[Tensor, " level"]]:
    """Half a side of a piece in sides of the image, and its enlargement, at 4096 steps of their distributions.

    Tables, because torch does not promise the same logarithm in tensors of another shape.
    """
    share = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
    grid = torch.linspace(0, 20, 200_001, dtype=torch.float64)
    gamma = grid[torch.searchsorted(1 - (1 + grid) * torch.exp(-grid), share)]  # shape 2, scale 1
    half = (SMALLEST + SPREAD * gamma).clamp(max=LARGEST)
    factor = (1 + 0.5 * torch.special.ndtri(share)).clamp(0.7, 1.3)
    return half.float().to(device), factor.float().to(device)
