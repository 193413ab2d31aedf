"""Where the maps of good test images have their maximum: a CSV row for each finished run below some folders.

    python experiments/borders/borders.py FOLDER [FOLDER ...] > results.csv

`near_border`: the share of good test images whose maximum lies within 8 px of the border, at the size of the photo;
`left_right`, `top_bottom`: the same for two sides, because padding shows on all sides and a photo's content on some;
`area`: the share of the photo that these pixels are, which a maximum anywhere would reach.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from anomaly_lab.runs.collect import collect

WIDTH = 8  # px


def near_border(anomaly_map: np.ndarray) -> tuple[bool, bool]:
    """Whether the maximum lies within `WIDTH` px of the left or right border, and of the upper or lower one."""
    row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    height, width = anomaly_map.shape
    return bool(min(column, width - 1 - column) < WIDTH), bool(min(row, height - 1 - row) < WIDTH)


def main() -> None:
    """Print the table."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    shares = ("near_border", "left_right", "top_bottom", "area")
    table.writerow(["row", "method", "data", "good_images", *shares, "image_auroc", "commit"])
    for run in collect([Path(folder) for folder in sys.argv[1:]]):
        maps = [np.array(Image.open(path)) for path in sorted(run.folder.glob("maps/*/test/good/*.tiff"))]
        if not run.done or not maps:
            continue
        height, width = maps[0].shape
        area = 1 - max(0, height - 2 * WIDTH) * max(0, width - 2 * WIDTH) / (height * width)
        sides = np.array([near_border(anomaly_map) for anomaly_map in maps])
        found = [f"{share:.3f}" for share in (sides.any(axis=1).mean(), *sides.mean(axis=0), area)]
        commit = json.loads((run.folder / "environment.json").read_text())["git"]
        auroc = run.metrics.get("image_auroc", float("nan"))
        name = run.key.name.removeprefix("borders_")
        table.writerow([name, run.key.method, run.key.category, len(maps), *found, f"{auroc:.4f}", commit])


if __name__ == "__main__":
    main()
