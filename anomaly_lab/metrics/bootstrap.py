"""Paired bootstrap over images: how far a figure, or the difference of two methods, may be by chance.

Efron and Tibshirani 1993, chapter 13: percentile intervals. Good and defective images are drawn apart, so that every
resample has as many of each as the test. The same resamples serve all methods: a hard image is hard for all of them.
"""

import numpy as np
from jaxtyping import Float, Int, Shaped

RESAMPLES = 2000
LIMIT = 0.3  # false positive rate up to which AU-PRO is taken
Weights = Float[np.ndarray, "resample image"]


def resamples(strata: Shaped[np.ndarray, " image"], seed: int = 0, count: int = RESAMPLES) -> Weights:
    """How often each image occurs in each resample; the images of a stratum (such as a label) are drawn among them.

    Equal for equal strata and seed.
    """
    random = np.random.default_rng(seed)
    weights = np.zeros((count, len(strata)))
    for stratum in np.unique(strata):
        places = np.flatnonzero(strata == stratum)
        weights[:, places] = random.multinomial(len(places), np.full(len(places), 1 / len(places)), size=count)
    return weights


def auroc(
    scores: Float[np.ndarray, " image"], labels: Int[np.ndarray, " image"], weights: Weights
) -> Float[np.ndarray, " resample"]:
    """The AUROC of every resample; ties count half. Every resample needs both labels (0 normal, 1 abnormal)."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)  # of the groups of equal scores
    normal, abnormal = (
        np.add.reduceat(weights[:, order] * (labels[order] == label), starts, axis=1) for label in (0, 1)
    )
    below = np.cumsum(normal, axis=1) - normal / 2
    return (abnormal * below).sum(axis=1) / (normal.sum(axis=1) * abnormal.sum(axis=1))


def aupro(
    false_positives: Float[np.ndarray, "image level"],
    overlaps: Float[np.ndarray, "image level"],
    normal_pixels: Float[np.ndarray, " image"],
    regions: Float[np.ndarray, " image"],
    weights: Weights,
    limit: float = LIMIT,
) -> Float[np.ndarray, " resample"]:
    """The area under the PRO curve up to a false positive rate, of every resample, divided by that rate.

    The arrays hold, of each image: the normal pixels that reach each of falling thresholds, the overlaps of its regions
    there, added up, and the totals of both. Trapezoids between the thresholds, and from the last one to where all
    pixels count; the one that crosses the limit is cut there.
    """
    x = weights @ false_positives / (weights @ normal_pixels)[:, None]
    y = weights @ overlaps / (weights @ regions)[:, None]
    x, y = (np.pad(values, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1))) for values in (x, y))
    step, within = np.diff(x, axis=1), np.minimum(x, limit)
    part = np.diff(within, axis=1)
    share = np.divide(part, step, out=np.zeros_like(step), where=step > 0)
    return (part * (y[:, :-1] + share * np.diff(y, axis=1) / 2)).sum(axis=1) / limit


def interval(values: Float[np.ndarray, " resample"], confidence: float = 0.95) -> tuple[float, float]:
    """The quantiles between which this share of the resamples lies."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
