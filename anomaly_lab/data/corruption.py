"""Synthetic defects, rendered for a whole batch on the device: `perlin`, `patch`, `scar` and `blob`.

Every random number follows from (seed, epoch, row number) through a counter-based hash, and every operation treats each
row alone. A row therefore gets the same defect, bit for bit, whatever batch it is in and however many processes share
the batch; nothing has to be saved for a resumed run, and nothing waits for the device.

Sine and cosine are read from a table and sums over pixels are avoided: both depend on the length of the tensor in their
last bit.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from anomaly_lab.errors import UserError

Images = Float[Tensor, "batch channel height width"]
Masks = Bool[Tensor, "batch 1 height width"]
Keys = Int[Tensor, " batch"]
Plane = Float[Tensor, "batch height width"]
Column = Float[Tensor, "batch 1 1"]
Kind = Literal["perlin", "patch", "scar", "blob"]

VISIBLE = 0.5 / 255  # half a gray level: a smaller change is lost in 8 bits
REFERENCE = 256  # px: the side for which the sizes of scars are published
CIRCLE = 4096  # angles in the table of sines
LATTICE = 34  # points a side of the largest Perlin lattice: 32 cells, and one point beyond the last
GOLDEN = -0x61C8864680B583EB  # 2**64 divided by the golden ratio, as a signed number
STAFFORD = ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15))  # shifts and factors of SplitMix64's hash


class Corrupted(NamedTuple):
    """Images with synthetic defects."""

    image: Images  # in [0, 1]; bit for bit the clean image outside the defect
    defect: Masks  # pixels that differ from the clean image by at least half a gray level in some channel


@runtime_checkable
class Corruption(Protocol):
    """A generator of synthetic defects."""

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of defect that it renders."""
        ...

    def __call__(self, images: Images, keys: Keys, inside: Masks | None = None) -> Corrupted:
        """Corrupt images in [0, 1], gray or colour, by random numbers that follow from `keys`.

        Args:
            images: Left as they are.
            keys: One per image, from `row_keys`.
            inside: Pixels that may change; None: all of them. Sizes are relative to its bounding box.

        Returns:
            Copies and the masks of their defects, which may be empty.
        """
        ...


def row_keys(seed: int, epoch: int, rows: Int[Tensor, " batch"]) -> Keys:
    """A 64-bit key per row, from which all its random numbers follow."""
    return derive(derive(torch.zeros_like(rows) + seed % 2**63, epoch), rows)


def derive(keys: Keys, number: int | Keys) -> Keys:
    """Keys of another stream of random numbers."""
    return _hash(_hash(keys) + number)


def uniform(keys: Keys, count: int) -> Float[Tensor, "batch {count}"]:
    """Random numbers in [0, 1), multiples of 2**-24: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) as a counter."""
    counter = torch.arange(1, count + 1, device=keys.device) * GOLDEN
    return (_hash(keys[:, None] + counter) >> 40 & 0xFFFFFF).float() / 2**24


