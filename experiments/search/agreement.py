"""Do made defects rank detectors as real ones do? `python experiments/search/agreement.py NAME...`, names of sweeps.

For every category: Kendall's tau between each synthetic objective and the figure of the test set, over the detectors,
and what the one that the objective chooses reaches on the test set beside the best.
"""

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

from scipy.stats import kendalltau

NAMES = ("image_auroc", "pixel_auroc", "pixel_aupro")

found = defaultdict(list)
for name in sys.argv[1:]:
    for path in sorted(Path("runs", name).rglob("metrics.json")):
        found[path.relative_to(Path("runs", name)).parts[2]].append(json.loads(path.read_text()))
if not found:
    sys.exit("expected finished runs with callbacks=synthetic, found none")
writer = csv.writer(sys.stdout, lineterminator="\n")
writer.writerow(("category", "metric", "detectors", "kendall_tau", "chosen_reaches", "best_reaches"))
for category, runs in sorted(found.items()):
    for name in NAMES:
        made, real = ([metrics[key] for metrics in runs] for key in (f"synthetic_{name}", name))
        chosen = real[made.index(max(made))]
        tau = kendalltau(made, real).statistic
        writer.writerow((category, name, len(runs), f"{tau:.2f}", f"{chosen:.3f}", f"{max(real):.3f}"))
