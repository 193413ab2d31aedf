"""The values that travel from the disk to the metrics: Sample (in data/layouts.py), Batch, Prediction.

Each is made once and never changed.
"""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from anomaly_lab.data.images import Placement


class Batch(NamedTuple):
    """Images on their way through a method; never changed after they reached the device."""

    image: Float[Tensor, "batch channel height width"]  # in [0, 1], at the working size
    mask: tuple[Bool[Tensor, "1 photo_height photo_width"], ...]  # at each photo's own size; () in training
    label: Int[Tensor, " batch"]  # 0 normal, 1 abnormal, -1 unknown
    index: Int[Tensor, " batch"]  # type: ignore[assignment]  # into the split's list of samples; hides tuple.index
    placement: tuple[Placement, ...]  # where each photo lies in its working image; () in training


class Prediction(NamedTuple):
    """What a method says about a batch of images."""

    anomaly_map: Float[Tensor, "batch 1 height width"]  # larger = more abnormal; no fixed range, never rescaled
    score: Float[Tensor, " batch"] | None  # larger = more abnormal; None: the default score of the map is meant
    reconstruction: Float[Tensor, "batch channel height width"] | None  # in [0, 1], for pictures
    remarks: tuple[str, ...] = ()  # what people should know of single images, one text each, "": nothing; (): of none
