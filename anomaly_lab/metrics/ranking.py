"""How well scores rank abnormal above normal: exact areas and the best F1, for images and for pixels alike."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Ranking(NamedTuple):
    """Counts at every distinct score of an abnormal item, from the largest score down.

    These thresholds suffice: between two of them only false positives grow.
    """

    threshold: Float[np.ndarray, " threshold"]
    true_positives: Int[np.ndarray, " threshold"]  # abnormal items scored >= threshold
    false_positives: Int[np.ndarray, " threshold"]  # normal items scored >= threshold
    false_positives_above: Int[np.ndarray, " threshold"]  # normal items scored > threshold
    normal: int
    abnormal: int

    def auroc(self) -> float:
        """Probability that an abnormal item scores higher than a normal one, ties counted half."""
        if not self.normal or not self.abnormal:
            return float("nan")
        at = np.diff(self.true_positives, prepend=0)
        below = self.normal - (self.false_positives.astype(float) + self.false_positives_above) / 2
        return float((at * below).sum() / self.normal / self.abnormal)

    def aupr(self) -> float:
        """Average precision: precision weighted by the recall that each threshold adds (steps, no trapezoids)."""
        if not self.abnormal:
            return float("nan")
        precision = self.true_positives / (self.true_positives + self.false_positives)
        return float((np.diff(self.true_positives, prepend=0) * precision).sum() / self.abnormal)

    def f1max(self) -> tuple[float, float]:
        """The largest F1 over all thresholds and the threshold (>=) that attains it: an oracle value."""
        if not self.abnormal:
            return float("nan"), float("nan")
        f1 = 2 * self.true_positives / (self.true_positives + self.false_positives + self.abnormal)
        best = int(f1.argmax())
        return float(f1[best]), float(self.threshold[best])


def rank(normal: Float[np.ndarray, " normal"], abnormal: Float[np.ndarray, " abnormal"]) -> Ranking:
    """Count normal and abnormal scores at every distinct abnormal score. Scores are used as they are."""
    normal, abnormal = np.sort(normal), np.sort(abnormal)
    last = np.flatnonzero(np.diff(abnormal, prepend=np.nan) != 0)[::-1]  # first of each tie, largest score first
    threshold = abnormal[last]
    return Ranking(
        threshold=threshold,
        true_positives=len(abnormal) - last,
        false_positives=len(normal) - np.searchsorted(normal, threshold, side="left"),
        false_positives_above=len(normal) - np.searchsorted(normal, threshold, side="right"),
        normal=len(normal),
        abnormal=len(abnormal),
    )
