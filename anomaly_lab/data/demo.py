"""Generated demo data: a washer (object) and a weave (texture), with exact masks, in the layout of MVTec AD.

Light, noise and pose vary from image to image, independently of the defects, and a defect is as often brighter as
darker: mean brightness or sharpness alone must not separate good from bad.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from anomaly_lab.core.files import writing
from anomaly_lab.core.lock import lock
from anomaly_lab.data.layouts import mvtec_ad
from anomaly_lab.data.samples import Splits

VERSION = 1  # names the cache folder: raise it with every change below
SIDE = 256
TRAIN, TEST_GOOD, TEST_PER_DEFECT = 100, 40, 14

Random = np.random.Generator
Drawing = tuple[np.ndarray, np.ndarray]  # float32 image (side, side, 3) in 0 ... 255, bool mask (side, side)


def demo(root: str | None, category: str, textures: Sequence[str] = ()) -> Splits:
    """Generate the data if it is missing (seconds), then read it like MVTec AD."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anomaly_lab"
    folder = Path(root).expanduser() if root else cache / f"demo-{VERSION}"
    if not folder.is_dir():
        with lock(folder.with_name(f".{folder.name}.lock"), lambda _: None):
            if not folder.is_dir():  # another process was faster
                make(folder)
    return mvtec_ad(str(folder), category, textures)


def make(folder: Path) -> None:
    """Write both categories; the folder appears when it is complete."""
    with writing(folder) as part:
        for number, (category, draw, defects) in enumerate(CATEGORIES):
            random = np.random.default_rng([VERSION, number])
            for i in range(TRAIN):
                _write(part / category / "train/good", i, draw(random, None))
            for i in range(TEST_GOOD):
                _write(part / category / "test/good", i, draw(random, None))
            for defect in defects:
                for i in range(TEST_PER_DEFECT):
                    drawing = draw(random, defect)
                    _write(part / category / "test" / defect, i, drawing)
                    _write_mask(part / category / "ground_truth" / defect, i, drawing)


def washer(random: Random, defect: str | None) -> Drawing:
    """A ring with four holes on a plate; `defect` is scratch, dent, missing_hole or None."""
    image = np.full((SIDE, SIDE, 3), (96, 100, 108), np.float32)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    center = SIDE / 2 + random.uniform(-2, 2, 2)
    radius = np.hypot(y - center[0], x - center[1])
    turn = random.uniform(-0.04, 0.04)
    ring = _soft((radius - 36) / 2) * _soft((104 - radius) / 2)
    metal = 160 + 3 * np.sin(radius * 0.9) + 14 * np.cos(np.arctan2(y - center[0], x - center[1]) - turn)
    holes = [center + 70 * np.array([np.sin(turn + k * np.pi / 2), np.cos(turn + k * np.pi / 2)]) for k in range(4)]
    mask = np.zeros((SIDE, SIDE), bool)
    if defect == "missing_hole":
        row, column = holes.pop(int(random.integers(4)))
        mask = np.hypot(y - row, x - column) < 18
    for row, column in holes:
        ring *= _soft((np.hypot(y - row, x - column) - 18) / 2)
    image += ring[..., None] * (metal[..., None] * np.array([1.0, 0.98, 0.93], np.float32) - image)
    if defect in {"scratch", "dent"}:
        angle, distance = random.uniform(0, 2 * np.pi), random.uniform(56, 80)
        spot = center + distance * np.array([np.sin(angle), np.cos(angle)])
        mark = _line(random, spot, 60, 5.0) if defect == "scratch" else _blob(random, spot, 12)
        image, mask = _blend(random, image, mark, 85)
    return _photograph(random, image), mask


def weave(random: Random, defect: str | None) -> Drawing:
    """Two crossing sets of threads; `defect` is cut, stain, loose_thread or None."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    row, column = random.uniform(0, 32, 2)
    warp, weft = np.sin((x + column) * np.pi / 16), np.sin((y + row) * np.pi / 16)
    threads = 130 + 20 * warp * weft
    image = threads[..., None] * np.array([1.0, 0.93, 0.82], np.float32)
    mask = np.zeros((SIDE, SIDE), bool)
    spot = random.uniform(48, SIDE - 48, 2)
    if defect == "cut":
        image, mask = _blend(random, image, _line(random, spot, 60, 3.5), 70)
    elif defect == "stain":
        image, mask = _blend(random, image, _blob(random, spot, 16), 45)
    elif defect == "loose_thread":
        image, mask = _blend(random, image, _line(random, spot, 90, 6.0), 55)
    return _photograph(random, image), mask


CATEGORIES: tuple[tuple[str, Callable[[Random, str | None], Drawing], tuple[str, ...]], ...] = (
    ("washer", washer, ("scratch", "dent", "missing_hole")),
    ("weave", weave, ("cut", "stain", "loose_thread")),
)


def _soft(distance: np.ndarray) -> np.ndarray:
    """1 inside (positive distance), 0 outside, a soft edge of one pixel."""
    return np.clip(distance + 0.5, 0, 1)


def _line(random: Random, center: np.ndarray, length: float, width: float) -> np.ndarray:
    """A slightly bent stroke through `center`, 0 ... 1."""
    angle = random.uniform(0, np.pi)
    along, across = np.array([np.sin(angle), np.cos(angle)]), np.array([np.cos(angle), -np.sin(angle)])
    t = np.linspace(-0.5, 0.5, 24)[:, None]
    points = center + length * t * along + random.uniform(-14, 14) * (t**2 - 0.1) * across
    canvas = np.zeros((4 * SIDE, 4 * SIDE), np.uint8)
    corners = np.round(4 * points[:, ::-1]).astype(np.int32)
    cv2.polylines(canvas, [corners], isClosed=False, color=255, thickness=round(4 * width))
    return cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _blob(random: Random, center: np.ndarray, radius: float) -> np.ndarray:
    """A round spot with a wavy outline, 0 ... 1."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    angle = np.arctan2(y - center[0], x - center[1])
    outline = radius * (1 + 0.2 * np.sin(3 * angle + random.uniform(0, 6)) + 0.1 * np.sin(5 * angle))
    return _soft((outline - np.hypot(y - center[0], x - center[1])) / 2)


def _blend(random: Random, image: np.ndarray, mark: np.ndarray, strength: float) -> Drawing:
    """Lay a mark over the image, brighter or darker with equal chance."""
    sign = 1 if random.random() < 0.5 else -1
    return image + sign * strength * mark[..., None], mark > 0.5


def _photograph(random: Random, image: np.ndarray) -> np.ndarray:
    """Light and sensor of one shot: gain, a gradient of light, sharpness, noise."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j].astype(np.float32)
    slope = random.uniform(-0.04, 0.04, 2)
    light = random.uniform(0.92, 1.08) * (1 + slope[0] * y + slope[1] * x)
    blurred = cv2.GaussianBlur(image * light[..., None], (0, 0), random.uniform(0.4, 1.2))
    return blurred + random.normal(0, random.uniform(1.0, 5.0), image.shape)


def _write(folder: Path, number: int, drawing: Drawing) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.clip(drawing[0], 0, 255).round().astype(np.uint8)
    _png(folder / f"{number:03d}.png", np.ascontiguousarray(pixels[..., ::-1]))


def _write_mask(folder: Path, number: int, drawing: Drawing) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _png(folder / f"{number:03d}_mask.png", drawing[1].astype(np.uint8) * 255)


def _png(path: Path, pixels: np.ndarray) -> None:
    """Write through Python, which raises on a full disk; `cv2.imwrite` does not."""
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
