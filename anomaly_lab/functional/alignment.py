"""Bring the image of a part onto a template, shifted or shifted and turned: OpenCV on the host, an image at a time."""

from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

Gray = Float32[np.ndarray, "height width"]  # in [0, 1]
Matrix = Float64[np.ndarray, "2 3"]  # pixel (x, y, 1) of the template -> pixel (x, y) of the image
Motion = Literal["translation", "rigid"]

IDENTITY: Matrix = np.eye(2, 3)
SEARCH = 64  # px, at which all turns are tried
PEAK = 2  # px, of the Gaussian over the peak of a phase correlation
DEGREES = np.arange(360.0)
REFINEMENT = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-4)
BLUR = 5  # px, of the Gaussian before the refinement; OpenCV's own default


class Alignment(NamedTuple):
    """Where a template lies in an image, and how well the two agree there."""

    matrix: Matrix
    correlation: float  # normalised cross-correlation of the pixels that both show, [-1, 1]; 0 where there is no answer


class Aligner:
    """Finds a template in images of its size (height = width).

    `translation`: phase correlation (Kuglin and Hines 1975) in whole pixels, so that nothing is interpolated; no shift
    where that fits better. `rigid`: the centers of the foregrounds are laid upon each other, the image is turned by
    every whole degree at 64 px, and the best turn is refined at full size by the enhanced correlation coefficient
    (Evangelidis and Psarakis, PAMI 2008). It needs no principal axis: all turns take 4 ms, and round parts work too.
    """

    def __init__(self, motion: Motion, template: Gray) -> None:
        self.motion: Motion = motion
        self.template = template
        self.part = foreground(template)
        self._center = center(self.part)
        self._small = _shrunk(template)

    def __call__(self, image: Gray) -> Alignment:
        """Find the template; where there is nothing to hold on to, the identity with its correlation."""
        ours = self._center
        if ours is None:
            return Alignment(IDENTITY, 0.0)
        if self.motion == "translation":
            x, y = phase_correlation(image - background(image), self.template - background(self.template))
            matrices = [IDENTITY + np.array([[0, 0, a], [0, 0, b]]) for a, b in ((0, 0), (x, y))]
            return max((self._judged(image, matrix) for matrix in matrices), key=lambda found: found.correlation)
        theirs = center(foreground(image))
        if theirs is None:
            return Alignment(IDENTITY, 0.0)
        coarse = self._judged(image, turned(self._turn(image, ours, theirs), ours, theirs)[0])
        refined = self._judged(image, self._refined(image, coarse.matrix))
        return refined if refined.correlation > coarse.correlation else coarse

    def _turn(
        self, image: Gray, ours: Float64[np.ndarray, "2"], theirs: Float64[np.ndarray, "2"]
    ) -> Float64[np.ndarray, "1"]:
        """The whole degrees at which the shrunk image correlates best with the shrunk template."""
        scale = SEARCH / image.shape[0]
        small, size = _shrunk(image), (SEARCH, SEARCH)
        matrices = turned(DEGREES, *((point + 0.5) * scale - 0.5 for point in (ours, theirs)))
        found = np.empty((len(DEGREES), SEARCH, SEARCH), dtype=np.float32)
        for matrix, gray in zip(matrices, found, strict=True):  # outside is 0, the background
            cv2.warpAffine(small, matrix, size, dst=gray, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        rows = found.reshape(len(DEGREES), -1)
        norm = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        likeness = rows @ self._small.ravel() / np.maximum(norm, 1e-9)  # 0 where nothing of the image is left
        return DEGREES[[likeness.argmax()]]

    def _refined(self, image: Gray, matrix: Matrix) -> Matrix:
        """The matrix after refinement; unchanged where it does not converge."""
        # OpenCV keeps the angle as an arc sine and fails beyond 90 degrees: turn first and refine what is left.
        near, shown = bring(image, matrix, cv2.BORDER_REPLICATE)
        start, mask = np.eye(2, 3, dtype=np.float32), shown.astype(np.uint8)
        try:
            _, rest = cv2.findTransformECC(self.template, near, start, cv2.MOTION_EUCLIDEAN, REFINEMENT, mask, BLUR)
        except cv2.error:
            return matrix
        return (np.vstack([matrix, [0, 0, 1]]) @ np.vstack([rest, [0, 0, 1]]))[:2]

    def _judged(self, image: Gray, matrix: Matrix) -> Alignment:
        """The alignment with its correlation; 0 where less than half of the part would lie inside the image."""
        aligned, shown = bring(image, matrix)
        if 2 * (shown & self.part).sum() < self.part.sum():
            return Alignment(matrix, 0.0)
        return Alignment(matrix, correlation(self.template[shown], aligned[shown]))


def phase_correlation(image: Gray, template: Gray) -> tuple[int, int]:
    """By how many whole pixels (x, y) the image is shifted against the template.

    The peak is looked for after a Gaussian (`PEAK`) over the surface of the correlations: every frequency has the same
    weight there, and the high ones of a noisy image say nothing.
    """
    cross = np.fft.rfft2(image) * np.fft.rfft2(template).conj()
    height, width = image.shape
    squared = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.rfftfreq(width) ** 2
    weight = np.exp(-2 * (np.pi * PEAK) ** 2 * squared)
    surface = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-9) * weight, s=image.shape)
    y, x = np.unravel_index(surface.argmax(), surface.shape)
    return int((x + width // 2) % width - width // 2), int((y + height // 2) % height - height // 2)


def foreground(image: Gray) -> Bool[np.ndarray, "height width"]:
    """The side of Otsu's threshold on which the border of the image does not lie; empty for a constant image."""
    levels = to_levels(image)
    level, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    brighter = levels > level
    if levels.min() == levels.max():
        return np.zeros_like(brighter)
    return ~brighter if round(background(image) * 255) > level else brighter


def background(image: Gray) -> float:
    """The median gray of the border, one pixel wide."""
    return float(np.median(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])))


