"""The exact greedy coreset beside the loop that Anomalib runs, on real patches of PatchCore.

`python experiments/speed/coreset.py PHOTOS WEIGHTS > experiments/speed/coreset.csv`: whole photos, ResNet-18,
1024 patches of 384 numbers each. `loop` is Anomalib's `KCenterGreedy` written out: norm of the rows less the centre,
minimum, argmax. Each of its picks costs the same, so it makes the first ones and is extrapolated. One thread, CPU
seconds, in turns in one process, medians of five.

`same` says up to which pick the selection is that of the loop, and of a naive greedy that adds squares as we do: in
float64, rounded to float32.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # read when the libraries are loaded

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numba import njit

from anomaly_lab.data.images import Decoding
from anomaly_lab.functional.farthest_points import farthest_points, squared
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.patchcore import PatchCore
from anomaly_lab.networks.backbone import Backbone

SIZES = ((50_000, 5_000), (160_000, 1_600))
TIMED, COMPARED = 5, 100  # picks of the loop in a turn, and once
SIDE = 256


def images_of(folder: str, count: int) -> torch.Tensor:
    """The first photos of a folder at the working size."""
    decoding = Decoding(SIDE, 3)
    pixels = [decoding.read(path)[0] for path in sorted(Path(folder).iterdir())[:count]]
    return torch.from_numpy(np.stack(pixels)).float() / 255


def patchcore(weights: str, ratio: float = 0.01) -> PatchCore:
    """The method as configured."""
    backbone = Backbone("resnet18.tv_in1k", ["stride8", "stride16"], weights)
    backbone.load()
    return PatchCore(WholeImage(), backbone, SIDE, ratio, 9, 3, 1_000_000, seed=0)


def loop(rows: torch.Tensor, picks: int) -> list[int]:
    """Anomalib's selection from row 0."""
    chosen, distance = [0], torch.full((len(rows), 1), torch.inf)
    while len(chosen) < picks:
        found = torch.linalg.norm(rows - rows[chosen[-1]], ord=2, dim=1, keepdim=True)
        distance = torch.minimum(distance, found)
        chosen.append(int(torch.argmax(distance)))
    return chosen


@njit
def naive(rows, picks):
    """All distances at every pick, by the sums of `farthest_points`."""
    chosen = np.zeros(picks, np.int64)
    bound = np.full(len(rows), np.inf, np.float32)
    for pick in range(1, picks):
        centre, best = rows[chosen[pick - 1]], 0
        for i in range(len(rows)):
            bound[i] = min(bound[i], squared(rows[i], centre, np.float32(np.inf)))
            if bound[i] > bound[best]:
                best = i
        chosen[pick] = best
    return chosen


def seconds(function, *arguments) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def agreed(one, other) -> int:
    """How many of the first picks are the same."""
    differ = np.flatnonzero(np.asarray(one) != np.asarray(other))
    return int(differ[0]) if len(differ) else len(one)


def main(folder: str, weights: str) -> None:
    """Print the rows."""
    torch.set_num_threads(1)
    method = patchcore(weights)
    with torch.inference_mode():
        maps = [method.rows(image)["bank"] for image in images_of(folder, -(-SIZES[-1][0] // 1024)).split(1)]
    everything = torch.cat(maps).clone()
    farthest_points(everything[:100].numpy(), 3)  # compiles
    print(f"# threads 1, load {os.getloadavg()[0]:.1f}, the loop extrapolated from {TIMED} picks")
    print("rows,features,picks,cpu_seconds,loop_cpu_seconds,ratio,aim,same_as_loop,same_as_naive", flush=True)
    for count, picks in SIZES:
        rows = everything[:count].clone()
        ours, theirs = [], []
        for _ in range(5):
            ours.append(seconds(farthest_points, rows.numpy(), picks))
            theirs.append(seconds(loop, rows, TIMED + 1) / TIMED * (picks - 1))
        ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        found = farthest_points(rows.numpy(), picks)[0]
        same = agreed(loop(rows, COMPARED), found[:COMPARED]), agreed(naive(rows.numpy(), picks), found)
        print(
            f"{count},{rows.shape[1]},{picks},{statistics.median(ours):.2f},{statistics.median(theirs):.1f},{ratio:.0f},"
            f"100,{same[0]} of {COMPARED},{same[1]} of {picks}",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
