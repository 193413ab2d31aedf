"""Finished runs of run.sh as CSV, the best control beside each figure, with the size of the memory."""

import csv
import json
import sys
from pathlib import Path

import torch

FIGURES = ("image_auroc", "pixel_auroc", "pixel_auroc_smoothed", "pixel_aupro", "pixel_aupro_smoothed")
COLUMNS = [name for figure in FIGURES for name in (figure, f"control_{figure}")]
COLUMNS[1:1] = ["image_auroc_low", "image_auroc_high"]
COSTS = "fit_seconds", "predict_seconds_per_image", "peak_memory_mb"


def row(path: Path) -> dict[str, object]:
    """The row of a run."""
    metrics = json.loads(path.read_text())
    name, method, _, data, seed, _ = path.parent.relative_to("runs").parts
    state = torch.load(path.parent / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    defects = {line["defect"]: line["auroc"] for line in csv.DictReader((path.parent / "defects.csv").open())}
    figures = {key: metrics.get(key) for key in (*COLUMNS, *COSTS)}
    return {
        "row": name.removeprefix("features_"), "method": method, "data": data, "seed": seed.removeprefix("seed="),
        **{key: "" if value in ("", None) else round(float(value), 4) for key, value in figures.items()},
        **{f"image_auroc_{kind}": defects.get(kind, "") for kind in ("covid", "viral_pneumonia")},
        "bank": sum(len(value) for key, value in state.items() if key.endswith("bank.bank")) or "",
        "commit": json.loads(path.with_name("environment.json").read_text())["git"],
    }  # fmt: skip


rows = [row(path) for path in Path("runs").glob("features_*/**/metrics.json")]
if not rows:
    sys.exit("expected finished runs in runs/features_*, found none")
writer = csv.DictWriter(sys.stdout, rows[0], lineterminator="\n")
writer.writeheader()
writer.writerows(sorted(rows, key=lambda line: [str(line[key]) for key in ("data", "method", "row", "seed")]))
