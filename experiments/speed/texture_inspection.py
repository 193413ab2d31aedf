"""Seconds of `texture_inspection` on textures of 400 px: `python experiments/speed/texture_inspection.py`, CSV out.

Rows of `fit`: ten images make the mixtures, ten others set the thresholds. Expectation maximisation stays on one thread
whatever torch has; its share follows from the texture, so there are a fine and a coarse one. `test`: one image, map and
score.
"""

import os
import statistics
import time

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.texture_inspection import TextureInspection

SIDE = 400


def texture(sigma: float) -> torch.Tensor:
    """Twenty-one images of smooth noise, in 256 gray levels."""
    noise = np.random.default_rng(0).normal(size=(21, SIDE, SIDE))
    smooth = np.stack([gaussian_filter(image, sigma, mode="wrap") for image in noise])
    levels = (128 + 40 * smooth / smooth.std()).clip(0, 255).round()
    return torch.from_numpy(levels.astype(np.float32))[:, None] / 255


def row(what: str, threads: int, sigma: float, aim: float, seconds: list[tuple[float, float]]) -> None:
    """Medians of CPU and wall seconds."""
    cpu, wall = (statistics.median(column) for column in zip(*seconds, strict=True))
    print(f"{what},{threads},{sigma},{cpu:.2f},{wall:.2f},{aim}", flush=True)


def measured(function, rounds: int) -> list[tuple[float, float]]:
    """CPU and wall seconds of every round."""
    seconds = []
    for _ in range(rounds):
        cpu, wall = time.process_time(), time.perf_counter()
        function()
        seconds.append((time.process_time() - cpu, time.perf_counter() - wall))
    return seconds


print(f"# load {os.getloadavg()[0]:.1f}")
print("what,threads,sigma,cpu_seconds,wall_seconds,aim_wall_seconds")
for threads in (1, 2):
    torch.set_num_threads(threads)
    for sigma in (1.0, 4.0):
        images = texture(sigma)
        method = TextureInspection(WholeImage(), SIDE, 1)
        method.update(images[:20], torch.arange(20))
        row("fit", threads, sigma, 60, measured(method.fit, 1))
        method.eval()
        with torch.inference_mode():
            method(images[20:])
            row("test", threads, sigma, 1, measured(lambda: method(images[20:]), 5))  # noqa: B023
