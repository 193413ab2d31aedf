"""Categories x methods of a sweep, mean and spread over seeds: `python experiments/matrix.py NAME [METRIC]`."""

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

name, metric = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "image_auroc"
values: dict[tuple[str, str], list[float]] = defaultdict(list)
controls: dict[str, list[float]] = defaultdict(list)
for path in sorted(Path("runs", name).glob("*/*/*/*/*/metrics.json")):
    found, (method, _, category, *_) = json.loads(path.read_text()), path.relative_to(Path("runs", name)).parts
    if found.get(metric) is not None:
        values[category, method].append(found[metric])
    if found.get(f"control_{metric}") is not None:
        controls[category].append(found[f"control_{metric}"])
if not values:
    sys.exit(f"expected finished runs with {metric} in runs/{name}, found none")


def cell(numbers: list[float]) -> str:
    """Mean, deviation where there are several, how many."""
    if not numbers:
        return "–"
    spread = f" ± {stdev(numbers):.3f}" if len(numbers) > 1 else ""
    return f"{mean(numbers):.3f}{spread} ({len(numbers)})"


methods = sorted({method for _, method in values})
print("|", " | ".join([metric, *methods, "best control"]), "|")
print("|", "---|" * (len(methods) + 2))
for category in sorted({category for category, _ in values}):
    best = f"{max(controls[category]):.3f}" if controls[category] else "–"
    print("|", " | ".join([category, *(cell(values[category, method]) for method in methods), best]), "|")
