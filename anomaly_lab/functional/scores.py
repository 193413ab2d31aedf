"""From an anomaly map to a score: smoothing, the valid pixels, the maximum."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from anomaly_lab.functional.blur import gaussian_blur


def default_score(
    anomaly_map: Float[Tensor, "batch 1 height width"], valid: Bool[Tensor, "batch 1 height width"] | None = None
) -> Float[Tensor, " batch"]:
    """Maximum of the smoothed map over the valid pixels: the score of methods whose paper defines only a map."""
    smoothed = smooth(anomaly_map, valid)
    if valid is not None:
        smoothed = smoothed.masked_fill(~valid, -torch.inf)
    return smoothed.amax(dim=(1, 2, 3))


def smooth(
    anomaly_map: Float[Tensor, "batch 1 height width"], valid: Bool[Tensor, "batch 1 height width"] | None = None
) -> Float[Tensor, "batch 1 height width"]:
    """Smooth maps by a Gaussian of sigma 4 px per 256 px of side."""
    return gaussian_blur(anomaly_map, 4 * max(anomaly_map.shape[-2:]) / 256, valid)
