"""What a run has said of held-out photos with painted defects: its synthetic.csv."""

import math
from typing import NamedTuple

import numpy as np

from anomaly_lab.core.files import read_csv
from anomaly_lab.metrics.bootstrap import auroc
from anomaly_lab.runs.collect import Run

GOOD = ("none", "shift", "light", "noise")  # what synthetic.csv calls unchanged and harmlessly changed photos


class SyntheticScores(NamedTuple):
    """The scores on held-out photos, as they are, changed a little, and with a defect painted in; a row per image."""

    photo: np.ndarray
    change: np.ndarray
    score: np.ndarray


def synthetic_scores(run: Run) -> SyntheticScores | None:
    """The rows of synthetic.csv, sorted; None where they are missing or damaged, or do not make the recorded figure."""
    try:
        rows = sorted(
            (row["photo"], row["change"], float(row["score"])) for row in read_csv(run.folder / "synthetic.csv")
        )
    except (OSError, ValueError, KeyError):
        return None
    if not rows:
        return None
    photo, change, score = (np.array(column) for column in zip(*rows, strict=True))
    if (recorded := run.metrics.get("synthetic_image_auroc")) is not None:  # of the photos as they are, by all kinds
        label = np.select([change == GOOD[0], ~np.isin(change, GOOD)], [0, 1], default=2)
        value = auroc(score, label, np.ones((1, len(label))))[0] if {0, 1} <= set(label.tolist()) else math.nan
        if not math.isclose(value, recorded, abs_tol=1e-6):
            return None  # rows are missing
    return SyntheticScores(photo, change, score)
