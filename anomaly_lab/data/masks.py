"""The marked pixels of a mask image: which of its values or colours mean "defect"."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.formats import MAX_PIXELS, read_alpha, read_pixels, to_gray

FEW = 32  # distinct values; a soft or compressed mask has more
NEAR = 0.2  # of the range: values so near the background are noise of a compressed mask
WIDE = 0.06  # of the range: half the width of a peak of such a mask
SEEN = 0.05  # of the marked pixels: a lower peak is noise
MOST = 0.5, 0.8  # a mask that marks more than this share is unusual; so is a data set with more than this share of them


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
    half of the lowest marked value. Where strokes are drawn on a transparent ground, the opaque pixels are marked
    whatever their colour. Raises UserError if the file cannot be read.
    """
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path}: expected an image file, found {'none' if not path.exists() else 'something else'}")
    values = read_pixels(path, max_pixels).values  # as they are stored: a mask of 16 bits may hold 0 and 1
    alpha = read_alpha(path)
    if alpha is None or alpha.min() == alpha.max():
        return _not_background(_distance(values, np.ones(values.shape[:2], bool)))
    opaque = _not_background(alpha)
    inside = values[opaque]
    if 2 * np.count_nonzero(opaque) > opaque.size and np.ptp(inside.reshape(len(inside), -1), axis=0).any():
        return opaque & _not_background(_distance(values, opaque))  # a whole mask with a transparent margin
    return opaque


def mostly_marked(shares: Sequence[float]) -> str | None:
    """A remark if the masks of nearly all defective photos mark most of the photo; `shares`: of the pixels, by mask."""
    count = sum(share > MOST[0] for share in shares)
    if not shares or count <= MOST[1] * len(shares):
        return None
    return (
        f"{count} of {len(shares)} masks mark most of their photo; if black marks the defects in them, they are "
        "inverted, and pixel metrics say nothing"
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


def _not_background(values: np.ndarray) -> np.ndarray:
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
    soft[0] = False
    if not soft.any() and (highest > 255 or len(distinct) == highest + 1) and not np.any(distinct % 1):
        return values > 0  # the numbers of many regions
    if not _is_noisy(distinct, highest):
        lowest = distinct[~soft][1:2]  # after the background
        return values > (lowest[0] / 2 if len(lowest) and np.any(soft & (distinct < lowest[0])) else 0)
    flat = comparable[high.astype(np.float64) - low <= WIDE * highest].astype(np.float64)
    marked = np.sort(flat[flat > NEAR * highest])
    places = np.linspace(NEAR, 1, 65) * highest
    around = np.searchsorted(marked, places + WIDE * highest) - np.searchsorted(marked, places - WIDE * highest)
    peaks = places[around > SEEN * len(marked)]
    lowest_peak = peaks[0] + WIDE * highest if len(peaks) and peaks[0] < 0.75 * highest else highest
    return values > lowest_peak / 2


def _is_noisy(distinct: np.ndarray, highest: float) -> bool:
    """Whether the values of a mask are those of a compressed one: many, or several close to black and to white."""
    close = NEAR * highest
    dark, light = np.count_nonzero(distinct <= close) - 1, np.count_nonzero(distinct >= highest - close) - 1
    return len(distinct) > FEW or (highest >= 2 * FEW and bool(min(dark, light) >= 3))
