"""`python experiments/one_class/means.py results.csv`: image AUROC, a mean over the classes of each set."""

import csv
import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path

CLASSES = 10
found: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
for row in csv.DictReader(Path(sys.argv[1]).read_text().splitlines()):
    data = "mnist" if row["data"].isdigit() else "cifar10"
    if not row["row"].startswith("painted"):
        found[row["row"], row["method"], data][row["seed"]].append(float(row["image_auroc"]))
writer = csv.writer(sys.stdout, lineterminator="\n")
writer.writerow(("row", "method", "set", "classes", "seeds", "image_auroc", "standard_error"))
for key, seeds in sorted(found.items()):
    means = [statistics.mean(values) for values in seeds.values()]
    error = round(statistics.stdev(means) / math.sqrt(len(means)), 4) if len(means) > 1 else ""
    classes = min(map(len, seeds.values()))
    if classes == CLASSES:  # of a sweep that has ended
        writer.writerow((*key, classes, len(means), round(statistics.mean(means), 4), error))
