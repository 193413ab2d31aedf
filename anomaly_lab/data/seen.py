"""What a run keeps of its photos: which they are, and how those of the training look."""

import re
from collections.abc import Sequence
from contextlib import closing
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.parallel import prefetch
from anomaly_lab.core.types import Placement
from anomaly_lab.data.images import Decoding
from anomaly_lab.data.samples import Sample, digests

FILE = "photos.json"  # in the run folder
LOOKED_AT = 64  # photos, evenly spaced: they are decoded once more
DIGITS = 16  # of the SHA-256 of a file
LEVELS = 51  # gray levels beyond those of the training from which on a photo is unlike them: a fifth of the range
COLOUR = 8  # mean difference of the channels of a colour photo, in gray levels; JPEG leaves fewer in a gray one


class Look(NamedTuple):
    """The looks of a photo, as numbers."""

    height: int  # px
    width: int  # px
    coloured: bool  # False where the run reads gray
    level: float  # mean gray, 0 to 255

    @classmethod
    def of(cls, image: np.ndarray, placement: Placement) -> "Look":
        """The looks of a working image (channel, height, width) of values 0 to 255, without its padding."""
        top, left, height, width = placement.target
        inner = image[:, top : top + height, left : left + width].astype(np.float32)
        return cls(*placement.photo, bool(np.ptp(inner, axis=0).mean() > COLOUR), float(inner.mean()))


class Seen(NamedTuple):
    """The photos of a run."""

    trained: frozenset[str]  # the first digits of their SHA-256
    tested: frozenset[str]
    least: Look  # of the good training photos, number by number
    largest: Look

    @classmethod
    def of(cls, trained: list[Sample], tested: list[Sample], decoding: Decoding, workers: int) -> "Seen":
        """Hash all photos and look at some good ones of the training. Raises UserError if one cannot be read."""
        good = [sample for sample in trained if not sample.label] or trained
        numbers = list(zip(*looks(good, decoding, workers), strict=True))
        names = [frozenset(names_of([sample.path for sample in samples])) for samples in (trained, tested)]
        least, largest = (Look(*map(end, numbers)) for end in (min, max))
        return cls(names[0], names[1], least, largest)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"trained": sorted(self.trained), "tested": sorted(self.tested),
                "least": self.least._asdict(), "largest": self.largest._asdict()}  # fmt: skip

    @classmethod
    def from_json(cls, found: Any) -> "Seen":
        """The photos of a file. Raises ValueError, TypeError or LookupError for other values."""
        for key in ("trained", "tested"):
            if not isinstance(found[key], list) or not all(map(_is_name, found[key])):
                raise ValueError(f"{key}: expected a list of {DIGITS} hexadecimal digits each")
        if not found["trained"]:
            raise ValueError("trained: expected photos, found none")
        looks = [Look(**{name: found[key][name] for name in Look._fields}) for key in ("least", "largest")]
        for look in looks:
            numbers = [isinstance(value, int | float) and 0 <= value < inf for value in look]
            if not (all(numbers) and [type(value) is bool for value in look] == [False, False, True, False]):
                raise ValueError(f"least, largest: expected height, width, coloured and level, found {look}")
        return cls(frozenset(found["trained"]), frozenset(found["tested"]), *looks)

    def unlike(self, look: Look) -> str:
        """In what a photo is unlike those of the training, "" if it is like them."""
        least, largest = self.least, self.largest
        found = []
        if not (least.height <= look.height <= largest.height and least.width <= look.width <= largest.width):
            ends = dict.fromkeys(f"{end.width} x {end.height}" for end in (least, largest))
            found.append(f"shape (theirs is {' to '.join(ends)} px)")
        if not least.coloured <= look.coloured <= largest.coloured:
            found.append(f"channels (theirs are {'colour' if least.coloured else 'gray'})")
        if not least.level - LEVELS <= look.level <= largest.level + LEVELS:
            found.append(f"value range (their mean gray is {least.level:.0f} to {largest.level:.0f} of 255)")
        return f"unlike the training photos in {', '.join(found)}" if found else ""


def looks(samples: Sequence[Sample], decoding: Decoding, workers: int) -> list[Look]:
    """The looks of some of the photos. Raises UserError if one of them cannot be read."""
    some = [samples[i] for i in np.unique(np.linspace(0, len(samples) - 1, LOOKED_AT).astype(int))]
    with closing(prefetch(lambda sample: Look.of(*decoding.read(sample.path)), some, workers)) as read:
        return list(read)


def _is_name(value: Any) -> bool:
    """Whether a value of a file is one of `names_of`."""
    return isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{DIGITS}}}", value) is not None


def names_of(files: Sequence[Path]) -> list[str]:
    """The first digits of the SHA-256 of each file. Raises UserError if one cannot be read."""
    try:
        return [digest[:DIGITS] for digest in digests(list(files))]
    except OSError as error:
        raise UserError(f"{error.filename}: expected an image, found: {error.strerror}") from error
