"""Print the metrics of all finished runs below a folder as CSV: `python experiments/collect.py runs/NAME`."""

import csv
import json
import sys
from pathlib import Path

COLUMNS = (
    "image_auroc", "pixel_auroc", "pixel_auroc_smoothed", "pixel_aupro", "pixel_aupro_smoothed", "fit_seconds",
    "train_images_per_second", "predict_seconds_per_image", "test_seconds", "peak_memory_mb",
)  # fmt: skip

root = Path(sys.argv[1])
rows = sorted(root.rglob("metrics.json"))
if not rows:
    sys.exit(f"expected finished runs below {root}, found none")
writer = csv.writer(sys.stdout, lineterminator="\n")
writer.writerow(("run", "commit", *COLUMNS))
for path in rows:
    metrics = json.loads(path.read_text())
    commit = json.loads(path.with_name("environment.json").read_text())["git"]
    values = [round(metrics[name], 4) if metrics.get(name) is not None else "" for name in COLUMNS]
    writer.writerow((path.parent.relative_to(root).parent.as_posix(), commit, *values))
