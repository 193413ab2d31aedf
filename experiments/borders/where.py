"""What the maps of good test images are like near the border: `python experiments/borders/where.py RUN`, a line a run.

Mean of the maps within 8 px of the border and inside; the lowest and highest row and column of the maxima, as shares;
standard deviations, of a pixel between the images and of the mean map between its pixels.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH = 8  # px

for folder in sys.argv[1:]:
    paths = sorted(Path(folder).rglob("maps/*/test/good/*.tiff"))
    if not paths:
        sys.exit(f"error: {folder}: expected maps of good test photos, found none (callbacks.anomaly_maps=null?)")
    maps = np.stack([np.array(Image.open(path)) for path in paths])
    border = np.ones(maps.shape[1:], dtype=bool)
    border[WIDTH:-WIDTH, WIDTH:-WIDTH] = False
    places = [np.unravel_index(one.argmax(), one.shape) for one in maps]
    shares = np.array(places) / maps.shape[1:]
    print(
        f"{folder}: mean {maps[:, border].mean():.2f} near the border, {maps[:, ~border].mean():.2f} inside; maxima at "
        f"{shares[:, 0].min():.2f} to {shares[:, 0].max():.2f} of the height, {shares[:, 1].min():.2f} to "
        f"{shares[:, 1].max():.2f} of the width; deviation {maps.std(axis=0).mean():.3f} between images, "
        f"{maps.mean(axis=0).std():.3f} between pixels"
    )
