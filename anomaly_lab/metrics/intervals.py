"""Confidence intervals: of a mean over seeds or categories (t), of an AUROC and of a difference of two (DeLong)."""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import brentq
from scipy.special import stdtrit


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the mean of independent values (Student's t); at least two are needed."""
    if len(values) < 2:
        raise ValueError(f"expected at least two values, found {len(values)}")
    reach = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - reach, fmean(values) + reach


def auroc_interval(
    normal: Float[np.ndarray, " normal"], abnormal: Float[np.ndarray, " abnormal"], confidence: float = 0.95
) -> tuple[float, float]:
    """Confidence interval of the AUROC: DeLong et al. 1988, on the logit scale so that it stays inside 0 ... 1.

    Where all pairs are in order the variance is zero and says nothing. Then: k = min(images of a class) pairs share no
    image, and all of them are in order with probability AUROC^k, so the lower end is (1 - confidence)^(1/k). Where the
    variance is zero for another reason (all scores equal), or a class has one image: the interval of Newcombe 2006. nan
    where a class is missing.
    """
    if not len(normal) or not len(abnormal):
        return float("nan"), float("nan")
    of_normal, of_abnormal = _placements(normal, abnormal)
    auroc = float(of_abnormal.mean())
    if auroc in (0.0, 1.0):
        end = (1 - confidence) ** (1 / min(len(normal), len(abnormal)))
        return (end, 1.0) if auroc else (0.0, 1 - end)
    reach = _reach(of_normal, of_abnormal, confidence) / (auroc * (1 - auroc))
    if not reach or min(len(normal), len(abnormal)) == 1:
        return _newcombe(auroc, len(normal), len(abnormal), confidence)
    middle = math.log(auroc / (1 - auroc))
    low, high = (1 / (1 + math.exp(-min(max(middle + side * reach, -700), 700))) for side in (-1, 1))
    return low, high


def auroc_difference(
    one: Float[np.ndarray, " image"],
    other: Float[np.ndarray, " image"],
    abnormal: Bool[np.ndarray, " image"],
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Confidence interval of AUROC(one) - AUROC(other), two scores of the same images.

    DeLong, DeLong, Clarke-Pearson 1988: the difference of the two placements of every image is averaged, so that
    images that are difficult for both weigh nothing. Both classes are needed. Where all differences are equal the
    variance is zero and says nothing: then the two intervals of `auroc_interval` are combined as if they were
    independent (Zou and Donner 2008, section 2), unless both scores rank the images alike.
    """
    ones, others = (_placements(score[~abnormal], score[abnormal]) for score in (one, other))
    of_normal, of_abnormal = (mine - theirs for mine, theirs in zip(ones, others, strict=True))
    difference, reach = float(of_abnormal.mean()), _reach(of_normal, of_abnormal, confidence)
    ranks = [np.unique(score, return_inverse=True)[1] for score in (one, other)]
    alike = np.array_equal(ranks[0], ranks[1])
    if not alike and (not reach or 1 in (len(of_normal), len(of_abnormal))):
        areas = [float(won.mean()) for _, won in (ones, others)]
        (low, high), (other_low, other_high) = (
            auroc_interval(score[~abnormal], score[abnormal], confidence) for score in (one, other)
        )
        down = math.hypot(areas[0] - low, other_high - areas[1])
        return difference - down, difference + math.hypot(high - areas[0], areas[1] - other_low)
    return difference - reach, difference + reach


def auroc_variance(
    normal: Float[np.ndarray, " normal"], abnormal: Float[np.ndarray, " abnormal"], more: int = 0
) -> float:
    """Variance of the AUROC, as it would be with `more` abnormal images of the same kind: that of `auroc_interval`.

    By DeLong each class adds the variance of its placements, divided by its images: more abnormal ones leave the part
    of the normal ones as it is. Where that says nothing: Newcombe's, or, of pairs that are all in order, what so few
    exclude. Both classes are needed.
    """
    of_normal, of_abnormal = _placements(normal, abnormal)
    auroc, count = float(of_abnormal.mean()), len(abnormal) + more
    if auroc in (0.0, 1.0):
        return ((1 - 0.05 ** (1 / min(len(normal), count))) / NormalDist().inv_cdf(0.975)) ** 2
    parts = [float(part.var(ddof=1)) if len(part) > 1 else 0.0 for part in (of_normal, of_abnormal)]
    if not any(parts) or min(len(normal), len(abnormal)) == 1:
        return _newcombe_variance(auroc, len(normal), count)
    return parts[0] / len(normal) + parts[1] / count


def _newcombe_variance(auroc: float, normal: int, abnormal: int) -> float:
    """Hanley and McNeil's of exponential scores, with (normal + abnormal) / 2 - 1 in place of either count less one."""
    a, images = auroc, (normal + abnormal) / 2 - 1
    return a * (1 - a) * (1 + images * ((1 - a) / (2 - a) + a / (1 + a))) / (normal * abnormal)


def _newcombe(auroc: float, normal: int, abnormal: int, confidence: float) -> tuple[float, float]:
    """The AUROCs whose own standard error reaches the observed one: method 5 of Newcombe, Stat. Med. 2006, part 2."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)

    def distance(a: float) -> float:
        return abs(auroc - a) - z * math.sqrt(_newcombe_variance(a, normal, abnormal))

    return float(brentq(distance, 0, auroc)), float(brentq(distance, auroc, 1))


def _placements(
    normal: Float[np.ndarray, " normal"], abnormal: Float[np.ndarray, " abnormal"]
) -> tuple[Float[np.ndarray, " normal"], Float[np.ndarray, " abnormal"]]:
    """For every normal image the share of abnormal ones above it, for every abnormal one that of normal ones below."""
    below, above = np.sort(normal), np.sort(abnormal)
    lost = (np.searchsorted(above, normal, "left") + np.searchsorted(above, normal, "right")) / 2 / len(abnormal)
    won = (np.searchsorted(below, abnormal, "left") + np.searchsorted(below, abnormal, "right")) / 2 / len(normal)
    return 1 - lost, won


def _reach(
    of_normal: Float[np.ndarray, " normal"], of_abnormal: Float[np.ndarray, " abnormal"], confidence: float
) -> float:
    """Half the width of the interval: the variances of the two classes add, a class of one image has none."""
    variance = sum(part.var(ddof=1) / len(part) for part in (of_normal, of_abnormal) if len(part) > 1)
    return NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(variance)
