"""How well scores rank abnormal above normal: areas and the best F1, for images and for pixels alike.

Scores come as groups in falling order. Where the scores of a group are equal, everything below is exact. Where a group
holds several scores in an unknown order, every value comes with the bounds that the best and the worst order give.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

FEW = 8  # defects of a group up to which average precision is summed one by one


class Value(NamedTuple):
    """A number and the bounds between which it certainly lies."""

    value: float
    low: float
    high: float

    @classmethod
    def within(cls, value: float, low: float, high: float) -> "Value":
        """Shares in [0, 1]: what rounding has moved beyond these ends, or a bound beyond the value, is moved back."""
        value, low, high = (min(max(float(each), 0.0), 1.0) for each in (value, low, high))
        return cls(value, min(low, value), max(high, value))


UNDEFINED = Value(float("nan"), float("nan"), float("nan"))


class Ranking(NamedTuple):
    """Groups of scores, from the largest down. `score >= threshold[i]` holds for the groups up to the i-th."""

    threshold: Float[np.ndarray, " group"]
    normal: Int[np.ndarray, " group"]
    abnormal: Int[np.ndarray, " group"]
    tied: Bool[np.ndarray, " group"]  # the scores of the group are equal; otherwise their order is not known
    overlap: Float[np.ndarray, " group"]  # mean share of the defect regions that lies in the group

    def auroc(self) -> Value:
        """Probability that an abnormal item scores higher than a normal one, ties counted half."""
        normal, abnormal = int(self.normal.sum()), int(self.abnormal.sum())
        if not normal or not abnormal:
            return UNDEFINED
        below = normal - np.cumsum(self.normal)
        loose = np.where(self.tied, 0, self.normal) / 2
        pairs = [(self.abnormal * (below + self.normal / 2 + d)).sum() for d in (0, -loose, loose)]
        return Value.within(*(pair / normal / abnormal for pair in pairs))

    def aupr(self) -> Value:
        """Average precision: precision weighted by the recall that each threshold adds (steps, no trapezoids).

        In a group of unknown order: as if the normal scores lay evenly among the abnormal ones.
        """
        total = int(self.abnormal.sum())
        if not total:
            return UNDEFINED
        some = self.abnormal > 0
        tied, d, n = self.tied[some], self.abnormal[some].astype(float), self.normal[some].astype(float)
        before = np.cumsum(self.abnormal)[some] - d  # abnormal above the group
        above = before + np.cumsum(self.normal)[some] - n  # all above the group
        exact = d * (before + d) / (above + d + n)
        mixed = _evenly_mixed(before, above, d, n)
        worst = _harmonic(above - before + n, before, d)  # all normal ones first, the abnormal ones apart
        best = d * (before + d) / (above + d)  # the abnormal ones first, all at one threshold
        return Value.within(*((np.where(tied, exact, loose).sum() / total) for loose in (mixed, worst, best)))

    def f1max(self) -> tuple[Value, float]:
        """The largest F1 over all thresholds, an oracle value, and a threshold (>=) that attains it."""
        total = int(self.abnormal.sum())
        if not total:
            return UNDEFINED, float("nan")
        true, positive = np.cumsum(self.abnormal), np.cumsum(self.abnormal + self.normal)
        f1 = 2 * true / (positive + total)
        best = int(f1.argmax())
        without_normal = 2 * true / (positive - np.where(self.tied, 0, self.normal) + total)
        return Value.within(f1[best], f1[best], without_normal.max()), float(self.threshold[best])

    def aupro(self, limit: float) -> Value:
        """Area under overlap against the false positive rate from 0 to `limit`, divided by `limit`.

        The curve is linear between thresholds (the script that comes with MVTec AD; CVPR 2020, section 4).
        """
        normal = int(self.normal.sum())
        if not normal or not self.abnormal.sum():
            return UNDEFINED
        after = np.cumsum(self.overlap)
        end = np.cumsum(self.normal) / normal
        start = np.append(0, end[:-1])
        width = np.clip(limit, start, end) - start
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(self.normal > 0, width / (end - start), 0)
        before = after - self.overlap
        linear = width * (before + self.overlap * share / 2)
        low, high = (np.where(self.tied, linear, width * height) for height in (before, after))
        return Value.within(*(math.fsum(area) / limit for area in (linear, low, high)))

    def recall_at_specificity(self, specificity: float) -> float:
        """The largest share of abnormal items found while at least `specificity` of the normal ones are kept."""
        normal, abnormal = int(self.normal.sum()), int(self.abnormal.sum())
        if not normal or not abnormal:
            return float("nan")
        allowed = np.cumsum(self.normal) <= (1 - specificity) * normal + 1e-9
        return float(np.where(allowed, np.cumsum(self.abnormal), 0).max() / abnormal)


def _harmonic(
    others: Float[np.ndarray, " group"], before: Float[np.ndarray, " group"], count: Float[np.ndarray, " group"]
) -> Float[np.ndarray, " group"]:
    """A bound from below of sum_{i=1..count} (before + i) / (before + i + others): its integral from 0 to count."""
    start = np.maximum(before + others, 1e-300)
    return count - others * np.log1p(count / start)


def _evenly_mixed(
    before: Float[np.ndarray, " group"],
    above: Float[np.ndarray, " group"],
    count: Float[np.ndarray, " group"],
    normal: Float[np.ndarray, " group"],
) -> Float[np.ndarray, " group"]:
    """sum_{i=1..count} (before + i) / (above + i + normal (i - 1/2) / count); large sums by the midpoint rule."""
    slope = 1 + normal / count
    constant = above - normal / (2 * count)
    large = count > FEW
    total = np.zeros_like(count)
    for i in range(1, FEW + 1):
        term = (before + i) / (constant + slope * i)
        total += np.where(~large & (i <= count), term, 0)
    b, c, s, d = before[large], constant[large], slope[large], count[large]
    total[large] = d / s + (b * s - c) / s**2 * np.log1p(s * d / (c + s / 2))
    return total


def rank(
    normal: Float[np.ndarray, " normal"],
    abnormal: Float[np.ndarray, " abnormal"],
    weight: Int[np.ndarray, "abnormal 2"] | None = None,
    regions: int = 0,
) -> Ranking:
    """Rank scores exactly, as they are; `weight` is what each abnormal one contributes to the overlap (`share`).

    Two sorts and a merge: for every distinct abnormal score the normal ones above it, then the ones tied with it.
    """
    normal, order = np.sort(normal), np.argsort(abnormal, kind="stable")
    abnormal = abnormal[order]
    first = np.flatnonzero(np.append(True, abnormal[1:] != abnormal[:-1])[: len(abnormal)])  # of each tie
    threshold = abnormal[first]
    below, upto = (np.searchsorted(normal, threshold, side=side) for side in ("left", "right"))
    defects = np.diff(first, append=len(abnormal))
    between = np.append(below[1:], len(normal)) - upto  # normal scores above this threshold and below the next
    rest = below[0] if len(below) else len(normal)  # normal scores below all abnormal ones
    overlap = np.zeros(len(first))
    if weight is not None:
        overlap = as_share(np.add.reduceat(weight[order], first, axis=0) if len(first) else weight, regions)

    with np.errstate(over="ignore"):  # above the largest number lies infinity
        above = np.nextafter(threshold, np.inf, dtype=threshold.dtype)
    lowest = normal[0] if len(normal) else -np.inf
    none = np.zeros(len(first), dtype=np.int64)
    return Ranking(
        threshold=_falling(above, threshold, lowest).astype(np.float64),
        normal=_falling(between, upto - below, rest).astype(np.int64),
        abnormal=_falling(none, defects, 0).astype(np.int64),
        tied=np.ones(2 * len(first) + 1, dtype=bool),  # without abnormal scores the order does not matter
        overlap=_falling(np.zeros(len(first)), overlap, 0),
    )


def _falling(between: np.ndarray, at: np.ndarray, end: float | np.number) -> np.ndarray:
    return np.append(np.stack([between, at], axis=1)[::-1].ravel(), end)


def share(area: Int[np.ndarray, "*pixel"]) -> Int[np.ndarray, "*pixel 2"]:
    """One pixel's share of a region of `area` pixels, 1 / area, as integers in units of 2^-31 and 2^-62.

    Integers add up to the same sum in any order, and two of them to 62 bits: no rounding that a float64 would show.
    """
    fraction = 2**62 // area
    return np.stack([fraction >> 31, fraction & (2**31 - 1)], axis=-1)


def as_share(sums: Int[np.ndarray, "group 2"], regions: int) -> Float[np.ndarray, " group"]:
    """Sums of `share` as the mean over all regions."""
    return (sums[:, 0] * 2.0**-31 + sums[:, 1] * 2.0**-62) / max(regions, 1)
