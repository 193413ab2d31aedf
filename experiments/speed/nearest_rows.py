"""The nearest of 50 photos' places for each place of one, as SPADE asks.

`python experiments/speed/nearest_rows.py > experiments/speed/nearest_rows.csv`. `ours`: `nearest_rows` for a single
neighbour. `candidates`: the search for several of them, which keeps five candidates of every block. `products`: the
products alone, without looking at them. Random rows of the sizes of a ResNet-18's first three stages at 256 px, one
thread, CPU seconds in turns in one process, medians of three.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1"}  # read when the libraries are loaded

import statistics
import time
from collections.abc import Callable

import torch

from anomaly_lab.functional.nearest_rows import SMALL, SPARE, _nearest, nearest_rows

PHOTOS, TURNS = 50, 3
STAGES = [(64, 64), (128, 32), (256, 16)]  # channels and side


def candidates(queries: torch.Tensor, entries: torch.Tensor) -> None:
    """What several neighbours take."""
    for part in queries.split(1024):
        _nearest(part, entries, 1, 1 + SPARE, entries.mean(dim=0))


def products(queries: torch.Tensor, entries: torch.Tensor) -> None:
    """The least that a search by products can take."""
    for block in entries.split(SMALL):
        queries @ block.T


def seconds(work: Callable[..., object], *rows: torch.Tensor) -> float:
    """CPU seconds."""
    start = time.process_time()
    work(*rows)
    return time.process_time() - start


torch.set_num_threads(1)
print("channels,side,ours_seconds,candidates_seconds,products_seconds,candidates_of_ours,ours_of_products")
for channels, side in STAGES:
    torch.manual_seed(0)
    rows = torch.randn(side**2, channels), torch.randn(PHOTOS * side**2, channels)
    works = nearest_rows, candidates, products
    turns = [[seconds(work, *rows) for work in works] for _ in range(TURNS)]
    own, several, least = (statistics.median(column) for column in zip(*turns, strict=True))
    gain, share = (statistics.median(turn[i] / turn[j] for turn in turns) for i, j in ((1, 0), (0, 2)))
    print(f"{channels},{side},{own:.3f},{several:.3f},{least:.3f},{gain:.2f},{share:.2f}", flush=True)
