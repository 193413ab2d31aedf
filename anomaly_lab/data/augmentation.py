"""Augmentation: the ranges from which the variation of the training patches is drawn."""

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random variation of a patch (MVTec AD paper, section 4: rotation, crops, mirroring).

    Mirror only where the mirrored part is a valid good part: threads are handed, labels are printed.
    """

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0  # degrees, uniform in -rotation ... rotation
    quarter_turns: bool = False  # further turns by 0, 90, 180 or 270 degrees
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # of a whole image, share of its side; crops lie anywhere
    horizontal_flip: bool = False
    vertical_flip: bool = False
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.0  # added, uniform in -brightness ... brightness
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0  # factor, uniform in 1 - contrast ... 1 + contrast

    def reach(self) -> float:
        """Side of the upright square around a unit square at any allowed rotation: |cos| + |sin|, at most sqrt 2."""
        angle = math.radians(min(self.rotation, 45.0))
        return math.cos(angle) + math.sin(angle)
