"""Finished runs as CSV, the best control beside each figure: `python experiments/table.py statistics_`."""

import csv
import json
import sys
from pathlib import Path

COLUMNS = ("pixel_auroc", "pixel_auroc_smoothed", "pixel_aupro", "pixel_aupro_smoothed")
DEFECTS = ("covid", "viral_pneumonia")  # the two kinds of abnormal X-rays are told apart

prefix = sys.argv[1]  # of the names of the runs
folders = sorted(Path("runs").glob(f"{prefix}*/"))
rows = [path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("metrics.json"))]
if not rows:
    sys.exit(f"expected finished runs in runs/{prefix}*, found none")
writer = csv.writer(sys.stdout, lineterminator="\n")
costs = ("fit_seconds", "test_images_per_second", "peak_memory_mb")
header = [name for column in ("image_auroc", *COLUMNS) for name in (column, f"control_{column}")]
writer.writerow(
    ("row", "method", "data", "seed", *header, *(f"image_auroc_{defect}" for defect in DEFECTS), *costs, "commit")
)
for path in rows:
    metrics = json.loads(path.read_text())
    name, method, _, data, seed, _ = path.parent.relative_to("runs").parts
    commit = json.loads(path.with_name("environment.json").read_text())["git"]
    found = {line["defect"]: line["auroc"] for line in csv.DictReader((path.parent / "defects.csv").open())}
    values = [metrics.get(column, "") for column in header]
    apart = [found.get(defect, "") for defect in DEFECTS]
    numbers = [round(float(value), 4) if value not in ("", None) else "" for value in (*values, *apart)]
    cost = [round(metrics[column], 2) for column in costs]
    writer.writerow((name.removeprefix(prefix), method, data, seed.removeprefix("seed="), *numbers, *cost, commit))
