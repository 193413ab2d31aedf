"""Do the reconstructions of good photos differ at all? `python experiments/borders/made.py FOLDER RUN [RUN ...]`.

FOLDER holds photos, of which the first 30 are taken. A line a run: how much the photos differ, standard deviation of a
value between the images and of the mean image between its values; the same of the codes, of the reconstructions and of
the maps.
"""

import sys
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from anomaly_lab.inference.detector import Detector


def deviations(values: Tensor) -> str:
    """Between the images, and within their mean."""
    return f"{values.std(dim=0).mean():.3f} and {values.mean(dim=0).std():.3f}"


folder, *runs = sys.argv[1:]
for run in runs:
    detector = Detector.load(run, "cpu")
    photos = [detector.decoding.read(path)[0] for path in islice(sorted(Path(folder).iterdir()), 30)]
    images = torch.stack([torch.from_numpy(photo) for photo in photos]).float() / 255
    found = detector.method.eval().predict(images)
    with torch.no_grad():
        parts = {"photos": images, "codes": detector.method.embed(images)}
    parts |= {"reconstructions": found.reconstruction, "maps": found.anomaly_map}
    print(f"{run}: " + ", ".join(f"{name} {deviations(part.float())}" for name, part in parts.items()))
