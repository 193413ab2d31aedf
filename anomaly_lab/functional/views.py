"""Random views of images, between which a contrastive network finds what they share (Chen et al., ICML 2020)."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from kornia.enhance import adjust_hue
from kornia.filters import gaussian_blur2d
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from anomaly_lab.core.types import Images
from anomaly_lab.data.noise import Keys, derive, uniform
from anomaly_lab.functional.colour import luminance

Share = Annotated[float, Field(ge=0, le=1)]
Numbers = Float[Tensor, "batch 1 1 1"]

JITTERED = 0.8  # of the views get other colours
ELONGATED = 4 / 3  # a crop is at most so much wider than high, or higher than wide, before it is resized
BLURS = 0.1, 2.0  # px at 32 px, standard deviations


@dataclass(frozen=True)
class Views:
    """A crop of each image at its size, in other colours, or gray, or blurred.

    `crop`: the least share of the area that is shown. `jitter`: the most by which brightness, contrast and saturation
    change, as a factor of 1 plus or minus so much; `hue`: by which the hue is turned, in turns. Four views in five get
    them, in this order; of gray images only brightness and contrast change. `gray`, `blur`: the share of views that
    are.
    """

    crop: Annotated[float, Field(gt=0, le=1)]
    jitter: Share = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    gray: Share = 0.2
    blur: Share = 0.0

    def __call__(self, images: Images, keys: Keys, area: float | None = None) -> Images:
        """A view of each image, by its key alone; `area`: the share of the area of all of them instead of a draw."""
        drawn = uniform(keys, 12)[:, :, None, None, None].unbind(1)
        cropped = crop(images, drawn[:4], (area or self.crop, area or 1.0))
        return self._blurred(self._coloured(cropped, drawn[4:10]), drawn[10:])

    def _coloured(self, images: Images, drawn: tuple[Numbers, ...]) -> Images:
        chosen = (drawn[0] < JITTERED).float()
        bright, contrast, saturated, turned = [chosen * (2 * number - 1) for number in drawn[1:5]]
        images = (images * (1 + self.jitter * bright)).clamp(0, 1)
        coloured = images.shape[1] == 3
        gray = luminance(images) if coloured else images
        mean = gray.mean(dim=(1, 2, 3), keepdim=True)
        images = (mean + (images - mean) * (1 + self.jitter * contrast)).clamp(0, 1)
        if not coloured:
            return images
        gray = luminance(images)
        images = (gray + (images - gray) * (1 + self.jitter * saturated)).clamp(0, 1)
        if self.hue:
            images = adjust_hue(images, 2 * math.pi * self.hue * turned.flatten())
        return torch.where(drawn[5] < self.gray, luminance(images), images)

    def _blurred(self, images: Images, drawn: tuple[Numbers, ...]) -> Images:
        if not self.blur:
            return images
        least, most = BLURS
        sigma = ((least + (most - least) * drawn[1]) * images.shape[3] / 32).view(-1, 1).expand(-1, 2)
        size = 2 * math.ceil(most * images.shape[3] / 32) + 1
        return torch.where(drawn[0] < self.blur, gaussian_blur2d(images, (size, size), sigma), images)


def flipped(images: Images, keys: Keys) -> Images:
    """Half of the images, by their keys, from left to right."""
    return torch.where(uniform(derive(keys, 0), 1)[:, :, None, None] < 0.5, images, images.flip(3))


def crop(images: Images, drawn: tuple[Numbers, ...], areas: tuple[float, float]) -> Images:
    """Parts of the images of an area between two shares, somewhere inside, resized to the size of the images."""
    share, ratio, y, x = (number.flatten() for number in drawn)
    area = areas[0] + (areas[1] - areas[0]) * share
    root = ELONGATED ** ((2 * ratio - 1) / 2)
    height, width = (area.sqrt() / root).clamp(max=1), (area.sqrt() * root).clamp(max=1)
    zero = torch.zeros_like(area)
    rows = [width, zero, (1 - width) * (2 * x - 1), zero, height, (1 - height) * (2 * y - 1)]
    grid = functional.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
