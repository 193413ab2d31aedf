"""Synthetic defects, rendered for a whole batch on the device: `perlin`, `patch`, `scar` and `blob`.

All random numbers follow from (seed, epoch, row number), and no operation mixes rows: a row gets the same defect, bit
for bit, in any batch and with any number of processes (`noise.py`). Nothing waits for the device.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Images
from anomaly_lab.data.noise import (
    CELLS,
    Keys,
    Scalars,
    blend,
    derive,
    direction,
    offsets,
    perlin_noise,
    scalars,
    smooth_step,
    uniform,
)
from anomaly_lab.data.textures import ForeignTextures, Textures

Masks = Bool[Tensor, "batch 1 height width"]
Kind = Literal["perlin", "patch", "scar", "blob"]

KINDS: tuple[Kind, ...] = ("perlin", "patch", "scar", "blob")
VISIBLE = 0.5 / 255  # half a gray level: a smaller change is lost in 8 bits
REFERENCE = 256  # px: the side for which the sizes of scars are published


class Corrupted(NamedTuple):
    """Images with synthetic defects."""

    image: Images  # in [0, 1]; bit for bit the clean image outside the defect
    defect: Masks  # pixels that differ from the clean image by at least half a gray level in some channel


@runtime_checkable
class Corruption(Protocol):
    """A generator of synthetic defects, for a batch on its device."""

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of defect that it renders."""
        ...

    def __call__(self, images: Images, keys: Keys, inside: Masks | None = None) -> Corrupted:
        """Copies of gray or colour images in [0, 1] with one defect each, and the masks of the defects.

        `keys` come from `row_keys`, one per image. Only pixels `inside` change (None: all may), and positions and sizes
        are relative to the bounding box of these pixels. The mask is empty if the defect happens to be invisible.
        """
        ...


class Region(NamedTuple):
    """The pixels of each image that may change, and their bounding boxes in pixels."""

    inside: Masks
    top: Scalars
    left: Scalars
    height: Scalars
    width: Scalars


def region_of(images: Images, inside: Masks | None) -> Region:
    """The pixels that may change: all of them where nothing is said."""
    inside = torch.ones_like(images[:, :1], dtype=torch.bool) if inside is None else inside
    (top, height), (left, width) = _extent(inside.any(3)), _extent(inside.any(2))
    return Region(inside, top, left, height, width)


def _extent(occupied: Bool[Tensor, "batch 1 length"]) -> tuple[Scalars, Scalars]:
    """Start and length of the shortest interval that holds all true places."""
    start, end = occupied.int().argmax(2), occupied.shape[2] - occupied.flip(2).int().argmax(2)
    return start[..., None].float(), (end - start)[..., None].float()


def visible(images: Images, corrupted: Images, covered: Masks) -> Corrupted:
    """Change only covered pixels whose change is visible; overwrites `corrupted`."""
    corrupted = corrupted.clamp_(0, 1)
    defect = covered & ((corrupted - images).abs_().amax(1, keepdim=True) >= VISIBLE)
    return Corrupted(torch.where(defect, corrupted, images), defect)


@dataclass(frozen=True)
class PerlinTexture:
    """DRAEM's defect (Zavrtanik et al., ICCV 2021, section 3.3): a texture where rotated Perlin noise is above 0.5.

    The noise has 1 to 32 cells a side, a power of two that is independent per axis, and is turned by up to 90 degrees;
    the texture has an opacity of 0.2 to 1, as in the authors' code (in the paper 0.1 to 1). One mask in twenty is
    empty. Differences: the textures are procedural unless `textures` brings others (DRAEM: photographs of the DTD
    data), and the mask leaves out pixels where texture and image agree within half a gray level.
    """

    textures: Textures = field(default_factory=ForeignTextures)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"perlin"})

    def __call__(self, images: Images, keys: Keys, inside: Masks | None = None) -> Corrupted:
        """Defects and their masks, as `Corruption` describes them."""
        keys, region = derive(keys, KINDS.index("perlin")), region_of(images, inside)
        cells_y, cells_x, turns, opacity = scalars(keys, 4)
        middle = region.top + region.height / 2, region.left + region.width / 2
        down, right = offsets(images.shape[2], images.shape[3], *middle, turns / 2 - 0.25)
        y, x = down / region.height + 0.5, right / region.width + 0.5
        within = (y >= 0) & (y <= 1) & (x >= 0) & (x <= 1)
        y, x = y.clamp(0, 1) * (1 << (6 * cells_y).long()), x.clamp(0, 1) * (1 << (6 * cells_x).long())
        covered = within & (perlin_noise(derive(keys, 0), y, x) > 0.5)
        texture = self.textures(derive(keys, 1), images)
        blended = blend(images, texture, 1 - 0.8 * opacity[:, None])
        return visible(images, blended, region.inside & covered[:, None])