def _hash(number: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The finaliser of SplitMix64. Products wrap around; the masks make torch's shifts those of unsigned numbers."""
    for shift, factor in STAFFORD:
        number = (number ^ (number >> shift & 2 ** (64 - shift) - 1)) * factor
    return number ^ (number >> 31 & 2**33 - 1)


def _direction(turns: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Cosine and sine of an angle in turns, rounded to a 4096th."""
    angles = torch.arange(CIRCLE, device=turns.device) * (2 * math.pi / CIRCLE)
    index = (turns * CIRCLE).floor().long() % CIRCLE
    return angles.cos()[index], angles.sin()[index]


def _everywhere(images: Images, inside: Masks | None) -> Masks:
    return torch.ones_like(images[:, :1], dtype=torch.bool) if inside is None else inside


def _box(inside: Masks) -> tuple[Column, Column, Column, Column]:
    """The bounding box of each mask: top, left, height, width in pixels."""
    sides = []
    for line in (inside.any(3), inside.any(2)):
        first, beyond = line.int().argmax(2), line.shape[2] - line.flip(2).int().argmax(2)
        sides.append((first, beyond - first))
    (top, height), (left, width) = sides
    return tuple(side[:, :, None].float() for side in (top, left, height, width))  # type: ignore[return-value]


def _offsets(images: Images, y: Column, x: Column, turns: Column) -> tuple[Plane, Plane]:
    """The way (down, right) from a place, in pixels, to the middle of every pixel, in axes that are turned."""
    height, width = images.shape[-2:]
    down = torch.arange(height, device=images.device)[:, None] + 0.5 - y
    right = torch.arange(width, device=images.device) + 0.5 - x
    cos, sin = _direction(turns)
    return cos * down + sin * right, cos * right - sin * down


def _smooth(step: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """From 0 at 0 to 1 at 1, with first and second derivatives that are 0 at both."""
    return step * step * step * (step * (step * 6 - 15) + 10)


def _visible(images: Images, corrupted: Images, covered: Masks) -> Corrupted:
    """Keep the changes of the covered pixels that show."""
    corrupted = corrupted.clamp(0, 1)
    defect = covered & ((corrupted - images).abs().amax(1, keepdim=True) >= VISIBLE)
    return Corrupted(torch.where(defect, corrupted, images), defect)


def perlin(keys: Keys, y: Plane, x: Plane) -> Plane:
    """Gradient noise (Perlin, SIGGRAPH 2002) at places in units of lattice cells, from 0 to 32.

    Values lie in [-1, 1], their standard deviation is 0.305; at lattice points they are 0.
    """
    gradient_x, gradient_y = _direction(uniform(keys, LATTICE * LATTICE))
    top, left = y.floor(), x.floor()
    down, right = y - top, x - left
    point = (top * LATTICE + left).long().flatten(1)
    ramps = [
        gradient_y.gather(1, point + (LATTICE * i + j)).view_as(y) * (down - i)
        + gradient_x.gather(1, point + (LATTICE * i + j)).view_as(x) * (right - j)
        for i in (0, 1)
        for j in (0, 1)
    ]
    across = _smooth(right)
    upper, lower = ramps[0] + across * (ramps[1] - ramps[0]), ramps[2] + across * (ramps[3] - ramps[2])
    return math.sqrt(2) * (upper + _smooth(down) * (lower - upper))


def procedural_texture(keys: Keys, channels: int, height: int, width: int) -> Images:
    """Random textures in [0, 1]: noise of six octaves (2 to 64 cells a side), three in ten with oblique stripes.

    From texture to texture vary the mean colour, the contrast, the weight of the finer octaves, the share of the noise
    that is the same in all channels, and the period and direction of the stripes.
    """
    draws = uniform(keys, 7 + channels)[..., None, None]
    roughness, gray, gain, striped, periods, turns, phase = draws[:, :7].unbind(1)
    roughness, gain = 0.4 + 0.6 * roughness, 0.05 + 0.25 * gain
    noise, weight, power = torch.zeros_like(draws[:, :1]), torch.ones_like(roughness), torch.zeros_like(roughness)
    for octave in range(1, 7):
        shape = (len(keys), channels + 1, 2**octave, 2**octave)
        white = 2 * uniform(derive(keys, octave), math.prod(shape[1:])).view(shape) - 1
        noise = functional.interpolate(noise, shape[2:], mode="bicubic") + weight[:, None] * white
        weight, power = weight * roughness, power + weight * weight
    noise = functional.interpolate(noise, (height, width), mode="bicubic") / (power[:, None] / 4).sqrt()
    along, _ = _offsets(noise, 0 * phase, 0 * phase, turns)
    wave = 2 * (along * ((2 + 30 * periods) / max(height, width)) + phase).frac().abs() - 1
    stripes = torch.where(striped < 0.3, 1.5 * wave * (1.5 - 0.5 * wave * wave), 0)[:, None]
    pattern = noise[:, 1:] + gray[:, None] * (noise[:, :1] - noise[:, 1:]) + stripes
    return (draws[:, 7:] .squeeze(-1)[..., None] + gain[:, None] * pattern).clamp(0, 1)
