"""Finished runs as CSV, the best control beside each figure: `python experiments/table.py statistics_ > CSV`.

`python experiments/table.py adversarial CSV > NEW` begins with the rows of a table of before; a run that is here takes
the place of the row of its name, method, data and seed.
"""

import csv
import json
import sys
from pathlib import Path

COLUMNS = ("pixel_auroc", "pixel_auroc_smoothed", "pixel_aupro", "pixel_aupro_smoothed")
PAINTED = "synthetic_image_auroc"  # of runs with callbacks=synthetic
LOSS = "validation/focal"  # of held-out good photos with painted defects, after the last epoch
DEFECTS = ("covid", "viral_pneumonia")  # the two kinds of abnormal X-rays are told apart
COSTS = ("fit_seconds", "test_images_per_second", "predict_seconds_per_image", "test_seconds", "peak_memory_mb")
KEY = ("row", "method", "data", "seed")
INTERVAL = ["image_auroc_low", "image_auroc_high"]  # 95 %
METRICS = [
    "image_auroc", *INTERVAL, "control_image_auroc",
    *(name for column in COLUMNS for name in (column, f"control_{column}")),
]  # fmt: skip
APART = [f"image_auroc_{defect}" for defect in DEFECTS]


def row(path: Path, prefix: str) -> dict[str, object]:
    """The row of a run."""
    metrics = json.loads(path.read_text())
    name, method, _, data, seed, _ = path.parent.relative_to("runs").parts
    found = {line["defect"]: line["auroc"] for line in csv.DictReader((path.parent / "defects.csv").open())}
    values = {column: metrics.get(column) for column in METRICS}
    values[PAINTED] = metrics.get(PAINTED)
    losses = path.parent / "curves/losses.csv"
    values[LOSS] = list(csv.DictReader(losses.open()))[-1].get(LOSS) if losses.is_file() else None
    values |= {f"image_auroc_{defect}": found.get(defect) for defect in DEFECTS}
    rounded = {key: "" if value in ("", None) else round(float(value), 4) for key, value in values.items()}
    return {
        **dict(zip(KEY, (name.removeprefix(prefix), method, data, seed.removeprefix("seed=")), strict=True)),
        **rounded,
        **{cost: round(metrics[cost], 4) if cost in metrics else "" for cost in COSTS},  # the second: of older runs
        "commit": json.loads(path.with_name("environment.json").read_text())["git"],
    }


prefix, *before = sys.argv[1:]  # of the names of the runs
paths = [path for folder in sorted(Path("runs").glob(f"{prefix}*/")) for path in sorted(folder.rglob("metrics.json"))]
if not paths:
    sys.exit(f"expected finished runs in runs/{prefix}*, found none")
earlier = [line for table in before for line in csv.DictReader(Path(table).read_text().splitlines())]
rows = earlier + [row(path, prefix) for path in paths]
last = {tuple(str(line[key]) for key in KEY): line for line in rows}
painted = [column for column in (PAINTED, LOSS) if any(line.get(column) for line in rows)]
header = [*KEY, *METRICS, *APART, *painted, *COSTS, "commit"]
writer = csv.DictWriter(sys.stdout, header, restval="", lineterminator="\n", extrasaction="ignore")
writer.writeheader()
writer.writerows(last[key] for key in sorted(last))
