"""Is it the part or the border that a map shows? `python experiments/borders/moved.py FOLDER RUN [RUN ...]`.

FOLDER holds photos, of which the first 30 are taken. For each run the mean map, on 4 x 4 squares, and what the twelve
outer and the four inner ones have in the mean: of the photos; of the photos moved by half their height and width, what
leaves at one side comes back at the other; of one colour, theirs in the mean. What a map owes to the photos moves with
them; what it owes to the network stays, and is there without a part.
"""

import sys
from itertools import islice
from pathlib import Path

import torch
from torch.nn import functional

from anomaly_lab.inference.detector import Detector

folder, *runs = sys.argv[1:]
for run in runs:
    detector = Detector.load(run, "cpu")
    photos = [detector.decoding.read(path)[0] for path in islice(sorted(Path(folder).iterdir()), 30)]
    images = torch.stack([torch.from_numpy(photo) for photo in photos]).float() / 255
    height, width = images.shape[-2:]
    of = {"photos": images, "moved": images.roll((height // 2, width // 2), (-2, -1))}
    of["one colour"] = images.mean(dim=(0, 2, 3), keepdim=True).expand_as(images)
    print(run)
    for name, some in of.items():
        maps = detector.method.eval().predict(some).anomaly_map.detach().float()
        squares = functional.adaptive_avg_pool2d(maps.mean(dim=0), 4)[0]
        inner = squares[1:3, 1:3].mean().item()
        outer = (squares.mean().item() * 16 - inner * 4) / 12
        print(f"{name}: outer {outer:.3f}, inner {inner:.3f}")
        for line in squares.tolist():
            print("    " + "  ".join(f"{value:.3f}" for value in line))
