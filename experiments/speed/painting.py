"""Painting a batch beside the training step of DRAEM: `python experiments/speed/painting.py`, CSV out.

`paint`: what `data.corruption` of draem does to 32 images of 256 px (both halves: a defect is computed for every image,
and half of them keep it). `step`: the losses of DRAEM on painted images, backward and Adam, at the published width on
one image and at a quarter of it on four, times 32 or 8. CPU seconds of one thread in turns in one process, medians of
three; `share` is paint / step.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1"}  # read when the libraries are loaded

import statistics
import time

import torch

from anomaly_lab.core.types import Batch
from anomaly_lab.data.corruption import AnyOf, PerlinTexture
from anomaly_lab.data.noise import row_keys
from anomaly_lab.data.textures import ForeignTextures
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.draem import DRAEM

SIDE, BATCH, TURNS = 256, 32, 3
IMAGES = torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def painted(source: str, images: torch.Tensor) -> Batch:
    """The batch that DRAEM learns from."""
    corruption = AnyOf([PerlinTexture(ForeignTextures(source))], 0.5)
    image, defect = corruption(images, row_keys(0, 0, torch.arange(len(images))))
    return Batch.of(image)._replace(clean=images, defect=defect)


def paint(source: str) -> float:
    """Seconds of painting."""
    start = time.process_time()
    painted(source, IMAGES)
    return time.process_time() - start


def step(method: DRAEM, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """Seconds of a step for 32 images."""
    start = time.process_time()
    optimizer.zero_grad()
    method.losses(batch)["loss"].backward()
    optimizer.step()
    return (time.process_time() - start) * BATCH / len(batch.image)


torch.set_num_threads(1)
print("width,segmentation_width,textures,paint_seconds,step_seconds,share")
for width, count in ((128, 1), (32, 4)):
    torch.manual_seed(0)
    method = DRAEM(WholeImage(), torch.optim.Adam, SIDE, 3, width, width // 2, "none")
    optimizer, batch = torch.optim.Adam(method.parameters(), lr=1e-4), painted("procedural", IMAGES[:count])
    for source in ("procedural", "own"):
        turns = [(paint(source), step(method, optimizer, batch)) for _ in range(TURNS)]
        medians = [statistics.median(column) for column in zip(*turns, strict=True)]
        row = f"{width},{width // 2},{source},{medians[0]:.3f},{medians[1]:.2f},{medians[0] / medians[1]:.5f}"
        print(row, flush=True)
