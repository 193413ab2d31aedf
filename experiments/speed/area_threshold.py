"""CPU seconds of the area threshold over 48 maps of 512 x 512: `python experiments/speed/area_threshold.py`, CSV out.

Beside it what people write first: label the maps at 200 evenly spaced thresholds until no region is large enough.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when the libraries are loaded

import statistics
import time

import cv2
import numpy as np

from anomaly_lab.metrics.thresholds import Area

cv2.setNumThreads(1)
random = np.random.default_rng(0)
MAPS = [cv2.GaussianBlur(random.normal(size=(512, 512)).astype(np.float32), (0, 0), 4) for _ in range(48)]


def exact(area: int) -> float:
    """The least line above which no region has `area` pixels, by union-find."""
    strategy = Area(area / 512**2)
    for anomaly_map in MAPS:
        strategy.update(anomaly_map, 0.0)
    return strategy.compute().pixel


def scan(area: int) -> float:
    """The first of 200 thresholds that leaves no such region."""
    low, high = _range()
    for line in np.linspace(low, high, 200):
        if all(_largest(anomaly_map >= line) < area for anomaly_map in MAPS):
            return float(line)
    return float(high)


def _range() -> tuple[float, float]:
    return min(float(m.min()) for m in MAPS), max(float(m.max()) for m in MAPS)


def _largest(mask: np.ndarray) -> int:
    _, region = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    return int(np.bincount(region.ravel())[1:].max(initial=0))


print(f"# threads 1, load {os.getloadavg()[0]:.1f}")
print("method,area,cpu_seconds,line")
exact(5)  # compiles
for area in (50, 262, 500, 5000):
    for method, rounds in ((exact, 5), (scan, 1)):
        seconds = []
        for _ in range(rounds):
            start = time.process_time()
            line = method(area)
            seconds.append(time.process_time() - start)
        print(f"{method.__name__},{area},{statistics.median(seconds):.3f},{line:.6f}", flush=True)