@dataclass(frozen=True)
class Patch:
    """CutPaste's patch (Li et al., CVPR 2021, appendix A.2): a rectangle of the image, pasted elsewhere.

    Its area is 2 to 15 % of the image; the aspect ratio lies in (0.3, 1) or in (1, 3.3), either with probability 1/2.
    """

    jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.1  # of brightness, contrast, saturation and hue
    kinds: ClassVar[frozenset[Kind]] = frozenset({"patch"})

    def __call__(self, images: Images, keys: Keys, inside: Masks | None = None) -> Corrupted:
        """Defects and their masks, as `Corruption` describes them."""
        keys, region = derive(keys, KINDS.index("patch")), region_of(images, inside)
        share, aspect, tall = scalars(keys, 3)
        area = (0.02 + 0.13 * share) * region.height * region.width
        aspect = torch.where(tall < 0.5, 0.3 + 0.7 * aspect, 1 + 2.3 * aspect)
        size = (area / aspect).sqrt(), (area * aspect).sqrt()
        return _paste(images, derive(keys, 0), region, size, torch.zeros_like(area), self.jitter, "nearest")


@dataclass(frozen=True)
class Scar:
    """CutPaste's scar (Li et al., CVPR 2021, appendix A.2): a thin rectangle of the image, turned and pasted elsewhere.

    At 256 px it is 10 to 25 px long and 2 to 16 px wide, at other sizes in proportion; it is turned by up to 45
    degrees.
    """

    jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.1  # of brightness, contrast, saturation and hue
    kinds: ClassVar[frozenset[Kind]] = frozenset({"scar"})

    def __call__(self, images: Images, keys: Keys, inside: Masks | None = None) -> Corrupted:
        """Defects and their masks, as `Corruption` describes them."""
        keys, region = derive(keys, KINDS.index("scar")), region_of(images, inside)
        length, width, turns = scalars(keys, 3)
        scale = torch.maximum(region.height, region.width) / REFERENCE
        size = (10 + 15 * length) * scale, (2 + 14 * width) * scale
        return _paste(images, derive(keys, 0), region, size, turns / 4 - 0.125, self.jitter, "bilinear")


def _paste(
    images: Images,
    keys: Keys,
    region: Region,
    size: tuple[Scalars, Scalars],
    turns: Scalars,
    jitter: float,
    mode: Literal["nearest", "bilinear"],
) -> Corrupted:
    """Cut a rectangle out of each image, change its colours, turn it about its middle and paste it elsewhere.

    Source and target, before it is turned, lie on whole pixels of the bounding box of the region.
    """
    from_y, from_x, to_y, to_x = scalars(derive(keys, 0), 4)
    high = torch.minimum(size[0].round().clamp(min=1), region.height)
    wide = torch.minimum(size[1].round().clamp(min=1), region.width)
    from_y, to_y = (region.top + (place * (region.height - high + 1)).floor() for place in (from_y, to_y))
    from_x, to_x = (region.left + (place * (region.width - wide + 1)).floor() for place in (from_x, to_x))
    down, right = offsets(images.shape[2], images.shape[3], to_y + high / 2, to_x + wide / 2, turns)
    covered = (down.abs() < high / 2) & (right.abs() < wide / 2)
    piece = sampled(images, from_y + high / 2 + down, from_x + wide / 2 + right, mode)
    eighths = (torch.arange(8, device=images.device) + 0.5) / 8
    mean = sampled(images, from_y + eighths[:, None] * high, from_x + eighths * wide, "nearest").flatten(2)
    while mean.shape[2] > 1:  # in a fixed order: torch does not promise that of a mean
        mean = (mean[..., ::2] + mean[..., 1::2]) / 2
    return visible(images, _jittered(piece, mean[..., None], derive(keys, 1), jitter), region.inside & covered[:, None])


