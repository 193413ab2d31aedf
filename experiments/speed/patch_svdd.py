"""The codes of all patches of an image: one pass over it beside patch by patch, as the authors compute them.

`python experiments/speed/patch_svdd.py > experiments/speed/patch_svdd.csv`. An image of 256 px, patches of 32 px every
4 px and of 64 px every 16 px, batches of 64 patches as in the authors' code, random weights. One thread, CPU seconds in
turns in one process, medians of five. `difference`: the largest of any number of a code, whose range is (-1, 1).
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1"}  # read when the libraries are loaded

import statistics
import time
from collections.abc import Callable

import torch

from anomaly_lab.methods.patch_svdd import LARGE, SMALL, Encoder

SIDE, BATCH, TURNS, AIM = 256, 64, 5, 4
STRIDES = 4, 16


def dense(encoder: Encoder, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """One pass."""
    return encoder.dense(image, *STRIDES)


def patchwise(encoder: Encoder, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Every patch by itself."""
    found = []
    for side, stride in zip((SMALL, LARGE), STRIDES, strict=True):
        patches = image.unfold(2, side, stride).unfold(3, side, stride).permute(0, 2, 3, 1, 4, 5)
        codes = torch.cat([encoder(part) for part in patches.flatten(0, 2).split(BATCH)])
        found.append(codes.unflatten(0, patches.shape[:3]).permute(0, 3, 1, 2))
    return tuple(found)


def seconds(work: Callable[..., object], *arguments: object) -> float:
    """CPU seconds."""
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


torch.set_num_threads(1)
torch.manual_seed(0)
encoder, image = Encoder(3), torch.rand(1, 3, SIDE, SIDE)
with torch.inference_mode():
    pairs = zip(dense(encoder, image), patchwise(encoder, image), strict=True)
    difference = max((one - other).abs().max().item() for one, other in pairs)
    turns = [[seconds(work, encoder, image) for work in (dense, patchwise)] for _ in range(TURNS)]
own, theirs = (statistics.median(column) for column in zip(*turns, strict=True))
gain = statistics.median(other / one for one, other in turns)
print(f"# threads 1, load {os.getloadavg()[0]:.1f}")
print("side,dense_seconds,patchwise_seconds,patchwise_of_dense,aim,difference")
print(f"{SIDE},{own:.3f},{theirs:.3f},{gain:.1f},{AIM},{difference:.0e}")
