"""Gaussian smoothing that knows where there is nothing to smooth, and windows that grow with the image."""

import math

import torch
from jaxtyping import Bool, Float
from kornia.filters import gaussian_blur2d
from torch import Tensor


def gaussian_blur(
    maps: Float[Tensor, "batch 1 height width"],
    sigma: float,
    valid: Bool[Tensor, "batch 1 height width"] | None = None,
) -> Float[Tensor, "batch 1 height width"]:
    """Gaussian mean over the valid pixels around each pixel, cut off at 4 sigma (pixels).

    Neighbours outside the image or not `valid` do not count (their weight is shared among the others): a constant
    map stays constant up to its border, and a 1 x 1 map stays itself.
    """
    if valid is None:
        valid = torch.ones_like(maps, dtype=torch.bool)
    size = 2 * math.ceil(4 * sigma) + 1
    weight = valid.to(maps.dtype)
    both = torch.cat([torch.where(valid, maps, 0), weight])
    smoothed = gaussian_blur2d(both, (size, size), (sigma, sigma), border_type="constant")
    count = maps.shape[0]  # `len` would fix the number of images of a graph that is exported
    total, share = smoothed[:count], smoothed[count:]
    return total / share.clamp_min(torch.finfo(maps.dtype).tiny)


def odd(side: float) -> int:
    """The nearest odd number of pixels, for a window around a pixel."""
    return 2 * round((side - 1) / 2) + 1
