"""When is a difference more than noise: over seeds or categories (t), over test images (DeLong)."""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import stdtrit


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the mean of independent values (Student's t); at least two are needed."""
    if len(values) < 2:
        raise ValueError(f"expected at least two values, found {len(values)}")
    reach = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - reach, fmean(values) + reach


def auroc_difference(
    one: Float[np.ndarray, " image"],
    other: Float[np.ndarray, " image"],
    abnormal: Bool[np.ndarray, " image"],
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Confidence interval of AUROC(one) - AUROC(other), two scores of the same images.

    DeLong, DeLong, Clarke-Pearson 1988: the difference of the two placements of every image is averaged, so that
    images that are difficult for both weigh nothing. Both classes are needed.
    """
    placements = [_placements(score, abnormal) for score in (one, other)]
    of_abnormal, of_normal = (placements[0][i] - placements[1][i] for i in (0, 1))
    difference = float(of_abnormal.mean())
    variance = sum(part.var(ddof=1) / len(part) for part in (of_abnormal, of_normal) if len(part) > 1)
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(variance)
    return difference - reach, difference + reach


def _placements(
    score: Float[np.ndarray, " image"], abnormal: Bool[np.ndarray, " image"]
) -> tuple[Float[np.ndarray, " abnormal"], Float[np.ndarray, " normal"]]:
    """For every abnormal image the share of normal ones below it, for every normal one that of abnormal ones above."""
    high, low = score[abnormal], score[~abnormal]
    below, above = np.sort(low), np.sort(high)
    won = (np.searchsorted(below, high, "left") + np.searchsorted(below, high, "right")) / 2 / len(low)
    lost = (np.searchsorted(above, low, "left") + np.searchsorted(above, low, "right")) / 2 / len(high)
    return won, 1 - lost
