"""Defects that are made, not found: for choosing hyperparameters without looking at the test set.

Three kinds. `patch` and `scar` are those of CutPaste (Li et al., CVPR 2021, section 3 and appendix): a rectangle of 2
to 15 % of the image, or a thin one turned by up to 45 degrees, is cut out, its colours are jittered by up to 10 %, and
it is pasted elsewhere. `blob` is after DRAEM (Zavrtanik et al., ICCV 2021): where smooth noise is high, the image is
blended with a texture; ours is noise, theirs are photographs.
"""

from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from anomaly_lab.core.types import Box

Image = UInt8[np.ndarray, "channel height width"]
Defect = Literal["patch", "scar", "blob"]
DEFECTS: tuple[Defect, ...] = ("patch", "scar", "blob")
LEAST = 0.001  # of the inspected pixels, that must differ
TRIES = 20
REFERENCE = 256  # px: the side for which sizes of scars are published


def defective(
    image: Image, box: Box, valid: Bool[np.ndarray, "height width"] | None, kind: Defect, random: np.random.Generator
) -> tuple[Image, Bool[np.ndarray, "height width"]]:
    """A copy of an image with one defect, and its mask: exactly the pixels that differ in a channel.

    The defect lies inside `box` (top, left, height, width: what is no padding) and, where there is one, inside `valid`.
    The image is uint8 and is left as it is. Where a defect of the kind cannot be seen, as a patch of one flat colour on
    the same colour, it is a blob.
    """
    top, left, height, width = box
    inner = image[:, top : top + height, left : left + width]
    inspected = np.ones((height, width), bool) if valid is None else valid[top : top + height, left : left + width]
    for number in range(TRIES):
        drawn = DRAW[kind if number < TRIES // 2 else "blob"](inner, random)
        changed = np.where(inspected, drawn, inner)
        differs = (changed != inner).any(axis=0)
        if differs.sum() >= max(LEAST * inspected.sum(), 1):
            break
    else:  # a region of a few pixels: all of them
        changed = np.where(inspected, np.where(inner < 128, 255, 0), inner).astype(np.uint8)
        differs = inspected
    copy, mask = image.copy(), np.zeros(image.shape[1:], bool)
    copy[:, top : top + height, left : left + width] = changed
    mask[top : top + height, left : left + width] = differs
    return copy, mask


def patch(image: Image, random: np.random.Generator) -> Image:
    """A rectangle of the image somewhere else, in other colours."""
    _, height, width = image.shape
    area = random.uniform(0.02, 0.15) * height * width
    aspect = np.exp(random.uniform(np.log(0.3), np.log(1 / 0.3)))
    size = (clipped(np.sqrt(area * aspect), height), clipped(np.sqrt(area / aspect), width))
    return paste(image, size, 0.0, random)


def scar(image: Image, random: np.random.Generator) -> Image:
    """A thin rectangle of the image somewhere else, turned, in other colours."""
    _, height, width = image.shape
    scale = max(height, width) / REFERENCE
    size = (clipped(random.uniform(10, 25) * scale, height), clipped(random.uniform(2, 16) * scale, width))
    return paste(image, size, random.uniform(-45, 45), random)


def paste(image: Image, size: tuple[int, int], degrees: float, random: np.random.Generator) -> Image:
    """Cut out a rectangle (height, width), change its colours, turn it, and put it with its middle somewhere else."""
    channels, height, width = image.shape
    high, wide = size
    top, left = random.integers(0, height - high + 1), random.integers(0, width - wide + 1)
    piece = image[:, top : top + high, left : left + wide].astype(np.float32)
    mean = piece.mean(axis=(1, 2), keepdims=True)
    contrast, brightness = random.uniform(0.9, 1.1), random.uniform(0.9, 1.1, (channels, 1, 1))
    piece = ((piece - mean) * contrast + mean) * brightness
    down, across = random.integers(0, height - high + 1), random.integers(0, width - wide + 1)
    turned = cv2.getRotationMatrix2D((wide / 2, high / 2), degrees, 1.0)
    turned[:, 2] += across, down
    covered = cv2.warpAffine(np.ones((high, wide), np.uint8), turned, (width, height), flags=cv2.INTER_NEAREST)
    planes = [cv2.warpAffine(plane, turned, (width, height), borderMode=cv2.BORDER_REPLICATE) for plane in piece]
    return np.where(covered > 0, np.rint(np.clip(planes, 0, 255)), image).astype(np.uint8)


def blob(image: Image, random: np.random.Generator) -> Image:
    """Noise, grainy or smooth, blended over a part with a smooth outline."""
    channels, height, width = image.shape
    noise = smooth_noise(height, width, int(random.choice([2, 4, 8])), random)
    share = random.uniform(0.005, 0.05)
    covered = noise >= np.quantile(noise, 1 - share)
    grain = int(random.choice([4, 16, 64]))
    texture = np.stack([smooth_noise(height, width, grain, random) for _ in range(channels)])
    low, high = texture.min(), texture.max()
    texture = 255 * (texture - low) / max(high - low, 1e-6)
    opacity = random.uniform(0.2, 1.0)
    blended = (1 - opacity) * image + opacity * texture
    return np.where(covered, np.rint(blended), image).astype(np.uint8)


def smooth_noise(height: int, width: int, cells: int, random: np.random.Generator) -> np.ndarray:
    """Normal noise on a grid of so many cells a side, at least 2, cubic between them; float32 (height, width)."""
    return cv2.resize(
        random.standard_normal((cells + 1, cells + 1)).astype(np.float32),
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )


def clipped(length: float, side: int) -> int:
    """A length in whole pixels, from 1 to the side."""
    return int(min(max(round(length), 1), side))


DRAW = {"patch": patch, "scar": scar, "blob": blob}
