"""Print what the last three lines of every run decide, beside calling everything abnormal: `results.py RUNS`."""

import csv
import json
import sys
from pathlib import Path

import numpy as np

PUBLISHED = (809, 314, 449, 153)  # of 1725 test images; the only counts that give the four figures of the slides


def row(name: str, percentile: int, counts: tuple[int, int, int, int], auroc: str, commit: str) -> list[object]:
    """A row of the table from true and false positives, false and true negatives."""
    found, false_alarms, missed, kept = counts
    images, abnormal = sum(counts), found + missed
    figures = (
        (found + kept) / images, kept / (kept + false_alarms), found / abnormal,
        2 * found / (2 * found + false_alarms + missed), abnormal / images, 2 * abnormal / (images + abnormal),
    )  # fmt: skip
    return [name, percentile, *(f"{value:.3f}" for value in figures), auroc, commit]


runs = sorted(Path(sys.argv[1]).rglob("metrics.json"))
if not runs:
    sys.exit(f"expected finished runs below {sys.argv[1]}, found none")
writer = csv.writer(sys.stdout, lineterminator="\n")
writer.writerow(
    (
        "set", "percentile", "accuracy", "specificity", "recall", "f1", "trivial_accuracy", "trivial_f1",
        "image_auroc", "commit",
    )
)  # fmt: skip
for run in runs:
    with run.with_name("scores.csv").open() as file:
        scores = list(csv.DictReader(file))
    score = np.array([float(line["score"]) for line in scores])
    abnormal = np.array([line["label"] == "1" for line in scores])
    auroc = f"{json.loads(run.read_text())['image_auroc']:.3f}"
    commit = json.loads(run.with_name("environment.json").read_text())["git"]
    lines = json.loads(run.with_name("threshold.json").read_text())[-3:]  # those that run.sh drew
    for percentile, line in zip((25, 95, 99), lines, strict=True):
        called = score >= line["image"]
        counts = [int((called & abnormal).sum()), int((called & ~abnormal).sum()), int((~called & abnormal).sum())]
        writer.writerow(
            row(run.parents[2].name, percentile, (*counts, int((~called & ~abnormal).sum())), auroc, commit)
        )
writer.writerow(row("slides", 25, PUBLISHED, "", ""))
