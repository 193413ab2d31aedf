"""Small changes that leave a good photo good: another place before the camera, another light, noise of the sensor.

For evaluation: a method that calls such a photo defective will raise false alarms. All numbers follow from the keys
(`noise.py`), so all methods see the same changes. Pixels outside the photo or the inspected region stay as they are.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from anomaly_lab.core.types import Images
from anomaly_lab.data.noise import Keys, derive, scalars, uniform

Variation = Literal["shift", "light", "noise"]
VARIATIONS: tuple[Variation, ...] = get_args(Variation)
SHIFT = 0.02  # of the side: the most by which the photo moves along each axis
LIGHT = 0.1  # the most by which brightness changes, as a share
NOISE = 2 / 255  # standard deviation


def varied(variation: Variation, images: Images, keys: Keys, inside: Bool[Tensor, "batch 1 height width"]) -> Images:
    """Copies of images in [0, 1], in steps of a gray level, with one small change each."""
    keys = derive(keys, VARIATIONS.index(variation))
    match variation:
        case "shift":
            changed = shifted(images, keys, inside)
        case "light":
            (factor,) = scalars(keys, 1)
            changed = images * (1 + LIGHT * (2 * factor - 1))[:, None]
        case "noise":
            count = images[0].numel()
            draws = torch.stack([uniform(derive(keys, part), count) for part in range(4)]).sum(0) - 2  # nearly normal
            changed = images + (NOISE * 3**0.5 * draws).view_as(images)
    changed = (changed.clamp(0, 1) * 255).round() / 255
    return torch.where(inside, changed, images)


def shifted(images: Images, keys: Keys, inside: Bool[Tensor, "batch 1 height width"]) -> Images:
    """Images moved by whole pixels; the outermost pixels inside are repeated."""
    moved = []
    for image, here, (down, right) in zip(images, inside[:, 0], uniform(keys, 2), strict=True):
        rows, columns = here.any(1).nonzero().flatten(), here.any(0).nonzero().flatten()
        for dim, occupied, share in ((1, rows, down), (2, columns, right)):
            if len(occupied):
                step = ((2 * share - 1) * SHIFT * image.shape[dim]).round().long()
                places = torch.arange(image.shape[dim], device=image.device) + step
                image = image.index_select(dim, places.clamp(occupied[0], occupied[-1]))
        moved.append(image)
    return torch.stack(moved)
