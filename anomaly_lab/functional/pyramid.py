"""Image pyramids: means over 2 x 2 px, and maps of several levels in one."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from anomaly_lab.core.types import Images

Gray = Float[Tensor, "batch 1 height width"]
Levels = list[Tensor]  # batch channel height width, the sides halved from level to level


def pyramid(images: Images, levels: int) -> Levels:
    """The images, their means over 2 x 2 px, the means of those, and so on.

    Where a side is odd its last pixel counts twice, so that every pixel of the image is under one of each level.
    """
    answer = [images]
    for _ in range(levels - 1):
        height, width = answer[-1].shape[-2:]
        even = functional.pad(answer[-1], [0, width % 2, 0, height % 2], mode="replicate")
        answer.append(functional.avg_pool2d(even, 2))
    return answer


def combine(levels: Levels, size: tuple[int, int]) -> Gray:
    """Maximum over neighbouring levels of the smaller of the two; each level is enlarged bilinearly to the full size.

    A threshold of the answer is the union of the intersections of neighbouring levels' regions at that threshold.
    """
    height, width = size
    full = [levels[0]]
    for i, level in enumerate(levels[1:], 1):
        large = functional.interpolate(level, scale_factor=2.0**i, mode="bilinear", align_corners=False)
        full.append(large[..., :height, :width])  # what padding added lies at the end
    if len(full) == 1:
        return full[0]
    pairs = [torch.minimum(fine, coarse) for fine, coarse in pairwise(full)]
    return torch.stack(pairs).amax(dim=0)
