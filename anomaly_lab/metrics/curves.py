"""ROC, precision-recall and PRO curves of a ranking, with a bounded number of points; their areas are `Ranking`'s."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from anomaly_lab.metrics.ranking import Ranking


class Curve(NamedTuple):
    """Points from the highest threshold to the lowest: what is reached where `score >= threshold` is called abnormal.

    The first point has the threshold infinity: nothing is called abnormal.
    """

    x: Float[np.ndarray, " point"]
    y: Float[np.ndarray, " point"]
    threshold: Float[np.ndarray, " point"]

    def thinned(self, points: int) -> "Curve":
        """At most so many points, evenly along the way of the curve, both ends among them; none is moved."""
        if len(self.x) <= points:
            return self
        way = np.append(0, np.cumsum(np.abs(np.diff(self.x)) + np.abs(np.diff(self.y))))
        kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], points)).clip(0, len(way) - 1))
        kept[-1] = len(way) - 1
        return Curve(self.x[kept], self.y[kept], self.threshold[kept])


def roc(ranking: Ranking) -> Curve:
    """False positive rate, true positive rate. nan where a class is missing."""
    return _curve(ranking, _share(ranking.normal), _share(ranking.abnormal), 0.0, 0.0)


def precision_recall(ranking: Ranking) -> Curve:
    """Recall, precision; it begins at the precision of the highest scores."""
    true, positive = np.cumsum(ranking.abnormal), np.cumsum(ranking.abnormal + ranking.normal)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = true / positive
    some = np.flatnonzero(positive)
    start = float(precision[some[0]]) if len(some) else float("nan")
    return _curve(ranking, _share(ranking.abnormal), np.where(positive > 0, precision, start), 0.0, start)


def pro(ranking: Ranking, limit: float = 1.0) -> Curve:
    """False positive rate up to `limit` (the point at it lies on the line to the next), mean per-region overlap."""
    whole = _curve(ranking, _share(ranking.normal), np.cumsum(ranking.overlap), 0.0, 0.0)
    inside = int((whole.x <= limit).sum())
    if inside == len(whole.x):
        return whole
    x, y = np.append(whole.x[:inside], limit), np.append(whole.y[:inside], np.interp(limit, whole.x, whole.y))
    return Curve(x, y, np.append(whole.threshold[:inside], whole.threshold[inside]))


def _share(counts: np.ndarray) -> Float[np.ndarray, " group"]:
    total = counts.sum()
    return np.cumsum(counts) / total if total else np.full(len(counts), np.nan)


def _curve(
    ranking: Ranking, x: Float[np.ndarray, " group"], y: Float[np.ndarray, " group"], x0: float, y0: float
) -> Curve:
    return Curve(np.append(x0, x), np.append(y0, y), np.append(np.inf, ranking.threshold))
