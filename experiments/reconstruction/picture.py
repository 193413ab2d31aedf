"""Defects of the demo data and what each method makes of them: `python experiments/reconstruction/picture.py RUNS OUT`.

A row a defect: the photo, the reconstruction of each method, and its map below.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np

from anomaly_lab.data.demo import demo
from anomaly_lab.inference.detector import Detector
from anomaly_lab.runs.collect import collect

mpl.use("Agg")
from matplotlib import pyplot

SHOWN = 3  # defects of different types
COLUMN = 1.35  # inch


def main(runs: Path, out: Path) -> None:
    """Ask all runs and draw."""
    found = {run.key.method: Detector.load(run.folder, "cpu") for run in collect([runs]) if run.done}
    types = {sample.defect: sample.path for sample in demo(None, "washer").test if sample.label == 1}
    photos = list(types.values())[:SHOWN]
    figure, panels = pyplot.subplots(
        2 * len(photos),
        len(found) + 1,
        figsize=(COLUMN * (len(found) + 1), COLUMN * 2 * len(photos)),
        layout="constrained",
    )
    for axes in panels.flat:
        axes.set_axis_off()
    for place, photo in enumerate(photos):
        upper, lower = panels[2 * place], panels[2 * place + 1]
        upper[0].imshow(pyplot.imread(photo), cmap="gray")
        for column, (name, detector) in enumerate(found.items(), 1):
            answer = detector.predict(photo)
            assert answer.reconstruction is not None
            upper[column].imshow(np.squeeze(answer.reconstruction), cmap="gray", vmin=0, vmax=1)
            lower[column].imshow(answer.anomaly_map, cmap="magma")
            if not place:
                upper[column].set_title(name, fontsize=9)
    panels[0, 0].set_title("photo", fontsize=9)
    figure.savefig(out, dpi=90, pil_kwargs={"quality": 85})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
