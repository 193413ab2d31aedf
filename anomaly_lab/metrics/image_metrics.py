"""How well the scores of images rank them, and how often a decision is right."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from anomaly_lab.metrics.intervals import auroc_interval
from anomaly_lab.metrics.ranking import rank


def ranking_metrics(score: Float[np.ndarray, " image"], label: Int[np.ndarray, " image"]) -> dict[str, float]:
    """`auroc` with its 95 % interval `auroc_low`, `auroc_high`; `aupr`, `f1max`, `recall_at_95_specificity`.

    No threshold is needed: these say what the scores are worth. Labels: 0 normal, 1 abnormal. nan where one is missing.
    """
    normal, abnormal = score[label == 0], score[label == 1]
    ranking = rank(normal, abnormal)
    low, high = auroc_interval(normal, abnormal)
    return {
        "auroc": ranking.auroc().value,
        "auroc_low": low,
        "auroc_high": high,
        "aupr": ranking.aupr().value,
        "f1max": ranking.f1max()[0].value,
        "recall_at_95_specificity": ranking.recall_at_specificity(0.95),
    }


def decision_metrics(abnormal: Bool[np.ndarray, " image"], label: Int[np.ndarray, " image"]) -> dict[str, float]:
    """`accuracy_normal` and `accuracy_abnormal` (the two rows of CVPR 2019, table 2), and what follows from them.

    `accuracy` of all images, `accuracy_majority` (what the more frequent answer alone reaches), `balanced_accuracy`,
    `precision`, `recall`, `f1`; only those for which there are images.
    """
    metrics: dict[str, float] = {}
    for value, name in ((0, "normal"), (1, "abnormal")):
        if (label == value).any():
            metrics[f"accuracy_{name}"] = float((abnormal[label == value] == bool(value)).mean())
    if len(metrics) < 2:
        return metrics
    true, found, there = int((abnormal & (label == 1)).sum()), int(abnormal.sum()), int((label == 1).sum())
    return {
        **metrics,
        "accuracy": float((abnormal == (label == 1)).mean()),
        "accuracy_majority": max(there, len(label) - there) / len(label),
        "balanced_accuracy": (metrics["accuracy_normal"] + metrics["accuracy_abnormal"]) / 2,
        "precision": true / found if found else float("nan"),
        "recall": true / there,
        "f1": 2 * true / (found + there),
    }


def by_defect(
    score: Float[np.ndarray, " image"],
    abnormal: Bool[np.ndarray, " image"],
    label: Int[np.ndarray, " image"],
    defect: Sequence[str],
) -> dict[str, dict[str, float]]:
    """For every defect type, in order: `images`, `accuracy`, `auroc` against all normal images and its interval."""
    names, normal = np.array(defect), score[label == 0]
    table = {}
    for name in dict.fromkeys(defect):
        here = names == name
        right = abnormal[here] == (label[here] == 1)
        table[name] = {"images": int(here.sum()), "accuracy": float(right.mean())}
        if (label[here] == 1).all():
            low, high = auroc_interval(normal, score[here])
            auroc = rank(normal, score[here]).auroc().value
            table[name] |= {"auroc": auroc, "auroc_low": low, "auroc_high": high}
    return table