def center(part: Bool[np.ndarray, "height width"]) -> Float64[np.ndarray, "2"] | None:
    """The mean (x, y) of the pixels of the part; None where there are none."""
    rows, columns = np.nonzero(part)
    return np.array([columns.mean(), rows.mean()]) if len(rows) else None


def turned(
    degrees: Float64[np.ndarray, " turn"], ours: Float64[np.ndarray, "2"], theirs: Float64[np.ndarray, "2"]
) -> Float64[np.ndarray, "turn 2 3"]:
    """Matrices that turn by so many degrees (x towards y) and lay our point upon theirs."""
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    rotation = np.array([[cosine, -sine], [sine, cosine]]).transpose(2, 0, 1)
    return np.concatenate([rotation, (theirs - rotation @ ours)[..., None]], axis=2)


def bring(
    image: Gray, matrix: Matrix, border: int = cv2.BORDER_CONSTANT
) -> tuple[Gray, Bool[np.ndarray, "height width"]]:
    """The image in the frame of the template, bilinearly, and which pixels of it the image shows."""
    size = image.shape[::-1]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    aligned = cv2.warpAffine(image, matrix, size, flags=flags, borderMode=border)
    shown = cv2.warpAffine(np.ones_like(image), matrix, size, flags=flags)
    return aligned, shown > 0.999  # nothing of the border has been mixed in


def back(anomaly_map: Float32[np.ndarray, "height width"], matrix: Matrix) -> Float32[np.ndarray, "height width"]:
    """A map in the frame of the template, brought to the frame of the image; 0 outside the template."""
    return cv2.warpAffine(anomaly_map, matrix, anomaly_map.shape[::-1], flags=cv2.INTER_LINEAR)


def correlation(one: Float32[np.ndarray, " pixel"], other: Float32[np.ndarray, " pixel"]) -> float:
    """Normalised cross-correlation, [-1, 1]; 0 where one of the two is constant."""
    one, other = (values - values.mean(dtype=np.float64) for values in (one, other))
    norm = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / norm if norm > 1e-9 else 0.0


def to_levels(image: Gray) -> UInt8[np.ndarray, "height width"]:
    """Gray levels 0 to 255."""
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)


def _shrunk(image: Gray) -> Float32[np.ndarray, "side side"]:
    """The differences from the background at the size of the search."""
    return cv2.resize(image - np.float32(background(image)), (SEARCH, SEARCH), interpolation=cv2.INTER_AREA)
