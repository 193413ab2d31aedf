"""Random numbers and noise for a whole batch on the device, from (seed, epoch, row number).

All numbers come from a counter-based hash, and no operation mixes rows. A row gets the same numbers and the same noise,
bit for bit, in any batch and with any number of processes; a resumed run needs no saved state, and nothing waits for
the device. Sines come from a table: torch does not promise the same last bit of a sine in tensors of another shape.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from anomaly_lab.core.types import Batch, Images

Keys = Int[Tensor, " batch"]
Scalars = Float[Tensor, "batch 1 1"]
Plane = Float[Tensor, "batch height width"]
Numbers = Float[Tensor, "*shape"]

CIRCLE = 4096  # angles in the table of sines
CELLS = 32  # a side of the largest Perlin lattice
LATTICE = CELLS + 2  # points a side: a point at 32 has neighbours too
GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # 2**64 divided by the golden ratio, as a signed number
SPLIT_MIX = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))  # shifts and factors


def row_keys(seed: int, epoch: int | Keys, rows: Int[Tensor, " batch"]) -> Keys:
    """One 64-bit key per row, from which all its random numbers follow."""
    return derive(derive(torch.zeros_like(rows, dtype=torch.long) + seed % 2**63, epoch), rows)


def batch_keys(seed: int, epoch: int, batch: Batch) -> Keys:
    """Those of a training batch, new in every epoch; or of held-out images, by their numbers alone, always the same."""
    return row_keys(seed, 0, batch.index) if batch.row is None else row_keys(seed, epoch, batch.row)


def derive(keys: Keys, number: int | Keys) -> Keys:
    """The keys of another stream of random numbers."""
    return _hash(_hash(keys) + number)


def uniform(keys: Keys, count: int) -> Float[Tensor, "batch {count}"]:
    """Random numbers in [0, 1), multiples of 2**-24: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) with a counter."""
    counter = torch.arange(1, count + 1, device=keys.device) * GOLDEN
    return (_hash(keys[:, None] + counter) >> 40 & 0xFFFFFF).float() / 2**24


def normal(keys: Keys, count: int) -> Float[Tensor, "batch {count}"]:
    """Random numbers of a standard normal distribution, in (-5.5, 5.5).

    Unlike the others they may differ in the last bits in a tensor of another shape: torch computes them.
    """
    return math.sqrt(2) * (2 * uniform(keys, count) - 1 + 2**-24).erfinv()  # never at -1 or 1, where it is infinite


def _hash(number: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The last step of SplitMix64. Products wrap around; masks turn torch's shifts into those of unsigned numbers."""
    for shift, factor in SPLIT_MIX:
        number = (number ^ (number >> shift & 2 ** (64 - shift) - 1)) * factor
    return number ^ (number >> 31 & 2**33 - 1)


def scalars(keys: Keys, count: int) -> tuple[Scalars, ...]:
    """`count` random numbers in [0, 1) per row, in shapes that broadcast over planes."""
    return uniform(keys, count)[..., None, None].unbind(1)


def direction(turns: Numbers) -> tuple[Numbers, Numbers]:
    """Cosine and sine of an angle in turns, rounded down to a 4096th."""
    angles = torch.arange(CIRCLE, device=turns.device) * (2 * math.pi / CIRCLE)
    index = (turns * CIRCLE).floor().long() % CIRCLE
    return angles.cos()[index], angles.sin()[index]


def smooth_step(numbers: Numbers) -> Numbers:
    """From 0 at 0 to 1 at 1; the first and second derivatives vanish at both ends."""
    return (6 * numbers).sub_(15).mul_(numbers).add_(10).mul_(numbers).mul_(numbers).mul_(numbers)


def blend(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """`first` where the share is 0, `second` where it is 1."""
    return (second - first).mul_(share).add_(first)


def offsets(height: int, width: int, y: Scalars, x: Scalars, turns: Scalars) -> tuple[Plane, Plane]:
    """Offsets (down, right) in px of every pixel centre from a point, along rotated axes."""
    down = torch.arange(height, device=y.device)[:, None] + 0.5 - y
    right = torch.arange(width, device=x.device) + 0.5 - x
    cos, sin = direction(turns)
    return cos * down + sin * right, cos * right - sin * down


def perlin_noise(keys: Keys, y: Plane, x: Plane) -> Plane:
    """Gradient noise (Perlin, SIGGRAPH 2002) at points in units of lattice cells, from 0 to 32.

    Values lie in [-1, 1] with standard deviation 0.305; at lattice points they are 0.
    """
    gradient_x, gradient_y = direction(uniform(keys, LATTICE * LATTICE))
    top, left = y.floor(), x.floor()
    down, right = y - top, x - left
    point = (top * LATTICE + left).long().flatten(1)
    corners = []
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        ramp = gradient_y[:, LATTICE * i + j :].gather(1, point).view_as(y).mul_(down - i)
        corners.append(ramp.add_(gradient_x[:, LATTICE * i + j :].gather(1, point).view_as(x).mul_(right - j)))
    across = smooth_step(right)
    upper, lower = blend(corners[0], corners[1], across), blend(corners[2], corners[3], across)
    return blend(upper, lower, smooth_step(down)).mul_(math.sqrt(2))


def procedural_texture(keys: Keys, channels: int, height: int, width: int) -> Images:
    """Random textures in [0, 1]: noise of six octaves (2 to 64 cells a side), three in ten with oblique stripes.

    Octaves whose cells would be smaller than a pixel are left out. The mean colour, the contrast, the weight of the
    finer octaves, the share of the noise that all channels have in common, and the period and direction of the stripes
    vary from texture to texture.
    """
    roughness, gray, gain, striped, periods, turns, phase = scalars(derive(keys, 0), 7)
    gain, persistence = 0.05 + 0.25 * gain, 0.4 + 0.6 * roughness[:, None]
    weight, noise = torch.ones_like(persistence), torch.zeros_like(persistence)
    power = noise
    for octave in range(1, 1 + min(6, max(2, height, width).bit_length() - 1)):
        shape = (channels + 1, 2**octave, 2**octave)
        white = 2 * uniform(derive(keys, 1 + octave), math.prod(shape)).unflatten(1, shape) - 1
        noise = functional.interpolate(noise, shape[1:], mode="bicubic") + weight * white
        weight, power = weight * persistence, power + weight * weight
    noise = blend(noise[:, 1:], noise[:, :1], gray[:, None]) * (2 * gain[:, None] / power.sqrt())
    noise += uniform(derive(keys, 1), channels)[..., None, None]
    along, _ = offsets(height, width, torch.zeros_like(phase), torch.zeros_like(phase), turns)
    along = along * ((2 + 30 * periods) / max(height, width)) + phase
    wave = 4 * (along - along.floor() - 0.5).abs() - 1
    stripes = torch.where(striped < 0.3, gain * wave * (1.5 - 0.5 * wave * wave), 0)
    return functional.interpolate(noise, (height, width), mode="bicubic").add_(stripes[:, None]).clamp_(0, 1)