def sampled(
    images: Images, y: Float[Tensor, "batch rows _"], x: Float[Tensor, "batch _ columns"], mode: str
) -> Float[Tensor, "batch channel rows columns"]:
    """Colours at points in pixels; pixel i covers i to i + 1."""
    y, x = torch.broadcast_tensors(y, x)
    grid = torch.stack([2 * x / images.shape[3] - 1, 2 * y / images.shape[2] - 1], dim=-1)
    return functional.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)


def _jittered(
    piece: Images, mean: Float[Tensor, "batch channel 1 1"], keys: Keys, jitter: float
) -> Float[Tensor, "batch channel height width"]:
    """Change contrast, brightness and saturation by factors in 1 +- jitter, and hue by up to `jitter` turns.

    Hue is turned about the gray axis of the colour cube; a gray image has none, and no saturation. A jitter of 0
    changes no bit.
    """
    contrast, brightness, saturation, hue = (jitter * (2 * draw[:, None] - 1) for draw in scalars(keys, 4))
    piece = (piece - mean).mul_(contrast).add_(piece).mul_(1 + brightness)
    second, third = piece.roll(-1, 1), piece.roll(-2, 1)
    color = piece - (piece + second).add_(third).div_(3)
    cos, sin = direction(hue)
    factor = 1 + saturation
    piece.add_(color.mul_(factor * cos - 1))
    return piece.add_(third.sub_(second).mul_(factor * sin / math.sqrt(3)))


@dataclass(frozen=True)
class Blob:
    """A stain: one colour over a spot with an irregular outline and a smooth edge, anywhere in the region.

    The spot has about 0.5 to 5 % of the region's area and an aspect ratio of 1 to 3. At its middle its colour differs
    from the image by at least a quarter of the range in every channel, so that it always shows, and its opacity is 0.2
    to 1; it fades over 10 to 100 % of the radius.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"blob"})

    def __call__(self, images: Images, keys: Keys, inside: Masks | None = None) -> Corrupted:
        """Defects and their masks, as `Corruption` describes them."""
        keys, region = derive(keys, KINDS.index("blob")), region_of(images, inside)
        share, aspect, turns, wobble, edge, opacity, where, tone, gray = scalars(keys, 9)
        order = region.inside.flatten(1).cumsum(1)
        count = order[:, -1:, None]
        middle = torch.searchsorted(order, (where * count).long().flatten(1) + 1)[..., None]
        middle = middle.clamp(max=order.shape[1] - 1)  # of a region without pixels
        y, x = middle // images.shape[3] + 0.5, middle % images.shape[3] + 0.5
        down, right = offsets(images.shape[2], images.shape[3], y, x, turns)
        radius = (((0.005 + 0.045 * share) * count).clamp(min=1) / math.pi).sqrt()
        aspect = (1 + 2 * aspect).sqrt()
        down, right = down / (radius * aspect), right / (radius / aspect)
        half = CELLS // 2  # a lattice point, where the noise is 0, in the middle of the spot
        noise = perlin_noise(derive(keys, 0), (half + down).clamp(0, CELLS), (half + right).clamp(0, CELLS))
        slope = (1 - down * down - right * right + wobble * noise) / (0.1 + 0.9 * edge)
        shift = uniform(derive(keys, 1), images.shape[1])[..., None]
        shift = 0.25 + 0.5 * (shift + gray * (tone - shift))
        color = (images.flatten(2).gather(2, middle.expand(-1, images.shape[1], -1)) + shift) % 1
        alpha = (0.2 + 0.8 * opacity) * smooth_step(slope.clamp(0, 1))
        return visible(images, blend(images, color[..., None], alpha[:, None]), region.inside)


@dataclass(frozen=True)
class AnyOf:
    """One of several corruptions per row, all equally likely, or none."""

    corruptions: Sequence[Corruption]
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0  # of a row to be corrupted; DRAEM: 0.5

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of all corruptions."""
        return frozenset[Kind]().union(*(corruption.kinds for corruption in self.corruptions))

    def __call__(self, images: Images, keys: Keys, inside: Masks | None = None) -> Corrupted:
        """Defects and their masks, as `Corruption` describes them."""
        chance, choice = uniform(derive(keys, len(KINDS)), 2)[..., None, None, None].unbind(1)
        choice = (choice * len(self.corruptions)).floor()
        image, defect = images, torch.zeros_like(images[:, :1], dtype=torch.bool)
        for number, corruption in enumerate(self.corruptions):
            corrupted = corruption(images, keys, inside)
            chosen = (chance < self.probability) & (choice == number)
            image = torch.where(chosen, corrupted.image, image)
            defect = torch.where(chosen, corrupted.defect, defect)
        return Corrupted(image, defect)


