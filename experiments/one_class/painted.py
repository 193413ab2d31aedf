"""What a loss on painted defects says about real ones: `python experiments/one_class/painted.py RUNS OUT.csv OUT.jpg`.

RUNS are folders of trainings of `fcdd` that differ in their number of epochs, such as runs/one_class_painted*.
"""

import csv
import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

*folders, table, picture = sys.argv[1:]
rows = []
for folder in folders:
    for path in Path(folder).rglob("metrics.json"):
        metrics, lines = json.loads(path.read_text()), (path.parent / "curves/losses.csv").read_text().splitlines()
        last = list(csv.DictReader(lines))[-1]
        auroc = [round(metrics[f"image_auroc{end}"], 4) for end in ("", "_low", "_high")]
        rows.append(
            (int(last["epoch"]), *auroc, *(round(float(last[f"{part}/loss"]), 4) for part in ("train", "validation")))
        )
rows.sort()
with Path(table).open("w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("epochs", "image_auroc", "image_auroc_low", "image_auroc_high", "train_loss", "validation_loss"))
    writer.writerows(rows)

epochs, auroc, low, high, train, validation = zip(*rows, strict=True)
figure, (above, below) = pyplot.subplots(2, sharex=True, figsize=(5, 4), layout="constrained")
above.plot(epochs, train, marker="o", label="training")
above.plot(epochs, validation, marker="o", label="held-out images")
above.set_ylabel("loss on painted defects")
above.legend()
errors = [[a - b for a, b in zip(auroc, low, strict=True)], [b - a for a, b in zip(auroc, high, strict=True)]]
below.errorbar(epochs, auroc, errors, marker="o", capsize=3, color="black")
below.axhline(0.5, linestyle=":", color="gray")
below.set_ylabel("image AUROC, real defects")
below.set_xlabel("epochs of ten steps")
below.set_xscale("log", base=2)
below.set_xticks(epochs, epochs)
figure.savefig(picture, dpi=110, pil_kwargs={"quality": 88})
