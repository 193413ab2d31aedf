"""Why a maximum lies at the border: experiments/borders/patches.py RUN, of cnn_dictionary; on the good test images.

The map is the mean of the scores of the patches over a pixel: sixteen in the middle, one in a corner. Shares of images
whose maximum lies within 8 px of the border: of the map; of the scores of the patches (two rows of places, at a stride
of 4 px); of the map of the same scores with their places shuffled, where nothing but the mean of few decides.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import torch

from anomaly_lab import Detector

NEAR = 8  # px


def at_border(scores: np.ndarray, width: int) -> bool:
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    return min(row, column, len(scores) - 1 - row, len(scores) - 1 - column) < width


def main(run: Path) -> None:
    detector = Detector.load(run, "cpu")
    method, random = detector.method, np.random.default_rng(0)
    spread, grids = method.spread, []
    method.spread = lambda scores: grids.append(scores[0].clone()) or spread(scores)
    with (run / "scores.csv").open() as file:
        paths = [row["path"] for row in csv.DictReader(file) if row["defect"] == "good"]
    maps, patches, shuffled, rows = [], [], [], []
    for path in paths:
        detector.predict(path)
        scores = grids.pop()
        places = torch.from_numpy(random.permutation(scores.numel()))
        maps.append(at_border(spread(scores[None])[0].numpy(), NEAR))
        rows.append([*scores.mean(dim=1)[[0, -1]].tolist(), scores.mean().item()])
        patches.append(at_border(scores.numpy(), NEAR // method.stride))
        shuffled.append(at_border(spread(scores.flatten()[places].view_as(scores)[None])[0].numpy(), NEAR))
    for name, share in (("map", maps), ("patches", patches), ("map of shuffled patches", shuffled)):
        print(f"{name}: {np.mean(share):.3f} of {len(share)} good images")
    upper, lower, everywhere = np.mean(rows, axis=0)
    print(f"mean score of patches in the upper row {upper:.2f}, in the lower {lower:.2f}, in all {everywhere:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
