"""What synthetic defects are painted with: procedural textures, the image itself, or photos of a folder."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from anomaly_lab.core.types import Images
from anomaly_lab.data.listing import OWN, PROCEDURAL
from anomaly_lab.data.noise import Keys, blend, derive, procedural_texture, scalars, uniform
from anomaly_lab.data.photo_folder import PhotoFolder

Textures = Callable[[Keys, Images], Images]  # one for each image, in [0, 1], of the size of the images
OFTEN = 0.3  # the probability of each change; DRAEM makes 3 of 10


class ForeignTextures:
    """Textures for `PerlinTexture`, as one key names them.

    `procedural`: drawn anew each time (`procedural_texture`). `own`: the image itself, shifted. Else a folder: up to
    1000 of its photos, at `side` px. DRAEM takes the 5640 photos of the DTD data. Photos and the image itself are
    turned and change their colours (`varied`).

    Raises UserError, when asked, for a folder that is missing or without photos.
    """

    def __init__(
        self,
        foreign_images: Annotated[str, Field(min_length=1)] = PROCEDURAL,
        side: PositiveInt = 256,
        key: str = "data.foreign_images",
    ) -> None:
        self.foreign_images, self.side, self.key = foreign_images, side, key

    @cached_property
    def folder(self) -> PhotoFolder | None:
        """The photos, if a folder is named."""
        if self.foreign_images in {PROCEDURAL, OWN}:
            return None
        return PhotoFolder(self.foreign_images, self.key, self.side)

    @property
    def photos(self) -> Sequence[Path]:
        """The files that are read."""
        return self.folder.paths if self.folder else []

    @property
    def in_words(self) -> str:
        """What is painted with."""
        if self.folder:
            return self.folder.in_words
        return "procedural textures" if self.foreign_images == PROCEDURAL else "the image itself"

    def __call__(self, keys: Keys, images: Images) -> Images:
        """A texture for each image."""
        if self.foreign_images == PROCEDURAL:
            return procedural_texture(keys, *images.shape[1:])
        textures = self.folder(derive(keys, 0), *images.shape[1:]) if self.folder else shifted(derive(keys, 0), images)
        return varied(derive(keys, 1), textures)


def shifted(keys: Keys, images: Images) -> Images:
    """Images shifted by any number of pixels; what leaves them on one side enters on the other."""
    for axis, share in zip((2, 3), uniform(keys, 2).unbind(1), strict=True):
        side = images.shape[axis]
        places = ((share * side).long()[:, None] + torch.arange(side, device=images.device)) % side
        images = images.take_along_dim(places.view([-1, 1, *(side if i == axis else 1 for i in (2, 3))]), axis)
    return images


def varied(keys: Keys, images: Images) -> Float[Tensor, "batch channel height width"]:
    """Mirrored and turned at random; each of four changes of colour is made with a probability of 0.3.

    Darker or lighter in the middle of the range (its square or square root, in part), brighter by a factor of 0.8 to
    1.2 and up to 30 of 255 levels, with the channels in another order, inverted. DRAEM draws three of ten such changes.
    """
    chance = uniform(derive(keys, 0), 7)[..., None, None, None].unbind(1)
    amount = scalars(derive(keys, 1), 4)
    images = torch.where(chance[0] < 0.5, images.flip(3), images)
    images = torch.where(chance[1] < 0.5, images.flip(2), images)
    if images.shape[2] == images.shape[3]:
        images = torch.where(chance[2] < 0.5, images.mT, images)
    curve = torch.where(amount[0][..., None] < 0.5, images.square(), images.sqrt())
    images = torch.where(chance[3] < OFTEN, blend(images, curve, amount[1][..., None]), images)
    brighter = images * (0.8 + 0.4 * amount[2][..., None]) + (2 * amount[3][..., None] - 1) * (30 / 255)
    images = torch.where(chance[4] < OFTEN, brighter.clamp(0, 1), images)
    images = torch.where(chance[5] < OFTEN, images.roll(1, 1), images)
    return torch.where(chance[6] < OFTEN, 1 - images, images)
