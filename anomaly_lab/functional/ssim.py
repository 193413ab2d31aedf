"""Structural similarity (Wang et al. 2004) with a fast forward and backward pass."""

from functools import cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Images = Float[Tensor, "batch channel height width"]
Maps = Float[Tensor, "batch channel map_height map_width"]
Window = Literal["gaussian", "uniform"]

SIDE = 11  # px, of the windows
LIBRARY_CONSTANTS = (0.01**2, 0.03**2)  # (K L)^2 with L = 1, Wang et al. 2004, section III-B
PAPER_CONSTANTS = (0.01, 0.03)  # as printed by Bergmann et al. 2018


def ssim_map(
    images: Images,
    others: Images,
    window: Window = "gaussian",
    constants: tuple[float, float] = LIBRARY_CONSTANTS,
    padded: bool = True,
) -> Maps:
    """SSIM of the windows centred at each pixel, in [-1, 1], 1 exactly where the windows are equal.

    Wang et al. 2004, eq. 13, for values in [0, 1]; Gaussian window of sigma 1.5 or a uniform one, population
    covariance. `padded` reflects the border so that the map has the size of the images; otherwise only windows
    inside the image count and the map is 10 px smaller. Gray or per channel. In float64 where the images are float64,
    else in float32, which leaves an error of about 2e-5.
    """
    precision = torch.promote_types(images.dtype, torch.float32)  # variances are small differences of large numbers
    with torch.autocast(images.device.type, enabled=False):
        return _ssim_map(images.to(precision), others.to(precision), window, constants, padded)


def _ssim_map(images: Images, others: Images, window: Window, constants: tuple[float, float], padded: bool) -> Maps:
    if padded:
        images, others = (functional.pad(x, [SIDE // 2] * 4, mode="reflect") for x in (images, others))
    c1, c2 = constants
    # Variances do not feel a shift; near zero their float32 differences lose less than near 1.
    shift_x, shift_y = (x.detach().mean(dim=(2, 3), keepdim=True) for x in (images, others))
    x, y = images - shift_x, others - shift_y
    moments = torch.cat([x, y, x.square(), y.square(), x * y], dim=1)
    mean_x, mean_y, square_x, square_y, product = _window_mean(moments, window).chunk(5, dim=1)
    variances = square_x + square_y - (mean_x.square() + mean_y.square())
    covariance = product - mean_x * mean_y
    mean_x, mean_y = mean_x + shift_x, mean_y + shift_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return luminance * (2 * covariance + c2) / (variances + c2)


def _window_mean(values: Images, window: Window) -> Maps:
    """Weighted mean over the windows inside the image.

    Two products with banded matrices cost less than a depthwise convolution, above all backwards.
    """
    rows, columns = (_band(side, window, values.device).to(values.dtype) for side in values.shape[-2:])
    return rows @ values @ columns.T


@cache
@torch.inference_mode(False)  # kept for training too
def _band(side: int, window: Window, device: torch.device) -> Float[Tensor, "inside side"]:
    """Row i holds the taps of the window that starts at pixel i."""
    position = torch.arange(SIDE, dtype=torch.float64) - SIDE // 2
    taps = torch.exp(-position.square() / (2 * 1.5**2)) if window == "gaussian" else torch.ones_like(position)
    taps = (taps / taps.sum()).float()
    band = torch.zeros(side - SIDE + 1, side)
    for row in range(len(band)):
        band[row, row : row + SIDE] = taps
    return band.to(device)
