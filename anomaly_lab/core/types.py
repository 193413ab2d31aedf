"""The values passed from disk to metrics: Placement, Batch, Prediction (and Sample, in data/samples.py).

Each is created once and never changed.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Images = Float[Tensor, "batch channel height width"]
Box = tuple[int, int, int, int]  # top, left, height, width in pixels


class Placement(NamedTuple):
    """How a photo of any shape was placed in the square working image."""

    photo: tuple[int, int]  # height and width of the photo
    source: Box  # the part of the photo that is shown
    target: Box  # where this part lies in the working image; the rest is padding
    region: Box | None = None  # the inspected part of the photo; None: all of it
    white: np.ndarray | None = None  # bool, size of the region: its inspected pixels; None: all of them
    valid: np.ndarray | None = None  # bool, working size: pixels that show white ones

    def shown(self) -> np.ndarray | None:
        """The part of `white` within `source`; None: all of it is inspected."""
        if self.white is None or self.region is None:
            return None
        top, left, height, width = self.source
        top, left = top - self.region[0], left - self.region[1]
        return self.white[top : top + height, left : left + width]


class Batch(NamedTuple):
    """A batch of images for a method; never changed once it is on the device."""

    image: Float[Tensor, "batch channel height width"]  # in [0, 1], at the working size
    mask: tuple[Bool[Tensor, "1 photo_height photo_width"], ...]  # at each photo's own size; () in training
    label: Int[Tensor, " batch"]  # 0 normal, 1 abnormal, -1 unknown
    index: Int[Tensor, " batch"]  # type: ignore[assignment]  # into the split's list of samples; hides tuple.index
    placement: tuple[Placement, ...]  # where each photo lies in its working image; () in training
    row: Int[Tensor, " batch"] | None = None  # row number in the epoch; training only
    clean: Images | None = None  # the images without synthetic defects; None: `image` has none
    # Where `image` differs from `clean`, and what the masks of labelled photos mark, if the method learns from them.
    defect: Bool[Tensor, "batch 1 height width"] | None = None

    @classmethod
    def of(cls, images: Images) -> "Batch":
        """A training batch of these images, numbered from 0."""
        number = torch.arange(len(images), device=images.device)
        return cls(images, (), torch.zeros_like(number), number, (), number)


class Prediction(NamedTuple):
    """The output of a method for a batch of images."""

    anomaly_map: Float[Tensor, "batch 1 height width"]  # larger = more abnormal; no fixed range, never rescaled
    score: Float[Tensor, " batch"] | None  # larger = more abnormal; None: the default score of the map
    reconstruction: Float[Tensor, "batch channel height width"] | None  # in [0, 1], for pictures
    remarks: tuple[str, ...] = ()  # one remark per image for people, "" for none; (): no remarks at all
