"""CPU milliseconds of aligning an image of a turned part: `python experiments/speed/alignment.py`, CSV out. Aim: 50.

Beside it other sizes, and the turns tried at the size of the image instead of at 64 px.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when the libraries are loaded

import statistics
import time

import cv2
import numpy as np

from anomaly_lab.functional import alignment
from anomaly_lab.functional.alignment import Aligner

cv2.setNumThreads(1)
TURNS = np.random.default_rng(0).uniform(0, 360, 40)


def part(degrees: float, side: int) -> np.ndarray:
    """A dark wedge with a hole on bright ground, with noise."""
    image = np.full((side, side), 0.8, np.float32)
    points = np.array([[-80, -8], [40, -8], [40, -32], [72, -24], [72, 28], [40, 32], [40, 8], [-80, 8]]) * side / 256
    turn = np.deg2rad(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    corners = np.rint((points @ rotation.T + side / 2) * 16).astype(np.int32)
    cv2.fillPoly(image, [corners], 0.3, cv2.LINE_8, 4)
    noise = np.random.default_rng(int(degrees * 1000)).normal(0, 0.01, image.shape)
    return (cv2.GaussianBlur(image, (0, 0), 1) + noise).astype(np.float32)


def measure(motion: str, side: int, search: int) -> tuple[float, float, float]:
    """Median and largest CPU milliseconds an image, and the largest error of the angle in degrees."""
    alignment.SEARCH = search
    aligner, spent, errors = Aligner(motion, part(0, side)), [], []
    for degrees in TURNS:
        image = part(degrees, side)
        start = time.process_time()
        found = aligner(image)
        spent.append(1000 * (time.process_time() - start))
        angle = np.rad2deg(np.arctan2(found.matrix[1, 0], found.matrix[0, 0]))
        errors.append(abs((angle - degrees + 180) % 360 - 180))
    return statistics.median(spent), max(spent), max(errors)


print(f"# threads 1, load {os.getloadavg()[0]:.1f}, OpenCV {cv2.__version__}")
print("motion,side,search,cpu_ms_median,cpu_ms_largest,degrees_off")
measure("rigid", 128, 64)  # warms up
for motion, side, search in (
    ("translation", 256, 64), ("rigid", 128, 64), ("rigid", 256, 64), ("rigid", 512, 64), ("rigid", 256, 256),
):  # fmt: skip
    median, largest, off = measure(motion, side, search)
    turned = f"{off:.2f}" if motion == "rigid" else ""
    print(f"{motion},{side},{search},{median:.1f},{largest:.1f},{turned}", flush=True)
