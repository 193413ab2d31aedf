"""The marked pixels of a mask image: which of its values or colours mean "defect"."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.parallel import prefetch
from anomaly_lab.data.formats import MAX_PIXELS, orientation_of, read_alpha, read_pixels, to_gray

FEW = 32  # values that fill no area; a soft or compressed mask has more
NEAR = 0.2  # of the range: values so near black and white are noise of a compressed mask
FAINT = 0.04  # of the range: a black area of a JPEG is at most so bright
REACH = 16  # px: the noise of a JPEG lies in the block of an edge, of 16 x 16 in colour
SAME = 0.75  # of the brightest value around: one area


class Marks(NamedTuple):
    """How much of a photo its mask marks."""

    share: float  # of the pixels
    framed: bool  # the whole border, but not all
    unturned: bool = False  # EXIF turns the photo, not the mask, and their sizes agree in both positions

    @classmethod
    def of(cls, mask: np.ndarray, photo: Path | None = None, path: Path | None = None) -> "Marks":
        """The marks of a mask, bool (height, width), with the files of the photo and of the mask."""
        share = float(mask.mean())
        framed = share < 1 and all(bool(side.all()) for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
        if photo is None or path is None:
            return cls(share, framed)
        same_size = {1, 2, 3, 4, *((5, 6, 7, 8) if mask.shape[0] == mask.shape[1] else ())}
        turned = orientation_of(photo)
        return cls(share, framed, turned > 1 and turned in same_size and orientation_of(path) == 1)


def read_mask(path: Path | None, photo: tuple[int, int]) -> np.ndarray:
    """Read a defect mask as bool (height, width), True = defect; without a path nothing is defective.

    `read_white` says which pixels are marked. Raises UserError if the mask has another size than its photo or marks no
    pixel.
    """
    if path is None:
        return np.zeros(photo, dtype=bool)
    white = read_white(path, max(MAX_PIXELS, photo[0] * photo[1]))
    if white.shape != photo:
        raise UserError(
            f"{path}: expected a mask of the size of its image, {photo[1]} x {photo[0]}, "
            f"found {white.shape[1]} x {white.shape[0]}"
        )
    if not white.any():
        raise UserError(f"{path}: expected the defect marked in white, found an empty mask")
    return white


def read_white(path: Path, max_pixels: int) -> np.ndarray:
    """The marked pixels of a mask image, bool (height, width): all that are not background.

    Every value or colour but the background is marked, however dark: ids 1 and 2, red and white, 100 and 255. The
    background is black, or else the most frequent colour. Soft borders, of JPEG or of a resized mask, are marked above
    half of the lowest value of an area; in a JPEG, a value below 4 % of the highest is noise. Where strokes are drawn
    on a transparent ground, the opaque pixels are marked whatever their colour. Raises UserError if the file cannot be
    read.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path}: expected an image file, found something else")
    values = read_pixels(path, max_pixels).values  # as they are stored: a mask of 16 bits may hold 0 and 1
    lossy = _is_jpeg(path)
    alpha = None if lossy else read_alpha(path)
    if alpha is None or alpha.min() == alpha.max():
        return _not_background(_distance(values, np.ones(values.shape[:2], bool)), lossy)
    opaque = _not_background(alpha)
    inside = values[opaque]
    if 2 * np.count_nonzero(opaque) > opaque.size and np.ptp(inside.reshape(len(inside), -1), axis=0).any():
        return opaque & _not_background(_distance(values, opaque))  # a whole mask with a transparent margin
    return opaque


