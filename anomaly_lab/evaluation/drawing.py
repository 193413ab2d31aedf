"""Pictures of images and anomaly maps: panels, heat maps, outlines, captions."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tifffile
from torch import Tensor

from anomaly_lab.core.console import printable
from anomaly_lab.core.files import write_whole
from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.metrics.pixel_decisions import without_small_regions
from anomaly_lab.metrics.thresholds import Threshold, pixels

WHITE, BLACK, GREEN, ORANGE = (255, 255, 255), (0, 0, 0), (0, 255, 0), (255, 140, 0)
SIDE = 256  # px of a photo along its longer side


class Panel(NamedTuple):
    """The pictures of one test image, at one size without padding."""

    name: str
    image: np.ndarray  # uint8 RGB, height x width x 3, as all pictures here
    reconstruction: np.ndarray | None
    anomaly_map: np.ndarray | None  # float32, height x width; None: the method has none
    mask: np.ndarray | None  # bool, height x width; None: not known
    threshold: Threshold | None = None  # regions above its `pixel` are outlined
    decision_score: float = 0.0  # compared with its `image`

    @property
    def caption(self) -> str:
        """The name of the image, and what its pictures are, from left to right."""
        reconstruction = "" if self.reconstruction is None else "reconstruction | "
        if self.anomaly_map is None:
            marked = ", mask (green)" if self.mask is not None and self.mask.any() else ""
            return f"{printable(self.name)}: image{marked}{' | ' + reconstruction[:-3] if reconstruction else ''}"
        found = "" if self.threshold is None else f"regions above {self.threshold.pixel:.4g} (orange)"
        marked = "mask (green)" if self.mask is not None and self.mask.any() else ""
        last = ", ".join(filter(None, (found, marked))) or ("map over image" if self.mask is None else "image")
        return f"{printable(self.name)}: image | {reconstruction}anomaly map | {last}"

    @property
    def decision(self) -> list[str]:
        """The score that decides, and the threshold with the decision; empty without a threshold."""
        if self.threshold is None:
            return []
        word = "abnormal" if self.is_abnormal else "normal"
        return [f"score {self.decision_score:.4g}", f"threshold {self.threshold.image:.4g}: {word}"]

    @property
    def is_abnormal(self) -> bool:
        """Whether the score reaches the threshold."""
        return self.threshold is not None and self.decision_score >= self.threshold.image

    @property
    def color(self) -> tuple[int, int, int]:
        """The colour of the caption."""
        return ORANGE if self.is_abnormal else WHITE

    def captioned(self, low: float, high: float) -> np.ndarray:
        """The pictures side by side below the caption and the decision."""
        return captioned(self.draw(low, high), [self.caption, ", ".join(self.decision)], 2 * SIDE, self.color)

    def draw(self, low: float, high: float) -> np.ndarray:
        """The pictures side by side, with the map coloured from `low` (dark) to `high` (yellow)."""
        pictures = [self.outlined(low, high), self.reconstruction]
        if self.anomaly_map is not None:
            pictures = [self.image, self.reconstruction, heat(self.anomaly_map, low, high), pictures[0]]
        return np.concatenate([picture for picture in pictures if picture is not None], axis=1)

    def outlined(self, low: float, high: float) -> np.ndarray:
        """The image with outlines of what was found and of the mask; with neither, the map over the image.

        What was found are the regions above the pixel threshold that have the minimum area. Without a map nothing is.
        """
        if self.threshold is None and self.mask is None and self.anomaly_map is not None:
            return overlay(self.image, self.anomaly_map, low, high)
        regions = []
        if self.threshold is not None and self.anomaly_map is not None:
            line, area = self.threshold.pixel, pixels(self.threshold.minimum_area, self.anomaly_map)
            regions.append((without_small_regions(self.anomaly_map, line, area) >= line, ORANGE))
        if self.mask is not None:
            regions.append((self.mask, GREEN))
        return with_outlines(self.image, regions)


def panel(
    name: str,
    i: int,
    outputs: Prediction,
    batch: Batch,
    side: int,
    mask: Tensor | None,
    threshold: Threshold | None = None,
    decision_score: float = 0.0,
    *,
    localises: bool,
) -> Panel:
    """The panel of image `i` of a batch, `side` px along its longer side, without padding.

    It has a map if the method `localises`; what is one number an image is not drawn pixel by pixel.

    A narrow image is larger, so that something is seen of it: a quarter of `side` along its shorter side, if the longer
    one is then at most three times `side`.
    """
    place = batch.placement[i]
    top, left, height, width = place.target
    longer = max(side, min(3 * side, side * max(height, width) // (4 * min(height, width))))
    size = (max(1, longer * width // max(height, width)), max(1, longer * height // max(height, width)))

    def shown(image: np.ndarray) -> np.ndarray:
        inner = image[..., top : top + height, left : left + width].transpose(1, 2, 0)
        rgb = np.repeat(inner, 3, axis=2) if inner.shape[2] == 1 else inner
        return cv2.resize((rgb * 255).round().astype(np.uint8), size, interpolation=cv2.INTER_AREA)

    drawn = None
    if localises:
        inner_map = outputs.anomaly_map[i, 0].cpu().numpy()[top : top + height, left : left + width]
        drawn = cv2.resize(inner_map, size, interpolation=cv2.INTER_LINEAR)
    part = None
    if mask is not None:
        top_, left_, height_, width_ = place.source
        full = mask[0].cpu().numpy()[top_ : top_ + height_, left_ : left_ + width_]
        part = cv2.resize(full.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
    return Panel(
        name,
        shown(batch.image[i].cpu().numpy()),
        None if outputs.reconstruction is None else shown(outputs.reconstruction[i].cpu().numpy()),
        drawn,
        part,
        threshold,
        decision_score,
    )


def stack(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures stacked vertically, padded with black on the right."""
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate([np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0))) for picture in pictures])