@dataclass(frozen=True)
class AtLeast:
    """A corruption repeated with other random numbers until its defect covers a minimum share of the region.

    A row that never reaches it, such as a patch on an image of one colour, gets the defect of `otherwise`. If there is
    none, or if that is too small as well, as in a region of few pixels, the whole region turns black or white. For
    evaluation only: it waits for the device.
    """

    corruption: Corruption
    share: Annotated[float, Field(ge=0, le=1)] = 0.001  # of the region's pixels, at least one pixel
    tries: Annotated[int, Field(ge=1)] = 10
    otherwise: Blob | None = field(default_factory=Blob)  # None where a method was trained with blobs

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of the corruption."""
        return self.corruption.kinds

    def __call__(self, images: Images, keys: Keys, inside: Masks | None = None) -> Corrupted:
        """Defects and their masks, as `Corruption` describes them; only a region without pixels has an empty mask."""
        inside = region_of(images, inside).inside
        least = (self.share * inside.sum((1, 2, 3), keepdim=True)).clamp(min=1)
        image, defect = visible(images, (images < 0.5).to(images.dtype), inside)
        (waiting,) = inside.flatten(1).any(1).nonzero(as_tuple=True)
        for attempt in range(2 * self.tries):
            corruption = self.corruption if attempt < self.tries else self.otherwise
            if not len(waiting) or corruption is None:
                break
            corrupted = corruption(images[waiting], derive(keys[waiting], attempt), inside[waiting])
            enough = corrupted.defect.sum((1, 2, 3)) >= least[waiting, 0, 0, 0]
            image[waiting[enough]], defect[waiting[enough]] = corrupted.image[enough], corrupted.defect[enough]
            waiting = waiting[~enough]
        return Corrupted(image, defect)


def other_corruptions(kinds: Collection[Kind]) -> tuple[Corruption, ...]:
    """Corruptions of all other kinds, to test a method that was trained with these kinds.

    Raises UserError if no kind is left.
    """
    others = tuple(every for every in (PerlinTexture(), Patch(), Scar(), Blob()) if every.kinds.isdisjoint(kinds))
    if not others:
        raise UserError(
            "callbacks=synthetic: expected a kind of defect that is not used in training, found all of them there "
            f"({', '.join(KINDS)}); train with fewer kinds or set callbacks=default"
        )
    return others  # type: ignore[return-value]  # kinds of a class stand for kinds of its objects


def textures_of(corruption: Corruption | None) -> list[ForeignTextures]:
    """The textures that a corruption paints with, for people and for a look at the files that they come from."""
    parts = [*getattr(corruption, "corruptions", ()), getattr(corruption, "corruption", None)]
    own = getattr(corruption, "textures", None)
    found = [own] if isinstance(own, ForeignTextures) else []
    return found + [textures for part in parts if part is not None for textures in textures_of(part)]
