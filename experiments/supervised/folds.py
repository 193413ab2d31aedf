"""`python experiments/supervised/folds.py runs/NAME...`: accuracy over the photos of all folds, mean image AUROC."""

import csv
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

folds: dict[tuple[str, str], list[Path]] = defaultdict(list)
for folder in map(Path, sys.argv[1:]):
    for path in sorted(folder.rglob("metrics.json")):
        data = path.relative_to(folder).parts[2]
        folds[folder.name.removeprefix("supervised_"), data].append(path)
writer = csv.writer(sys.stdout, lineterminator="\n")
writer.writerow(
    ("row", "data", "folds", "photos", "accuracy", "accuracy_majority", "balanced_accuracy", "image_auroc", "lowest",
     "highest", "fit_minutes", "commit")
)  # fmt: skip
for key, paths in sorted(folds.items()):
    found = [json.loads(path.read_text()) for path in paths]
    photos = [len(list(csv.DictReader(path.with_name("scores.csv").open()))) for path in paths]
    right, most = (
        sum(each[name] * count for each, count in zip(found, photos, strict=True)) / sum(photos)
        for name in ("image_accuracy", "image_accuracy_majority")
    )
    areas = [each["image_auroc"] for each in found]
    numbers = (
        right,
        most,
        statistics.mean(each["image_balanced_accuracy"] for each in found),
        statistics.mean(areas),
        min(areas),
        max(areas),
    )
    minutes = sum(each["fit_seconds"] for each in found) / 60
    commit = json.loads(paths[-1].with_name("environment.json").read_text())["git"]
    writer.writerow(
        (*key, len(paths), sum(photos), *(round(number, 4) for number in numbers), round(minutes, 2), commit)
    )