def beside(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures side by side, padded with black at the bottom."""
    height = max(picture.shape[0] for picture in pictures)
    padded = [np.pad(picture, ((0, height - picture.shape[0]), (0, 0), (0, 0))) for picture in pictures]
    return np.concatenate(padded, axis=1)


def captioned(picture: np.ndarray, lines: list[str], width: int, color: tuple[int, int, int]) -> np.ndarray:
    """A picture of at least `width` px with lines of text above it; long lines lose their middle."""
    picture = np.pad(picture, ((0, 0), (0, max(0, width - picture.shape[1])), (0, 0)))
    strip = np.zeros((8 + 18 * len(lines), picture.shape[1], 3), np.uint8)
    most = (picture.shape[1] - 8) // 8  # letters, about 8 px each at this size
    for number, line in enumerate(lines):
        text = line if len(line) <= most else f"{line[: most // 2 - 1]}...{line[2 - most // 2 :]}"
        cv2.putText(strip, text, (4, 18 + 18 * number), cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, 1, cv2.LINE_AA)
    return np.concatenate([strip, picture])


def color_range(maps: Sequence[np.ndarray | None]) -> tuple[float, float]:
    """The scores drawn darkest and brightest: the minimum and the 99.9th percentile; 0 and 1 without maps."""
    there = [anomaly_map.ravel() for anomaly_map in maps if anomaly_map is not None]
    if not there:
        return 0.0, 1.0
    values = np.concatenate(there)
    return float(values.min()), float(np.quantile(values, 0.999))


def heat(anomaly_map: np.ndarray, low: float, high: float) -> np.ndarray:
    """Colour a map: black, violet, orange, yellow."""
    level = np.clip((anomaly_map - low) / max(high - low, 1e-30), 0, 1)
    return cv2.cvtColor(cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def overlay(image: np.ndarray, anomaly_map: np.ndarray, low: float, high: float) -> np.ndarray:
    """The image blended with its coloured map."""
    return cv2.addWeighted(image, 0.5, heat(anomaly_map, low, high), 0.5, 0)


def with_outlines(image: np.ndarray, regions: list[tuple[np.ndarray, tuple[int, int, int]]]) -> np.ndarray:
    """A copy with the outer outline of each part of the regions (bool, height x width), in their colours.

    A black border outside of them, 1 px wide, sets them off from photos of similar colours; it covers no outline.
    """
    picture, outlines = image.copy(), []
    for region, color in regions:
        contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        filled = cv2.drawContours(np.zeros(region.shape, np.uint8), contours, -1, 1, cv2.FILLED)
        picture[cv2.dilate(filled, np.ones((3, 3), np.uint8)) > filled] = BLACK
        outlines.append((contours, color))
    for contours, color in outlines:
        cv2.drawContours(picture, contours, -1, color, 1)
    return picture


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write an RGB picture as PNG, whole or not at all."""
    encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    write_whole(path, lambda part: part.write_bytes(encoded.tobytes()))


def write_webp(path: Path, picture: np.ndarray) -> None:
    """Write an RGB picture as a small WebP, whole or not at all."""
    encoded = cv2.imencode(".webp", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, 80])[1]
    write_whole(path, lambda part: part.write_bytes(encoded.tobytes()))


def write_map(path: Path, anomaly_map: np.ndarray) -> None:
    """Write a map as TIFF, whole or not at all."""
    write_whole(path, lambda part: tifffile.imwrite(part, anomaly_map))