def _is_jpeg(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(3) == b"\xff\xd8\xff"


def marks_defects(path: Path) -> bool:
    """Whether a mask marks any pixel; one that cannot be read marks none."""
    try:
        return bool(read_white(path, MAX_PIXELS).any())
    except UserError:
        return False


def marked_although_good(masks: Sequence[Path], workers: int) -> str | None:
    """A remark if masks of good photos mark any pixel."""
    with closing(prefetch(marks_defects, masks, workers)) as answers:
        marked = [mask for mask, marks in zip(masks, answers, strict=True) if marks]
    if not marked:
        return None
    return (
        f"contradictory labels, masks of good photos that mark defects: {len(marked)}, such as {marked[0]}; move such "
        "a photo to a folder of defects, or remove its mask"
    )


def mostly_marked(marks: Mapping[Path, Marks]) -> str | None:
    """A remark if the masks look inverted: most of them mark most of their photo, or one also the whole border."""
    most = [path for path, marked in marks.items() if marked.share > 0.5]
    framed = [path for path in most if marks[path].framed]
    unusual = 2 * len(most) > len(marks) or sum(marked.share for marked in marks.values()) > len(marks) / 2
    named = most if unusual else framed
    if not named:
        return None
    where = "" if unusual else " and its whole border"
    return (
        f"{len(named)} of {len(marks)} masks mark most of their photo{where}, such as {named[0]}; if black marks the "
        "defects there, they are inverted, and pixel metrics say nothing"
    )


def not_turned(marks: Mapping[Path, Marks]) -> str | None:
    """A remark if EXIF turns photos, not their masks, and nothing tells in which position these were drawn."""
    named = [path for path, marked in marks.items() if marked.unturned]
    if not named:
        return None
    return (
        f"{len(named)} of {len(marks)} photos with masks are turned by their EXIF, and their masks, such as "
        f"{named[0]}, have no such tag; if these were drawn on the stored pixels, turn them: pixel metrics say nothing"
    )


def _distance(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The distance of each pixel from the background, in the largest channel, float32 or as stored (height, width)."""
    gray = to_gray(values) if values.ndim == 3 else values
    darkest = int(np.argmin(np.where(inside, gray, gray.max())))
    background = values.reshape(-1, *values.shape[2:])[darkest]
    if gray.min() == gray.max():
        return gray if gray.max() > 0 else np.zeros_like(gray)
    if np.max(background) > _noise(gray):  # no black: the most frequent colour, of those that are equal the darkest
        colours, counts = np.unique(gray[inside], return_counts=True)
        often = colours[np.argmax(counts)]
        background = values.reshape(-1, *values.shape[2:])[int(np.argmax((gray == often) & inside))]
    if values.ndim == 2 and background == 0:
        return values
    apart = np.abs(values.astype(np.float32) - background.astype(np.float32))
    return apart.max(axis=2) if apart.ndim == 3 else apart


def _noise(gray: np.ndarray) -> float:
    """How far from black a pixel of a black ground may be: nothing, or the noise of a compressed mask."""
    return NEAR * float(gray.max()) / 2 if len(np.unique(gray)) > FEW else 0.0


def _not_background(values: np.ndarray, lossy: bool = False) -> np.ndarray:
    """The pixels of marked values, where the background is near 0, bool (height, width).

    The values of areas are told from those of soft borders, which lie between a lower and a higher neighbour.
    """
    highest = float(values.max())
    distinct, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    if highest <= 0 or len(distinct) <= 2:
        return values > 0
    comparable = values if values.dtype in (np.uint8, np.uint16) else values.astype(np.float32)
    kernel = np.ones((3, 3), np.uint8)
    low, high = cv2.erode(comparable, kernel), cv2.dilate(comparable, kernel)
    between = (low < comparable) & (comparable < high)
    soft = np.bincount(which.reshape(-1), between.reshape(-1), len(distinct)) > counts / 2
    if lossy or (soft.any() and _is_noisy(np.setdiff1d(distinct, values[low == high]), highest)):
        return values > _lowest_level(comparable) / 2
    lowest = distinct[~soft & (distinct > 0)][:1]
    return values > (lowest[0] / 2 if len(lowest) and np.any(soft & (distinct < lowest[0])) else 0)


def _lowest_level(values: np.ndarray) -> float:
    """The lowest value of an area of a noisy mask: nothing near it is much brighter, as it is near noise and slopes."""
    highest = float(values.max())
    around = cv2.dilate(values, np.ones((2 * REACH + 1, 2 * REACH + 1), np.uint8))
    levels = around[(values > SAME * around.astype(np.float64)) & (values > FAINT * highest)]
    lowest = float(levels.min())
    return lowest if lowest < SAME * highest else highest


def _is_noisy(ragged: np.ndarray, highest: float) -> bool:
    """Whether `ragged`, the values of a mask that fill no area, are the noise of a file that was compressed before.

    They are many, or several close to black and to white.
    """
    dark, light = np.count_nonzero(ragged <= NEAR * highest), np.count_nonzero(ragged >= (1 - NEAR) * highest)
    return len(ragged) > FEW or bool(highest >= 2 * FEW and min(dark, light) >= 2)
